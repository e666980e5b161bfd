#include "features/word_reader.h"

#include <cmath>

#include "features/text.h"

namespace toolprm {

namespace {

constexpr double kLargest = 1e18;                   // of numbers in words
constexpr int kLeastYear = 1900, kMostYear = 2100;  // of a number next to a month

// One or more digits at `at`: their value, and `at` moved past them. -1 for none, and for more than
// `most`.
int digits_at(std::string_view text, size_t& at, size_t most) {
  int value = 0;
  size_t end = at;
  while (end < text.size() && is_digit(text[end]) && end - at <= most) {
    value = value * 10 + (text[end++] - '0');
  }
  if (end == at || end - at > most) return -1;
  at = end;
  return value;
}

char char_at(std::string_view text, size_t at) { return at < text.size() ? text[at] : '\0'; }

Date date_of(int year, int month, int day) {
  if (month < 1 || month > 12 || day < 0 || day > 31) return {};
  return {static_cast<int16_t>(year), static_cast<int8_t>(month), static_cast<int8_t>(day)};
}

bool is_year(double number) { return number >= kLeastYear && number <= kMostYear; }

}  // namespace

void WordReader::read(std::string_view text, size_t limit) {
  found_.clear();
  facts_.clear();
  duration_end_ = 0;
  size_t end = 0;  // of the word before
  for (size_t at = 0; at < text.size() && found_.size() < limit;) {
    if (!is_word(text[at])) {
      ++at;
      continue;
    }
    const size_t begin = at;
    const size_t count = found_.size();
    if (is_digit(text[at])) {
      at = read_digits(text, at);
    } else {
      while (at < text.size() && is_word(text[at])) ++at;
      TextWord word;
      word.text = text.substr(begin, at - begin);
      // a.m. and p.m. are one word.
      if (at == begin + 1 && char_at(text, at) == '.' && char_at(text, at + 1) == 'm' &&
          !is_word(char_at(text, at + 2)) && (text[begin] == 'a' || text[begin] == 'p')) {
        word.text = text[begin] == 'a' ? "am" : "pm";
        at += 2;
      }
      found_.push_back(word);
    }
    if (found_.size() == count) continue;
    TextWord& first = found_[count];
    first.joined = count > 0 && begin == end;
    end = at;
    for (size_t i = count; i < found_.size(); ++i) {
      found_[i].meaning = &words_.meaning(found_[i].text);
      found_[i].root = words_.root(found_[i].text);
    }
  }
  interpret();
}

// Adds the date, the time or the number at `at`; returns where it ends.
size_t WordReader::read_digits(std::string_view text, size_t at) {
  if (const size_t end = read_date(text, at)) return end;
  if (const size_t end = read_clock(text, at)) return end;
  const auto skip_digits = [&](size_t i) {
    while (is_digit(char_at(text, i))) ++i;
    return i;
  };
  size_t end = skip_digits(at);
  if (end - at <= 3) {
    while (char_at(text, end) == ',' && skip_digits(end + 1) == end + 4) end += 4;
  }
  if (char_at(text, end) == '.' && is_digit(char_at(text, end + 1))) end = skip_digits(end + 1);
  TextWord word;
  word.text = text.substr(at, end - at);
  each_number(word.text, [&](double value, double) {
    if (std::isfinite(value)) word.number = value;
  });
  word.whole = word.text.find('.') == std::string_view::npos;
  word.percent = char_at(text, end) == '%';
  found_.push_back(word);
  return end;
}

// 2023-03-25, 2023/3/25, 2023-03, 3/25/2023, 25.3.2023, 3/25. 0 for anything else.
size_t WordReader::read_date(std::string_view text, size_t at) {
  const size_t begin = at;
  const int first = digits_at(text, at, 4);
  const size_t width = at - begin;
  const char separator = char_at(text, at);
  if (first < 0 || width == 3 || (separator != '-' && separator != '/' && separator != '.')) {
    return 0;
  }
  const int second = digits_at(text, ++at, 2);
  if (second < 0) return 0;
  int third = -1;
  size_t third_width = 0;
  if (char_at(text, at) == separator && is_digit(char_at(text, at + 1))) {
    const size_t third_begin = ++at;
    third = digits_at(text, at, 4);
    third_width = at - third_begin;
    if (third < 0) return 0;
  }
  if (is_digit(char_at(text, at))) return 0;
  TextFact fact;
  fact.kind = TextFact::Kind::kDate;
  if (width == 4) {
    if (third_width > 2 || (third < 0 && separator != '-')) return 0;
    fact.date = date_of(first, second, third < 0 ? 0 : third);
  } else if (third < 0) {
    if (separator != '/') return 0;
    fact.date = date_of(0, first, second);
    fact.other_date = date_of(0, second, first);
  } else {
    if (third_width != 4 && third_width != 2) return 0;
    const int year = third_width == 2 ? 2000 + third : third;
    fact.date = date_of(year, first, second);
    fact.other_date = date_of(year, second, first);
  }
  if (fact.date.month == 0) std::swap(fact.date, fact.other_date);
  if (fact.date.month == 0) return 0;
  facts_.push_back(fact);
  TextWord word;
  word.text = text.substr(begin, at - begin);
  word.used = true;
  found_.push_back(word);
  // The T of 2023-03-25T18:00.
  if (char_at(text, at) == 't' && is_digit(char_at(text, at + 1))) ++at;
  return at;
}

// 18:00, 18:00:00, 6:00 pm, 18:00:00.000Z, 18:00:00+02:00. 0 for anything else.
size_t WordReader::read_clock(std::string_view text, size_t at) {
  const size_t begin = at;
  const int hour = digits_at(text, at, 2);
  if (hour < 0 || hour > 24 || char_at(text, at) != ':') return 0;
  size_t end = at + 1;
  const int minute = digits_at(text, end, 2);
  if (minute < 0 || minute > 59 || end != at + 3) return 0;
  size_t after = end + 1;
  int seconds = -1;
  if (char_at(text, end) == ':') seconds = digits_at(text, after, 2);
  if (seconds >= 0) {
    end = after;
    if (char_at(text, end) == '.' && is_digit(char_at(text, end + 1))) {
      ++end;
      while (is_digit(char_at(text, end))) ++end;
    }
    after = end + 1;
    if (char_at(text, end) == 'z') {
      ++end;
    } else if ((char_at(text, end) == '+' || char_at(text, end) == '-') &&
               digits_at(text, after, 2) >= 0 && char_at(text, after) == ':' &&
               digits_at(text, ++after, 2) >= 0) {
      end = after;
    }
  }
  TextWord word;
  word.text = text.substr(begin, end - begin);
  word.used = true;
  found_.push_back(word);
  // Which half of the day may be said after it.
  size_t next = end;
  if (char_at(text, next) == ' ') ++next;
  const char half = char_at(text, next);
  const bool dotted = char_at(text, next + 1) == '.';
  const size_t m = next + 1 + dotted;
  const bool said = (half == 'a' || half == 'p') && char_at(text, m) == 'm' &&
                    !is_word(char_at(text, m + 1)) && hour >= 1 && hour <= 12;
  if (said) {
    add_time(hour % 12 + (half == 'p' ? 12 : 0), minute, false);
    return m + 1 + (dotted && char_at(text, m + 1) == '.');
  }
  add_time(hour % 24, minute, hour >= 1 && hour <= 12 && seconds < 0 && text[begin] != '0');
  if (seconds >= 0) facts_.back().seconds = hour * 3600 + minute * 60 + seconds;
  return end;
}

const WordMeaning& WordReader::meaning(size_t at) const {
  static const WordMeaning kPlain;
  return at < found_.size() ? *found_[at].meaning : kPlain;
}

void WordReader::use(size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) found_[i].used = true;
}

