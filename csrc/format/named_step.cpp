#include "format/named_step.h"

namespace toolprm {

const char* kind_name(StepKind kind) {
  static constexpr const char* kNames[kStepKinds] = {"FUNC_NAME", "ARG_VALUE", "PARAM_FINISH",
                                                     "FUNC_FINISH", "TOTAL_FINISH"};
  return kNames[static_cast<int>(kind)];
}

NamedStep::NamedStep(const Step& step, std::string_view response, const ToolSchema& tools)
    : step(step) {
  if (step.function >= 0) function = tools.functions()[step.function].name;
  uint32_t begin = step.begin;
  if (step.kind == StepKind::kArgValue) {
    argument =
        parse_accepted_json(response.substr(step.key_begin, step.key_end - step.key_begin)).string;
    value = std::string(response.substr(step.begin, step.end - step.begin));
    begin = step.key_begin;
  }
  text = std::string(response.substr(begin, step.end - begin));
}

}  // namespace toolprm
