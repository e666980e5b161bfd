// Words and numbers of texts, folded so that they can be compared.
//
// Texts are compared with ASCII letters lower-cased, runs of white space as one space, outer white
// space trimmed, and typographic quotes, dashes and spaces as their ASCII forms; words are runs of
// ASCII letters and digits and of all other bytes above 127. Bytes that are no UTF-8 do no harm.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace toolprm {

inline bool is_digit(char c) { return c >= '0' && c <= '9'; }
inline bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
inline bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
inline bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
inline bool is_word(char c) {
  return is_digit(c) || is_lower(c) || is_upper(c) || static_cast<unsigned char>(c) >= 0x80;
}

// Typographic characters in their ASCII forms, all else as it is.
std::string plain(std::string_view text);

// Writes the folded text over `result`.
void fold(std::string_view text, std::string& result);
std::string folded(std::string_view text);

template <typename Function>
void each_word(std::string_view text, Function&& function) {
  for (size_t i = 0; i < text.size();) {
    if (!is_word(text[i])) {
      ++i;
      continue;
    }
    const size_t begin = i;
    while (i < text.size() && is_word(text[i])) ++i;
    function(text.substr(begin, i - begin));
  }
}

// The number that decimal digits, with at most one point, write.
double to_number(std::string_view digits);

// The whole of a folded text is one number in digits.
bool as_number(std::string_view text, double& value);

// The number of a folded word such as "seven" or "dozen"; -1 for others.
double named_number(std::string_view word);

// What the folded text right after a number makes of it: 5% is 0.05 as well, 2 million 2000000.
double scaled(double value, std::string_view rest);

// Calls `function(value, scaled)` for each number in digits in folded text. Digits after a letter
// belong to a name (a4), not so those before one (25th, 10km); a minus sign counts only where it
// can't be a dash.
template <typename Function>
void each_number(std::string_view text, Function&& function) {
  const auto at = [&](size_t i) { return i < text.size() ? text[i] : '\0'; };
  const auto skip_digits = [&](size_t i) {
    while (is_digit(at(i))) ++i;
    return i;
  };
  std::string digits;
  for (size_t i = 0; i < text.size();) {
    if (!is_digit(text[i])) {
      ++i;
      continue;
    }
    size_t end = skip_digits(i);
    if (i > 0 && (is_lower(text[i - 1]) || text[i - 1] == '_')) {
      i = end;
      continue;
    }
    digits.assign(text.substr(i, end - i));
    if (end - i <= 3) {  // 12,500
      while (at(end) == ',' && skip_digits(end + 1) == end + 4) {
        digits.append(text.substr(end + 1, 3));
        end += 4;
      }
    }
    if (at(end) == '.' && is_digit(at(end + 1))) {
      const size_t fraction = skip_digits(end + 1);
      digits.append(text.substr(end, fraction - end));
      end = fraction;
    }
    double value = to_number(digits);
    constexpr std::string_view kBeforeMinus = " ([,:=";
    if (i > 0 && text[i - 1] == '-' &&
        (i == 1 || kBeforeMinus.find(text[i - 2]) != std::string_view::npos)) {
      value = -value;
    }
    function(value, scaled(value, text.substr(end)));
    i = end;
  }
}

template <typename T>
void sort_unique(std::vector<T>& values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
}

}  // namespace toolprm
