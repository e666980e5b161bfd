#include "format/step_segmenter.h"

#include <stdexcept>
#include <type_traits>

namespace toolprm {

static_assert(std::is_trivially_copyable_v<SegmenterState>, "a copy of the state is the fork");

namespace {

using Mode = EnvelopeState::Mode;
using Event = Envelope::Event;

CallOpening opening_of(const Body& body) {
  return std::visit([](const auto& known) { return known.opening(); }, body);
}

// Calls `function(body, state)` with the body and its own state.
template <typename State, typename Function>
auto with_body(const Body& body, State& state, Function&& function) {
  return std::visit(
      [&](const auto& known) {
        using BodyType = std::decay_t<decltype(known)>;
        return function(known, *std::get_if<typename BodyType::State>(&state));
      },
      body);
}

}  // namespace

StepSegmenter::StepSegmenter(ToolSchema tools, CallFormat format, Limits limits,
                             std::shared_ptr<const ArgumentJudge> judge)
    : format_(std::move(format)),
      limits_(limits),
      body_(make_body(format_)),
      delimiters_(std::visit([](const auto& body) { return body.kDelimiters; }, body_)),
      envelope_(format_, opening_of(body_), limits.max_calls),
      judge_(std::move(tools), std::move(judge)) {
  delimiters_ += ",]";
  const std::string& close = format_.close_marker;
  if (!close.empty() && (is_json_space(static_cast<unsigned char>(close.front())) ||
                         close.front() == opening_of(body_).first)) {
    // White space between calls is skipped, and another call may follow in one pair of markers.
    throw std::invalid_argument(
        "the close marker begins with white space or like a call, so it could never be read");
  }
}

bool StepSegmenter::kill(SegmenterState& state, Death death) const {
  state.death = death;
  return false;
}

bool StepSegmenter::advance(SegmenterState& state, std::string_view response,
                            std::vector<Step>& steps) const {
  if (state.dead()) return false;
  while (state.position < response.size()) {
    switch (state.envelope.mode) {
      case Mode::kCall:
        if (!read_call(state, response, steps)) return false;
        break;
      case Mode::kFinished:
        state.position = static_cast<uint32_t>(response.size());
        break;
      default: {
        const char byte = response[state.position++];
        const Event event = envelope_.read(state.envelope, byte, state.position, state.call.calls);
        if (event != Event::kNone && !handle(state, event, steps)) return false;
      }
    }
  }
  return true;
}

bool StepSegmenter::handle(SegmenterState& state, Event event, std::vector<Step>& steps) const {
  switch (event) {
    case Event::kNone:
      break;
    case Event::kCallBegin:
      // What has been read of the call to recognise it is read again.
      state.position = state.envelope.call_begin;
      judge_.begin_call(state.call);
      state.body = std::visit(
          [&](const auto& body) -> BodyState { return body.begin(state.position); }, body_);
      break;
    case Event::kResponseEnd:
      return end_response(state, steps);
    case Event::kMalformed:
      return kill(state, Death::kMalformed);
    case Event::kTooManyCalls:
      return kill(state, Death::kTooManyCalls);
  }
  return true;
}

bool StepSegmenter::read_call(SegmenterState& state, std::string_view response,
                              std::vector<Step>& steps) const {
  return with_body(body_, state.body, [&](const auto& body, auto& open) {
    CallReading reading{judge_, state.call, response, state.position, steps};
    const Death death = body.read(open, reading);
    if (death != Death::kNone) return kill(state, death);
    if (!open.ended()) return true;
    return handle(state, envelope_.end_call(state.envelope, state.call.calls), steps);
  });
}

bool StepSegmenter::finish(SegmenterState& state, std::vector<Step>& steps) const {
  if (state.dead()) return false;
  if (state.finished()) return true;
  if (!state.envelope.may_end()) return kill(state, Death::kUnexpectedEnd);
  return end_response(state, steps);
}

bool StepSegmenter::end_response(SegmenterState& state, std::vector<Step>& steps) const {
  if (limits_.require_call && state.call.calls == 0) return kill(state, Death::kNoCall);
  state.envelope.mode = Mode::kFinished;
  judge_.end_response(state.call, state.position, steps);
  return true;
}

uint64_t StepSegmenter::merge_key(const SegmenterState& state, std::string_view response) const {
  uint64_t key = mix64(state.decided(), static_cast<uint64_t>(state.envelope.mode));
  if (state.finished()) return key;
  key = mix64(key, state.envelope.fingerprint());
  if (state.in_text()) return key;
  if (state.envelope.mode == Mode::kCall) {
    const uint64_t open = with_body(
        body_, state.body, [](const auto&, const auto& body) { return body.fingerprint(); });
    key = mix64(key, mix64(open, static_cast<uint64_t>(state.call.function + 1)));
  }
  const std::string_view tail = response.substr(state.call.tail_begin);
  return mix64(key, std::visit([&](const auto& body) { return body.hash_tail(tail); }, body_));
}

bool StepSegmenter::after_argument(const SegmenterState& state) const {
  if (state.envelope.mode != Mode::kCall) return false;
  return with_body(body_, state.body,
                   [](const auto&, const auto& open) { return open.after_argument(); });
}

bool StepSegmenter::may_lead_on(std::string_view bytes) const {
  return bytes.find_first_of(delimiters_) != std::string_view::npos;
}

NamedStep StepSegmenter::named(const Step& step, std::string_view response) const {
  NamedStep named{step, {}, {}, {}, {}};
  if (step.function >= 0) named.function = tools().functions()[step.function].name;
  uint32_t begin = step.begin;
  if (step.kind == StepKind::kArgValue) {
    std::visit(
        [&](const auto& body) {
          named.argument = body.argument_name(step, response);
          named.value = body.argument_value(step, response);
        },
        body_);
    begin = step.key_begin;
  }
  named.text = std::string(response.substr(begin, step.end - begin));
  return named;
}

}  // namespace toolprm
