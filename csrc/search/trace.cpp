#include "search/trace.h"

#include <algorithm>

namespace toolprm {

void Trace::widen(const std::vector<bool>& beams, uint32_t round) {
  widened_ = beams;
  for (auto node = nodes_.rbegin(); node != nodes_.rend() && node->round == round; ++node) {
    node->widened = beams[node->beam];
  }
}

void Trace::add(const Branch& branch, const StepLog& log, uint32_t round, std::string_view fate,
                int32_t merged_into) {
  if (!on_) return;
  TraceNode node{};
  node.id = branch.trace_id;
  node.parent = branch.trace_parent;
  node.round = round;
  node.beam = branch.beam;
  node.text = branch.text.substr(branch.beam_text);
  for (int32_t step = branch.step; step != branch.beam_step; step = log[step].previous) {
    node.steps.push_back(step);
  }
  std::reverse(node.steps.begin(), node.steps.end());
  node.last_step = branch.step;
  node.tokens = log.tree().depth(branch.node);
  node.score = branch.score;
  node.draws = static_cast<uint32_t>(branch.draws.size());
  node.greedy = branch.greedy;
  node.finished = branch.state.finished();
  node.widened = widened_[branch.beam];
  node.fate = fate;
  node.merged_into = merged_into;
  nodes_.push_back(std::move(node));
}

}  // namespace toolprm
