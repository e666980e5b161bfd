#include "json/json_machine.h"

#include <array>
#include <cstring>
#include <type_traits>

namespace toolprm {

static_assert(std::is_trivially_copyable_v<JsonMachine>);

namespace {

constexpr JsonByte fail() { return {JsonEvent::kFail}; }
constexpr JsonByte event(JsonEvent kind) { return {kind}; }

constexpr bool is_digit(unsigned char byte) { return byte >= '0' && byte <= '9'; }

constexpr std::array<bool, 256> make_plain() {
  std::array<bool, 256> plain{};
  for (int byte = 0x20; byte < 0x80; ++byte) plain[byte] = byte != '"' && byte != '\\';
  return plain;
}
constexpr std::array<bool, 256> kPlain = make_plain();

std::string_view literal_text(uint8_t first) {
  return first == 't' ? "true" : first == 'f' ? "false" : "null";
}

JsonByte decoded_byte(unsigned char byte) {
  JsonByte result;
  result.decoded[0] = static_cast<char>(byte);
  result.decoded_size = 1;
  return result;
}

}  // namespace

int encode_utf8(uint32_t code, char* out) {
  if (code < 0x80) {
    out[0] = static_cast<char>(code);
    return 1;
  }
  if (code < 0x800) {
    out[0] = static_cast<char>(0xC0 | (code >> 6));
    out[1] = static_cast<char>(0x80 | (code & 0x3F));
    return 2;
  }
  if (code < 0x10000) {
    out[0] = static_cast<char>(0xE0 | (code >> 12));
    out[1] = static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out[2] = static_cast<char>(0x80 | (code & 0x3F));
    return 3;
  }
  out[0] = static_cast<char>(0xF0 | (code >> 18));
  out[1] = static_cast<char>(0x80 | ((code >> 12) & 0x3F));
  out[2] = static_cast<char>(0x80 | ((code >> 6) & 0x3F));
  out[3] = static_cast<char>(0x80 | (code & 0x3F));
  return 4;
}

template <int Depth>
size_t BasicJsonMachine<Depth>::plain_run(std::string_view bytes) const {
  const char* data = bytes.data();
  size_t at = 0;
  if (lexical_ == kInteger || lexical_ == kFraction || lexical_ == kExponentDigits) {
    while (at < bytes.size() && is_digit(static_cast<unsigned char>(data[at]))) ++at;
    return at;
  }
  if (lexical_ != kString) return 0;
  // Eight bytes at a time: a byte is special when it is above 0x7F, below 0x20, a quote or a
  // backslash (the classic has-zero-byte and has-less tricks).
  constexpr uint64_t kOnes = 0x0101010101010101ULL;
  constexpr uint64_t kHighs = 0x8080808080808080ULL;
  for (; at + 8 <= bytes.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, data + at, 8);
    const uint64_t quote = word ^ (kOnes * '"');
    const uint64_t slash = word ^ (kOnes * '\\');
    const uint64_t special = word | (word - kOnes * 0x20) | (quote - kOnes) | (slash - kOnes);
    if (special & kHighs) break;
  }
  while (at < bytes.size() && kPlain[static_cast<unsigned char>(data[at])]) ++at;
  return at;
}

template <int Depth>
JsonByte BasicJsonMachine<Depth>::feed(unsigned char byte) {
  switch (lexical_) {
    case kString:
      if (kPlain[byte]) return decoded_byte(byte);
      [[fallthrough]];
    case kEscape:
    case kLowSurrogate:
    case kLowSurrogateU:
      return string_byte(byte);
    case kHex:
      return hex_byte(byte);
    case kUtf8:
      return utf8_byte(byte);
    case kLiteral: {
      const std::string_view text = literal_text(literal_);
      if (byte != static_cast<unsigned char>(text[count_])) return fail();
      if (++count_ < text.size()) return {};
      value_done();
      return event(JsonEvent::kLiteralEnd);
    }
    case kMinus:
    case kZero:
    case kInteger:
    case kPoint:
    case kFraction:
    case kExponent:
    case kExponentSign:
    case kExponentDigits:
      return number_byte(byte);
    default:
      return structure(byte);
  }
}

