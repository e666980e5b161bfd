// Bytes in, steps out: cuts a response into the decisions that earn a reward while it is written,
// and tells at once when it can no longer become a valid response.
//
// The response, byte by byte:
//   text      Anything. A call begins at the format's open marker; at a `{` followed (white space
//             aside) by the name key in quotes; a list of calls at a `[` followed (white space
//             aside) by `{` or `]`. Everything else stays text.
//   marker    After the open marker: white space, then `{` (a call) or `[` (a list).
//   list      Calls separated by commas. Its `]` ends the response; what follows is ignored.
//   call      A JSON object. The value of the name key is a tool's name; the value of the arguments
//             key, an object, holds the parameters; other keys are skipped. Without an arguments
//             key the arguments are empty.
//   after     In a list: `,` or `]`. Behind a marker: another `{`, or the close marker, after which
//             text goes on (where the close marker is empty, at once). Elsewhere: text.
// With `max_calls` reached, the close marker (or a bare call's end) ends the response.
// `finish()` says that the model has ended the response. It may do so in text, and behind a marker
// after a whole call.
//
// Dead: JSON that is malformed or nests deeper than JsonMachine::kMaxDepth; a tool's name that no
// tool has (at the first byte that no name goes on with); name or arguments twice, or the arguments
// before the name; a parameter that the schema does not allow (at the first byte), or twice; a
// value whose first byte shows a type that the schema does not allow; a string that no listed
// string goes on with; a value, nested ones included, that breaks the schema or repeats a key
// (nested names and types at the first byte, the rest when the parameter's value ends); the end of
// the arguments without a required parameter, or with one twice that the schema does not name; more
// calls than `max_calls` (at the comma or brace); an end with no call where one is required; an end
// inside a call or a list.
//
// Steps and their boundaries:
//   FUNC_NAME     the closing quote of the name
//   ARG_VALUE     the last byte of a parameter's value; for a number the delimiter after it
//   PARAM_FINISH  the closing brace of the arguments (of the call, where it has none)
//   FUNC_FINISH   the closing brace of the call
//   TOTAL_FINISH  the `]` of the list; the end of the response
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "format/call_format.h"
#include "json/json_machine.h"
#include "schema/tool_schema.h"

namespace toolprm {

enum class StepKind : uint8_t {
  kFuncName,
  kArgValue,
  kParamFinish,
  kFuncFinish,
  kTotalFinish,
};
inline constexpr int kStepKinds = 5;

// A decided step. Offsets count bytes from the beginning of the response.
struct Step {
  StepKind kind;
  int32_t call;       // counts from 0; -1 for TOTAL_FINISH
  int32_t function;   // index of the tool; -1 for TOTAL_FINISH
  int32_t parameter;  // index among the schema's properties; -1 when it has none, or no ARG_VALUE
  uint32_t key_begin, key_end;  // ARG_VALUE: the parameter's name with its quotes
  uint32_t begin, end;          // the name, value, arguments or call; empty for TOTAL_FINISH
  uint32_t boundary;            // just past the byte that decided the step
  uint64_t decided;             // canonical hash of all that is decided with this step
  uint64_t written_call = 0;    // FUNC_FINISH: canonical hash of the call; else 0
};

enum class Death : uint8_t {
  kNone,
  kMalformed,
  kUnknownFunction,
  kUnknownParameter,
  kRepeatedKey,
  kWrongValue,
  kMissingParameter,
  kOrder,
  kTooManyCalls,
  kNoCall,
  kUnexpectedEnd,
  kRunaway,  // told by the search
};
const char* death_text(Death death);

struct SegmenterState {
  enum class Mode : uint8_t {
    kText,
    kListProbe,
    kCallProbe,
    kTagOpen,
    kTagNext,
    kTagClose,
    kListStart,
    kListCall,
    kListNext,
    kCall,
    kFinished,
    kDead,
  };
  enum class Key : uint8_t { kName, kArguments, kOther };

