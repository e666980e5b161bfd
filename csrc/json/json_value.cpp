#include "json/json_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "json/json_machine.h"

namespace toolprm {

namespace {

// Whether a number other than zero is below 1 in size, by its spelling.
bool below_one(std::string_view spelling) {
  const size_t e = std::min(spelling.find_first_of("eE"), spelling.size());
  int64_t exponent = 0;
  if (e < spelling.size()) {
    const char* begin = spelling.data() + e + (spelling[e + 1] == '+' ? 2 : 1);
    const auto error = std::from_chars(begin, spelling.data() + spelling.size(), exponent).ec;
    if (error == std::errc::result_out_of_range) return *begin == '-';
    exponent = std::clamp<int64_t>(exponent, INT32_MIN, INT32_MAX);
  }
  const auto first = static_cast<int64_t>(spelling.find_first_of("123456789"));
  const auto point = static_cast<int64_t>(std::min(spelling.find('.'), e));
  return (first < point ? point - first - 1 : point - first) + exponent < 0;
}

// Recursive descent over text that is known to be well-formed; depth is bounded by the machine.
class Reader {
 public:
  explicit Reader(std::string_view text) : at_(text.data()), end_(at_ + text.size()) {}

  void value(JsonValue& result) {
    skip_space();
    switch (*at_) {
      case '{':
        object(result);
        break;
      case '[':
        array(result);
        break;
      case '"':
        result.type = JsonType::kString;
        string(result.string);
        break;
      case 't':
      case 'f':
        result.type = JsonType::kBoolean;
        result.boolean = *at_ == 't';
        at_ += result.boolean ? 4 : 5;
        break;
      case 'n':
        at_ += 4;
        break;
      default:
        number(result);
    }
  }

 private:
  void skip_space() {
    while (at_ < end_ && is_json_space(static_cast<unsigned char>(*at_))) ++at_;
  }

  void object(JsonValue& result) {
    result.type = JsonType::kObject;
    result.members.reserve(4);
    ++at_;
    for (skip_space(); *at_ != '}'; skip_space()) {
      if (*at_ == ',') {
        ++at_;
        skip_space();
      }
      auto& [key, member] = result.members.emplace_back();
      string(key);
      skip_space();
      ++at_;  // the colon
      value(member);
    }
    ++at_;
  }

  void array(JsonValue& result) {
    result.type = JsonType::kArray;
    ++at_;
    for (skip_space(); *at_ != ']'; skip_space()) {
      if (*at_ == ',') ++at_;
      value(result.items.emplace_back());
    }
    ++at_;
  }

  void number(JsonValue& result) {
    result.type = JsonType::kNumber;
    const char* begin = at_;
    // Nothing that a number is made of ends one: only what may follow a value does.
    while (at_ < end_ && *at_ != ',' && *at_ != '}' && *at_ != ']' &&
           !is_json_space(static_cast<unsigned char>(*at_))) {
      ++at_;
    }
    result.string.assign(begin, at_);
    const auto [unused, error] = std::from_chars(begin, at_, result.number);
    if (error == std::errc::result_out_of_range) {  // the standard leaves the value alone
      const double huge = result.string[0] == '-' ? -HUGE_VAL : HUGE_VAL;
      result.number = below_one(result.string) ? 0.0 : huge;
    }
    result.integral = std::isfinite(result.number) && std::floor(result.number) == result.number;
  }

  uint32_t hex4() {
    uint32_t code = 0;
    std::from_chars(at_, at_ + 4, code, 16);
    at_ += 4;
    return code;
  }

  void string(std::string& text) {
    ++at_;
    while (*at_ != '"') {
      const char* plain = at_;
      while (*at_ != '"' && *at_ != '\\') ++at_;
      text.append(plain, at_);
      if (*at_ == '"') break;
      const char escape = at_[1];
      at_ += 2;
      if (escape == 'u') {
        uint32_t code = hex4();
        if (code >= 0xD800 && code <= 0xDBFF) {
          at_ += 2;
          code = 0x10000 + ((code - 0xD800) << 10) + (hex4() - 0xDC00);
        }
        char utf8[4];
        text.append(utf8, encode_utf8(code, utf8));
      } else {
        constexpr std::string_view kNames = "bfnrt";
        constexpr std::string_view kCodes = "\b\f\n\r\t";
        const size_t known = kNames.find(escape);
        text.push_back(known == std::string_view::npos ? escape : kCodes[known]);
      }
    }
    ++at_;
  }

