// The bytes of a fuzzed input as a source of decisions, and the check that ends a run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "json/json_value.h"  // mix64

// Unlike assert it is always compiled in; libFuzzer keeps the input of a run that aborts.
#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)

namespace fuzz {

// With FUZZ_SHOW in the environment a target prints what it has built of an input.
inline void show(const char* what, std::string_view text) {
  static const bool wanted = std::getenv("FUZZ_SHOW") != nullptr;
  if (!wanted) return;
  std::fprintf(stderr, "%s: %.*s\n", what, static_cast<int>(text.size()), text.data());
}

// Read from front to back, so that an edit changes only the decisions after it. Zeros follow the
// last byte: 0 must be the choice that ends things.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}

  uint8_t byte() { return at_ < end_ ? *at_++ : 0; }
  uint32_t below(uint32_t limit) {
    const uint32_t low = byte();
    return (limit <= 256 ? low : low | uint32_t{byte()} << 8) % limit;
  }
  // True for one byte in `many`, never after the end.
  bool chance(uint32_t many) { return below(many) == many - 1; }
  uint64_t word() {
    uint64_t word = 0;
    for (int i = 0; i < 8; ++i) word = word << 8 | byte();
    return word;
  }
  template <typename T, size_t size>
  const T& pick(const T (&list)[size]) {
    return list[below(size)];
  }
  size_t size() const { return static_cast<size_t>(end_ - at_); }
  bool empty() const { return at_ == end_; }
  std::string_view rest() {
    const std::string_view rest(reinterpret_cast<const char*>(at_), size());
    at_ = end_;
    return rest;
  }

 private:
  const uint8_t* at_;
  const uint8_t* end_;
};

// Random numbers from a seed, for what is too much to be read from the input.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t word() { return state_ = toolprm::mix64(state_); }
  uint32_t below(uint32_t limit) { return static_cast<uint32_t>(word() >> 32) % limit; }
  bool chance(uint32_t many) { return below(many) == 0; }
  double uniform() { return static_cast<double>(word() >> 11) * 0x1.0p-53; }

 private:
  uint64_t state_;
};

}  // namespace fuzz
