// A step as people and programs read it: its names looked up, its value decoded.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "format/step_segmenter.h"

namespace toolprm {

const char* kind_name(StepKind kind);

struct NamedStep {
  // `response` reaches at least to the step's boundary.
  NamedStep(const Step& step, std::string_view response, const ToolSchema& tools);

  Step step;
  std::optional<std::string> function;
  std::optional<std::string> argument;  // of ARG_VALUE: the parameter's name, UTF-8
  std::optional<std::string> value;     // of ARG_VALUE: as JSON
  std::string text;                     // as written; of ARG_VALUE the name with the value
};

}  // namespace toolprm