  const char* at_;
  const char* end_;
};

uint64_t hash_number(const JsonValue& value) {
  constexpr double kExactIntegers = 9007199254740992.0;  // 2^53
  if (!std::isfinite(value.number)) return hash_bytes(value.string, 12);
  if (std::fabs(value.number) >= kExactIntegers) {
    // Doubles can't distinguish neighbouring integers, so integers are compared digit by digit.
    if (value.string.find_first_of(".eE") == std::string::npos) return hash_bytes(value.string, 11);
    char digits[400];  // the largest double has 309
    const int size = std::snprintf(digits, sizeof digits, "%.0f", value.number);
    return hash_bytes(std::string_view(digits, size), 11);
  }
  const double number = value.number == 0 ? 0.0 : value.number;  // -0 is 0
  uint64_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  return mix64(bits, 13);
}

}  // namespace

const JsonValue* JsonValue::find(std::string_view key) const {
  for (const auto& [name, value] : members) {
    if (name == key) return &value;
  }
  return nullptr;
}

JsonValue parse_accepted_json(std::string_view text) {
  JsonValue value;
  Reader(text).value(value);
  return value;
}

bool parse_json(std::string_view text, JsonValue& value) {
  DocumentMachine machine;
  bool number_at_end = false;
  for (unsigned char byte : text) {
    if (machine.feed(byte).event == JsonEvent::kFail) return false;
  }
  if (!machine.done()) {
    number_at_end = machine.depth() == 0 && machine.feed(' ').number_ended;
    if (!number_at_end) return false;
  }
  value = parse_accepted_json(text);
  return true;
}

uint64_t hash_bytes(std::string_view bytes, uint64_t seed) {
  uint64_t hash = mix64(seed, bytes.size());
  size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + at, 8);
    hash = mix64(hash, word);
  }
  if (at < bytes.size()) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, bytes.size() - at);
    hash = mix64(hash, word);
  }
  return hash;
}

uint64_t canonical_hash(const JsonValue& value) {
  switch (value.type) {
    case JsonType::kNull:
      return mix64(1);
    case JsonType::kBoolean:
      return mix64(value.boolean ? 3 : 2);
    case JsonType::kNumber:
      return hash_number(value);
    case JsonType::kString:
      return hash_string(value.string);
    case JsonType::kArray: {
      uint64_t hash = mix64(5);
      for (const JsonValue& item : value.items) hash = mix64(hash, canonical_hash(item));
      return hash;
    }
    case JsonType::kObject: {
      uint64_t sum = 0;  // commutative: the order of members makes no difference
      for (const auto& [key, member] : value.members) {
        sum += mix64(hash_bytes(key, 6), canonical_hash(member));
      }
      return mix64(sum, 7);
    }
  }
  return 0;
}

bool has_duplicate_keys(const JsonValue& value) {
  const auto& members = value.members;
  if (members.size() <= 16) {
    for (size_t i = 0; i < members.size(); ++i) {
      for (size_t j = 0; j < i; ++j) {
        if (members[i].first == members[j].first) return true;
      }
    }
  } else {
    std::vector<std::string_view> keys;
    for (const auto& member : members) keys.push_back(member.first);
    std::sort(keys.begin(), keys.end());
    if (std::adjacent_find(keys.begin(), keys.end()) != keys.end()) return true;
  }
  return std::any_of(members.begin(), members.end(),
                     [](const auto& member) { return has_duplicate_keys(member.second); }) ||
         std::any_of(value.items.begin(), value.items.end(), has_duplicate_keys);
}

bool all_finite(const JsonValue& value) {
  return (value.type != JsonType::kNumber || std::isfinite(value.number)) &&
         std::all_of(value.items.begin(), value.items.end(), all_finite) &&
         std::all_of(value.members.begin(), value.members.end(),
                     [](const auto& member) { return all_finite(member.second); });
}

}  // namespace toolprm
