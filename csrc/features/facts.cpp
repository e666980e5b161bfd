#include "features/facts.h"

#include <algorithm>

#include "features/text.h"

namespace toolprm {

namespace {

constexpr size_t kMaxDates = 256;  // of a text; keeps a look-up's cost bounded

}  // namespace

Facts::Facts(std::string_view text, const Words& words) {
  WordReader reader(words);
  const std::string copy = folded(text);
  reader.read(copy);
  for (const TextWord& word : reader.words()) {
    roots_.push_back(word.root);
    if (word.number >= 0) numbers_.push_back(word.number);
  }
  for (const TextFact& fact : reader.facts()) {
    switch (fact.kind) {
      case TextFact::Kind::kNumber:
        numbers_.push_back(fact.number);
        numbers_.push_back(fact.scaled);
        break;
      case TextFact::Kind::kDate:
        for (const Date& date : {fact.date, fact.other_date}) {
          if (date.month == 0 || dates_.size() >= kMaxDates) continue;
          dates_.push_back(date);
          for (int number : {int{date.year}, int{date.month}, int{date.day}}) {
            if (number > 0) numbers_.push_back(number);
          }
          if (date.whole()) of_dates_ |= 1 << weekday_of(date);
        }
        break;
      case TextFact::Kind::kTime:
        times_.push_back(fact.time);
        if (fact.seconds >= 0) durations_.push_back(fact.seconds);
        if (fact.other_time >= 0) times_.push_back(fact.other_time);
        if (fact.other_time < 0) numbers_.push_back(fact.time / 60);
        break;
      case TextFact::Kind::kWeekday:
        weekdays_ |= 1 << fact.day;
        break;
      case TextFact::Kind::kRelativeDay:
        offsets_.push_back(fact.day);
        break;
      case TextFact::Kind::kDuration:
        numbers_.push_back(fact.number);
        durations_.push_back(fact.seconds);
        break;
    }
  }
  sort_unique(roots_);
  sort_unique(numbers_);
  sort_unique(times_);
  sort_unique(durations_);
  sort_unique(offsets_);
}

bool Facts::has_root(uint64_t root) const {
  return std::binary_search(roots_.begin(), roots_.end(), root);
}

bool Facts::has_number(double number) const {
  return std::binary_search(numbers_.begin(), numbers_.end(), number);
}

bool Facts::has_time(int16_t time) const {
  return time >= 0 && std::binary_search(times_.begin(), times_.end(), time);
}

bool Facts::has_duration(double seconds) const {
  return seconds >= 0 && std::binary_search(durations_.begin(), durations_.end(), seconds);
}

// The day of a date may be said apart from its month, or be a weekday or a relative day.
bool Facts::has_date(const Date& date) const {
  if (date.month == 0) return false;
  for (const Date& said : dates_) {
    if (said.month != date.month) continue;
    if (said.year != 0 && date.year != 0 && said.year != date.year) continue;
    if (said.day == date.day || date.day == 0) return true;
    if (said.day == 0 && has_number(date.day)) return true;
  }
  if (!date.whole()) return false;
  if ((weekdays_ >> weekday_of(date) & 1) != 0) return true;
  return std::any_of(offsets_.begin(), offsets_.end(), [&](int8_t offset) {
    return std::any_of(dates_.begin(), dates_.end(), [&](const Date& said) {
      return said.whole() && day_number(said) + offset == day_number(date);
    });
  });
}

bool Facts::has(const TextFact& fact) const {
  switch (fact.kind) {
    case TextFact::Kind::kNumber:
      return has_number(fact.number) || (fact.scaled != fact.number && has_number(fact.scaled));
    case TextFact::Kind::kDate:
      return has_date(fact.date) || has_date(fact.other_date);
    case TextFact::Kind::kTime:
      return has_time(fact.time) || has_time(fact.other_time) || has_duration(fact.seconds);
    case TextFact::Kind::kWeekday:
      return ((weekdays_ | of_dates_) >> fact.day & 1) != 0;
    case TextFact::Kind::kRelativeDay:
      return std::binary_search(offsets_.begin(), offsets_.end(), fact.day);
    case TextFact::Kind::kDuration:  // 10 or 15 minutes
      return has_duration(fact.seconds) || (has_number(fact.number) && has_root(fact.unit));
  }
  return false;
}

}  // namespace toolprm
