#include "search/growth.h"

namespace toolprm {

namespace {

// A request may mean one call twice; more copies show that the model repeats itself.
constexpr uint32_t kMaxCopies = 3;

}  // namespace

bool Growth::take(Branch& branch, const Taken& taken) {
  const auto draws = static_cast<uint32_t>(branch.draws.size());
  TokenTree& tree = log_.tree();
  branch.node = tree.add(branch.node, taken.token, draws, taken.logprob, taken.behind,
                         taken.entropy, taken.forced);
  branch.since_step += taken.logprob;
  if (!taken.forced) ++branch.sampled;
  steps_.clear();
  if (!read(branch, taken.token)) return false;
  if (steps_.empty()) return true;
  tree[branch.node].boundary = true;
  log_steps(branch);
  if (runs_away(branch)) {
    branch.state.death = Death::kRunaway;
    return false;
  }
  branch.candidate = !options_.whole_responses || branch.state.finished();
  branch.votes = draws;
  branch.at_limit = tree.depth(branch.node) >= options_.max_tokens;
  return true;
}

bool Growth::read(Branch& branch, int32_t token) {
  if (vocabulary_.ends[token]) return segmenter_.finish(branch.state, steps_);
  branch.text += vocabulary_.text(token);
  if (!segmenter_.advance(branch.state, branch.text, steps_)) return false;
  const bool text_ends = branch.state.in_text() && ++branch.text_tokens >= options_.max_text_tokens;
  return !text_ends || segmenter_.finish(branch.state, steps_);
}

void Growth::log_steps(Branch& branch) {
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    const bool continues = another_follows(segmenter_, steps_, i, branch.state);
    branch.step = log_.add(step, branch.step, branch.node, continues,
                           static_cast<uint32_t>(branch.draws.size()), branch.greedy);
    branch.since_step = 0;
    if (i == 0) {
      branch.decision = step.decided;
      branch.leads = Continuation::kNone;
    } else {
      branch.leads = continues ? Continuation::kCall : Continuation::kEnd;
    }
  }
}

// If no draw leads here, a repeated call is never followed.
bool Growth::runs_away(const Branch& branch) const {
  for (int32_t at = branch.step; at != branch.beam_step && at >= 0; at = log_[at].previous) {
    const uint32_t copies = log_[at].copies;
    if (copies >= kMaxCopies) return true;
    if (copies > 0 && branch.draws.empty() && !branch.greedy && options_.follow_argmax) return true;
  }
  return false;
}

bool Growth::too_long(const Branch& branch) const {
  if (branch.candidate) return false;
  const uint32_t length = log_.tree().depth(branch.node);
  const uint32_t before = branch.step < 0 ? 0 : log_.depth(log_[branch.step]);
  return length >= options_.max_tokens || length - before >= options_.max_step_tokens;
}

}  // namespace toolprm
