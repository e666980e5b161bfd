#include "format/bodies/json_body.h"

#include <type_traits>

namespace toolprm {

static_assert(std::is_trivially_copyable_v<JsonBody::State>, "a copy of the state is the fork");

namespace {

// Depths of the machine: the call's own keys, the arguments'.
constexpr int kCallDepth = 1;
constexpr int kArgumentsDepth = 2;

// A container's level among the arguments.
int level(int depth) { return depth - kArgumentsDepth; }

std::string decoded(std::string_view string) {
  const bool plain = string.find('\\') == std::string_view::npos;
  return plain ? std::string(string.substr(1, string.size() - 2))
               : parse_accepted_json(string).string;
}

JsonType type_of(JsonEvent event, const JsonMachine& json) {
  switch (event) {
    case JsonEvent::kObjectBegin:
      return JsonType::kObject;
    case JsonEvent::kArrayBegin:
      return JsonType::kArray;
    case JsonEvent::kStringBegin:
      return JsonType::kString;
    case JsonEvent::kNumberBegin:
      return JsonType::kNumber;
    default:
      // The machine has seen the first byte of a literal only; a wrong one fails there later.
      return json.literal() == 'n' ? JsonType::kNull : JsonType::kBoolean;
  }
}

}  // namespace

uint64_t JsonBody::State::fingerprint() const {
  return mix64(json.fingerprint(), uint64_t{has_arguments} | static_cast<uint64_t>(key) << 8);
}

JsonBody::State JsonBody::begin(uint32_t position) const {
  State state;
  state.call_begin = position;
  return state;
}

Death JsonBody::read(State& state, CallReading& reading) const {
  const std::string_view response = reading.response;
  while (reading.position < response.size()) {
    if (state.json.in_run()) {
      // Most bytes are inside strings and numbers and change nothing in the machine.
      const std::string_view rest = response.substr(reading.position);
      const std::string_view run = rest.substr(0, state.json.plain_run(rest));
      reading.position += static_cast<uint32_t>(run.size());
      if (reading.call.following() && !run.empty()) {
        const Death death = reading.judge.text(reading.call, run);
        if (death != Death::kNone) return death;
      }
      if (reading.position == response.size()) break;
    }
    ++reading.position;
    const Death death = read_byte(state, reading);
    if (death != Death::kNone || state.ended()) return death;
  }
  return Death::kNone;
}

Death JsonBody::read_byte(State& state, CallReading& reading) const {
  const int depth_before = state.json.depth();
  const JsonByte read =
      state.json.feed(static_cast<unsigned char>(reading.response[reading.position - 1]));
  if (read.event == JsonEvent::kFail) return Death::kMalformed;
  if (read.number_ended) {
    const Death death = end_value(state, reading, reading.position - 1, depth_before);
    if (death != Death::kNone) return death;
  }
  switch (read.event) {
    case JsonEvent::kNone:
      if (!reading.call.following() || read.decoded_size == 0) return Death::kNone;
      return reading.judge.text(reading.call, read.text());
    case JsonEvent::kKeyBegin:
      begin_key(state, reading);
      return Death::kNone;
    case JsonEvent::kKeyEnd:
      return end_key(state, reading);
    case JsonEvent::kObjectBegin:
    case JsonEvent::kArrayBegin:
    case JsonEvent::kStringBegin:
    case JsonEvent::kNumberBegin:
    case JsonEvent::kLiteralBegin:
      return begin_value(state, reading, read.event);
    case JsonEvent::kStringEnd:
    case JsonEvent::kLiteralEnd:
    case JsonEvent::kArrayEnd:
      return end_value(state, reading, reading.position, state.json.depth());
    case JsonEvent::kObjectEnd:
      return end_object(state, reading);
    case JsonEvent::kComma:
      if (state.key == Key::kArguments && !state.json.in_object()) {
        reading.judge.next_element(reading.call, level(state.json.depth()));
      }
      return Death::kNone;
    case JsonEvent::kFail:
      break;
  }
  return Death::kNone;
}

void JsonBody::begin_key(State& state, CallReading& reading) const {
  const int depth = state.json.depth();
  const bool of_arguments = depth > kCallDepth && state.key == Key::kArguments;
  if (depth == kCallDepth || (depth == kArgumentsDepth && of_arguments)) {
    state.key_begin = reading.position - 1;
  }
  if (of_arguments) reading.judge.begin_key(reading.call, level(depth));
}

Death JsonBody::end_key(State& state, CallReading& reading) const {
  const int depth = state.json.depth();
  if (depth == kCallDepth) return end_call_key(state, reading);
  if (state.key != Key::kArguments) return Death::kNone;
  if (depth == kArgumentsDepth) state.key_end = reading.position;
  return reading.judge.end_key(reading.call, level(depth));
}

Death JsonBody::end_call_key(State& state, CallReading& reading) const {
  const std::string key = decoded(reading.slice({state.key_begin, reading.position}));
  state.key = Key::kOther;
  if (key == name_key_) {
    if (state.has_name) return Death::kRepeatedKey;
    state.key = Key::kName;
  } else if (key == arguments_key_) {
    if (state.has_arguments) return Death::kRepeatedKey;
    if (!state.has_name) return Death::kOrder;
    state.key = Key::kArguments;
  }
  return Death::kNone;
}

Death JsonBody::begin_value(State& state, CallReading& reading, JsonEvent event) const {
  const bool container = event == JsonEvent::kObjectBegin || event == JsonEvent::kArrayBegin;
  const int depth = state.json.depth() - (container ? 1 : 0);  // of what holds the value
  if (depth == 0 || state.key == Key::kOther) return Death::kNone;
  if (depth == kCallDepth) {
    state.value_begin = reading.position - 1;
    if (state.key == Key::kName) {
      if (event != JsonEvent::kStringBegin) return Death::kUnknownFunction;
      reading.judge.begin_name(reading.call);
    } else {
      if (event != JsonEvent::kObjectBegin) return Death::kWrongValue;
      state.has_arguments = true;
      state.arguments_begin = reading.position - 1;
      reading.judge.begin_arguments(reading.call);
    }
    return Death::kNone;
  }
  if (depth == kArgumentsDepth) state.value_begin = reading.position - 1;
  return reading.judge.begin_value(reading.call, type_of(event, state.json), level(depth));
}

// A value ended at `end`; `depth` is that of the container that holds it.
Death JsonBody::end_value(State& state, CallReading& reading, uint32_t end, int depth) const {
  const Span value{state.value_begin, end};
  if (depth == kCallDepth) {
    if (state.key != Key::kName) return Death::kNone;
    state.has_name = true;
    return reading.judge.end_name(reading.call, value, reading.steps);
  }
  if (state.key != Key::kArguments) return Death::kNone;
  if (depth > kArgumentsDepth) return reading.judge.end_value(reading.call);
  const Span name{state.key_begin, state.key_end};
  const ReadArgument argument{name, value, reading.position, reading.slice(name),
                              reading.slice(value)};
  return reading.judge.end_argument(reading.call, argument, reading.steps);
}

Death JsonBody::end_object(State& state, CallReading& reading) const {
  const int depth = state.json.depth();
  if (depth == 0) return end_call(state, reading);
  if (depth > kCallDepth || state.key != Key::kArguments) {
    return end_value(state, reading, reading.position, depth);
  }
  state.key = Key::kOther;
  const Span arguments{state.arguments_begin, reading.position};
  return reading.judge.end_arguments(reading.call, arguments, reading.position,
                                     reading.slice(arguments), reading.steps);
}

Death JsonBody::end_call(State& state, CallReading& reading) const {
  const uint32_t end = reading.position;
  if (!state.has_name) return Death::kUnknownFunction;
  if (!state.has_arguments) {
    const Death death =
        reading.judge.end_arguments(reading.call, {end, end}, end, "{}", reading.steps);
    if (death != Death::kNone) return death;
  }
  reading.judge.end_call(reading.call, {state.call_begin, end}, reading.steps);
  return Death::kNone;
}

std::string JsonBody::argument_name(const Step& step, std::string_view response) const {
  return decoded(response.substr(step.key_begin, step.key_end - step.key_begin));
}

std::string JsonBody::argument_value(const Step& step, std::string_view response) const {
  return std::string(response.substr(step.begin, step.end - step.begin));
}

uint64_t JsonBody::hash_tail(std::string_view tail) const {
  bool in_string = false;
  bool escaped = false;
  uint64_t hash = 0;
  for (const char c : tail) {
    const auto byte = static_cast<unsigned char>(c);
    if (!in_string && is_json_space(byte)) continue;
    if (byte == '"' && !escaped) in_string = !in_string;
    escaped = in_string && byte == '\\' && !escaped;
    hash = mix64(hash, byte);
  }
  return hash;
}

}  // namespace toolprm
