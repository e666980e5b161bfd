// Continuations: what a token does after a value or a call, or in place of the first call. There
// are few of them, so a search can look at each, drawn or not.
//
// In a call and in a list they are read from what the body and the list have begun. Between the
// calls of a format with markers they are: the end of generation, or text that is no call (the end
// of the response); white space, or what may begin a marker or call (another call). In place of the
// first call, only the former two: declining. Without markers the calls are one list, and only its
// own bytes are ways.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "format/step_segmenter.h"

namespace toolprm {

enum class Continuation : uint8_t {
  kNone,
  kArgument,  // another argument
  kCallEnd,   // the end of the call
  kCall,      // another call
  kEnd,       // the end of the response
};

struct Way {
  Continuation continuation = Continuation::kNone;
  uint64_t decision = 0;  // what the value decides that this token ends; 0 where it ends none
  bool decides = false;   // a step

  bool same(const Way& other) const {
    return decision == other.decision && continuation == other.continuation;
  }
};

// Finds continuations by reading tokens on copies of a response's state.
class WayFinder {
 public:
  explicit WayFinder(const StepSegmenter& segmenter) : segmenter_(segmenter) {}

  // Where the token that writes `bytes` leads after `response`, whose last step is `last` (null
  // where none is decided). `ends`: it is an end-of-generation token.
  Way find(const SegmenterState& state, std::string_view response, const Step* last,
           std::string_view bytes, bool ends);

 private:
  bool read(std::string_view response, std::string_view bytes, bool ends);
  Way between_calls(const Step* last) const;
  Way after_argument(const SegmenterState& before, size_t steps) const;
  Way after_listed_call() const;

  const StepSegmenter& segmenter_;
  std::string text_;
  SegmenterState state_;  // after the token
  std::vector<Step> steps_;
};

// Whether the response goes on with another argument, or another call, after a step. `steps` are
// the last ones, `index` is the step's place among them, `state` is the response's after them.
bool another_follows(const StepSegmenter& segmenter, const std::vector<Step>& steps, size_t index,
                     const SegmenterState& state);

}  // namespace toolprm
