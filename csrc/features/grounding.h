// What a step shares with the conversation: is a value found in it, is it the
// schema's default, is anything that the user named left unused. Numbers, not verdicts: a reward
// learns their weights. It knows nothing of models or searches.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "features/ground_text.h"
#include "features/ground_tools.h"
#include "features/mentions.h"
#include "format/step.h"

namespace toolprm {

class Grounding {
 public:
  static constexpr int kFeatures = 37;

  // `tools_json`: the list that the segmenter has, with the descriptions and defaults that the
  // model sees. `conversation`: (role, text). Throws std::invalid_argument for unusable tools.
  Grounding(std::string_view tools_json,
            const std::vector<std::pair<std::string, std::string>>& conversation);

  static const std::vector<std::string>& names();  // of the features

  // A step and those decided before it in its response, first to last.
  using Chain = std::vector<const NamedStep*>;

  // Writes kFeatures features of the last step of `chain`.
  void features(const Chain& chain, float* out) const;

 private:
  const GroundTool* tool(const Step& step) const;
  const GroundParameter* parameter(const NamedStep& named) const;
  void judge_name(const Chain& chain, float* out) const;
  void judge_value(const Chain& chain, float* out) const;
  void judge_finish(const Chain& chain, float* out) const;

  std::vector<GroundTool> tools_;
  GroundText all_;     // the whole conversation
  GroundText last_;    // the last user message
  Mentions mentions_;  // in the last user message
};

}  // namespace toolprm
