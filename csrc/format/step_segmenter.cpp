#include "format/step_segmenter.h"

#include <algorithm>
#include <type_traits>

namespace toolprm {

static_assert(std::is_trivially_copyable_v<SegmenterState>, "a copy of the state is the fork");

const char* death_text(Death death) {
  switch (death) {
    case Death::kNone:
      return "";
    case Death::kMalformed:
      return "malformed JSON";
    case Death::kUnknownFunction:
      return "unknown function";
    case Death::kUnknownParameter:
      return "a parameter that the schema does not allow";
    case Death::kRepeatedKey:
      return "a key twice";
    case Death::kWrongValue:
      return "a value that breaks the schema";
    case Death::kMissingParameter:
      return "a required parameter is missing";
    case Death::kOrder:
      return "arguments before the name";
    case Death::kTooManyCalls:
      return "too many calls";
    case Death::kNoCall:
      return "no call where one is required";
    case Death::kUnexpectedEnd:
      return "the response ends inside a call";
    case Death::kRunaway:
      return "the same call too often";
  }
  return "";
}

uint64_t SegmenterState::decided() const {
  // An open call counts only once its name is decided.
  return mix64(closed_decided, function >= 0 ? mix64(open_decided) : 0);
}

StepSegmenter::StepSegmenter(ToolSchema tools, CallFormat format, Limits limits,
                             std::shared_ptr<const ArgumentJudge> judge)
    : tools_(std::move(tools)),
      format_(std::move(format)),
      limits_(limits),
      judge_(std::move(judge)),
      open_(format_.open_marker),
      name_probe_('"' + format_.name_key + '"') {}

bool StepSegmenter::kill(SegmenterState& state, Death death) const {
  state.mode = Mode::kDead;
  state.death = death;
  return false;
}

void StepSegmenter::emit(SegmenterState& state, StepKind kind, uint32_t begin, uint32_t end,
                         std::vector<Step>& steps) const {
  const bool total = kind == StepKind::kTotalFinish;
  const bool argument = kind == StepKind::kArgValue;
  steps.push_back({kind, total ? -1 : static_cast<int32_t>(state.calls),
                   total ? -1 : state.function, argument ? state.parameter : -1,
                   argument ? state.key_begin : 0, argument ? state.key_end : 0, begin, end,
                   state.position, state.decided(), 0});
  // A number's delimiter belongs to what comes after it, as any other value's does.
  state.tail_begin = argument ? end : state.position;
}

bool StepSegmenter::advance(SegmenterState& state, std::string_view response,
                            std::vector<Step>& steps) const {
  while (state.position < response.size()) {
    if (state.mode == Mode::kCall && state.json.in_run()) {
      // Most bytes stand inside strings and numbers and change nothing in the machine.
      const std::string_view run =
          response.substr(state.position, state.json.plain_run(response.substr(state.position)));
      state.position += static_cast<uint32_t>(run.size());
      if (state.narrowing && !run.empty() && !narrow(state, run)) return false;
      if (state.position == response.size()) break;
    }
    const char byte = response[state.position++];
    const bool space = is_json_space(static_cast<unsigned char>(byte));
    switch (state.mode) {
      case Mode::kText:
      case Mode::kListProbe:
      case Mode::kCallProbe:
        if (!text_byte(state, byte, response, steps)) return false;
        break;
      case Mode::kTagOpen:
      case Mode::kListStart:
      case Mode::kListCall:
        if (space) break;
        if (byte == '{') {
          if (!begin_call(state, state.position - 1, response, steps)) return false;
        } else if (byte == '[' && state.mode == Mode::kTagOpen) {
          state.in_list = true;
          state.mode = Mode::kListStart;
        } else if (byte == ']' && state.mode == Mode::kListStart) {
          if (!end_response(state, steps)) return false;
        } else {
          return kill(state, Death::kMalformed);
        }
        break;
      case Mode::kListNext:
        if (space) break;
        if (byte == ',') {
          if (state.calls >= limits_.max_calls) return kill(state, Death::kTooManyCalls);
          state.mode = Mode::kListCall;
        } else if (byte == ']') {
          if (!end_response(state, steps)) return false;
        } else {
          return kill(state, Death::kMalformed);
        }
        break;
      case Mode::kTagNext:
        if (space) break;
        if (byte == '{') {
          if (!begin_call(state, state.position - 1, response, steps)) return false;
          break;
        }
        state.mode = Mode::kTagClose;
        state.marker = 0;
        [[fallthrough]];
      case Mode::kTagClose:
        if (byte != format_.close_marker[state.marker]) return kill(state, Death::kMalformed);
        if (++state.marker < format_.close_marker.size()) break;
        state.marker = 0;
        state.in_tag = false;
        state.mode = Mode::kText;
        if (state.calls >= limits_.max_calls && !end_response(state, steps)) return false;
        break;
      case Mode::kCall:
        if (!call_byte(state, response, steps)) return false;
        break;
      case Mode::kFinished:
        state.position = static_cast<uint32_t>(response.size());
        return true;
      case Mode::kDead:
        return false;
    }
  }
  return state.mode != Mode::kDead;
}

bool StepSegmenter::finish(SegmenterState& state, std::vector<Step>& steps) const {
  if (state.finished()) return true;
  if (state.dead()) return false;
  if (!state.in_text() && state.mode != Mode::kTagNext) {
    return kill(state, Death::kUnexpectedEnd);
  }
  return end_response(state, steps);
}

bool StepSegmenter::end_response(SegmenterState& state, std::vector<Step>& steps) const {
  if (limits_.require_call && state.calls == 0) return kill(state, Death::kNoCall);
  state.mode = Mode::kFinished;
  emit(state, StepKind::kTotalFinish, state.position, state.position, steps);
  return true;
}

bool StepSegmenter::text_byte(SegmenterState& state, char byte, std::string_view response,
                              std::vector<Step>& steps) const {
  if (open_.feed(state.marker, byte)) {
    state.mode = Mode::kTagOpen;
    state.in_tag = true;
    return true;
  }
  if (state.mode != Mode::kText) {
    const bool space = is_json_space(static_cast<unsigned char>(byte));
    if (state.mode == Mode::kListProbe) {
      if (space) return true;
      if (byte == '{' || byte == ']') {
        state.in_list = true;
        state.marker = 0;
        if (byte == ']') return end_response(state, steps);
        return begin_call(state, state.position - 1, response, steps);
      }
    } else if (probe_call(state, byte)) {
      if (state.value_begin < name_probe_.size()) return true;
      state.marker = 0;
      return begin_call(state, state.probe_begin, response, steps);
    }
    state.mode = Mode::kText;
  }
  if (byte == '[') {
    state.mode = Mode::kListProbe;
    state.probe_begin = state.position - 1;
  } else if (byte == '{') {
    state.mode = Mode::kCallProbe;
    state.probe_begin = state.position - 1;
    state.value_begin = 0;  // how much of the name key has been matched
  }
  return true;
}

bool StepSegmenter::probe_call(SegmenterState& state, char byte) const {
  if (state.value_begin == 0 && is_json_space(static_cast<unsigned char>(byte))) return true;
  if (byte != name_probe_[state.value_begin]) return false;
  ++state.value_begin;
  return true;
}

// The call's JSON begins at `begin`; what has been read of it since is read again.
bool StepSegmenter::begin_call(SegmenterState& state, uint32_t begin, std::string_view response,
                               std::vector<Step>& steps) const {
  if (state.calls >= limits_.max_calls) return kill(state, Death::kTooManyCalls);
  const uint32_t end = state.position;
  state.mode = Mode::kCall;
  state.json = JsonMachine();
  state.key = Key::kOther;
  state.function = -1;
  state.parameter = -1;
  state.has_arguments = false;
  state.narrowing = false;
  state.call_begin = begin;
  state.open_decided = 0;
  state.seen.fill(0);
  state.value_node = kAnything;
  for (state.position = begin; state.position < end;) {
    ++state.position;
    if (!call_byte(state, response, steps)) return false;
  }
  return true;
}

bool StepSegmenter::call_byte(SegmenterState& state, std::string_view response,
                              std::vector<Step>& steps) const {
  const auto byte = static_cast<unsigned char>(response[state.position - 1]);
  const int depth_before = state.json.depth();
  const JsonByte read = state.json.feed(byte);
  if (read.event == JsonEvent::kFail) return kill(state, Death::kMalformed);
  if (read.number_ended && !end_value(state, state.position - 1, depth_before, response, steps)) {
    return false;
  }
  const int depth = state.json.depth();

  switch (read.event) {
    case JsonEvent::kNone:
      if (state.narrowing && read.decoded_size > 0) return narrow(state, read.text());
      return true;
    case JsonEvent::kKeyBegin:
      return begin_key(state);
    case JsonEvent::kKeyEnd:
      return end_key(state, response);
    case JsonEvent::kObjectBegin:
    case JsonEvent::kArrayBegin:
    case JsonEvent::kStringBegin:
    case JsonEvent::kNumberBegin:
    case JsonEvent::kLiteralBegin:
      return begin_value(state, read.event);
    case JsonEvent::kStringEnd:
    case JsonEvent::kLiteralEnd:
    case JsonEvent::kArrayEnd:
      return end_value(state, state.position, depth, response, steps);
    case JsonEvent::kObjectEnd:
      if (depth == 0) return end_call(state, response, steps);
      if (depth == 1 && state.key == Key::kArguments) {
        return end_arguments(state, state.position, response, steps);
      }
      return end_value(state, state.position, depth, response, steps);
    case JsonEvent::kComma: {
      if (!state.json.in_object()) state.value_node = element_node(state.nodes[depth]);
      return true;
    }
    case JsonEvent::kFail:
      break;
  }
  return true;
}

// `bytes` go on with a string that must be one of a set.
bool StepSegmenter::narrow(SegmenterState& state, std::string_view bytes) const {
  const int depth = state.json.depth();
  if (depth == 1) {
    if (!tools_.names().narrow(state.cursor, bytes)) return kill(state, Death::kUnknownFunction);
  } else if (state.json.reading_key()) {
    const SchemaNode& object = tools_.node(state.nodes[depth]);
    if (!object.properties.narrow(state.cursor, bytes)) {
      if (object.additional == kNothing) return kill(state, Death::kUnknownParameter);
      state.narrowing = false;
    }
  } else if (!tools_.node(state.value_node).strings.narrow(state.cursor, bytes)) {
    return kill(state, Death::kWrongValue);
  }
  return true;
}

bool StepSegmenter::begin_key(SegmenterState& state) const {
  state.narrowing = false;
  const int depth = state.json.depth();
  if (depth == 1 || (depth == 2 && state.key == Key::kArguments)) {
    state.key_begin = state.position - 1;
  }
  if (depth >= 2 && state.key == Key::kArguments) {
    const SchemaNode& object = tools_.node(state.nodes[depth]);
    state.cursor = object.properties.start();
    state.narrowing = object.properties.size() > 0 || object.additional == kNothing;
  }
  return true;
}

bool StepSegmenter::end_key(SegmenterState& state, std::string_view response) const {
  const bool followed = state.narrowing;
  state.narrowing = false;
  const int depth = state.json.depth();
  if (depth == 1) {
    const std::string_view raw = response.substr(state.key_begin, state.position - state.key_begin);
    const bool plain = raw.find('\\') == std::string_view::npos;
    const std::string key =
        plain ? std::string(raw.substr(1, raw.size() - 2)) : parse_accepted_json(raw).string;
    state.value_node = kAnything;
    if (key == format_.name_key) {
      if (state.function >= 0) return kill(state, Death::kRepeatedKey);
      state.key = Key::kName;
    } else if (key == format_.arguments_key) {
      if (state.has_arguments) return kill(state, Death::kRepeatedKey);
      if (state.function < 0) return kill(state, Death::kOrder);
      state.key = Key::kArguments;
    } else {
      state.key = Key::kOther;
    }
    return true;
  }
  if (state.key != Key::kArguments) return true;

  const SchemaNode& object = tools_.node(state.nodes[depth]);
  const int index = followed ? object.properties.found(state.cursor) : -1;
  state.value_node = index >= 0 ? object.property_nodes[index] : object.additional;
  if (state.value_node == kNothing) return kill(state, Death::kUnknownParameter);
  if (depth == 2) {
    state.key_end = state.position;
    state.parameter = index;
    if (index >= 0) {
      uint64_t& word = state.seen[index / 64];
      const uint64_t bit = uint64_t{1} << (index % 64);
      if (word & bit) return kill(state, Death::kRepeatedKey);
      word |= bit;
    }
  }
  return true;
}

// Places of a tuple are checked when the whole value is there.
NodeId StepSegmenter::element_node(NodeId array) const {
  const SchemaNode& node = tools_.node(array);
  return node.prefix_items.empty() ? node.items : kAnything;
}

bool StepSegmenter::begin_value(SegmenterState& state, JsonEvent event) const {
  const bool container = event == JsonEvent::kObjectBegin || event == JsonEvent::kArrayBegin;
  const int depth = state.json.depth() - (container ? 1 : 0);  // of what holds the value
  if (depth == 0) return true;                                 // the call itself
  state.narrowing = false;
  if (depth == 1) {
    state.value_begin = state.position - 1;
    if (state.key == Key::kName) {
      if (event != JsonEvent::kStringBegin) return kill(state, Death::kUnknownFunction);
      state.cursor = tools_.names().start();
      state.narrowing = true;
    } else if (state.key == Key::kArguments) {
      if (event != JsonEvent::kObjectBegin) return kill(state, Death::kWrongValue);
      state.has_arguments = true;
      state.arguments_begin = state.position - 1;
      state.nodes[2] = tools_.parameters(state.function);
    }
    return true;
  }
  if (state.key != Key::kArguments) return true;
  if (depth == 2) state.value_begin = state.position - 1;
  if (state.value_node == kNothing) return kill(state, Death::kWrongValue);

  const SchemaNode& node = tools_.node(state.value_node);
  JsonType type = JsonType::kNull;
  switch (event) {
    case JsonEvent::kObjectBegin:
      type = JsonType::kObject;
      break;
    case JsonEvent::kArrayBegin:
      type = JsonType::kArray;
      break;
    case JsonEvent::kStringBegin:
      type = JsonType::kString;
      break;
    case JsonEvent::kNumberBegin:
      type = JsonType::kNumber;
      break;
    default:
      // The machine has seen the first byte of a literal only; a wrong one fails there later.
      type = state.json.literal() == 'n' ? JsonType::kNull : JsonType::kBoolean;
  }
  if (!node.allows(type)) return kill(state, Death::kWrongValue);
  if (type == JsonType::kString && node.strings_listed) {
    state.cursor = node.strings.start();
    state.narrowing = true;
  }
  if (container) {
    const NodeId id = state.value_node;
    state.nodes[depth + 1] = id;
    if (type == JsonType::kArray) state.value_node = element_node(id);
  }
  return true;
}

// A value ended at `end`; `depth` is that of the container it stands in.
bool StepSegmenter::end_value(SegmenterState& state, uint32_t end, int depth,
                              std::string_view response, std::vector<Step>& steps) const {
  const bool followed = state.narrowing;
  state.narrowing = false;
  if (depth == 1) {
    if (state.key != Key::kName) return true;
    const int function = tools_.names().found(state.cursor);
    if (function < 0) return kill(state, Death::kUnknownFunction);
    state.function = function;
    state.open_decided = mix64(static_cast<uint64_t>(function), 21);
    emit(state, StepKind::kFuncName, state.value_begin, end, steps);
    return true;
  }
  if (state.key != Key::kArguments) return true;
  if (depth > 2) {
    if (followed && tools_.node(state.value_node).strings.found(state.cursor) < 0) {
      return kill(state, Death::kWrongValue);
    }
    return true;
  }
  // A parameter's whole value. `value_node` belongs to what was read last, inside a container.
  const SchemaNode& arguments = tools_.node(state.nodes[2]);
  const NodeId id =
      state.parameter >= 0 ? arguments.property_nodes[state.parameter] : arguments.additional;
  const SchemaNode& node = tools_.node(id);
  const std::string_view raw = response.substr(state.value_begin, end - state.value_begin);
  const bool judged = node.judged || tools_.functions()[state.function].judged_each;
  uint64_t value_hash;
  if (raw.front() == '"' && node.type_only && !judged && raw.find('\\') == std::string_view::npos) {
    value_hash = hash_string(raw.substr(1, raw.size() - 2));
  } else {
    const JsonValue value = parse_accepted_json(raw);
    if (has_duplicate_keys(value)) return kill(state, Death::kRepeatedKey);
    if (!all_finite(value)) return kill(state, Death::kWrongValue);
    if (judged) {
      std::string argument = "{";
      argument.append(response.substr(state.key_begin, state.key_end - state.key_begin));
      argument.append(":").append(raw).append("}");
      if (!judge(state, false, argument)) return kill(state, Death::kWrongValue);
    } else if (!tools_.valid(id, value)) {
      return kill(state, Death::kWrongValue);
    }
    value_hash = canonical_hash(value);
  }
  const uint64_t name =
      state.parameter >= 0
          ? mix64(static_cast<uint64_t>(state.parameter), 22)
          : hash_bytes(parse_accepted_json(
                           response.substr(state.key_begin, state.key_end - state.key_begin))
                           .string,
                       23);
  state.open_decided += mix64(name, value_hash);
  emit(state, StepKind::kArgValue, state.value_begin, end, steps);
  return true;
}

bool StepSegmenter::judge(const SegmenterState& state, bool whole,
                          std::string_view arguments) const {
  return judge_ == nullptr || judge_->accepts(state.function, whole, arguments);
}

bool StepSegmenter::end_arguments(SegmenterState& state, uint32_t end, std::string_view response,
                                  std::vector<Step>& steps) const {
  state.key = Key::kOther;
  const ToolFunction& function = tools_.functions()[state.function];
  const SchemaNode& node = tools_.node(function.parameters);
  for (uint32_t index : node.required) {
    if (!((state.seen[index / 64] >> (index % 64)) & 1)) {
      return kill(state, Death::kMissingParameter);
    }
  }
  const std::string_view raw =
      state.has_arguments ? response.substr(state.arguments_begin, end - state.arguments_begin)
                          : "{}";
  const bool counted = node.min_properties > 0 || node.max_properties != UINT32_MAX;
  // Where others than the named parameters may stand, `seen` does not tell whether one is repeated.
  if (counted || node.additional != kNothing) {
    const JsonValue value = parse_accepted_json(raw);
    if (has_duplicate_keys(value)) return kill(state, Death::kRepeatedKey);
    const size_t size = value.members.size();
    if (size < node.min_properties || size > node.max_properties) {
      return kill(state, Death::kWrongValue);
    }
  }
  if (function.judged_whole && !judge(state, true, raw)) return kill(state, Death::kWrongValue);
  const uint32_t begin = state.has_arguments ? state.arguments_begin : end;
  emit(state, StepKind::kParamFinish, begin, end, steps);
  return true;
}

bool StepSegmenter::end_call(SegmenterState& state, std::string_view response,
                             std::vector<Step>& steps) const {
  if (state.function < 0) return kill(state, Death::kUnknownFunction);
  if (!state.has_arguments && !end_arguments(state, state.position, response, steps)) return false;
  emit(state, StepKind::kFuncFinish, state.call_begin, state.position, steps);
  steps.back().written_call = mix64(state.open_decided, 24);
  state.closed_decided += steps.back().written_call;
  state.function = -1;
  ++state.calls;
  // The closed call counts as decided in the step that closed it.
  steps.back().decided = state.decided();
  if (state.in_list) {
    state.mode = Mode::kListNext;
  } else if (state.in_tag && !format_.close_marker.empty()) {
    state.mode = Mode::kTagNext;
  } else {
    state.in_tag = false;
    state.mode = Mode::kText;
    if (state.calls >= limits_.max_calls) return end_response(state, steps);
  }
  return true;
}

uint64_t StepSegmenter::merge_key(const SegmenterState& state, std::string_view response) const {
  uint64_t key = mix64(state.decided(), static_cast<uint64_t>(state.mode));
  if (state.finished()) return key;
  if (state.in_text()) {
    // Of a text nothing counts but how far a call has been begun in it.
    const bool probing = state.mode == Mode::kCallProbe;
    return mix64(key, uint64_t{state.marker} | (probing ? uint64_t{state.value_begin} << 8 : 0));
  }
  key = mix64(key, uint64_t{state.in_list} | uint64_t{state.in_tag} << 1);
  if (state.mode == Mode::kCall) {
    key = mix64(key, state.json.fingerprint());
    key = mix64(key, uint64_t{state.has_arguments} | static_cast<uint64_t>(state.key) << 8 |
                         static_cast<uint64_t>(state.function + 1) << 16);
  }
  // What has been written since the last decision, white space between tokens aside.
  bool in_string = false;
  bool escaped = false;
  uint64_t tail = 0;
  for (uint32_t at = state.tail_begin; at < response.size(); ++at) {
    const auto byte = static_cast<unsigned char>(response[at]);
    if (!in_string && is_json_space(byte)) continue;
    if (in_string && byte == '"' && !escaped) {
      in_string = false;
    } else if (!in_string && byte == '"') {
      in_string = true;
    }
    escaped = in_string && byte == '\\' && !escaped;
    tail = mix64(tail, byte);
  }
  return mix64(key, tail);
}

}  // namespace toolprm
