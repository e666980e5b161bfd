#include "features/text.h"

#include <charconv>
#include <cmath>
#include <utility>

namespace toolprm {

namespace {

// The ASCII form of the typographic character at `text[at]`, with its size in bytes; 0 for others.
char typographic(std::string_view text, size_t at, size_t& size) {
  const auto byte = [&](size_t i) {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0;
  };
  if (byte(0) == 0xC2 && byte(1) == 0xA0) return size = 2, ' ';
  if (byte(0) != 0xE2 || byte(1) != 0x80) return 0;
  size = 3;
  const int low = byte(2);
  if (low >= 0x80 && low <= 0x8A) return ' ';
  if (low >= 0x90 && low <= 0x95) return '-';
  if (low >= 0x98 && low <= 0x9B) return '\'';
  if (low >= 0x9C && low <= 0x9F) return '"';
  return low == 0xAF ? ' ' : 0;
}

}  // namespace

std::string plain(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    size_t size = 1;
    const char ascii = typographic(text, i, size);
    result.push_back(ascii != 0 ? ascii : text[i]);
    i += ascii != 0 ? size : 1;
  }
  return result;
}

void fold(std::string_view text, std::string& result) {
  result.clear();
  bool space = false;
  for (size_t i = 0; i < text.size();) {
    char c = text[i];
    size_t size = 1;
    if (static_cast<unsigned char>(c) >= 0x80) {
      const char ascii = typographic(text, i, size);
      if (ascii != 0) {
        c = ascii;
      } else {
        size = 1;
      }
    }
    i += size;
    if (is_space(c)) {
      space = !result.empty();
      continue;
    }
    if (space) result.push_back(' ');
    space = false;
    result.push_back(is_upper(c) ? static_cast<char>(c - 'A' + 'a') : c);
  }
}

std::string folded(std::string_view text) {
  std::string result;
  fold(text, result);
  return result;
}

double to_number(std::string_view digits) {
  double value = 0;
  const auto error = std::from_chars(digits.data(), digits.data() + digits.size(), value).ec;
  return error == std::errc::result_out_of_range ? HUGE_VAL : value;
}

bool as_number(std::string_view text, double& value) {
  const bool negative = !text.empty() && text[0] == '-';
  const std::string_view digits = text.substr(negative);
  size_t points = 0;
  for (size_t i = 0; i < digits.size(); ++i) {
    const bool point = digits[i] == '.' && i > 0 && i + 1 < digits.size() && ++points == 1;
    if (!point && !is_digit(digits[i])) return false;
  }
  if (digits.empty()) return false;
  value = negative ? -to_number(digits) : to_number(digits);
  return true;
}

using NamedNumber = std::pair<std::string_view, double>;

double named_number(std::string_view word) {
  static constexpr NamedNumber kNames[] = {
      {"zero", 0},      {"one", 1},       {"two", 2},        {"three", 3},     {"four", 4},
      {"five", 5},      {"six", 6},       {"seven", 7},      {"eight", 8},     {"nine", 9},
      {"ten", 10},      {"eleven", 11},   {"twelve", 12},    {"thirteen", 13}, {"fourteen", 14},
      {"fifteen", 15},  {"sixteen", 16},  {"seventeen", 17}, {"eighteen", 18}, {"nineteen", 19},
      {"twenty", 20},   {"thirty", 30},   {"forty", 40},     {"fifty", 50},    {"sixty", 60},
      {"seventy", 70},  {"eighty", 80},   {"ninety", 90},    {"hundred", 100}, {"thousand", 1e3},
      {"million", 1e6}, {"billion", 1e9}, {"half", 0.5},     {"dozen", 12},    {"once", 1},
      {"twice", 2},
  };
  for (const auto& [name, value] : kNames) {
    if (name == word) return value;
  }
  return -1;
}

double scaled(double value, std::string_view rest) {
  if (rest.empty()) return value;
  if (rest[0] == '%') return value / 100;
  const bool apart = rest[0] == ' ';
  if (apart) rest.remove_prefix(1);
  size_t size = 0;
  while (size < rest.size() && is_word(rest[size])) ++size;
  const std::string_view word = rest.substr(0, size);
  if (word == "percent") return value / 100;
  if (word == "k" && !apart) return value * 1e3;
  if (word == "hundred" || word == "thousand" || word == "million" || word == "billion" ||
      word == "dozen") {
    return value * named_number(word);
  }
  return value;
}

}  // namespace toolprm
