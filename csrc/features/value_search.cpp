#include "features/value_search.h"

#include <algorithm>

#include "features/text.h"

namespace toolprm {

namespace {

constexpr size_t kMostWords = 4096;  // of a string, that are read; keeps a step's cost bounded

}  // namespace

ValueSearch::ValueSearch(const SearchedText& all, const SearchedText& last,
                         const GroundText* parameter, const GroundText* tool, const Words& words)
    : in_parameter(parameter != nullptr),
      in_tool(tool != nullptr),
      all_(all),
      last_(last),
      parameter_(parameter),
      tool_(tool),
      reader_(words) {}

void ValueSearch::look_up(const StepValue& value) {
  value.leaves([&](std::string_view leaf) { look_up_text(leaf); },
               [&](double number) { look_up_number(number); });
}

void ValueSearch::look_up_number(double number) {
  any = true;
  const bool here = all_.text.has_number(number);
  const bool last = last_.text.has_number(number);
  found &= here;
  phrase &= here;
  found_last &= last;
  in_parameter = in_parameter && parameter_->has_number(number);
  in_tool = in_tool && tool_->has_number(number);
  ++words_;
  words_found_ += here;
  words_last_ += last;
  ++said_;
  const bool said = here || all_.facts.has_number(number);
  const bool said_last = last || last_.facts.has_number(number);
  given &= said;
  given_last &= said_last;
  given_ += said;
  given_last_ += said_last;
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
  const Match all = match(all_.text);
  const Match last = match(last_.text);
  found &= all != Match::kNone;
  phrase &= all == Match::kPhrase;
  found_last &= last != Match::kNone;
  in_parameter = in_parameter && match(*parameter_) == Match::kPhrase;
  in_tool = in_tool && match(*tool_) == Match::kPhrase;
  each_word(text_, [&](std::string_view word) { look_up_word(word); });
  look_up_said(all != Match::kNone, last != Match::kNone);
}

// What the words of `text_` say; `here`, `last`: it is found as it is written.
void ValueSearch::look_up_said(bool here, bool last) {
  reader_.read(text_, kMostWords);
  size_t items = 0, all_items = 0, last_items = 0;
  const auto count = [&](bool in_all, bool in_last) {
    ++items;
    all_items += in_all;
    last_items += in_last;
  };
  for (const TextFact& fact : reader_.facts()) {
    const bool number = fact.kind == TextFact::Kind::kNumber;
    count(all_.facts.has(fact) || (number && all_.text.has_number(fact.number)),
          last_.facts.has(fact) || (number && last_.text.has_number(fact.number)));
  }
  for (const TextWord& word : reader_.words()) {
    if (word.used || word.meaning->stop) continue;
    count(all_.facts.has_root(word.root), last_.facts.has_root(word.root));
  }
  given &= here || (items > 0 && all_items == items);
  given_last &= last || (items > 0 && last_items == items);
  if (items == 0) items = 1;
  said_ += items;
  given_ += here ? items : all_items;
  given_last_ += last ? items : last_items;
}

void ValueSearch::look_up_word(std::string_view word) {
  ++words_;
  const bool digits = std::all_of(word.begin(), word.end(), is_digit);
  const double number = digits ? to_number(word) : 0;
  const auto has = [&](const GroundText& where) {
    return where.has_word(word) || (digits && where.has_number(number));
  };
  words_found_ += has(all_.text);
  words_last_ += has(last_.text);
}

float ValueSearch::share_of(size_t count, size_t of, bool whole) {
  if (of == 0) return static_cast<float>(whole);
  return static_cast<float>(count) / static_cast<float>(of);
}

}  // namespace toolprm
