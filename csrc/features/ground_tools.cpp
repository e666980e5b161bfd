#include "features/ground_tools.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "features/text.h"
#include "json/json_value.h"
#include "schema/reference.h"

namespace toolprm {

namespace {

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

std::string spaced(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) {
    text += word;
    text += ' ';
  }
  return text;
}

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

constexpr size_t kMostChoices = 256;  // of a parameter, that are looked at

// Calls `function(value)` for each value that a schema lists, for itself or its items.
template <typename Function>
void each_choice(const JsonValue& schema, const JsonValue& root, int depth, Function&& function) {
  if (const JsonValue* values = schema.find("enum")) {
    const size_t count = std::min(values->items.size(), kMostChoices);
    for (size_t i = 0; i < count; ++i) function(values->items[i]);
  }
  if (const JsonValue* value = schema.find("const")) function(*value);
  if (depth == 0) return;
  if (const JsonValue* items = schema.find("items")) {
    each_choice(resolve(*items, root), root, depth - 1, function);
  }
  for (std::string_view key : {"anyOf", "oneOf", "allOf"}) {
    const JsonValue* parts = schema.find(key);
    if (parts == nullptr) continue;
    const size_t count = std::min<size_t>(parts->items.size(), 16);
    for (size_t i = 0; i < count; ++i) {
      each_choice(resolve(parts->items[i], root), root, depth - 1, function);
    }
  }
}

std::string_view text_of(const JsonValue& object, std::string_view key) {
  const JsonValue* value = object.find(key);
  return value == nullptr || value->type != JsonType::kString ? std::string_view()
                                                              : std::string_view(value->string);
}

// The words of a message without their endings, for look-ups.
class Stems {
 public:
  explicit Stems(std::string_view message) {
    each_word(folded(message),
              [&](std::string_view word) { hashes_.push_back(hash_bytes(stem(word))); });
    sort_unique(hashes_);
  }

  // The share of distinct `words` that the message has.
  float share(std::vector<std::string> words) const {
    sort_unique(words);
    if (words.empty()) return 0.0f;
    const auto found = std::count_if(words.begin(), words.end(), [&](const std::string& word) {
      return std::binary_search(hashes_.begin(), hashes_.end(), hash_bytes(stem(word)));
    });
    return static_cast<float>(found) / static_cast<float>(words.size());
  }

 private:
  std::vector<uint64_t> hashes_;  // sorted
};

// The content words of a message and what it says, for look-ups by roots.
class Request {
 public:
  Request(std::string_view message, const Facts& facts, const Words& words)
      : facts_(facts), words_(words), roots_(content(folded(message))) {}

  // The share of a text's content words that the message has; `text` is folded.
  float share(std::string_view text) const {
    const std::vector<uint64_t> roots = content(text);
    if (roots.empty()) return 0;
    return static_cast<float>(shared(roots)) / static_cast<float>(roots.size());
  }

  // The cosine of a text's content words with the message's.
  float fit(std::string_view text) const {
    const std::vector<uint64_t> roots = content(text);
    if (roots.empty() || roots_.empty()) return 0;
    const double norm =
        std::sqrt(static_cast<double>(roots.size()) * static_cast<double>(roots_.size()));
    return static_cast<float>(static_cast<double>(shared(roots)) / norm);
  }

  // Whether it names a value of a schema.
  bool names(const JsonValue& value) const {
    if (value.type == JsonType::kNumber) return facts_.has_number(value.number);
    if (value.type != JsonType::kString) return false;
    size_t bytes = 0;
    bool all = true, topical = false;
    each_word(folded(value.string), [&](std::string_view word) {
      bytes += word.size();
      topical |= !words_.meaning(word).stop;
      all &= facts_.has_root(words_.root(word));
    });
    return all && topical && bytes > 1;
  }

 private:
  std::vector<uint64_t> content(std::string_view text) const {
    std::vector<uint64_t> roots;
    each_word(text, [&](std::string_view word) {
      if (!words_.meaning(word).stop) roots.push_back(words_.root(word));
    });
    sort_unique(roots);
    return roots;
  }

  size_t shared(const std::vector<uint64_t>& roots) const {
    return std::count_if(roots.begin(), roots.end(), [&](uint64_t root) {
      return std::binary_search(roots_.begin(), roots_.end(), root);
    });
  }