  Mode mode = Mode::kText;
  Death death = Death::kNone;
  Key key = Key::kOther;
  uint8_t marker = 0;  // progress in the open or close marker
  bool in_list = false;
  bool in_tag = false;
  bool has_arguments = false;
  bool narrowing = false;  // `cursor` follows the string being read
  uint32_t calls = 0;      // closed so far
  int32_t function = -1;   // of the open call
  int32_t parameter = -1;
  uint32_t position = 0;  // bytes read
  uint32_t probe_begin = 0;
  uint32_t call_begin = 0;
  uint32_t arguments_begin = 0;
  uint32_t key_begin = 0, key_end = 0;
  uint32_t value_begin = 0;
  uint32_t tail_begin = 0;        // end of what was decided last
  NodeId value_node = kAnything;  // schema of the value that comes next
  StringSet::Cursor cursor;
  JsonMachine json;
  uint64_t open_decided = 0;    // function and arguments of the open call, in any order
  uint64_t closed_decided = 0;  // the closed calls, in any order
  std::array<uint64_t, ToolSchema::kMaxParameters / 64> seen{};
  std::array<NodeId, JsonMachine::kMaxDepth + 1> nodes{};  // schema of the container at each depth

  bool dead() const { return mode == Mode::kDead; }
  bool finished() const { return mode == Mode::kFinished; }
  // Outside calls, where a model may also be writing prose.
  bool in_text() const { return mode <= Mode::kCallProbe; }
  uint64_t decided() const;
};

class StepSegmenter {
 public:
  struct Limits {
    uint32_t max_calls = UINT32_MAX;
    bool require_call = false;
  };

  // Without a judge, what the schema nodes do not decide counts as valid.
  StepSegmenter(ToolSchema tools, CallFormat format, Limits limits,
                std::shared_ptr<const ArgumentJudge> judge = nullptr);

  // Reads `response` from state.position to its end and appends the steps it decides. `response` is
  // the whole response so far. Returns false when the state is dead.
  bool advance(SegmenterState& state, std::string_view response, std::vector<Step>& steps) const;

  // The model has ended the response, or it is ended for it at the limit of text.
  bool finish(SegmenterState& state, std::vector<Step>& steps) const;

  // Equal for two states that have decided the same and stand at the same place of the same
  // syntax, so that the same continuations lead to the same calls.
  uint64_t merge_key(const SegmenterState& state, std::string_view response) const;

  const ToolSchema& tools() const { return tools_; }
  const CallFormat& format() const { return format_; }

 private:
  using Mode = SegmenterState::Mode;
  using Key = SegmenterState::Key;

  bool kill(SegmenterState& state, Death death) const;
  bool text_byte(SegmenterState& state, char byte, std::string_view response,
                 std::vector<Step>& steps) const;
  bool probe_call(SegmenterState& state, char byte) const;
  bool begin_call(SegmenterState& state, uint32_t begin, std::string_view response,
                  std::vector<Step>& steps) const;
  bool call_byte(SegmenterState& state, std::string_view response, std::vector<Step>& steps) const;
  NodeId element_node(NodeId array) const;
  bool begin_value(SegmenterState& state, JsonEvent event) const;
  bool end_value(SegmenterState& state, uint32_t end, int depth, std::string_view response,
                 std::vector<Step>& steps) const;
  bool narrow(SegmenterState& state, std::string_view bytes) const;
  bool begin_key(SegmenterState& state) const;
  bool end_key(SegmenterState& state, std::string_view response) const;
  bool judge(const SegmenterState& state, bool whole, std::string_view arguments) const;
  bool end_arguments(SegmenterState& state, uint32_t end, std::string_view response,
                     std::vector<Step>& steps) const;
  bool end_call(SegmenterState& state, std::string_view response, std::vector<Step>& steps) const;
  bool end_response(SegmenterState& state, std::vector<Step>& steps) const;
  void emit(SegmenterState& state, StepKind kind, uint32_t begin, uint32_t end,
            std::vector<Step>& steps) const;

  ToolSchema tools_;
  CallFormat format_;
  Limits limits_;
  std::shared_ptr<const ArgumentJudge> judge_;
  MarkerMatcher open_;
  std::string name_probe_;  // the name key in quotes
};

}  // namespace toolprm
