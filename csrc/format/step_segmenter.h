// Bytes in, steps out: cuts a response into the decisions that earn a reward while it is written,
// and reports at once when it can no longer become a valid response.
//
// Three parts read it: the envelope finds where calls begin (envelope.h), the body reads one call
// (body.h) and tells the judge what it reads, the judge decides (call_judge.h). What a response is,
// and of what it dies, is specified by a readable twin in Python, tests/support/slow_segmenter.py,
// with which this one must agree on every input.
//
// Steps and their boundaries:
//   FUNC_NAME     the end of the name (in JSON its closing quote)
//   ARG_VALUE     the last byte of a parameter's value; for a number in JSON the delimiter after it
//   PARAM_FINISH  the end of the arguments (in JSON their closing brace; the call's, where it has
//                 none)
//   FUNC_FINISH   the end of the call (in JSON its closing brace)
//   TOTAL_FINISH  the `]` of the list; the end of the response
// `finish()` says that the model has ended the response. It may do so in text, and after a marker
// after a whole call. Dead, beyond what the parts say: more calls than `max_calls` (at the comma,
// or where one begins); an end with no call where one is required; an end inside a call or a list.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "format/body.h"
#include "format/call_format.h"
#include "format/call_judge.h"
#include "format/envelope.h"
#include "format/step.h"
#include "schema/tool_schema.h"

namespace toolprm {

struct SegmenterState {
  uint32_t position = 0;  // bytes read
  Death death = Death::kNone;
  EnvelopeState envelope;
  CallState call;
  BodyState body;

  bool dead() const { return death != Death::kNone; }
  bool finished() const { return envelope.mode == EnvelopeState::Mode::kFinished; }
  // Outside calls, where a model may also be writing prose.
  bool in_text() const { return !dead() && envelope.in_text(); }
  uint64_t decided() const { return call.decided(); }
};

class StepSegmenter {
 public:
  struct Limits {
    uint32_t max_calls = UINT32_MAX;
    bool require_call = false;
  };

  // Without a judge, what the schema nodes do not decide counts as valid. Throws
  // std::invalid_argument for a close marker that could never be read.
  StepSegmenter(ToolSchema tools, CallFormat format, Limits limits,
                std::shared_ptr<const ArgumentJudge> judge = nullptr);

  // Reads `response` from state.position to its end and appends the steps it decides. `response` is
  // the whole response so far. Returns false when the state is dead.
  bool advance(SegmenterState& state, std::string_view response, std::vector<Step>& steps) const;

  // The model has ended the response, or it is ended for it at the limit of text.
  bool finish(SegmenterState& state, std::vector<Step>& steps) const;

  // Equal for two states that have decided the same and are at the same place of the same syntax,
  // so that the same continuations lead to the same calls.
  uint64_t merge_key(const SegmenterState& state, std::string_view response) const;

  // Whether the last argument has ended and nothing but white space has been read after it.
  bool after_argument(const SegmenterState& state) const;
  // False for bytes that neither go on after a value nor end a list: a quick test.
  bool may_lead_on(std::string_view bytes) const;

  // A step with its names looked up and its value decoded. `response` reaches at least to the
  // step's boundary.
  NamedStep named(const Step& step, std::string_view response) const;

  const ToolSchema& tools() const { return judge_.tools(); }
  const CallFormat& format() const { return format_; }

 private:
  bool kill(SegmenterState& state, Death death) const;
  bool handle(SegmenterState& state, Envelope::Event event, std::vector<Step>& steps) const;
  bool read_call(SegmenterState& state, std::string_view response, std::vector<Step>& steps) const;
  bool end_response(SegmenterState& state, std::vector<Step>& steps) const;

  CallFormat format_;
  Limits limits_;
  Body body_;
  std::string delimiters_;  // what a body writes after values, and the list after calls
  Envelope envelope_;
  CallJudge judge_;
};

}  // namespace toolprm
