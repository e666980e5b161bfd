#include "features/ground_text.h"

#include <algorithm>

#include "features/text.h"
#include "json/json_value.h"

namespace toolprm {

GroundText::GroundText(std::string_view text) : folded_(folded(text)) {
  each_word(folded_, [&](std::string_view word) {
    words_.push_back(hash_bytes(word));
    const double number = named_number(word);
    if (number < 0) return;
    numbers_.push_back(number);
    const size_t end = word.data() + word.size() - folded_.data();
    numbers_.push_back(scaled(number, std::string_view(folded_).substr(end)));
  });
  each_number(folded_, [&](double value, double scaled) {
    numbers_.push_back(value);
    numbers_.push_back(scaled);
  });
  sort_unique(words_);
  sort_unique(numbers_);
}

GroundText::Match GroundText::find(std::string_view folded) const {
  if (folded.empty()) return Match::kNone;
  const std::string_view text = folded_;
  const auto border = [&](size_t at) {
    return at == 0 || at == text.size() || !is_word(text[at - 1]) || !is_word(text[at]);
  };
  Match match = Match::kNone;
  for (size_t at = 0; (at = text.find(folded, at)) != std::string_view::npos; ++at) {
    if (border(at) && border(at + folded.size())) return Match::kPhrase;
    match = Match::kInside;
  }
  return match;
}

bool GroundText::has_word(std::string_view folded) const {
  return std::binary_search(words_.begin(), words_.end(), hash_bytes(folded));
}

bool GroundText::has_number(double number) const {
  return std::binary_search(numbers_.begin(), numbers_.end(), number);
}

}  // namespace toolprm
