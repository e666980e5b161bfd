#include "search/doubt.h"

#include <algorithm>

namespace toolprm {

void Doubt::begin_round(size_t beams) {
  widened_ = threshold_ >= 1;
  deferred_.assign(beams, 0);
}

uint64_t Doubt::count(int32_t beam, uint32_t draws) {
  if (widened_) return draws;
  deferred_[beam] += draws;
  return 1;
}

// A step is never likelier right than the steps before it, so the most that a beam's other
// candidates can add is its score minus that of the round's best candidate, both without the
// policy's evidence: that never makes the most likely step doubtful. They waited in the sequences
// that they branch off from, whose cells the most likely path holds anyway.
uint64_t Doubt::look_further(BranchPool& pool, std::vector<bool>& opened) {
  widened_ = true;
  double best = -1;
  for (int32_t id : pool.round()) {
    if (!pool[id].held && !pool[id].companion) best = std::max(best, pool[id].judged);
  }
  const bool lost = best < 0;  // the most likely paths died
  std::vector<bool> doubtful;
  for (const Branch& beam : pool.before()) {
    const double before = beam.step < 0 ? 1 : beam.judged;
    doubtful.push_back(before - std::max(best, 0.0) > 1 - threshold_ || (lost && threshold_ > 0));
  }
  opened.assign(doubtful.size(), false);
  for (int32_t id : pool.round()) {
    Branch& branch = pool[id];
    if (branch.held && doubtful[branch.beam]) {
      branch.held = false;
      opened[branch.beam] = true;
    } else if (branch.held) {
      pool.remove(id);
    } else if (!doubtful[branch.beam] && !branch.carried() && !branch.companion) {
      branch.draws.assign(1, 0);
      branch.votes = 1;
    }
  }
  uint64_t tokens = 0;
  for (size_t beam = 0; beam < opened.size(); ++beam) {
    if (opened[beam]) tokens += deferred_[beam];
  }
  return tokens;
}

}  // namespace toolprm
