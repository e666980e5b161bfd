// Where the strings and numbers of a value are found.
#pragma once

#include <string>
#include <string_view>

#include "features/ground_text.h"
#include "features/step_value.h"

namespace toolprm {

class ValueSearch {
 public:
  // The conversation and its last message by the user; the descriptions may be null.
  ValueSearch(const GroundText& all, const GroundText& last, const GroundText* parameter,
              const GroundText* tool);

  void look_up(const StepValue& value);

  bool any = false;  // is there anything to look up
  // Is all of it found; `phrase`: with word borders on both sides.
  bool found = true, found_last = true, phrase = true;
  bool in_parameter, in_tool;

  // The share of its words and numbers, of no words 1 where all is found.
  float words_share() const { return share(words_found_, found); }
  float words_share_last() const { return share(words_last_, found_last); }

 private:
  void look_up_number(double number);
  void look_up_text(std::string_view leaf);
  void look_up_word(std::string_view word);
  float share(size_t count, bool whole) const;

  const GroundText& all_;
  const GroundText& last_;
  const GroundText* parameter_;
  const GroundText* tool_;
  size_t words_ = 0, words_found_ = 0, words_last_ = 0;
  std::string text_;  // a buffer
};

}  // namespace toolprm
