// JsonMachine and the reader: what the machine accepts is what RFC 8259 accepts, however the bytes
// come, and the reader reads it to a value whose hash does not depend on how it is written.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>

#include "input.h"
#include "json/json_machine.h"
#include "json/json_value.h"
#include "json_text.h"

namespace {

using namespace toolprm;

// JSON by recursive descent, written for clarity: whether a text is one value, with nothing but
// white space around it, nested no deeper than `depth`.
class Recogniser {
 public:
  Recogniser(std::string_view text, int depth) : text_(text), depth_(depth) {}

  bool whole() { return value(0) && (space(), at_ == text_.size()); }

 private:
  unsigned char peek() const { return at_ < text_.size() ? text_[at_] : 0; }
  bool take(char c) { return at_ < text_.size() && text_[at_] == c && ++at_; }
  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  void space() {
    while (at_ < text_.size() && is_json_space(peek())) ++at_;
  }
  bool digits() {
    const size_t begin = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    return at_ > begin;
  }

  bool value(int depth) {
    space();
    switch (peek()) {
      case '{':
        return depth < depth_ && container('}', depth + 1);
      case '[':
        return depth < depth_ && container(']', depth + 1);
      case '"':
        return string();
      case 't':
        return take("true");
      case 'f':
        return take("false");
      case 'n':
        return take("null");
      default:
        return number();
    }
  }

  bool container(char close, int depth) {
    ++at_;
    space();
    if (take(close)) return true;
    do {
      space();
      if (close == '}' && !(string() && (space(), take(':')))) return false;
      if (!value(depth)) return false;
      space();
    } while (take(','));
    return take(close);
  }

  bool number() {
    take('-');
    if (!take('0') && !digits()) return false;
    if (take('.') && !digits()) return false;
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      return digits();
    }
    return true;
  }

  bool hex(uint32_t& code) {
    if (at_ + 4 > text_.size()) return false;
    code = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = text_[at_++];
      const char* const kDigits = "0123456789abcdef0123456789ABCDEF";
      const char* const found = c == 0 ? nullptr : std::strchr(kDigits, c);
      if (found == nullptr) return false;
      code = code * 16 + static_cast<uint32_t>(found - kDigits) % 16;
    }
    return true;
  }

  bool string() {
    if (!take('"')) return false;
    while (at_ < text_.size()) {
      const auto c = static_cast<unsigned char>(text_[at_++]);
      if (c == '"') return true;
      if (c < 0x20) return false;
      if (c >= 0x80) {
        --at_;
        if (!utf8()) return false;
      }
      if (c != '\\') continue;
      if (take('u')) {
        uint32_t code = 0;
        if (!hex(code)) return false;
        if (code >= 0xDC00 && code <= 0xDFFF) return false;
        if (code < 0xD800 || code > 0xDBFF) continue;
        if (!take("\\u") || !hex(code) || code < 0xDC00 || code > 0xDFFF) return false;
      } else if (at_ == text_.size() || std::strchr("\"\\/bfnrt", text_[at_]) == nullptr ||
                 text_[at_++] == 0) {
        return false;
      }
    }
    return false;
  }

  bool utf8() {
    const unsigned char lead = peek();
    const size_t size = lead < 0xC0 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF8 ? 4 : 0;
    if (size == 0 || at_ + size > text_.size()) return false;
    uint32_t code = lead & (0x7Fu >> size);
    for (size_t i = 1; i < size; ++i) {
      const auto next = static_cast<unsigned char>(text_[at_ + i]);
      if ((next & 0xC0) != 0x80) return false;
      code = code << 6 | (next & 0x3F);
    }
    constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
    if (code < kLeast[size] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return false;
    at_ += size;
    return true;
  }

  std::string_view text_;
  int depth_;
  size_t at_ = 0;
};

template <typename Machine>
bool same(const Machine& a, const Machine& b) {
  return a.fingerprint() == b.fingerprint() && a.depth() == b.depth() && a.done() == b.done();
}

struct Counts {
  size_t containers = 0, members = 0, strings = 0, numbers = 0, literals = 0;
  std::string decoded;  // of all strings and keys, in order

  bool operator==(const Counts& other) const {
    return containers == other.containers && members == other.members && strings == other.strings &&
           numbers == other.numbers && literals == other.literals && decoded == other.decoded;
  }
};

void count(const JsonValue& value, Counts& counts) {
  switch (value.type) {
    case JsonType::kNull:
    case JsonType::kBoolean:
      ++counts.literals;
      break;
    case JsonType::kNumber:
      ++counts.numbers;
      break;
    case JsonType::kString:
      ++counts.strings;
      counts.decoded += value.string;
      break;
    case JsonType::kArray:
      ++counts.containers;
      for (const JsonValue& item : value.items) count(item, counts);
      break;
    case JsonType::kObject:
      ++counts.containers;
      for (const auto& [key, member] : value.members) {
        ++counts.members;
        counts.decoded += key;
        count(member, counts);
      }
      break;
  }
}

