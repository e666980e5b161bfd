#include "search/step_log.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace toolprm {

int32_t StepLog::add(const Step& step, int32_t previous, int32_t node, bool continues,
                     uint32_t draws, bool greedy) {
  StepRecord record{};
  record.step = step;
  record.previous = previous;
  record.node = node;
  record.continues = continues;
  record.draws = draws;
  record.greedy = greedy;
  const StepRecord* before = previous < 0 ? nullptr : &records_[previous];
  record.logprob_total = before == nullptr ? 0 : before->logprob_total;
  record.logprob_total_min = before == nullptr ? 0 : before->logprob_total_min;
  const int32_t until = before == nullptr ? TokenTree::kRoot : before->node;
  for (int32_t at = node; at != until; at = tree_[at].parent) {
    if (tree_[at].forced) continue;
    ++record.tokens;
    record.logprob_sum += tree_[at].logprob;
    record.logprob_min = std::min(record.logprob_min, tree_[at].logprob);
    record.entropy = tree_[at].entropy;
  }
  record.logprob_total += record.logprob_sum;
  record.logprob_total_min = std::min(record.logprob_total_min, record.logprob_min);
  charge_for_repeats(record);
  records_.push_back(record);
  return static_cast<int32_t>(records_.size()) - 1;
}

// A call that repeats another one is charged with the probability of its tokens, and of the token
// that closed the call before it: there it was decided that more would follow.
void StepLog::charge_for_repeats(StepRecord& record) const {
  if (record.previous >= 0) record.paid = records_[record.previous].paid;
  if (record.step.kind != StepKind::kFuncFinish) return;
  double written = record.logprob_sum;
  for (int32_t at = record.previous; at >= 0; at = records_[at].previous) {
    const StepRecord& earlier = records_[at];
    if (earlier.step.call == record.step.call) {
      written += earlier.logprob_sum;
    } else if (earlier.step.kind == StepKind::kFuncFinish) {
      if (earlier.step.call == record.step.call - 1) written += tree_[earlier.node].logprob;
      record.copies += earlier.step.written_call == record.step.written_call;
    }
  }
  if (record.copies > 0) record.paid += written;
}

int32_t StepLog::add_state(const float* state, size_t width) {
  width_ = width;
  states_.insert(states_.end(), state, state + width);
  return static_cast<int32_t>(states_.size() / width) - 1;
}

const float* StepLog::state(const StepRecord& record) const {
  const int32_t row = tree_[record.node].hidden;
  return row < 0 ? nullptr : states_.data() + static_cast<size_t>(row) * width_;
}

void StepLog::set_reward(int32_t index, float reward) {
  StepRecord& record = records_[index];
  record.scored = true;
  record.reward = std::clamp(reward, 0.0f, 1.0f);
  record.log_product = std::log(std::max(record.reward, 1e-30f));
  record.sum = record.reward;
  record.least = record.reward;
  record.count = 1;
  if (record.previous < 0) return;
  const StepRecord& previous = records_[record.previous];
  record.log_product += previous.log_product;
  record.sum += previous.sum;
  record.least = std::min(record.least, previous.least);
  record.count += previous.count;
}

double StepLog::score(int32_t last, bool finished) const {
  double unscored = 0;
  int32_t step = last;
  for (; step >= 0 && !records_[step].scored; step = records_[step].previous) {
    unscored += records_[step].logprob_sum;
  }
  if (!finished) unscored = 0;
  const double logprob = unscored + records_[last].paid;
  return (step < 0 ? 1.0 : aggregate(records_[step])) * std::exp(logprob);
}

double StepLog::weight(int32_t last) const {
  return gap_weight(policy_gap_, tree_.gap(records_[last].node));
}

double StepLog::aggregate(const StepRecord& last) const {
  switch (aggregate_) {
    case Aggregate::kMin:
      return last.least;
    case Aggregate::kProd:
      return std::exp(last.log_product);
    case Aggregate::kMean:
      return last.sum / last.count;
    case Aggregate::kLast:
      break;
  }
  return last.reward;
}

std::string StepLog::text(const StepRecord& record) const {
  std::vector<int32_t> path;
  tree_.tail(record.node, tree_.depth(record.node), path);
  std::string text;
  for (int32_t node : path) {
    if (!vocabulary_->ends[tree_[node].token]) text += vocabulary_->text(tree_[node].token);
  }
  text.resize(record.step.boundary);
  return text;
}

std::vector<int32_t> StepLog::chain(int32_t last) const {
  std::vector<int32_t> steps;
  for (int32_t step = last; step >= 0; step = records_[step].previous) steps.push_back(step);
  std::reverse(steps.begin(), steps.end());
  return steps;
}

RewardInputs StepLog::inputs(const std::vector<int32_t>& steps) const {
  RewardInputs result;
  result.feature_count = kCertainty + (grounding_ ? Grounding::kFeatures : 0);
  result.features.resize(steps.size() * result.feature_count);
  result.state_width = width_ * (pooled_ ? 2 : 1);
  result.states.resize(steps.size() * result.state_width);
  for (size_t row = 0; row < steps.size(); ++row) {
    const StepRecord& record = records_[steps[row]];
    result.kinds.push_back(static_cast<int8_t>(record.step.kind));
    write_features(steps[row], result.features.data() + row * result.feature_count);
    if (width_ > 0) write_states(record, result.states.data() + row * result.state_width);
  }
  return result;
}

void StepLog::write_features(int32_t index, float* out) const {
  const StepRecord& record = records_[index];
  *out++ = record.logprob_sum;
  *out++ = record.logprob_min;
  *out++ = record.tokens == 0 ? 0 : record.logprob_sum / static_cast<float>(record.tokens);
  *out++ = record.entropy;
  *out++ = static_cast<float>(record.logprob_total);
  *out++ = record.logprob_total_min;
  if (!grounding_) return;
  const std::string response = text(record);
  const std::vector<int32_t> steps = chain(index);
  std::vector<NamedStep> named;
  named.reserve(steps.size());
  Grounding::Chain pointers;
  for (int32_t step : steps) {
    named.push_back(segmenter_->named(records_[step].step, response));
    pointers.push_back(&named.back());
  }
  grounding_->features(pointers, out);
}

// The boundary token's state, and when pooled the mean of the step's tokens' states.
void StepLog::write_states(const StepRecord& record, float* out) const {
  const float* boundary = state(record);
  if (boundary == nullptr) throw std::logic_error("a step has no hidden state");
  std::copy(boundary, boundary + width_, out);
  if (!pooled_) return;
  float* mean = out + width_;
  std::fill(mean, mean + width_, 0.0f);
  const auto count = static_cast<float>(std::max(1u, add_states(record, mean)));
  for (size_t i = 0; i < width_; ++i) mean[i] /= count;
}

// Adds up the states of the tokens since the step before; returns how many there are.
uint32_t StepLog::add_states(const StepRecord& record, float* sum) const {
  const int32_t before = record.previous < 0 ? TokenTree::kRoot : records_[record.previous].node;
  uint32_t count = 0;
  int32_t node = record.node;
  do {  // a step that its predecessor's token closes has that token
    const int32_t row = tree_[node].hidden;
    if (row >= 0) {
      const float* one = states_.data() + static_cast<size_t>(row) * width_;
      for (size_t i = 0; i < width_; ++i) sum[i] += one[i];
      ++count;
    }
    node = tree_[node].parent;
  } while (node != TokenTree::kRoot && node != before && record.node != before);
  return count;
}

}  // namespace toolprm
