// What a step shares with the conversation: is a value found in it, is it the
// schema's default, is anything that the user named left unused. Numbers, not verdicts: a reward
// learns their weights. It knows nothing of models or searches.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "features/ground_tools.h"
#include "features/mentions.h"
#include "features/value_search.h"
#include "features/words.h"
#include "format/step.h"

namespace toolprm {

class Grounding {
 public:
  static constexpr int kFeatures = 50;

  // `tools_json`: the list that the segmenter has, with the descriptions and defaults that the
  // model sees. `conversation`: (role, text). `words`: of its language, or null. `history`: the
  // calls that were made in it, (name, arguments as JSON). Throws std::invalid_argument for
  // unusable tools.
  using Texts = std::vector<std::pair<std::string, std::string>>;
  Grounding(std::string_view tools_json, const Texts& conversation,
            std::shared_ptr<const Words> words = nullptr, const Texts& history = {});

  static const std::vector<std::string>& names();  // of the features

  // A step and those decided before it in its response, first to last.
  using Chain = std::vector<const NamedStep*>;

  // Writes kFeatures features of the last step of `chain`.
  void features(const Chain& chain, float* out) const;

 private:
  struct PastCall {
    int32_t function;
    uint64_t arguments;  // a hash
  };

  void read_history(const Texts& history);
  bool was_called(int32_t function) const;
  bool was_called(int32_t function, uint64_t arguments) const;
  const GroundTool* tool(const Step& step) const;
  const GroundParameter* parameter(const NamedStep& named) const;
  void judge_name(const Chain& chain, float* out) const;
  void judge_value(const Chain& chain, float* out) const;
  void judge_finish(const Chain& chain, float* out) const;
  void judge_omitted(const Chain& chain, float* out) const;
  void judge_repeats(const Chain& chain, float* out) const;
  float best_fit(const Chain& chain) const;

  std::shared_ptr<const Words> words_;
  std::vector<GroundTool> tools_;
  SearchedText all_;   // the whole conversation
  SearchedText last_;  // the last user message
  Mentions mentions_;  // in the last user message
  std::vector<PastCall> history_;
};

}  // namespace toolprm
