// Cuts a folded text into words, and finds the numbers, dates and times that some of them write.
//
// Digits are read in any language (2023-03-25, 3/25/2023, 18:00); words by the language's lists
// (twenty-five, March 25th, half past six). What can mean two things has both meanings.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "features/calendar.h"
#include "features/words.h"

namespace toolprm {

struct TextWord {
  std::string_view text;
  uint64_t root = 0;
  const WordMeaning* meaning = nullptr;
  double number = -1;    // in digits; else -1
  bool whole = false;    // the number has no fraction
  bool joined = false;   // nothing is between it and the word before it
  bool percent = false;  // % follows it
  bool used = false;     // by a fact
};

struct TextFact {
  enum class Kind : uint8_t { kNumber, kDate, kTime, kWeekday, kRelativeDay, kDuration };

  Kind kind = Kind::kNumber;
  double number = 0, scaled = 0;  // 5% is 5, and 0.05 as well
  Date date, other_date;          // the other one has day and month exchanged, if that is a date
  int16_t time = -1, other_time = -1;  // minutes after midnight; the other one 12 hours later
  uint64_t unit = 0;                   // the root of a duration's word
  double seconds = -1;                 // of a duration; of a time as if it were one, 00:25:00
  int8_t day = 0;                      // a weekday, 1 .. 7, or the offset of a relative day
};

class WordReader {
 public:
  explicit WordReader(const Words& words) : words_(words) {}

  // Reads the folded `text`, which must outlive the result, up to `limit` words.
  void read(std::string_view text, size_t limit = SIZE_MAX);

  const std::vector<TextWord>& words() const { return found_; }
  const std::vector<TextFact>& facts() const { return facts_; }

 private:
  struct Number {
    double value = 0, scaled = 0;
    size_t end = 0;  // just past its words; its begin where there is none
    bool whole = false, ordinal = false;
  };

  size_t read_digits(std::string_view text, size_t at);
  size_t read_date(std::string_view text, size_t at);
  size_t read_clock(std::string_view text, size_t at);
  void interpret();
  size_t interpret_number(size_t at);
  size_t interpret_month(size_t at);
  size_t duration_with(TextFact fact, size_t begin, size_t unit);
  Number number_at(size_t at) const;
  Number spelled(size_t at) const;
  size_t date_with(size_t month, size_t begin, size_t end, int8_t day);
  size_t time_with(const Number& hour, size_t begin);
  size_t minutes_and_hour(double minutes, size_t begin, size_t link);
  void use(size_t begin, size_t end);
  void add_time(int hour, int minute, bool either);

  const WordMeaning& meaning(size_t at) const;
  bool is_role(size_t at, WordMeaning::Role role) const { return meaning(at).role == role; }

  const Words& words_;
  std::vector<TextWord> found_;
  std::vector<TextFact> facts_;
  size_t duration_end_ = 0;  // of the last fact, if it is a duration
};

}  // namespace toolprm
