// Where the strings and numbers of a value are found, as they are written or in another form.
#pragma once

#include <string>
#include <string_view>

#include "features/facts.h"
#include "features/ground_text.h"
#include "features/step_value.h"
#include "features/word_reader.h"

namespace toolprm {

// A text as it is written, and what it says.
struct SearchedText {
  GroundText text;
  Facts facts;
};

class ValueSearch {
 public:
  // The conversation and its last message by the user; the descriptions may be null.
  ValueSearch(const SearchedText& all, const SearchedText& last, const GroundText* parameter,
              const GroundText* tool, const Words& words);

  void look_up(const StepValue& value);

  bool any = false;  // is there anything to look up
  // Is all of it found; `phrase`: with word borders on both sides.
  bool found = true, found_last = true, phrase = true;
  bool in_parameter, in_tool;
  // Is all of it found, or said in another form.
  bool given = true, given_last = true;

  // The share of its words and numbers, of no words 1 where all is found.
  float words_share() const { return share(words_found_, found); }
  float words_share_last() const { return share(words_last_, found_last); }
  // The same of what its words say; one date or time counts as one word.
  float given_share() const { return share_of(given_, said_, given); }
  float given_share_last() const { return share_of(given_last_, said_, given_last); }

 private:
  void look_up_number(double number);
  void look_up_text(std::string_view leaf);
  void look_up_word(std::string_view word);
  void look_up_said(bool here, bool last);
  float share(size_t count, bool whole) const { return share_of(count, words_, whole); }
  static float share_of(size_t count, size_t of, bool whole);

  const SearchedText& all_;
  const SearchedText& last_;
  const GroundText* parameter_;
  const GroundText* tool_;
  size_t words_ = 0, words_found_ = 0, words_last_ = 0;
  size_t said_ = 0, given_ = 0, given_last_ = 0;
  std::string text_;   // a buffer
  WordReader reader_;  // of it
};

}  // namespace toolprm
