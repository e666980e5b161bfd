// Every step that a search has decided: what it is, how sure the policy was of it, its hidden state
// and its reward. It turns steps into the inputs of a reward and into records for a supervision
// set. It does not know which beams are kept.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "features/grounding.h"
#include "format/step_segmenter.h"
#include "search/options.h"
#include "search/token_tree.h"
#include "search/vocabulary.h"

namespace toolprm {

struct StepRecord {
  Step step;
  int32_t previous;  // the step decided before it, or -1
  int32_t node;      // the boundary token
  bool continues;    // its token has the comma of another argument or call after it, too
  uint32_t draws;    // that wrote it
  bool greedy;       // on the most likely path
  // Of the tokens sampled for this step; a token that closes several counts for the first.
  uint32_t tokens;
  float logprob_sum, logprob_min;
  float entropy;            // at the first of them
  double logprob_total;     // of the response up to here
  float logprob_total_min;  // the least of its tokens
  uint32_t copies = 0;      // FUNC_FINISH: equal calls before it
  double paid = 0;          // log-probability of the calls up to here that repeat others
  // Known once a reward is.
  bool scored = false;
  float reward = 0;
  double log_product = 0, sum = 0;
  float least = 1;
  uint32_t count = 0;
};

// What a reward reads of some steps, a row each.
struct RewardInputs {
  std::vector<int8_t> kinds;
  std::vector<float> features;
  size_t feature_count = 0;
  std::vector<float> states;
  size_t state_width = 0;  // 0: no states
};

class StepLog {
 public:
  StepLog(std::shared_ptr<const StepSegmenter> segmenter,
          std::shared_ptr<const Vocabulary> vocabulary, std::shared_ptr<const Grounding> grounding,
          const SearchOptions& options)
      : segmenter_(std::move(segmenter)),
        vocabulary_(std::move(vocabulary)),
        grounding_(std::move(grounding)),
        pooled_(options.pool_states),
        aggregate_(options.aggregate),
        policy_gap_(options.policy_gap),
        tree_(options.prompt_hash) {}

  TokenTree& tree() { return tree_; }
  const TokenTree& tree() const { return tree_; }

  // Logs a step that the token `node` decided after the step `previous`; returns its index.
  int32_t add(const Step& step, int32_t previous, int32_t node, bool continues, uint32_t draws,
              bool greedy);
  const StepRecord& operator[](int32_t index) const { return records_[index]; }
  size_t size() const { return records_.size(); }

  // Hidden states [width], one for each token that has one. Returns the token's row.
  int32_t add_state(const float* state, size_t width);
  size_t state_width() const { return width_; }
  // At the step's boundary token, or null.
  const float* state(const StepRecord& record) const;

  void set_reward(int32_t index, float reward);
  // What a response is ranked by. `last` is its last step, or -1. Where a stop came before the last
  // rewards, a finished response counts with the policy's probability for these steps.
  double score(int32_t last, bool finished) const;
  // The factor of the policy's evidence on that score: at most 1, and it only falls.
  double weight(int32_t last) const;

  // The response up to the step's boundary, and its tokens up to and with the boundary token.
  std::string text(const StepRecord& record) const;
  uint32_t depth(const StepRecord& record) const { return tree_.depth(record.node); }
  // Records from the first step to this one.
  std::vector<int32_t> chain(int32_t last) const;

  RewardInputs inputs(const std::vector<int32_t>& steps) const;

 private:
  static constexpr size_t kCertainty = 6;

  void charge_for_repeats(StepRecord& record) const;
  double aggregate(const StepRecord& last) const;
  void write_features(int32_t index, float* out) const;
  void write_states(const StepRecord& record, float* out) const;
  uint32_t add_states(const StepRecord& record, float* sum) const;

  std::shared_ptr<const StepSegmenter> segmenter_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  std::shared_ptr<const Grounding> grounding_;
  bool pooled_;
  Aggregate aggregate_;
  double policy_gap_;
  TokenTree tree_;
  std::vector<StepRecord> records_;
  std::vector<float> states_;
  size_t width_ = 0;
};

}  // namespace toolprm
