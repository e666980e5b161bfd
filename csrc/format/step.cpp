#include "format/step.h"

namespace toolprm {

const char* kind_name(StepKind kind) {
  static constexpr const char* kNames[kStepKinds] = {"FUNC_NAME", "ARG_VALUE", "PARAM_FINISH",
                                                     "FUNC_FINISH", "TOTAL_FINISH"};
  return kNames[static_cast<int>(kind)];
}

const char* death_text(Death death) {
  switch (death) {
    case Death::kNone:
      return "";
    case Death::kMalformed:
      return "malformed JSON";
    case Death::kUnknownFunction:
      return "unknown function";
    case Death::kUnknownParameter:
      return "a parameter that the schema does not allow";
    case Death::kRepeatedKey:
      return "a key twice";
    case Death::kWrongValue:
      return "a value that breaks the schema";
    case Death::kMissingParameter:
      return "a required parameter is missing";
    case Death::kOrder:
      return "arguments before the name";
    case Death::kTooManyCalls:
      return "too many calls";
    case Death::kNoCall:
      return "no call where one is required";
    case Death::kUnexpectedEnd:
      return "the response ends inside a call";
    case Death::kRunaway:
      return "the same call too often";
  }
  return "";
}

}  // namespace toolprm
