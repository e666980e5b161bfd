// What the user's last message names, and how much of it the values of a response have.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace toolprm {

class StepValue;

struct Mentions {
  // In digits, and what a per cent sign or a word for its scale makes of it.
  struct Number {
    double value, scaled;
  };

  explicit Mentions(std::string_view message = {});

  bool empty() const { return numbers.empty() && texts.empty(); }

  std::vector<Number> numbers;
  std::vector<std::string> texts;  // quoted strings and capitalised words, folded

 private:
  void add_text(std::string_view text);
  void add_quoted(std::string_view text);
  void add_capitalised(std::string_view text);
};

// The strings and numbers of a response's values.
class WrittenValues {
 public:
  void add(const StepValue& value);

  // How many of the mentions are among them.
  size_t numbers_of(const Mentions& mentions) const;
  size_t texts_of(const Mentions& mentions) const;

 private:
  std::string texts_;  // folded, each with a separator behind it
  std::vector<double> numbers_;
  std::string text_;  // a buffer
};

}  // namespace toolprm
