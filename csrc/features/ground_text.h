// A text in which words, phrases and numbers are looked up many times.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace toolprm {

// A text made ready for look-ups.
class GroundText {
 public:
  enum class Match : uint8_t { kNone, kInside, kPhrase };  // kPhrase: word borders on both sides

  explicit GroundText(std::string_view text = {});

  Match find(std::string_view folded) const;
  bool has_word(std::string_view folded) const;
  bool has_number(double number) const;

 private:
  std::string folded_;
  std::vector<uint64_t> words_;  // hashes, sorted
  std::vector<double> numbers_;  // in digits or in words, sorted
};

}  // namespace toolprm
