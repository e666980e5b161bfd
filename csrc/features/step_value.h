// The value of an argument, and the strings and numbers in it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "features/text.h"
#include "format/step.h"
#include "json/json_value.h"

namespace toolprm {

// Most strings have no escapes and need no reading.
inline bool is_plain_string(std::string_view raw) {
  return raw.size() >= 2 && raw.front() == '"' && raw.back() == '"' &&
         raw.substr(1, raw.size() - 2).find_first_of("\"\\") == std::string_view::npos;
}

class StepValue {
 public:
  // Of an ARG_VALUE, which must outlive it.
  explicit StepValue(const NamedStep& named) : raw_size_(named.value->size()) {
    const std::string_view raw = *named.value;
    if (is_plain_string(raw)) {
      type = JsonType::kString;
      text_ = raw.substr(1, raw.size() - 2);
    } else {
      json_ = parse_accepted_json(raw);
      type = json_.type;
      text_ = json_.string;
    }
  }
  StepValue(const StepValue&) = delete;

  JsonType type = JsonType::kNull;

  size_t length() const { return type == JsonType::kString ? text_.size() : raw_size_; }

  uint64_t hash() const {
    return type == JsonType::kString ? hash_string(text_) : canonical_hash(json_);
  }

  bool empty() const {
    switch (type) {
      case JsonType::kString:
        return std::all_of(text_.begin(), text_.end(), is_space);
      case JsonType::kNumber:
        return json_.number == 0;
      case JsonType::kBoolean:
        return !json_.boolean;
      default:
        return json_.items.empty() && json_.members.empty();
    }
  }

  // Calls `text(string)` and `number(double)` for the strings and numbers in the value.
  template <typename Text, typename Number>
  void leaves(Text&& text, Number&& number) const {
    if (type == JsonType::kString) {
      text(text_);
    } else {
      leaves(json_, text, number);
    }
  }

 private:
  template <typename Text, typename Number>
  static void leaves(const JsonValue& value, Text&& text, Number&& number) {
    if (value.type == JsonType::kString) text(std::string_view(value.string));
    if (value.type == JsonType::kNumber) number(value.number);
    for (const JsonValue& item : value.items) leaves(item, text, number);
    for (const auto& member : value.members) leaves(member.second, text, number);
  }

  size_t raw_size_;
  std::string_view text_;
  JsonValue json_;
};

}  // namespace toolprm