// Numbers as the C library reads them.
void check_numbers(const JsonValue& value) {
  if (value.type == JsonType::kNumber) {
    CHECK(value.number == std::strtod(value.string.c_str(), nullptr));
    CHECK(value.integral ==
          (std::isfinite(value.number) && std::floor(value.number) == value.number));
  }
  for (const JsonValue& item : value.items) check_numbers(item);
  for (const auto& member : value.members) check_numbers(member.second);
}

// Whether the machine accepts `text`, and what it saw.
template <typename Machine>
bool accepts(std::string_view text, fuzz::Random& random, Counts& events) {
  // Byte by byte.
  Machine machine;
  size_t read = 0;
  bool failed = false;
  Machine middle;
  const size_t fork_at = random.below(static_cast<uint32_t>(text.size()) + 1);
  for (; read < text.size(); ++read) {
    if (read == fork_at) middle = machine;
    const bool run = machine.plain_run(text.substr(read, 1)) == 1;
    const Machine before = machine;
    const int depth = machine.depth();
    const JsonByte byte = machine.feed(static_cast<unsigned char>(text[read]));
    if (byte.event == JsonEvent::kFail) {
      CHECK(!run);
      failed = true;
      break;
    }
    CHECK(machine.depth() >= 0 && machine.depth() <= Machine::kMaxDepth);
    CHECK(std::abs(machine.depth() - depth) <= 1);
    if (run) CHECK(same(before, machine) && byte.event == JsonEvent::kNone && before.in_run());
    events.decoded += byte.text();
    switch (byte.event) {
      case JsonEvent::kObjectBegin:
      case JsonEvent::kArrayBegin:
        ++events.containers;
        break;
      case JsonEvent::kKeyBegin:
        ++events.members;
        break;
      case JsonEvent::kStringBegin:
        ++events.strings;
        break;
      case JsonEvent::kNumberBegin:
        ++events.numbers;
        break;
      case JsonEvent::kLiteralBegin:
        ++events.literals;
        break;
      default:
        break;
    }
  }

  // In pieces, plain runs skipped, from the beginning and from a copy made on the way.
  for (size_t begin : {size_t{0}, fork_at}) {
    if (begin > read) continue;
    Machine other = begin == 0 ? Machine() : middle;
    if (begin == text.size() && begin > 0) break;
    bool dead = false;
    size_t at = begin;
    while (at < text.size() && !dead) {
      const size_t piece = 1 + random.below(random.chance(2) ? 4 : 64);
      const std::string_view bytes = text.substr(at, piece);
      const size_t plain = other.plain_run(bytes);
      CHECK(plain <= bytes.size() && (plain == 0 || other.in_run()));
      at += plain;
      if (plain == bytes.size()) continue;
      dead = other.feed(static_cast<unsigned char>(text[at])).event == JsonEvent::kFail;
      if (!dead) ++at;
    }
    CHECK(dead == failed && at == read);
    CHECK(failed || same(machine, other));
  }

  Machine ended = machine;
  const bool number_ends =
      !failed && !machine.done() && machine.depth() == 0 && ended.feed(' ').number_ended;
  return !failed && (machine.done() || number_ends);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  fuzz::Random random(data[0] | uint64_t{data[1]} << 8);
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  Counts shallow_events, events;
  const bool shallow = accepts<JsonMachine>(text, random, shallow_events);
  const bool accepted = accepts<DocumentMachine>(text, random, events);
  CHECK(Recogniser(text, JsonMachine::kMaxDepth).whole() == shallow);
  CHECK(Recogniser(text, DocumentMachine::kMaxDepth).whole() == accepted);
  JsonValue value;
  CHECK(parse_json(text, value) == accepted);
  if (!accepted) return 0;

  Counts counts;
  count(value, counts);
  CHECK(counts == events);
  if (shallow) CHECK(counts == shallow_events);
  check_numbers(value);
  const uint64_t hash = canonical_hash(value);
  const bool duplicates = has_duplicate_keys(value);
  for (int i = 0; i < 3; ++i) {
    const fuzz::Style style{random.word(), i > 0, i > 0, i > 0, i > 1};
    const std::string written = fuzz::write_json(value, style);
    JsonValue again;
    CHECK(parse_json(written, again));
    CHECK(canonical_hash(again) == hash);
    CHECK(has_duplicate_keys(again) == duplicates);
  }
  return 0;
}
