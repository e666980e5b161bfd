#include "format/call_judge.h"

#include <string>
#include <type_traits>

namespace toolprm {

static_assert(std::is_trivially_copyable_v<CallState>, "a copy of the state is the fork");

namespace {

using Follow = CallState::Follow;

// Most strings have no escapes and need no reading.
bool is_plain_string(std::string_view json) {
  return json.front() == '"' && json.find('\\') == std::string_view::npos;
}

std::string_view without_quotes(std::string_view json) { return json.substr(1, json.size() - 2); }

Step make_step(const CallState& call, StepKind kind, Span span, uint32_t boundary) {
  return {kind,
          static_cast<int32_t>(call.calls),
          call.function,
          -1,
          0,
          0,
          span.begin,
          span.end,
          boundary,
          call.decided(),
          0};
}

}  // namespace

uint64_t CallState::decided() const {
  // An open call counts only once its name is decided.
  return mix64(closed_decided, function >= 0 ? mix64(open_decided) : 0);
}

void CallJudge::begin_call(CallState& call) const {
  call.follow = Follow::kNothing;
  call.function = -1;
  call.parameter = -1;
  call.open_decided = 0;
  call.seen.fill(0);
}

void CallJudge::begin_name(CallState& call) const {
  call.cursor = tools_.names().start();
  call.follow = Follow::kName;
}

Death CallJudge::text(CallState& call, std::string_view bytes) const {
  switch (call.follow) {
    case Follow::kName:
      return tools_.names().narrow(call.cursor, bytes) ? Death::kNone : Death::kUnknownFunction;
    case Follow::kKey: {
      const SchemaNode& object = tools_.node(call.followed);
      if (object.properties.narrow(call.cursor, bytes)) return Death::kNone;
      if (object.additional == kNothing) return Death::kUnknownParameter;
      call.follow = Follow::kNothing;
      return Death::kNone;
    }
    case Follow::kString: {
      const StringSet& strings = tools_.node(call.followed).strings;
      return strings.narrow(call.cursor, bytes) ? Death::kNone : Death::kWrongValue;
    }
    case Follow::kNothing:
      break;
  }
  return Death::kNone;
}

Death CallJudge::end_name(CallState& call, Span name, std::vector<Step>& steps) const {
  call.follow = Follow::kNothing;
  const int function = tools_.names().found(call.cursor);
  if (function < 0) return Death::kUnknownFunction;
  call.function = function;
  call.open_decided = mix64(static_cast<uint64_t>(function), 21);
  steps.push_back(make_step(call, StepKind::kFuncName, name, name.end));
  call.tail_begin = name.end;
  return Death::kNone;
}

void CallJudge::begin_arguments(CallState& call) const {
  call.nodes[0] = tools_.parameters(call.function);
}

void CallJudge::begin_key(CallState& call, int level) const {
  call.followed = call.nodes[level];
  const SchemaNode& object = tools_.node(call.followed);
  call.cursor = object.properties.start();
  const bool any = object.properties.size() == 0 && object.additional != kNothing;
  call.follow = any ? Follow::kNothing : Follow::kKey;
}

Death CallJudge::end_key(CallState& call, int level) const {
  const SchemaNode& object = tools_.node(call.nodes[level]);
  const int index = call.following() ? object.properties.found(call.cursor) : -1;
  call.follow = Follow::kNothing;
  call.value_node = index >= 0 ? object.property_nodes[index] : object.additional;
  if (call.value_node == kNothing) return Death::kUnknownParameter;
  if (level > 0) return Death::kNone;
  call.parameter = index;
  if (index < 0) return Death::kNone;
  uint64_t& word = call.seen[index / 64];
  const uint64_t bit = uint64_t{1} << (index % 64);
  if (word & bit) return Death::kRepeatedKey;
  word |= bit;
  return Death::kNone;
}

// Places of a tuple are checked when the whole value is there.
NodeId CallJudge::element_node(NodeId array) const {
  const SchemaNode& node = tools_.node(array);
  return node.prefix_items.empty() ? node.items : kAnything;
}

Death CallJudge::begin_value(CallState& call, JsonType type, int level) const {
  if (call.value_node == kNothing) return Death::kWrongValue;
  const NodeId id = call.value_node;
  const SchemaNode& node = tools_.node(id);
  if (!node.allows(type)) return Death::kWrongValue;
  if (type == JsonType::kString && node.strings_listed) {
    call.cursor = node.strings.start();
    call.follow = Follow::kString;
    call.followed = id;
  } else if (type == JsonType::kObject || type == JsonType::kArray) {
    call.nodes[level + 1] = id;
    if (type == JsonType::kArray) call.value_node = element_node(id);
  }
  return Death::kNone;
}

Death CallJudge::end_value(CallState& call) const {
  if (!call.following()) return Death::kNone;
  call.follow = Follow::kNothing;
  const bool listed = tools_.node(call.followed).strings.found(call.cursor) >= 0;
  return listed ? Death::kNone : Death::kWrongValue;
}

void CallJudge::next_element(CallState& call, int level) const {
  call.value_node = element_node(call.nodes[level]);
}

Death CallJudge::end_argument(CallState& call, const ReadArgument& argument,
                              std::vector<Step>& steps) const {
  call.follow = Follow::kNothing;
  uint64_t value = 0;
  const Death death = check_value(call, argument, value);
  if (death != Death::kNone) return death;
  const uint64_t name = call.parameter >= 0
                            ? mix64(static_cast<uint64_t>(call.parameter), 22)
                            : hash_bytes(parse_accepted_json(argument.name_json).string, 23);
  call.open_decided += mix64(name, value);
  Step step = make_step(call, StepKind::kArgValue, argument.value, argument.boundary);
  step.parameter = call.parameter;
  step.key_begin = argument.name.begin;
  step.key_end = argument.name.end;
  steps.push_back(step);
  // What shows a number's end belongs to what comes after it, as any other value's delimiter does.
  call.tail_begin = argument.value.end;
  return Death::kNone;
}

// Checks a parameter's whole value and writes its canonical hash.
Death CallJudge::check_value(const CallState& call, const ReadArgument& argument,
                             uint64_t& hash) const {
  const SchemaNode& parameters = tools_.node(call.nodes[0]);
  // `value_node` belongs to what was read last, inside a container.
  const NodeId id =
      call.parameter >= 0 ? parameters.property_nodes[call.parameter] : parameters.additional;
  const SchemaNode& node = tools_.node(id);
  const std::string_view json = argument.value_json;
  const bool judged = node.judged || tools_.functions()[call.function].judged_each;
  if (node.type_only && !judged && is_plain_string(json)) {
    hash = hash_string(without_quotes(json));
    return Death::kNone;
  }
  const JsonValue value = parse_accepted_json(json);
  if (has_duplicate_keys(value)) return Death::kRepeatedKey;
  if (!all_finite(value)) return Death::kWrongValue;
  if (judged) {
    std::string alone = "{";
    alone.append(argument.name_json).append(":").append(json).append("}");
    if (!accepts(call, false, alone)) return Death::kWrongValue;
  } else if (!tools_.valid(id, value)) {
    return Death::kWrongValue;
  }
  hash = canonical_hash(value);
  return Death::kNone;
}

bool CallJudge::accepts(const CallState& call, bool whole, std::string_view arguments) const {
  return arguments_ == nullptr || arguments_->accepts(call.function, whole, arguments);
}

Death CallJudge::end_arguments(CallState& call, Span arguments, uint32_t boundary,
                               std::string_view json, std::vector<Step>& steps) const {
  const ToolFunction& function = tools_.functions()[call.function];
  const SchemaNode& node = tools_.node(function.parameters);
  for (uint32_t index : node.required) {
    if (!((call.seen[index / 64] >> (index % 64)) & 1)) return Death::kMissingParameter;
  }
  const bool counted = node.min_properties > 0 || node.max_properties != UINT32_MAX;
  // Where others than the named parameters may occur, `seen` does not show whether one is repeated.
  if (counted || node.additional != kNothing) {
    const JsonValue value = parse_accepted_json(json);
    if (has_duplicate_keys(value)) return Death::kRepeatedKey;
    const size_t size = value.members.size();
    if (size < node.min_properties || size > node.max_properties) return Death::kWrongValue;
  }
  if (function.judged_whole && !accepts(call, true, json)) return Death::kWrongValue;
  steps.push_back(make_step(call, StepKind::kParamFinish, arguments, boundary));
  call.tail_begin = boundary;
  return Death::kNone;
}

void CallJudge::end_call(CallState& call, Span written, std::vector<Step>& steps) const {
  Step step = make_step(call, StepKind::kFuncFinish, written, written.end);
  step.written_call = mix64(call.open_decided, 24);
  call.closed_decided += step.written_call;
  call.function = -1;
  ++call.calls;
  // The closed call counts as decided in the step that closed it.
  step.decided = call.decided();
  steps.push_back(step);
  call.tail_begin = written.end;
}

void CallJudge::end_response(CallState& call, uint32_t position, std::vector<Step>& steps) const {
  steps.push_back(
      {StepKind::kTotalFinish, -1, -1, -1, 0, 0, position, position, position, call.decided(), 0});
  call.tail_begin = position;
}

}  // namespace toolprm
