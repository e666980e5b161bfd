#include "format/continuation.h"

namespace toolprm {

namespace {
constexpr const char* kSpace = " \t\r\n";
}  // namespace

Way WayFinder::find(const SegmenterState& before, std::string_view response, const Step* last,
                    std::string_view bytes, bool ends) {
  if (ends || bytes.find_first_of(",}]") == std::string_view::npos) return {};
  text_.assign(response);
  text_ += bytes;
  SegmenterState state = before;
  steps_.clear();
  if (!segmenter_.advance(state, text_, steps_)) return {};
  Way way;
  way.decides = !steps_.empty();
  if (last == nullptr && way.decides && steps_.front().kind == StepKind::kTotalFinish) {
    way.continuation = Continuation::kEnd;  // nothing is called
    return way;
  }
  uint32_t from;
  if (way.decides && steps_.front().kind == StepKind::kArgValue) {
    way.decision = steps_.front().decided;
    from = steps_.front().end;
  } else if (last != nullptr &&
             (last->kind == StepKind::kArgValue || last->kind == StepKind::kFuncFinish)) {
    from = last->end;
  } else {
    return {};
  }
  const size_t first = text_.find_first_not_of(kSpace, from);
  // Only the byte right after it is this token's way; a later one belongs to another step.
  if (first == std::string::npos || (way.decision == 0 && first < response.size())) return {};
  const char final = text_[text_.find_last_not_of(kSpace)];
  const bool after_call = way.decision == 0 && last->kind == StepKind::kFuncFinish;
  switch (text_[first]) {
    case ',':
      way.continuation = after_call ? Continuation::kCall : Continuation::kArgument;
      break;
    case '}':
    case ']':
      way.continuation = state.finished() ? Continuation::kEnd
                         : final == ','   ? Continuation::kCall
                                          : Continuation::kCallEnd;
      break;
    default:
      return {};
  }
  return way;
}

bool another_follows(const Step& step, std::string_view response) {
  if (step.kind != StepKind::kArgValue && step.kind != StepKind::kFuncFinish) return false;
  const size_t next = response.find_first_not_of(kSpace, step.end);
  return next != std::string_view::npos && response[next] == ',';
}

}  // namespace toolprm
