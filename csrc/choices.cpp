#include "choices.h"

#include <algorithm>

namespace toolprm {

namespace {

// As models and the constraint write it: what JSON asks to be escaped is, and nothing else.
std::string escaped(std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  static constexpr std::string_view kShort = "\"\\\b\f\n\r\t";
  static constexpr std::string_view kLetters = "\"\\bfnrt";
  std::string result;
  for (char byte : text) {
    const size_t found = kShort.find(byte);
    if (found != std::string_view::npos) {
      result += {'\\', kLetters[found]};
    } else if (static_cast<unsigned char>(byte) < 0x20) {
      result += "\\u00";
      result += {kHex[byte >> 4], kHex[byte & 15]};
    } else {
      result += byte;
    }
  }
  return result;
}

// What stands before a value: the call's own habit, told by its first colon.
std::string_view separator(const SegmenterState& state, std::string_view response) {
  const size_t colon = response.find(':', state.call_begin);
  const bool earlier = colon != std::string_view::npos && colon + 1 < response.size();
  return !earlier || is_json_space(static_cast<unsigned char>(response[colon + 1])) ? " " : "";
}

class Lister {
 public:
  Lister(const ToolSchema& tools, const SegmenterState& state, std::string_view response,
         size_t limit)
      : tools_(tools), state_(state), limit_(limit) {
    const JsonMachine& json = state.json;
    if (json.before_colon()) {
      before_ = ':';
      before_ += separator(state, response);
    } else if (json.before_value() && response.back() == ':') {
      before_ = separator(state, response);
    }
    inside_ = json.in_plain_string();
  }

  std::vector<Choice> list() {
    const JsonMachine& json = state_.json;
    const bool fresh = json.before_colon() || json.before_value();
    const bool string = inside_ && !json.reading_key();
    if (state_.mode != SegmenterState::Mode::kCall ||
        !(fresh || string || json.literal_read() > 0)) {
      return {};
    }
    if (json.depth() == 1 && state_.key == SegmenterState::Key::kName) {
      if (json.literal_read() == 0) add_strings(tools_.names(), kAnything);
    } else if (json.depth() == 2 && state_.key == SegmenterState::Key::kArguments) {
      add_values();
    }
    if (choices_.size() > limit_) choices_.clear();
    return std::move(choices_);
  }

 private:
  void add_values() {
    const NodeId id = state_.value_node;
    if (id == kNothing) return;
    const SchemaNode& node = tools_.node(id);
    if (node.listed && !node.containers_listed) {
      if (state_.json.literal_read() == 0) add_strings(node.strings, id);
      for (const std::string& scalar : node.scalars) add_scalar(scalar, id);
    } else if (!node.listed && node.allows(JsonType::kBoolean) &&
               (node.types &
                ~(SchemaNode::bit(JsonType::kBoolean) | SchemaNode::bit(JsonType::kNull))) == 0) {
      for (const char* literal : {"false", "null", "true"}) add_scalar(literal, id);
    }
  }

  void add_strings(const StringSet& strings, NodeId id) {
    const StringSet::Cursor cursor = inside_ ? state_.cursor : strings.start();
    for (uint16_t place = cursor.low; place < cursor.high && choices_.size() <= limit_; ++place) {
      const std::string_view whole = strings.at(place);
      JsonValue value;
      value.type = JsonType::kString;
      value.string = whole;
      if (!tools_.valid(id, value)) continue;
      std::string text = inside_ ? "" : before_ + '"';
      text += escaped(whole.substr(cursor.depth));
      text += '"';
      const auto body = static_cast<uint32_t>(text.size() - 1);
      choices_.push_back({std::move(text), body});
    }
  }

  void add_scalar(const std::string& spelling, NodeId id) {
    if (inside_ || !tools_.valid(id, parse_accepted_json(spelling))) return;
    const size_t read = state_.json.literal_read();
    if (read > 0 && static_cast<unsigned char>(spelling[0]) != state_.json.literal()) return;
    const std::string text = before_ + spelling.substr(read);
    choices_.push_back({text, static_cast<uint32_t>(text.size())});
  }

  const ToolSchema& tools_;
  const SegmenterState& state_;
  size_t limit_;
  std::string before_;
  bool inside_;
  std::vector<Choice> choices_;
};

}  // namespace

std::vector<Choice> list_choices(const ToolSchema& tools, const SegmenterState& state,
                                 std::string_view response, size_t limit) {
  return Lister(tools, state, response, limit).list();
}

int32_t ChoiceTree::child(int32_t node, int32_t token) const {
  for (int32_t child : nodes[node].children) {
    if (nodes[child].token == token) return child;
  }
  return -1;
}

bool ChoiceTree::wants_logits(int32_t at) const {
  const ChoiceNode& node = nodes[at];
  if (node.boundary) return !node.last;
  return !node.closers.empty() || std::any_of(node.children.begin(), node.children.end(),
                                              [&](int32_t child) { return !nodes[child].forced; });
}

}  // namespace toolprm
