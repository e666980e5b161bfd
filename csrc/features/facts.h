// What a text says, in whatever words: the numbers, dates and times in it, and the roots of its
// words. A value is given by a text that says the same in another form.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "features/calendar.h"
#include "features/word_reader.h"

namespace toolprm {

// The facts of a text, made ready for look-ups.
class Facts {
 public:
  Facts() = default;
  Facts(std::string_view text, const Words& words);

  bool has_root(uint64_t root) const;
  bool has_number(double number) const;
  bool has(const TextFact& fact) const;

 private:
  bool has_date(const Date& date) const;
  bool has_time(int16_t time) const;
  bool has_duration(double seconds) const;

  std::vector<uint64_t> roots_;  // sorted
  std::vector<double> numbers_;  // sorted; with the hours, days and months of times and dates
  std::vector<Date> dates_;
  std::vector<int16_t> times_;     // sorted
  std::vector<double> durations_;  // in seconds, sorted
  uint8_t weekdays_ = 0;           // that are said, a bit each, 1 << weekday
  uint8_t of_dates_ = 0;           // those of whole dates
  std::vector<int8_t> offsets_;
};

}  // namespace toolprm
