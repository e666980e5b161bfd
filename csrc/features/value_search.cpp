#include "features/value_search.h"

#include <algorithm>

#include "features/text.h"

namespace toolprm {

ValueSearch::ValueSearch(const GroundText& all, const GroundText& last, const GroundText* parameter,
                         const GroundText* tool)
    : in_parameter(parameter != nullptr),
      in_tool(tool != nullptr),
      all_(all),
      last_(last),
      parameter_(parameter),
      tool_(tool) {}

void ValueSearch::look_up(const StepValue& value) {
  value.leaves([&](std::string_view leaf) { look_up_text(leaf); },
               [&](double number) { look_up_number(number); });
}

void ValueSearch::look_up_number(double number) {
  any = true;
  const bool here = all_.has_number(number);
  const bool last = last_.has_number(number);
  found &= here;
  phrase &= here;
  found_last &= last;
  in_parameter = in_parameter && parameter_->has_number(number);
  in_tool = in_tool && tool_->has_number(number);
  ++words_;
  words_found_ += here;
  words_last_ += last;
}

void ValueSearch::look_up_text(std::string_view leaf) {
  using Match = GroundText::Match;
  fold(leaf, text_);
  if (text_.empty()) return;
  any = true;
  double number = 0;
  const bool numeric = as_number(text_, number);
  const auto match = [&](const GroundText& where) {
    return numeric && where.has_number(number) ? Match::kPhrase : where.find(text_);
  };
  const Match all = match(all_);
  found &= all != Match::kNone;
  phrase &= all == Match::kPhrase;
  found_last &= match(last_) != Match::kNone;
  in_parameter = in_parameter && match(*parameter_) == Match::kPhrase;
  in_tool = in_tool && match(*tool_) == Match::kPhrase;
  each_word(text_, [&](std::string_view word) { look_up_word(word); });
}

void ValueSearch::look_up_word(std::string_view word) {
  ++words_;
  const bool digits = std::all_of(word.begin(), word.end(), is_digit);
  const double number = digits ? to_number(word) : 0;
  const auto has = [&](const GroundText& where) {
    return where.has_word(word) || (digits && where.has_number(number));
  };
  words_found_ += has(all_);
  words_last_ += has(last_);
}

float ValueSearch::share(size_t count, bool whole) const {
  if (words_ == 0) return static_cast<float>(whole);
  return static_cast<float>(count) / static_cast<float>(words_);
}

}  // namespace toolprm