  const Facts& facts_;
  const Words& words_;
  std::vector<uint64_t> roots_;  // sorted
};

// `root`: the schema that references lead into.
GroundParameter read_parameter(const std::string& name, const JsonValue& property,
                               const JsonValue& root, const Request& request) {
  const JsonValue& target = resolve(property, root);
  GroundParameter parameter;
  parameter.name = name;
  // Keywords next to a reference apply to this parameter, its target applies to all.
  const std::string_view own = text_of(property, "description");
  const std::string_view description = own.empty() ? text_of(target, "description") : own;
  parameter.description = GroundText(description);
  parameter.name_mention = request.share(spaced(name_words(name)));
  parameter.description_mention = request.share(folded(description));
  parameter.listed = is_listed(property, root) || is_listed(target, root);
  const JsonValue* preset = property.find("default");
  if (preset == nullptr) preset = target.find("default");
  parameter.has_default = preset != nullptr;
  if (preset != nullptr) parameter.default_hash = canonical_hash(*preset);
  each_choice(target, root, 2, [&](const JsonValue& choice) {
    if (parameter.choice_mentioned || !request.names(choice)) return;
    // To leave out the default is to give it.
    parameter.choice_mentioned =
        !parameter.has_default || canonical_hash(choice) != parameter.default_hash;
  });
  return parameter;
}

// The parameters of a tool that takes `schema`, in the schema's order; required ones that have no
// property come last.
void read_parameters(const JsonValue& parameters, const Request& request, GroundTool& tool) {
  const JsonValue& schema = resolve(parameters, parameters);
  const auto known = [&](std::string_view key) {
    return std::find_if(tool.parameters.begin(), tool.parameters.end(),
                        [&](const GroundParameter& parameter) { return parameter.name == key; });
  };
  if (const JsonValue* properties = schema.find("properties")) {
    for (const auto& [key, property] : properties->members) {
      if (known(key) != tool.parameters.end()) continue;
      tool.parameters.push_back(read_parameter(key, property, parameters, request));
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

GroundTool read_tool(const JsonValue& source, std::string_view name, const Stems& stems,
                     const Request& request) {
  GroundTool tool;
  tool.name = hash_bytes(name);
  const std::string_view description = text_of(source, "description");
  tool.description = GroundText(description);
  tool.name_share = stems.share(name_words(name));
  std::vector<std::string> content;
  each_word(folded(description), [&](std::string_view word) {
    if (word.size() >= 4 && !is_function_word(word)) content.emplace_back(word);
  });
  tool.description_share = stems.share(std::move(content));
  tool.fit = request.fit(spaced(name_words(name)) + ' ' + folded(description));
  if (const JsonValue* parameters = source.find("parameters")) {
    read_parameters(*parameters, request, tool);
  }
  for (size_t i = 0; i < tool.parameters.size(); ++i) {
    const GroundParameter& parameter = tool.parameters[i];
    if (!parameter.required && parameter.touched()) {
      tool.optional.push_back(static_cast<uint32_t>(i));
    }
  }
  return tool;
}

// The share of the other tools that have a higher score.
template <typename Score>
float rank_of(const GroundTool& tool, const std::vector<GroundTool>& tools, Score&& score) {
  if (tools.size() == 1) return 0;
  const auto better = std::count_if(tools.begin(), tools.end(), [&](const GroundTool& other) {
    return score(other) > score(tool);
  });
  return static_cast<float>(better) / static_cast<float>(tools.size() - 1);
}

void rank(std::vector<GroundTool>& tools) {
  for (GroundTool& tool : tools) {
    tool.rank = rank_of(tool, tools, [](const GroundTool& other) {
      return other.name_share + other.description_share;
    });
    tool.fit_rank = rank_of(tool, tools, [](const GroundTool& other) { return other.fit; });
  }
}

}  // namespace

std::vector<GroundTool> read_ground_tools(std::string_view tools_json,
                                          std::string_view last_message, const Facts& facts,
                                          const Words& words) {
  JsonValue sources;
  if (!parse_json(tools_json, sources) || sources.type != JsonType::kArray) {
    throw std::invalid_argument("the tools are not a JSON list");
  }
  const Stems stems(last_message);
  const Request request(last_message, facts, words);
  std::vector<GroundTool> tools;
  for (const JsonValue& source : sources.items) {
    const std::string_view name = text_of(source, "name");
    if (name.empty()) {
      throw std::invalid_argument("tool " + std::to_string(tools.size() + 1) + " has no name");
    }
    tools.push_back(read_tool(source, name, stems, request));
  }
  rank(tools);
  return tools;
}

}  // namespace toolprm