// `either`: the half of the day is not said.
void WordReader::add_time(int hour, int minute, bool either) {
  TextFact fact;
  fact.kind = TextFact::Kind::kTime;
  fact.time = static_cast<int16_t>(hour * 60 + minute);
  if (either) fact.other_time = static_cast<int16_t>((fact.time + 720) % 1440);
  facts_.push_back(fact);
}

void WordReader::interpret() {
  for (size_t at = 0; at < found_.size();) {
    if (found_[at].used) {
      ++at;
      continue;
    }
    const WordMeaning& means = meaning(at);
    size_t end = interpret_number(at);
    if (end == at && means.month > 0) end = interpret_month(at);
    if (end > at) {
      at = end;
      continue;
    }
    TextFact fact;
    if (means.weekday > 0) {
      fact.kind = TextFact::Kind::kWeekday;
      fact.day = means.weekday;
    } else if (means.relative) {
      fact.kind = TextFact::Kind::kRelativeDay;
      fact.day = means.offset;
    }
    if (fact.kind != TextFact::Kind::kNumber) {
      facts_.push_back(fact);
      use(at, at + 1);
    }
    if (means.clock >= 0) {
      add_time(means.clock / 60, means.clock % 60, false);
      use(at, at + 1);
    }
    ++at;
  }
}

