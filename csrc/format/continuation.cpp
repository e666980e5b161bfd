#include "format/continuation.h"

namespace toolprm {

namespace {

using Mode = EnvelopeState::Mode;

// Another call has begun, or must begin.
bool call_follows(const SegmenterState& state) {
  const Mode mode = state.envelope.mode;
  return mode == Mode::kListCall || mode == Mode::kMarked || mode == Mode::kCall;
}

}  // namespace

Way WayFinder::find(const SegmenterState& before, std::string_view response, const Step* last,
                    std::string_view bytes, bool ends) {
  const bool between = segmenter_.format().tagged() && before.in_text() && !before.envelope.prose;
  if (!between && (ends || !segmenter_.may_lead_on(bytes))) return {};
  state_ = before;
  if (!read(response, bytes, ends)) return {};
  if (between) return between_calls(last);

  if (!steps_.empty() && steps_.front().kind == StepKind::kArgValue) {
    Way way = after_argument(before, 1);
    if (way.continuation != Continuation::kNone) way.decision = steps_.front().decided;
    return way;
  }
  if (last == nullptr) {
    const bool nothing = !steps_.empty() && steps_.front().kind == StepKind::kTotalFinish;
    return {nothing ? Continuation::kEnd : Continuation::kNone, 0, nothing};
  }
  // Only right after a step is a token its way; a later one belongs to another step.
  if (last->kind == StepKind::kArgValue && segmenter_.after_argument(before)) {
    return after_argument(before, 0);
  }
  if (last->kind == StepKind::kFuncFinish && before.envelope.mode == Mode::kListNext) {
    return after_listed_call();
  }
  return {};
}

// Reads the token into `state_` and `steps_`; false when the response dies of it.
bool WayFinder::read(std::string_view response, std::string_view bytes, bool ends) {
  steps_.clear();
  if (ends) return segmenter_.finish(state_, steps_);
  text_.assign(response);
  text_ += bytes;
  return segmenter_.advance(state_, text_, steps_);
}

Way WayFinder::between_calls(const Step* last) const {
  const bool decides = !steps_.empty();
  if (state_.finished()) return {Continuation::kEnd, 0, decides};
  if (!state_.in_text() || state_.envelope.may_begin_call() || !state_.envelope.prose) {
    return {last == nullptr ? Continuation::kNone : Continuation::kCall, 0, decides};
  }
  // Text goes on to its limit, and ends the response there.
  SegmenterState ended = state_;
  std::vector<Step> steps;
  if (!segmenter_.finish(ended, steps)) return {};
  return {Continuation::kEnd, 0, decides};
}

// After a value; the token has decided `steps` steps up to its end.
Way WayFinder::after_argument(const SegmenterState& before, size_t steps) const {
  const bool decides = !steps_.empty();
  if (steps_.size() == steps || steps_[steps].kind == StepKind::kArgValue) {
    const bool nothing = steps_.size() == steps && segmenter_.after_argument(state_);
    return {nothing ? Continuation::kNone : Continuation::kArgument, 0, decides};
  }
  if (state_.finished()) return {Continuation::kEnd, 0, decides};
  const bool closed = state_.call.calls > before.call.calls;
  return {closed && call_follows(state_) ? Continuation::kCall : Continuation::kCallEnd, 0,
          decides};
}

Way WayFinder::after_listed_call() const {
  const bool decides = !steps_.empty();
  if (decides && steps_.front().kind == StepKind::kTotalFinish) {
    return {Continuation::kEnd, 0, decides};
  }
  return {call_follows(state_) ? Continuation::kCall : Continuation::kNone, 0, decides};
}

bool another_follows(const StepSegmenter& segmenter, const std::vector<Step>& steps, size_t index,
                     const SegmenterState& state) {
  const StepKind kind = steps[index].kind;
  if (index + 1 < steps.size()) {
    const StepKind next = steps[index + 1].kind;
    return (kind == StepKind::kArgValue && next == StepKind::kArgValue) ||
           (kind == StepKind::kFuncFinish && next == StepKind::kFuncName);
  }
  if (kind == StepKind::kArgValue) return !segmenter.after_argument(state);
  return kind == StepKind::kFuncFinish && call_follows(state);
}

}  // namespace toolprm
