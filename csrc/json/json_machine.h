// A JSON text (RFC 8259, UTF-8) read byte by byte. The machine is a small trivially copyable value:
// copying it forks the reading. It knows nothing of tools or calls.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace toolprm {

enum class JsonEvent : uint8_t {
  kNone,
  kFail,
  kObjectBegin,
  kObjectEnd,
  kArrayBegin,
  kArrayEnd,
  kKeyBegin,
  kKeyEnd,
  kStringBegin,
  kStringEnd,
  kNumberBegin,
  kLiteralBegin,
  kLiteralEnd,
  kComma,
};

// What one byte did. `number_ended`: a number ended before this byte, its delimiter. `decoded`: the
// UTF-8 bytes that this byte completed inside a string or key, escapes resolved.
struct JsonByte {
  JsonEvent event = JsonEvent::kNone;
  bool number_ended = false;
  uint8_t decoded_size = 0;
  char decoded[4] = {};

  std::string_view text() const { return {decoded, decoded_size}; }
};

// `Depth`: how deep arrays and objects may nest.
template <int Depth>
class BasicJsonMachine {
 public:
  static constexpr int kMaxDepth = Depth;

  JsonByte feed(unsigned char byte);

  // How many of the leading bytes change nothing in the machine's state: plain characters of the
  // string that is being read (printable ASCII, neither quote nor backslash), digits of a number.
  size_t plain_run(std::string_view bytes) const;

  int depth() const { return depth_; }
  bool in_object() const {
    return depth_ > 0 && ((containers_[(depth_ - 1) / 64] >> ((depth_ - 1) % 64)) & 1);
  }
  // Whether `plain_run` may be more than nothing here.
  bool in_run() const {
    return lexical_ == kString || lexical_ == kInteger || lexical_ == kFraction ||
           lexical_ == kExponentDigits;
  }
  // A value has ended within a container; its comma or end is to come.
  bool after_value() const { return lexical_ == kAfterValue; }
  unsigned char literal() const { return literal_; }  // first byte of the literal being read
  bool done() const { return lexical_ == kDone; }
  // Of the first 32 levels.
  uint64_t fingerprint() const {
    return (containers_[0] & 0xFFFFFFFF) ^ (uint64_t{depth_} << 32) ^ (uint64_t{lexical_} << 40) ^
           (uint64_t{count_} << 48) ^ (uint64_t{key_} << 56);
  }

 private:
  enum Lexical : uint8_t {
    kValue,
    kValueOrArrayEnd,
    kKeyOrObjectEnd,
    kKey,
    kColon,
    kAfterValue,
    kDone,
    kString,
    kEscape,
    kHex,
    kUtf8,
    kLowSurrogate,   // a high surrogate was read; its low half must follow
    kLowSurrogateU,  // ... and its backslash has been read
    kMinus,
    kZero,
    kInteger,
    kPoint,
    kFraction,
    kExponent,
    kExponentSign,
    kExponentDigits,
    kLiteral,
  };

  JsonByte begin_value(unsigned char byte);
  JsonByte structure(unsigned char byte);
  JsonByte string_byte(unsigned char byte);
  JsonByte number_byte(unsigned char byte);
  JsonByte hex_byte(unsigned char byte);
  JsonByte utf8_byte(unsigned char byte);
  JsonByte open(bool object);
  JsonByte close(bool object);
  void value_done() {
    lexical_ = depth_ == 0 ? kDone : kAfterValue;
    count_ = 0;
  }
  bool number_complete() const;

  std::array<uint64_t, (Depth + 63) / 64> containers_{};  // bit d-1: at depth d is an object
  uint16_t depth_ = 0;
  uint8_t lexical_ = kValue;
  uint8_t count_ = 0;    // hex digits or UTF-8 bytes still to come; position in a literal
  uint8_t key_ = 0;      // the string being read is a key
  uint8_t literal_ = 0;  // 't', 'f' or 'n'
  uint8_t utf8_low_ = 0;
  uint8_t utf8_high_ = 0;
  uint16_t high_surrogate_ = 0;
  uint16_t code_ = 0;
};

// Of a response: small, since every fork copies it.
using JsonMachine = BasicJsonMachine<32>;
// Of a document such as a list of tools.
using DocumentMachine = BasicJsonMachine<512>;

inline bool is_json_space(unsigned char byte) {
  return byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t';
}

// Appends a code point as UTF-8 to `out`; returns the number of bytes.
int encode_utf8(uint32_t code, char* out);

}  // namespace toolprm