// The number, date or time that begins with the number at `at`; returns where it ends, `at` where
// there is none.
size_t WordReader::interpret_number(size_t at) {
  const Number number = number_at(at);
  if (number.end == at) return at;
  size_t end = number.end;
  const double value = number.value;
  if (number.whole && value >= 1 && value <= 31) {  // 25th of March
    size_t month = end;
    for (int skipped = 0; skipped < 2 && meaning(month).stop && meaning(month).month == 0;
         ++skipped) {
      ++month;
    }
    // "may" is a month only right after the day.
    if (meaning(month).month > 0 && (month == end || !meaning(month).stop)) {
      return date_with(month, at, month + 1, static_cast<int8_t>(value));
    }
  }
  if (is_role(end, WordMeaning::kPast) || is_role(end, WordMeaning::kTo)) {
    const double minutes = value < 1 ? value * 60 : value;
    if (const size_t after = minutes_and_hour(minutes, at, end)) return after;
  }
  use(at, end);
  if (const size_t after = time_with(number, at)) return after;
  TextFact fact;
  fact.number = value;
  fact.scaled = number.scaled;
  if (meaning(end).seconds > 0) return duration_with(fact, at, end);
  facts_.push_back(fact);
  return end;
}

// Twenty-five minutes; one hour and thirty minutes is one duration. Returns where it ends.
size_t WordReader::duration_with(TextFact fact, size_t begin, size_t unit) {
  fact.kind = TextFact::Kind::kDuration;
  fact.seconds = fact.number * meaning(unit).seconds;
  fact.unit = found_[unit].root;
  use(unit, unit + 1);
  const bool joined = begin > 0 && meaning(begin - 1).joins;
  const bool goes_on = duration_end_ > 0 && duration_end_ + joined == begin;
  if (goes_on) {
    facts_.back().seconds += fact.seconds;
    if (joined) use(begin - 1, begin);
  } else {
    facts_.push_back(fact);
  }
  return duration_end_ = unit + 1;
}

// Quarter past six: `link` is the word between. Returns where it ends, 0 where it is no time.
size_t WordReader::minutes_and_hour(double minutes, size_t begin, size_t link) {
  const Number hour = number_at(link + 1);
  if (hour.end == link + 1 || !hour.whole || hour.value < 1 || hour.value > 12 || minutes < 1 ||
      minutes > 59 || minutes != std::floor(minutes)) {
    return 0;
  }
  int total = static_cast<int>(hour.value) * 60;
  total +=
      is_role(link, WordMeaning::kPast) ? static_cast<int>(minutes) : -static_cast<int>(minutes);
  bool either = true;
  for (size_t i = hour.end; i < found_.size() && i < hour.end + 3; ++i) {
    const WordMeaning::Role role = meaning(i).role;
    if (role == WordMeaning::kAm || role == WordMeaning::kMorning) either = false;
    if (role == WordMeaning::kPm || role == WordMeaning::kEvening) {
      either = false;
      total += 720;
    }
    if (!either) break;
  }
  total %= 1440;
  add_time(total / 60, total % 60, either);
  use(begin, hour.end);
  return hour.end;
}

// Adds the time that a number says as an hour, if it does: 6 pm, six o'clock, at 6. Returns where
// it ends if it can't be anything else; 0 where it may be, or is, only a number.
size_t WordReader::time_with(const Number& hour, size_t begin) {
  if (!hour.whole || hour.ordinal || hour.value < 0 || hour.value > 24) return 0;
  size_t at = hour.end;
  int minute = 0;
  const Number minutes = number_at(at);
  if (minutes.end > at && minutes.whole && minutes.value >= 10 && minutes.value < 60 &&
      hour.value >= 1 && hour.value <= 12) {  // six thirty pm
    at = minutes.end;
    minute = static_cast<int>(minutes.value);
  }
  // o'clock is two words.
  if (is_role(at + 1, WordMeaning::kHour) && at < found_.size() && found_[at].text == "o") ++at;
  bool is_hour = is_role(at, WordMeaning::kHour);
  if (is_hour) ++at;
  int half = -1;
  for (size_t i = at; i < found_.size() && i < at + 3; ++i) {  // in the evening, pm
    const WordMeaning::Role role = meaning(i).role;
    if (role == WordMeaning::kMorning || (i == at && role == WordMeaning::kAm)) half = 0;
    if (role == WordMeaning::kEvening || (i == at && role == WordMeaning::kPm)) half = 1;
    if (half >= 0) {
      at = i + 1;
      break;
    }
    if (!meaning(i).stop) break;
  }
  const bool before = begin > 0 && is_role(begin - 1, WordMeaning::kAt);
  if (!is_hour && half < 0 && !before) return 0;
  const int value = static_cast<int>(hour.value);
  if (half >= 0 && value >= 1 && value <= 12) {
    add_time(value % 12 + 12 * half, minute, false);
  } else {
    add_time(value % 24, minute, half < 0 && value >= 1 && value <= 12);
  }
  if (half < 0 && !is_hour) return 0;
  use(hour.end, at);
  return at;
}