template <int Depth>
JsonByte BasicJsonMachine<Depth>::structure(unsigned char byte) {
  if (is_json_space(byte)) return {};
  switch (lexical_) {
    case kValue:
      return begin_value(byte);
    case kValueOrArrayEnd:
      return byte == ']' ? close(false) : begin_value(byte);
    case kKeyOrObjectEnd:
      if (byte == '}') return close(true);
      [[fallthrough]];
    case kKey:
      if (byte != '"') return fail();
      lexical_ = kString;
      key_ = 1;
      return event(JsonEvent::kKeyBegin);
    case kColon:
      if (byte != ':') return fail();
      lexical_ = kValue;
      return {};
    case kAfterValue:
      if (byte == ',') {
        lexical_ = in_object() ? kKey : kValue;
        return event(JsonEvent::kComma);
      }
      if (byte == '}') return close(true);
      if (byte == ']') return close(false);
      return fail();
    default:
      return fail();
  }
}

template <int Depth>
JsonByte BasicJsonMachine<Depth>::begin_value(unsigned char byte) {
  switch (byte) {
    case '{':
      return open(true);
    case '[':
      return open(false);
    case '"':
      lexical_ = kString;
      key_ = 0;
      return event(JsonEvent::kStringBegin);
    case 't':
    case 'f':
    case 'n':
      lexical_ = kLiteral;
      literal_ = byte;
      count_ = 1;
      return event(JsonEvent::kLiteralBegin);
    case '-':
      lexical_ = kMinus;
      return event(JsonEvent::kNumberBegin);
    default:
      if (!is_digit(byte)) return fail();
      lexical_ = byte == '0' ? kZero : kInteger;
      return event(JsonEvent::kNumberBegin);
  }
}

template <int Depth>
JsonByte BasicJsonMachine<Depth>::open(bool object) {
  if (depth_ == kMaxDepth) return fail();
  uint64_t& word = containers_[depth_ / 64];
  const uint64_t bit = uint64_t{1} << (depth_ % 64);
  word = object ? word | bit : word & ~bit;
  ++depth_;
  lexical_ = object ? kKeyOrObjectEnd : kValueOrArrayEnd;
  return event(object ? JsonEvent::kObjectBegin : JsonEvent::kArrayBegin);
}

template <int Depth>
JsonByte BasicJsonMachine<Depth>::close(bool object) {
  if (depth_ == 0 || in_object() != object) return fail();
  --depth_;
  containers_[depth_ / 64] &= ~(uint64_t{1} << (depth_ % 64));
  value_done();
  return event(object ? JsonEvent::kObjectEnd : JsonEvent::kArrayEnd);
}

// One function for all states within a string: with escapes in one of their own, raw UTF-8 was read
// 5% slower.
template <int Depth>
JsonByte BasicJsonMachine<Depth>::string_byte(unsigned char byte) {
  switch (lexical_) {
    case kLowSurrogate:
      if (byte != '\\') return fail();
      lexical_ = kLowSurrogateU;
      return {};
    case kLowSurrogateU:
      if (byte != 'u') return fail();
      lexical_ = kHex;
      count_ = 4;
      code_ = 0;
      return {};
    case kEscape: {
      lexical_ = kString;
      switch (byte) {
        case '"':
        case '\\':
        case '/':
          return decoded_byte(byte);
        case 'b':
          return decoded_byte('\b');
        case 'f':
          return decoded_byte('\f');
        case 'n':
          return decoded_byte('\n');
        case 'r':
          return decoded_byte('\r');
        case 't':
          return decoded_byte('\t');
        case 'u':
          lexical_ = kHex;
          count_ = 4;
          code_ = 0;
          return {};
        default:
          return fail();
      }
    }
    default:
      break;
  }
  if (byte == '"') {
    if (key_) {
      key_ = 0;
      lexical_ = kColon;
      return event(JsonEvent::kKeyEnd);
    }
    value_done();
    return event(JsonEvent::kStringEnd);
  }
  if (byte == '\\') {
    lexical_ = kEscape;
    return {};
  }
  if (byte < 0x20) return fail();
  // The second byte's range excludes overlong forms, surrogates and what lies above U+10FFFF
  // (Unicode 15, table 3-7).
  utf8_low_ = 0x80;
  utf8_high_ = 0xBF;
  if (byte >= 0xC2 && byte <= 0xDF) {
    count_ = 1;
  } else if (byte >= 0xE0 && byte <= 0xEF) {
    count_ = 2;
    if (byte == 0xE0) utf8_low_ = 0xA0;
    if (byte == 0xED) utf8_high_ = 0x9F;
  } else if (byte >= 0xF0 && byte <= 0xF4) {
    count_ = 3;
    if (byte == 0xF0) utf8_low_ = 0x90;
    if (byte == 0xF4) utf8_high_ = 0x8F;
  } else {
    return fail();
  }
  lexical_ = kUtf8;
  return decoded_byte(byte);
}

