// A complete JSON value in memory, and the one rule for when two values are equal: escapes, white
// space, the order of members, and 5 against 5.0 make no difference.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace toolprm {

enum class JsonType : uint8_t { kNull, kBoolean, kNumber, kString, kArray, kObject };

struct JsonValue {
  JsonType type = JsonType::kNull;
  bool boolean = false;
  bool integral = false;  // a number with no fractional part, however it was written
  double number = 0;
  std::string string;  // a string's text; a number's own spelling
  std::vector<JsonValue> items;
  std::vector<std::pair<std::string, JsonValue>> members;

  const JsonValue* find(std::string_view key) const;
};

// Reads `text`, which must be one well-formed value (JsonMachine has accepted it).
JsonValue parse_accepted_json(std::string_view text);

// Reads any text; false when it is not one JSON value.
bool parse_json(std::string_view text, JsonValue& value);

// Equal values have equal hashes; unequal ones differ but for a 64-bit collision.
uint64_t canonical_hash(const JsonValue& value);

// An object somewhere in `value` has two members of one name.
bool has_duplicate_keys(const JsonValue& value);

// No number in `value` is beyond the range of a double.
bool all_finite(const JsonValue& value);

uint64_t hash_bytes(std::string_view bytes, uint64_t seed = 0);
// The canonical hash of a string value, from its decoded text.
inline uint64_t hash_string(std::string_view text) { return hash_bytes(text, 4); }

// A bijective scramble of 64 bits (the finaliser of splitmix64).
constexpr uint64_t mix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

constexpr uint64_t mix64(uint64_t a, uint64_t b) { return mix64(a ^ (mix64(b) + (a << 7))); }

}  // namespace toolprm