// March 25th, March 25, 2023, March 2023, March.
size_t WordReader::interpret_month(size_t at) {
  const Number day = number_at(at + 1);
  if (day.end > at + 1 && day.whole && day.value >= 1 && day.value <= 31) {
    return date_with(at, at, day.end, static_cast<int8_t>(day.value));
  }
  return date_with(at, at, at + 1, 0);
}

// Adds a date whose day and month are the words from `begin` to `end`, with the year behind them if
// there is one; returns where it ends.
size_t WordReader::date_with(size_t month, size_t begin, size_t end, int8_t day) {
  TextFact fact;
  fact.kind = TextFact::Kind::kDate;
  fact.date = date_of(0, meaning(month).month, day);
  const Number year = number_at(end);
  if (year.end == end + 1 && year.whole && is_year(year.value)) {
    fact.date.year = static_cast<int16_t>(year.value);
    end = year.end;
  }
  facts_.push_back(fact);
  use(begin, end);
  return end;
}

// In digits or in words, with the scale behind it.
WordReader::Number WordReader::number_at(size_t at) const {
  Number result;
  result.end = at;
  if (at >= found_.size() || found_[at].used) return result;
  const TextWord& first = found_[at];
  if (first.number < 0) return spelled(at);
  result.value = result.scaled = first.number;
  result.whole = first.whole;
  result.end = at + 1;
  if (first.percent) result.scaled = first.number / 100;
  if (result.end >= found_.size()) return result;
  const TextWord& next = found_[result.end];
  if (next.joined && next.meaning->ordinal_ending) {
    result.ordinal = true;
    ++result.end;
  } else if (next.meaning->scale > 0 && (next.joined || next.text.size() > 1)) {
    result.scaled = result.value * next.meaning->scale;
    if (next.meaning->scale > 1) {
      result.value = result.scaled;
      result.whole = result.value == std::floor(result.value);
    }
    ++result.end;
  }
  return result;
}

// Two hundred and twenty-five, two million, a dozen's "dozen", two and a half, twenty-first.
WordReader::Number WordReader::spelled(size_t at) const {
  Number result;
  result.end = at;
  double total = 0, part = 0, room = kLargest;  // what comes next must be below `room`
  bool any = false;
  for (size_t i = at; i < found_.size();) {
    if (found_[i].used) break;
    const WordMeaning* means = found_[i].meaning;
    size_t next = i + 1;
    if (any && means->joins && next < found_.size()) {  // two hundred AND five, two and a half
      size_t half = next;
      if (meaning(half).stop && meaning(half).number < 0) ++half;
      if (meaning(half).number > 0 && meaning(half).number < 1) {
        part += meaning(half).number;
        result.end = half + 1;
        result.whole = false;
        result.value = result.scaled = total + part;
        return result;
      }
      if (room > 100 || room == kLargest) break;
      means = found_[next].meaning;
      if (means->number < 0 || means->scale > 0) break;
      ++next;
    }
    if (means->number >= 0) {
      const double number = means->number;
      if (any && (number >= room || number < 1)) break;
      part += number;
      // After twenty may come a unit, after a unit only a scale.
      room = number >= 20 && number < 100 ? 10 : 1;
      result.ordinal = means->ordinal;
      any = true;
    } else if (means->scale > 1 && found_[i].text.size() > 1) {
      part = (part == 0 ? 1 : part) * means->scale;
      if (means->scale >= 1000) {
        total += part;
        part = 0;
      }
      room = 100;
      any = true;
    } else if (any && means->scale > 0 && means->scale < 1) {  // five per cent
      result.scaled = (total + part) * means->scale;
      result.value = total + part;
      result.whole = result.value == std::floor(result.value);
      result.end = next;
      return result;
    } else {
      break;
    }
    result.end = i = next;
    if (total + part > kLargest || result.ordinal) break;
  }
  if (!any) result.end = at;
  result.value = result.scaled = std::min(total + part, kLargest);
  result.whole = result.value == std::floor(result.value);
  return result;
}

}  // namespace toolprm
