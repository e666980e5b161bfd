// Dates of which parts may be unknown, and the days of a calendar.
#pragma once

#include <cstdint>

namespace toolprm {

struct Date {
  int16_t year = 0;  // 0: not said
  int8_t month = 0, day = 0;

  bool whole() const { return year != 0 && month != 0 && day != 0; }
};

// Days since 1970-01-01 of a whole date in the Gregorian calendar.
constexpr int64_t day_number(const Date& date) {
  // From http://howardhinnant.github.io/date_algorithms.html#days_from_civil
  const int64_t year = date.year - (date.month <= 2);
  const int64_t era = (year >= 0 ? year : year - 399) / 400;
  const int64_t of_era = year - era * 400;
  const int64_t of_year = (153 * (date.month + (date.month > 2 ? -3 : 9)) + 2) / 5 + date.day - 1;
  return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

// 1 Monday .. 7 Sunday; 1970-01-01 was a Thursday.
constexpr int weekday_of(const Date& date) {
  return static_cast<int>(((day_number(date) + 3) % 7 + 7) % 7) + 1;
}

}  // namespace toolprm
