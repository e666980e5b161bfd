#include "features/words.h"

#include <stdexcept>

#include "features/text.h"
#include "json/json_value.h"

namespace toolprm {

namespace {

constexpr size_t kLeastRoot = 3;  // bytes that an ending leaves

const JsonValue* section(const JsonValue& lists, std::string_view name, JsonType type) {
  const JsonValue* found = lists.find(name);
  if (found != nullptr && found->type != type) {
    throw std::invalid_argument("word lists: " + std::string(name) + " has another type");
  }
  return found;
}

// Calls `function(word, number)` for each entry of an object of numbers.
template <typename Function>
void each_number_of(const JsonValue& lists, std::string_view name, double least, double most,
                    Function&& function) {
  const JsonValue* found = section(lists, name, JsonType::kObject);
  if (found == nullptr) return;
  for (const auto& [word, value] : found->members) {
    if (value.type != JsonType::kNumber || !(value.number >= least && value.number <= most)) {
      throw std::invalid_argument("word lists: " + std::string(name) + " has no number for " +
                                  word);
    }
    function(word, value.number);
  }
}

template <typename Function>
void each_word_of(const JsonValue* list, Function&& function) {
  if (list == nullptr) return;
  for (const JsonValue& word : list->items) {
    if (word.type != JsonType::kString) throw std::invalid_argument("word lists: no text");
    function(word.string);
  }
}

}  // namespace

Words::Words(std::string_view json) {
  JsonValue lists;
  if (!parse_json(json, lists) || lists.type != JsonType::kObject) {
    throw std::invalid_argument("word lists are not a JSON object");
  }
  const auto list = [&](std::string_view name) { return section(lists, name, JsonType::kArray); };
  each_word_of(list("stop"), [&](const std::string& word) { of(word).stop = true; });
  each_word_of(list("joins"), [&](const std::string& word) { of(word).joins = true; });
  each_word_of(list("ordinal_endings"),
               [&](const std::string& word) { of(word).ordinal_ending = true; });
  each_word_of(list("endings"), [&](const std::string& ending) { endings_.push_back(ending); });
  each_word_of(list("second_endings"),
               [&](const std::string& ending) { second_endings_.push_back(ending); });
  each_number_of(lists, "numbers", 0, 1e15,
                 [&](const std::string& word, double number) { of(word).number = number; });
  each_number_of(lists, "ordinals", 0, 1e6, [&](const std::string& word, double number) {
    of(word).number = number;
    of(word).ordinal = true;
  });
  each_number_of(lists, "scales", 1e-6, 1e15,
                 [&](const std::string& word, double number) { of(word).scale = number; });
  each_number_of(lists, "months", 1, 12, [&](const std::string& word, double number) {
    of(word).month = static_cast<int8_t>(number);
  });
  each_number_of(lists, "weekdays", 1, 7, [&](const std::string& word, double number) {
    of(word).weekday = static_cast<int8_t>(number);
  });
  each_number_of(lists, "days", -7, 7, [&](const std::string& word, double number) {
    of(word).relative = true;
    of(word).offset = static_cast<int8_t>(number);
  });
  each_number_of(lists, "seconds", 1, 1e6, [&](const std::string& word, double number) {
    of(word).seconds = static_cast<int32_t>(number);
  });
  each_number_of(lists, "clock", 0, 1439, [&](const std::string& word, double number) {
    of(word).clock = static_cast<int16_t>(number);
  });
  static constexpr std::pair<std::string_view, WordMeaning::Role> kRoles[] = {
      {"am", WordMeaning::kAm},           {"pm", WordMeaning::kPm},
      {"past", WordMeaning::kPast},       {"to", WordMeaning::kTo},
      {"at", WordMeaning::kAt},           {"hour", WordMeaning::kHour},
      {"morning", WordMeaning::kMorning}, {"evening", WordMeaning::kEvening},
  };
  if (const JsonValue* roles = section(lists, "clock_words", JsonType::kObject)) {
    for (const auto& [name, role] : kRoles) {
      each_word_of(section(*roles, name, JsonType::kArray),
                   [&, role = role](const std::string& word) { of(word).role = role; });
    }
  }
  if (const JsonValue* units = section(lists, "units", JsonType::kObject)) {
    for (const auto& [name, words] : units->members) {
      const uint64_t unit = mix64(hash_bytes(name), 1) | 1;
      each_word_of(&words, [&](const std::string& word) { of(word).unit = unit; });
    }
  }
}

WordMeaning& Words::of(std::string_view word) { return meanings_[hash_bytes(folded(word))]; }

const WordMeaning& Words::meaning(std::string_view word) const {
  static const WordMeaning kPlain;
  const auto found = meanings_.find(hash_bytes(word));
  return found == meanings_.end() ? kPlain : found->second;
}

uint64_t Words::root(std::string_view word) const {
  if (const uint64_t unit = meaning(word).unit) return unit;
  return hash_bytes(without(without(word, endings_), second_endings_));
}

// Without the first of the endings that it has.
std::string_view Words::without(std::string_view word, const std::vector<std::string>& endings) {
  for (const std::string& ending : endings) {
    if (word.size() >= ending.size() + kLeastRoot &&
        word.substr(word.size() - ending.size()) == ending) {
      return word.substr(0, word.size() - ending.size());
    }
  }
  return word;
}

}  // namespace toolprm
