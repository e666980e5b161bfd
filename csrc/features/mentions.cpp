#include "features/mentions.h"

#include <algorithm>
#include <utility>

#include "features/step_value.h"
#include "features/text.h"

namespace toolprm {

namespace {

constexpr size_t kMaxMentions = 64;  // of each sort; keeps a step's cost bounded
constexpr size_t kMaxQuoted = 80;    // bytes of a quoted string that counts as one thing

}  // namespace

Mentions::Mentions(std::string_view message) {
  each_number(folded(message), [&](double value, double scaled) {
    const bool known = std::any_of(numbers.begin(), numbers.end(), [&](const Number& mention) {
      return mention.value == value && mention.scaled == scaled;
    });
    if (!known && numbers.size() < kMaxMentions) numbers.push_back({value, scaled});
  });
  const std::string text = plain(message);
  add_quoted(text);
  add_capitalised(text);
}

void Mentions::add_text(std::string_view text) {
  std::string mention = folded(text);
  if (mention.empty() || texts.size() >= kMaxMentions ||
      std::find(texts.begin(), texts.end(), mention) != texts.end()) {
    return;
  }
  texts.push_back(std::move(mention));
}

void Mentions::add_quoted(std::string_view text) {
  const auto word_at = [&](size_t i) { return i < text.size() && is_word(text[i]); };
  for (size_t i = 0; i < text.size(); ++i) {
    const char quote = text[i];
    if (quote != '"' && quote != '`' && quote != '\'') continue;
    const bool single = quote == '\'';  // or an apostrophe
    if (single && ((i > 0 && word_at(i - 1)) || !word_at(i + 1))) continue;
    size_t end = i + 1;
    while (end < text.size() && end - i <= kMaxQuoted + 1 && text[end] != '\n' &&
           (text[end] != quote || (single && word_at(end + 1)))) {
      ++end;
    }
    if (end >= text.size() || text[end] != quote || end - i > kMaxQuoted + 1) continue;
    add_text(text.substr(i + 1, end - i - 1));
    i = end;
  }
}

void Mentions::add_capitalised(std::string_view text) {
  each_word(text, [&](std::string_view word) {
    if (word.size() < 2 || !is_upper(word[0])) return;
    constexpr std::string_view kOpening = " \t\"'`([{*#>-";
    constexpr std::string_view kSentenceEnd = ".!?:\n\r";
    size_t before = word.data() - text.data();
    while (before > 0 && kOpening.find(text[before - 1]) != std::string_view::npos) --before;
    const bool first = before == 0 || kSentenceEnd.find(text[before - 1]) != std::string_view::npos;
    if (!first) add_text(word);
  });
}

void WrittenValues::add(const StepValue& value) {
  value.leaves(
      [&](std::string_view leaf) {
        fold(leaf, text_);
        texts_ += text_;
        texts_ += '\x1f';
        each_number(text_, [&](double number, double scaled) {
          numbers_.push_back(number);
          if (scaled != number) numbers_.push_back(scaled);
        });
      },
      [&](double number) { numbers_.push_back(number); });
}

size_t WrittenValues::numbers_of(const Mentions& mentions) const {
  const auto has = [&](double number) {
    return std::find(numbers_.begin(), numbers_.end(), number) != numbers_.end();
  };
  return std::count_if(
      mentions.numbers.begin(), mentions.numbers.end(),
      [&](const Mentions::Number& number) { return has(number.value) || has(number.scaled); });
}

size_t WrittenValues::texts_of(const Mentions& mentions) const {
  return std::count_if(mentions.texts.begin(), mentions.texts.end(), [&](const std::string& text) {
    return texts_.find(text) != std::string::npos;
  });
}

}  // namespace toolprm
