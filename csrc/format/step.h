// What is decided while a response is written, and of what a response dies.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace toolprm {

enum class StepKind : uint8_t {
  kFuncName,
  kArgValue,
  kParamFinish,
  kFuncFinish,
  kTotalFinish,
};
inline constexpr int kStepKinds = 5;
const char* kind_name(StepKind kind);

// A decided step. Offsets count bytes from the beginning of the response.
struct Step {
  StepKind kind;
  int32_t call;       // counts from 0; -1 for TOTAL_FINISH
  int32_t function;   // index of the tool; -1 for TOTAL_FINISH
  int32_t parameter;  // index among the schema's properties; -1 when it has none, or no ARG_VALUE
  uint32_t key_begin, key_end;  // ARG_VALUE: the parameter's name as it is written
  uint32_t begin, end;          // the name, value, arguments or call; empty for TOTAL_FINISH
  uint32_t boundary;            // just past the byte that decided the step
  uint64_t decided;             // canonical hash of all that is decided with this step
  uint64_t written_call = 0;    // FUNC_FINISH: canonical hash of the call; else 0
};

// A step as people and programs read it: its names looked up, its value decoded. Made by
// `StepSegmenter::named`.
struct NamedStep {
  Step step;
  std::optional<std::string> function;
  std::optional<std::string> argument;  // of ARG_VALUE: the parameter's name, UTF-8
  std::optional<std::string> value;     // of ARG_VALUE: as JSON
  std::string text;                     // as written; of ARG_VALUE the name with the value
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
  kRunaway,  // set by the search
};
const char* death_text(Death death);

}  // namespace toolprm
