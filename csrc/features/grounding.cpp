#include "features/grounding.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <stdexcept>

#include "schema/reference.h"

namespace toolprm {

namespace {

// The one list of features. Counts are log1p.
#define TOOLPRM_FEATURES(X)                                 \
  /* ARG_VALUE */                                           \
  X(kFound, "value_found")                                  \
  X(kFoundLast, "value_found_in_last_message")              \
  X(kWords, "value_words_found")                            \
  X(kWordsLast, "value_words_found_in_last_message")        \
  X(kPhrase, "value_found_as_phrase")                       \
  X(kInParameter, "value_in_parameter_description")         \
  X(kInTool, "value_in_tool_description")                   \
  X(kIsDefault, "value_is_default")                         \
  X(kRequired, "parameter_required")                        \
  X(kListed, "parameter_listed")                            \
  X(kHasDefault, "parameter_has_default")                   \
  X(kString, "value_is_string")                             \
  X(kNumber, "value_is_number")                             \
  X(kBoolean, "value_is_boolean")                           \
  X(kArray, "value_is_array")                               \
  X(kObject, "value_is_object")                             \
  X(kLength, "value_length")                                \
  X(kEmpty, "value_empty")                                  \
  X(kRepeated, "value_repeated_in_call")                    \
  X(kArguments, "arguments_before")                         \
  /* PARAM_FINISH, FUNC_FINISH, TOTAL_FINISH */             \
  X(kRequiredGiven, "required_given_share")                 \
  X(kOptionalOmitted, "optional_omitted")                   \
  X(kOptionalGiven, "optional_given")                       \
  X(kNumbersUsed, "numbers_used_share")                     \
  X(kNumbersUsedCount, "numbers_used")                      \
  X(kNumbersUnused, "numbers_unused")                       \
  X(kMentionsUsed, "mentions_used_share")                   \
  X(kMentionsUsedCount, "mentions_used")                    \
  X(kMentionsUnused, "mentions_unused")                     \
  X(kDeclined, "declined")                                  \
  /* the same and FUNC_NAME */                              \
  X(kCalls, "calls")                                        \
  /* FUNC_NAME */                                           \
  X(kNameWords, "name_words_in_last_message")               \
  X(kDescriptionWords, "description_words_in_last_message") \
  X(kRank, "tool_rank")                                     \
  X(kTools, "tools")                                        \
  X(kTimesCalled, "times_called_before")                    \
  X(kToolsUnused, "other_tools_unused")

enum Feature : int {
#define TOOLPRM_ID(id, name) id,
  TOOLPRM_FEATURES(TOOLPRM_ID)
#undef TOOLPRM_ID
      kCount
};
static_assert(kCount == Grounding::kFeatures);

constexpr size_t kMaxMentions = 64;  // of each sort; keeps a step's cost bounded
constexpr size_t kMaxQuoted = 80;    // bytes of a quoted string that counts as one thing

float log_count(size_t count) { return static_cast<float>(std::log1p(static_cast<double>(count))); }

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_word(char c) {
  return is_digit(c) || is_lower(c) || is_upper(c) || static_cast<unsigned char>(c) >= 0x80;
}

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

// Typographic characters in their ASCII forms, all else as it is.
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

template <typename Function>
void each_word(std::string_view text, Function&& function) {
  for (size_t i = 0; i < text.size();) {
    if (!is_word(text[i])) {
      ++i;
      continue;
    }
    const size_t begin = i;
    while (i < text.size() && is_word(text[i])) ++i;
    function(text.substr(begin, i - begin));
  }
}

double to_number(std::string_view digits) {
  double value = 0;
  const auto error = std::from_chars(digits.data(), digits.data() + digits.size(), value).ec;
  return error == std::errc::result_out_of_range ? HUGE_VAL : value;
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

// What the text right after a number makes of it: 5% is 0.05 as well, 2 million 2000000.
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

// Calls `function(value, scaled)` for each number in digits in folded text. Digits after a letter
// belong to a name (a4), not so those before one (25th, 10km); a minus sign counts only where it
// can't be a dash.
template <typename Function>
void each_number(std::string_view text, Function&& function) {
  const auto at = [&](size_t i) { return i < text.size() ? text[i] : '\0'; };
  const auto skip_digits = [&](size_t i) {
    while (is_digit(at(i))) ++i;
    return i;
  };
  std::string digits;
  for (size_t i = 0; i < text.size();) {
    if (!is_digit(text[i])) {
      ++i;
      continue;
    }
    size_t end = skip_digits(i);
    if (i > 0 && (is_lower(text[i - 1]) || text[i - 1] == '_')) {
      i = end;
      continue;
    }
    digits.assign(text.substr(i, end - i));
    if (end - i <= 3) {  // 12,500
      while (at(end) == ',' && skip_digits(end + 1) == end + 4) {
        digits.append(text.substr(end + 1, 3));
        end += 4;
      }
    }
    if (at(end) == '.' && is_digit(at(end + 1))) {
      const size_t fraction = skip_digits(end + 1);
      digits.append(text.substr(end, fraction - end));
      end = fraction;
    }
    double value = to_number(digits);
    constexpr std::string_view kBeforeMinus = " ([,:=";
    if (i > 0 && text[i - 1] == '-' &&
        (i == 1 || kBeforeMinus.find(text[i - 2]) != std::string_view::npos)) {
      value = -value;
    }
    function(value, scaled(value, text.substr(end)));
    i = end;
  }
}

// The whole of a folded text is one number in digits.
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

// calculate, calculates, calculating and calculated are one word here.
std::string_view stem(std::string_view word) {
  for (std::string_view ending : {"ing", "ed", "es", "s", "e"}) {
    if (word.size() >= ending.size() + 3 && word.substr(word.size() - ending.size()) == ending) {
      return word.substr(0, word.size() - ending.size());
    }
  }
  return word;
}

bool is_function_word(std::string_view word) {
  static constexpr std::string_view kWords[] = {
      "about", "also", "been",  "each",  "from", "have",  "into", "must", "only",
      "such",  "than", "that",  "them",  "then", "these", "they", "this", "those",
      "what",  "when", "where", "which", "will", "with",  "your"};
  return std::find(std::begin(kWords), std::end(kWords), word) != std::end(kWords);
}

// getHTTPStatus, get_http_status and "get http-status" have the words get, http and status.
std::vector<std::string> name_words(std::string_view name) {
  std::string spaced;
  for (size_t i = 0; i < name.size(); ++i) {
    if (i > 0 && is_upper(name[i]) &&
        (is_lower(name[i - 1]) || is_digit(name[i - 1]) ||
         (is_upper(name[i - 1]) && i + 1 < name.size() && is_lower(name[i + 1])))) {
      spaced.push_back(' ');
    }
    spaced.push_back(name[i]);
  }
  std::vector<std::string> words;
  each_word(folded(spaced), [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

template <typename T>
void sort_unique(std::vector<T>& values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
}

// Most strings have no escapes and need no reading.
bool is_plain_string(std::string_view raw) {
  return raw.size() >= 2 && raw.front() == '"' && raw.back() == '"' &&
         raw.substr(1, raw.size() - 2).find_first_of("\"\\") == std::string_view::npos;
}

class Value {
 public:
  // Of an ARG_VALUE, which must outlive it.
  explicit Value(const NamedStep& named) : raw_size_(named.value->size()) {
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
  Value(const Value&) = delete;

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

// The target of a chain of references into `root`; schemas that lead nowhere are taken as they are.
const JsonValue& resolve(const JsonValue& schema, const JsonValue& root) {
  const JsonValue* at = &schema;
  for (int links = 0; links < 16; ++links) {
    const JsonValue* reference = at->find("$ref");
    if (reference == nullptr) break;
    const JsonValue* target = resolve_reference(reference->string, root);
    if (target == nullptr) break;
    at = target;
  }
  return *at;
}

bool is_listed(const JsonValue& schema, const JsonValue& root) {
  const auto lists = [](const JsonValue& one) {
    return one.find("enum") != nullptr || one.find("const") != nullptr;
  };
  if (lists(schema)) return true;
  for (std::string_view key : {"anyOf", "oneOf", "allOf"}) {
    const JsonValue* parts = schema.find(key);
    if (parts == nullptr) continue;
    for (const JsonValue& part : parts->items) {
      if (lists(resolve(part, root))) return true;
    }
  }
  return false;
}

std::string_view text_of(const JsonValue& object, std::string_view key) {
  const JsonValue* value = object.find(key);
  return value == nullptr || value->type != JsonType::kString ? std::string_view()
                                                              : std::string_view(value->string);
}

}  // namespace

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

Grounding::Grounding(std::string_view tools_json,
                     const std::vector<std::pair<std::string, std::string>>& conversation) {
  JsonValue tools;
  if (!parse_json(tools_json, tools) || tools.type != JsonType::kArray) {
    throw std::invalid_argument("the tools are not a JSON list");
  }
  std::string all;
  std::string_view last;
  for (const auto& [role, text] : conversation) {
    all += text;
    all += '\x1f';  // so that no phrase spans two messages
    if (role == "user") last = text;
  }
  all_ = GroundText(all);
  last_ = GroundText(last);
  each_word(folded(last),
            [&](std::string_view word) { last_stems_.push_back(hash_bytes(stem(word))); });
  sort_unique(last_stems_);
  add_mentions(last);

  for (const JsonValue& tool : tools.items) add_tool(tool);
  const auto overlap = [](const Tool& tool) { return tool.name_share + tool.description_share; };
  for (Tool& tool : tools_) {
    if (tools_.size() == 1) break;
    const auto better = std::count_if(tools_.begin(), tools_.end(), [&](const Tool& other) {
      return overlap(other) > overlap(tool);
    });
    tool.rank = static_cast<float>(better) / static_cast<float>(tools_.size() - 1);
  }
}

void Grounding::add_tool(const JsonValue& source) {
  const std::string_view name = text_of(source, "name");
  if (name.empty()) {
    throw std::invalid_argument("tool " + std::to_string(tools_.size() + 1) + " has no name");
  }
  Tool& tool = tools_.emplace_back();
  const std::string_view description = text_of(source, "description");
  tool.description = GroundText(description);

  const auto share = [&](std::vector<std::string> words) {
    sort_unique(words);
    if (words.empty()) return 0.0f;
    const auto found = std::count_if(words.begin(), words.end(), [&](const std::string& word) {
      return std::binary_search(last_stems_.begin(), last_stems_.end(), hash_bytes(stem(word)));
    });
    return static_cast<float>(found) / static_cast<float>(words.size());
  };
  tool.name_share = share(name_words(name));
  std::vector<std::string> content;
  each_word(folded(description), [&](std::string_view word) {
    if (word.size() >= 4 && !is_function_word(word)) content.emplace_back(word);
  });
  tool.description_share = share(std::move(content));

  const JsonValue* parameters = source.find("parameters");
  if (parameters == nullptr) return;
  const JsonValue& schema = resolve(*parameters, *parameters);
  const auto known = [&](std::string_view key) {
    return std::find_if(tool.parameters.begin(), tool.parameters.end(),
                        [&](const Parameter& parameter) { return parameter.name == key; });
  };
  if (const JsonValue* properties = schema.find("properties")) {
    for (const auto& [key, property] : properties->members) {
      if (known(key) != tool.parameters.end()) continue;
      const JsonValue& target = resolve(property, *parameters);
      Parameter& parameter = tool.parameters.emplace_back();
      parameter.name = key;
      // Keywords next to a reference apply to this parameter, its target applies to all.
      const std::string_view own = text_of(property, "description");
      parameter.description = GroundText(own.empty() ? text_of(target, "description") : own);
      parameter.listed = is_listed(property, *parameters) || is_listed(target, *parameters);
      const JsonValue* preset = property.find("default");
      if (preset == nullptr) preset = target.find("default");
      parameter.has_default = preset != nullptr;
      if (preset != nullptr) parameter.default_hash = canonical_hash(*preset);
    }
  }
  if (const JsonValue* required = schema.find("required")) {
    for (const JsonValue& key : required->items) {
      if (key.type != JsonType::kString) continue;
      auto at = known(key.string);
      if (at == tool.parameters.end()) {
        tool.parameters.emplace_back().name = key.string;
        at = tool.parameters.end() - 1;
      }
      tool.required += !at->required;
      at->required = true;
    }
  }
}

void Grounding::add_mentions(std::string_view message) {
  each_number(folded(message), [&](double value, double scaled) {
    const bool known = std::any_of(numbers_.begin(), numbers_.end(), [&](const Mention& mention) {
      return mention.value == value && mention.scaled == scaled;
    });
    if (!known && numbers_.size() < kMaxMentions) numbers_.push_back({value, scaled});
  });

  const auto add = [&](std::string_view text) {
    std::string mention = folded(text);
    if (mention.empty() || mentions_.size() >= kMaxMentions ||
        std::find(mentions_.begin(), mentions_.end(), mention) != mentions_.end()) {
      return;
    }
    mentions_.push_back(std::move(mention));
  };
  const std::string text = plain(message);
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
    add(std::string_view(text).substr(i + 1, end - i - 1));
    i = end;
  }
  each_word(text, [&](std::string_view word) {
    if (word.size() < 2 || !is_upper(word[0])) return;
    constexpr std::string_view kOpening = " \t\"'`([{*#>-";
    constexpr std::string_view kSentenceEnd = ".!?:\n\r";
    size_t before = word.data() - text.data();
    while (before > 0 && kOpening.find(text[before - 1]) != std::string_view::npos) --before;
    const bool first = before == 0 || kSentenceEnd.find(text[before - 1]) != std::string_view::npos;
    if (!first) add(word);
  });
}

const std::vector<std::string>& Grounding::names() {
  static const std::vector<std::string> kNames = {
#define TOOLPRM_NAME(id, name) name,
      TOOLPRM_FEATURES(TOOLPRM_NAME)
#undef TOOLPRM_NAME
  };
  return kNames;
}

const Grounding::Tool* Grounding::tool(const Step& step) const {
  if (step.function < 0 || static_cast<size_t>(step.function) >= tools_.size()) return nullptr;
  return &tools_[step.function];
}

// By name: a segmenter's index counts what references and `required` add in another order.
const Grounding::Parameter* Grounding::parameter(const NamedStep& named) const {
  const Tool* known = tool(named.step);
  if (known == nullptr) return nullptr;
  for (const Parameter& parameter : known->parameters) {
    if (parameter.name == named.argument) return &parameter;
  }
  return nullptr;
}

void Grounding::features(const Chain& chain, float* out) const {
  std::fill(out, out + kFeatures, 0.0f);
  if (chain.empty()) return;
  switch (chain.back()->step.kind) {
    case StepKind::kFuncName:
      return judge_name(chain, out);
    case StepKind::kArgValue:
      return judge_value(chain, out);
    default:
      return judge_finish(chain, out);
  }
}

void Grounding::judge_name(const Chain& chain, float* out) const {
  const Step& step = chain.back()->step;
  size_t calls = 0;
  size_t times = 0;
  size_t others = 0;  // other tools that were called
  for (size_t i = 0; i < chain.size(); ++i) {
    const Step& other = chain[i]->step;
    if (other.kind != StepKind::kFuncName) continue;
    ++calls;
    if (i + 1 == chain.size()) break;
    if (other.function == step.function) {
      ++times;
      continue;
    }
    others += std::none_of(chain.begin(), chain.begin() + i, [&](const NamedStep* earlier) {
      return earlier->step.kind == StepKind::kFuncName && earlier->step.function == other.function;
    });
  }
  out[kCalls] = log_count(calls);
  out[kTools] = log_count(tools_.size());
  out[kTimesCalled] = log_count(times);
  const size_t used = others + 1;
  out[kToolsUnused] = log_count(tools_.size() > used ? tools_.size() - used : 0);
  if (const Tool* known = tool(step)) {
    out[kNameWords] = known->name_share;
    out[kDescriptionWords] = known->description_share;
    out[kRank] = known->rank;
  }
}

void Grounding::judge_value(const Chain& chain, float* out) const {
  const Step& step = chain.back()->step;
  const Tool* known_tool = tool(step);
  const Parameter* known = parameter(*chain.back());
  const Value value(*chain.back());
  if (known != nullptr) {
    out[kRequired] = known->required;
    out[kListed] = known->listed;
    out[kHasDefault] = known->has_default;
  }
  size_t arguments = 0;
  const uint64_t hash = value.hash();
  for (size_t i = 0; i + 1 < chain.size(); ++i) {
    const Step& other = chain[i]->step;
    if (other.kind != StepKind::kArgValue || other.call != step.call) continue;
    ++arguments;
    if (out[kRepeated] == 0) out[kRepeated] = Value(*chain[i]).hash() == hash;
  }
  out[kArguments] = static_cast<float>(arguments) / 8;

  out[kString] = value.type == JsonType::kString;
  out[kNumber] = value.type == JsonType::kNumber;
  out[kBoolean] = value.type == JsonType::kBoolean;
  out[kArray] = value.type == JsonType::kArray;
  out[kObject] = value.type == JsonType::kObject;
  out[kLength] = log_count(value.length()) / 5;
  out[kEmpty] = value.empty();
  out[kIsDefault] = known != nullptr && known->has_default && known->default_hash == hash;

  bool any = false;
  bool found = true, found_last = true, phrase = true;
  bool in_parameter = known != nullptr, in_tool = known_tool != nullptr;
  size_t words = 0, words_found = 0, words_last = 0;
  std::string text;
  const auto one_number = [&](double number) {
    any = true;
    const bool here = all_.has_number(number);
    const bool last = last_.has_number(number);
    found &= here;
    phrase &= here;
    found_last &= last;
    in_parameter = in_parameter && known->description.has_number(number);
    in_tool = in_tool && known_tool->description.has_number(number);
    ++words;
    words_found += here;
    words_last += last;
  };
  const auto one_text = [&](std::string_view leaf) {
    using Match = GroundText::Match;
    fold(leaf, text);
    if (text.empty()) return;
    any = true;
    double number = 0;
    const bool numeric = as_number(text, number);
    const auto match = [&](const GroundText& where) {
      return numeric && where.has_number(number) ? Match::kPhrase : where.find(text);
    };
    const Match all = match(all_);
    found &= all != Match::kNone;
    phrase &= all == Match::kPhrase;
    found_last &= match(last_) != Match::kNone;
    in_parameter = in_parameter && match(known->description) == Match::kPhrase;
    in_tool = in_tool && match(known_tool->description) == Match::kPhrase;
    each_word(text, [&](std::string_view word) {
      ++words;
      const bool digits = std::all_of(word.begin(), word.end(), is_digit);
      const double digits_value = digits ? to_number(word) : 0;
      const auto has = [&](const GroundText& where) {
        return where.has_word(word) || (digits && where.has_number(digits_value));
      };
      words_found += has(all_);
      words_last += has(last_);
    });
  };
  value.leaves(one_text, one_number);
  if (!any) return;
  out[kFound] = found;
  out[kFoundLast] = found_last;
  out[kPhrase] = phrase;
  out[kInParameter] = in_parameter;
  out[kInTool] = in_tool;
  const auto share = [&](size_t count, bool whole) {
    return words == 0 ? static_cast<float>(whole)
                      : static_cast<float>(count) / static_cast<float>(words);
  };
  out[kWords] = share(words_found, found);
  out[kWordsLast] = share(words_last, found_last);
}

void Grounding::judge_finish(const Chain& chain, float* out) const {
  const Step& step = chain.back()->step;
  const bool total = step.kind == StepKind::kTotalFinish;
  size_t calls = 0;
  size_t required = 0, required_given = 0;
  size_t optional = 0, optional_given = 0, optional_known = 0;
  // Strings and numbers of all values so far, to look for what the user named.
  std::string texts, text;
  std::vector<double> numbers;
  for (const NamedStep* at : chain) {
    const bool judged = total || at->step.call == step.call;
    if (at->step.kind == StepKind::kFuncName) {
      ++calls;
      const Tool* known = tool(at->step);
      if (!judged || known == nullptr) continue;
      required += known->required;
      optional += known->parameters.size() - known->required;
    } else if (at->step.kind == StepKind::kArgValue) {
      if (judged) {
        const Parameter* known = parameter(*at);
        const bool needed = known != nullptr && known->required;
        required_given += needed;
        optional_given += !needed;
        optional_known += known != nullptr && !needed;
      }
      if (numbers_.empty() && mentions_.empty()) continue;
      const Value value(*at);
      value.leaves(
          [&](std::string_view leaf) {
            fold(leaf, text);
            texts += text;
            texts += '\x1f';
            each_number(text, [&](double number, double scaled) {
              numbers.push_back(number);
              if (scaled != number) numbers.push_back(scaled);
            });
          },
          [&](double number) { numbers.push_back(number); });
    }
  }
  const auto share = [](size_t part, size_t whole) {
    return whole == 0 ? 1.0f : static_cast<float>(part) / static_cast<float>(whole);
  };
  out[kRequiredGiven] = share(required_given, required);
  out[kOptionalOmitted] = log_count(optional > optional_known ? optional - optional_known : 0);
  out[kOptionalGiven] = log_count(optional_given);

  const auto used = [&](double number) {
    return std::find(numbers.begin(), numbers.end(), number) != numbers.end();
  };
  const size_t numbers_used = std::count_if(
      numbers_.begin(), numbers_.end(),
      [&](const Mention& mention) { return used(mention.value) || used(mention.scaled); });
  const size_t mentions_used = std::count_if(
      mentions_.begin(), mentions_.end(),
      [&](const std::string& mention) { return texts.find(mention) != std::string::npos; });
  out[kNumbersUsed] = share(numbers_used, numbers_.size());
  out[kNumbersUsedCount] = log_count(numbers_used);
  out[kNumbersUnused] = log_count(numbers_.size() - numbers_used);
  out[kMentionsUsed] = share(mentions_used, mentions_.size());
  out[kMentionsUsedCount] = log_count(mentions_used);
  out[kMentionsUnused] = log_count(mentions_.size() - mentions_used);
  out[kDeclined] = total && calls == 0;
  out[kCalls] = log_count(calls);
}

}  // namespace toolprm
