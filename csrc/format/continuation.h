// Ways on: what a token does after a value or a call, or in place of the first call. There are few
// of them, so a search can look at each, drawn or not.
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

// Finds ways on by reading tokens on copies of a response's state.
class WayFinder {
 public:
  explicit WayFinder(const StepSegmenter& segmenter) : segmenter_(segmenter) {}

  // Where the token that writes `bytes` leads after `response`, whose last step is `last` (null
  // where none is decided). `ends`: it is an end-of-generation token.
  Way find(const SegmenterState& state, std::string_view response, const Step* last,
           std::string_view bytes, bool ends);

 private:
  const StepSegmenter& segmenter_;
  std::string text_;
  std::vector<Step> steps_;
};

// Whether `response` goes on with another argument, or another call, after this step.
bool another_follows(const Step& step, std::string_view response);

}  // namespace toolprm