template <int Depth>
JsonByte BasicJsonMachine<Depth>::utf8_byte(unsigned char byte) {
  if (byte < utf8_low_ || byte > utf8_high_) return fail();
  utf8_low_ = 0x80;
  utf8_high_ = 0xBF;
  if (--count_ == 0) lexical_ = kString;
  return decoded_byte(byte);
}

template <int Depth>
JsonByte BasicJsonMachine<Depth>::hex_byte(unsigned char byte) {
  uint16_t digit;
  if (is_digit(byte)) {
    digit = byte - '0';
  } else if (byte >= 'a' && byte <= 'f') {
    digit = byte - 'a' + 10;
  } else if (byte >= 'A' && byte <= 'F') {
    digit = byte - 'A' + 10;
  } else {
    return fail();
  }
  code_ = static_cast<uint16_t>((code_ << 4) | digit);
  if (--count_ > 0) return {};

  uint32_t code = code_;
  const bool low = code >= 0xDC00 && code <= 0xDFFF;
  if (low != (high_surrogate_ != 0)) return fail();
  if (low) {
    code = 0x10000 + ((uint32_t{high_surrogate_} - 0xD800) << 10) + (code - 0xDC00);
    high_surrogate_ = 0;
  } else if (code >= 0xD800 && code <= 0xDBFF) {
    high_surrogate_ = code_;
    lexical_ = kLowSurrogate;
    return {};
  }
  lexical_ = kString;
  JsonByte result;
  result.decoded_size = static_cast<uint8_t>(encode_utf8(code, result.decoded));
  return result;
}

template <int Depth>
bool BasicJsonMachine<Depth>::number_complete() const {
  return lexical_ == kZero || lexical_ == kInteger || lexical_ == kFraction ||
         lexical_ == kExponentDigits;
}

template <int Depth>
JsonByte BasicJsonMachine<Depth>::number_byte(unsigned char byte) {
  const bool digit = is_digit(byte);
  switch (lexical_) {
    case kMinus:
      if (!digit) return fail();
      lexical_ = byte == '0' ? kZero : kInteger;
      return {};
    case kInteger:
    case kFraction:
    case kExponentDigits:
      if (digit) return {};
      break;
    case kPoint:
      if (!digit) return fail();
      lexical_ = kFraction;
      return {};
    case kExponent:
      if (byte == '+' || byte == '-') {
        lexical_ = kExponentSign;
        return {};
      }
      [[fallthrough]];
    case kExponentSign:
      if (!digit) return fail();
      lexical_ = kExponentDigits;
      return {};
    default:
      break;
  }
  if (byte == '.' && (lexical_ == kZero || lexical_ == kInteger)) {
    lexical_ = kPoint;
    return {};
  }
  if ((byte == 'e' || byte == 'E') && lexical_ != kExponentDigits) {
    lexical_ = kExponent;
    return {};
  }
  if (!number_complete()) return fail();
  value_done();
  JsonByte result = structure(byte);
  result.number_ended = result.event != JsonEvent::kFail;
  return result;
}

template class BasicJsonMachine<JsonMachine::kMaxDepth>;
template class BasicJsonMachine<DocumentMachine::kMaxDepth>;

}  // namespace toolprm
