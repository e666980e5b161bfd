// The words of a language that texts are compared by: stop words, endings, numbers, months, units.
// A language without lists is compared by its words as they are written.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace toolprm {

// What a word means in numbers, dates, times and units. Most words have none of these meanings.
struct WordMeaning {
  enum Role : uint8_t { kNone, kAm, kPm, kPast, kTo, kAt, kHour, kMorning, kEvening };

  bool stop = false;     // says nothing of a topic
  bool ordinal = false;  // `number` is that of "third"
  bool joins = false;    // "and" in a number
  bool ordinal_ending = false;
  Role role = kNone;
  int8_t month = 0;    // 1 .. 12
  int8_t weekday = 0;  // 1 Monday .. 7
  bool relative = false;
  int8_t offset = 0;    // of a relative day, in days
  int16_t clock = -1;   // minutes after midnight
  double number = -1;   // "three"
  double scale = 0;     // "million"
  int32_t seconds = 0;  // of a duration: "minute"
  uint64_t unit = 0;    // equal for all ways to write one unit
};

class Words {
 public:
  Words() = default;
  // The text of a language's file; assets/words/en.json is the example. Throws
  // std::invalid_argument for text that is no such file.
  explicit Words(std::string_view json);

  // Of a folded word; never null.
  const WordMeaning& meaning(std::string_view word) const;
  // A hash that is equal for the forms of one word, and for the ways to write one unit.
  uint64_t root(std::string_view word) const;

 private:
  WordMeaning& of(std::string_view word);
  static std::string_view without(std::string_view word, const std::vector<std::string>& endings);

  std::unordered_map<uint64_t, WordMeaning> meanings_;  // by the word's hash
  std::vector<std::string> endings_, second_endings_;   // cities: citi, cit
};

}  // namespace toolprm
