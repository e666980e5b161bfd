#include "search/step_search.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <unordered_set>

#include "search/eviction.h"

namespace toolprm {

StepSearch::StepSearch(std::shared_ptr<const StepSegmenter> segmenter,
                       std::shared_ptr<const Vocabulary> vocabulary,
                       std::shared_ptr<const Grounding> grounding, const SearchOptions& options,
                       const CacheLimits& limits)
    : segmenter_(std::move(segmenter)),
      vocabulary_(std::move(vocabulary)),
      options_(options),
      log_(segmenter_, vocabulary_, std::move(grounding), options_),
      cache_(limits.sequences, limits.cells, limits.prompt_tokens, options_.max_batch_tokens),
      pool_(cache_, log_, options_.trace),
      expansion_(*segmenter_, *vocabulary_, options_, log_, pool_),
      selection_(*segmenter_, options_, log_, pool_),
      doubt_(options_.doubt) {
  counts_.cells_max = limits.prompt_tokens;
}

void StepSearch::start(Distribution next) {
  vocabulary_->check(next.tokens);
  pool_.add_root().next = std::make_shared<const Distribution>(std::move(next));
  begin_round(pool_.beams());
}

void StepSearch::start_forced(const std::vector<int32_t>& tokens) {
  vocabulary_->check(tokens);
  pool_.add_root().forced.assign(tokens.rbegin(), tokens.rend());
  begin_round(pool_.beams());
}

void StepSearch::begin_round(std::vector<int32_t> beams) {
  pool_.begin_round(beams);
  doubt_.begin_round(beams.size());
  if (doubt_.widened()) {
    std::vector<bool> widened;
    for (int32_t id : beams) widened.push_back(!pool_[id].companion);
    pool_.note_widened(widened);
  }
  for (int32_t id : beams) {
    if (!pool_[id].candidate) expansion_.begin(id, !doubt_.widened());
  }
}

void StepSearch::set_forced(int32_t id, const std::vector<int32_t>& tokens) {
  if (id < 0 || id >= pool_.size()) {
    throw std::invalid_argument("there is no branch " + std::to_string(id));
  }
  vocabulary_->check(tokens);
  if (!pool_.alive(id)) return;
  pool_[id].forced.assign(tokens.rbegin(), tokens.rend());
  if (!pool_[id].candidate) expansion_.take_forced(id);
}

// Batches

bool StepSearch::needs_decode(const Branch& branch) const {
  if (branch.held) return false;
  if (branch.next != nullptr) return false;  // though its cells may have been freed since
  if (log_.tree().depth(branch.node) == branch.slot.cached) return false;
  return !branch.candidate || (options_.states_wanted && log_.tree()[branch.node].hidden < 0);
}

bool StepSearch::next_batch(SearchBatch& batch) {
  batch = SearchBatch();
  cache_.begin_batch();
  if (stopped_) return false;
  const bool prunes = options_.policy_rewards && options_.falling() && !options_.whole_responses;
  if (prunes && doubt_.widened()) selection_.prune();
  while (true) {
    pool_.remove_dead();
    const bool wanted = fill(batch);
    if (!cache_.rows().empty()) break;
    if (!wanted) return false;
    if (cache_.waits()) break;
    evict();
  }
  batch.ops = cache_.take_ops();
  expected_logits_ = batch.logits_at.size();
  expected_states_ = batch.hidden_at.size();
  return true;
}

// A row for every branch that finds room; the others wait for a later batch. Returns whether any
// branch needs one.
bool StepSearch::fill(SearchBatch& batch) {
  bool wanted = false, rows_wait = false;
  const auto states = [&](const TokenNode& token) { return state_wanted(token); };
  std::vector<int32_t> order = pool_.round();
  std::stable_partition(order.begin(), order.end(),
                        [&](int32_t id) { return !pool_[id].companion; });
  for (int32_t id : order) {
    Branch& branch = pool_[id];
    if (!needs_decode(branch)) continue;
    wanted = true;
    if (cache_.full() || (branch.companion && rows_wait)) break;
    // What is forced to follow needs no distribution, nor does what has ended.
    const bool logits = branch.forced.empty() && !branch.ended();
    if (!cache_.add_row(id, branch.node, log_.tree(), logits, branch.slot, states, batch)) {
      rows_wait = true;
    }
  }
  return wanted;
}

// The companion costs the others no cells: it gives up its own first, and is decoded again once
// nothing else waits. So it is dropped only where it does not fit alone.
void StepSearch::evict() {
  const std::vector<int32_t> round = pool_.round();
  const bool others_wait = std::any_of(round.begin(), round.end(), [&](int32_t id) {
    return !pool_[id].companion && needs_decode(pool_[id]);
  });
  std::vector<Occupant> occupants;
  for (int32_t id : round) {
    Branch& branch = pool_[id];
    if (branch.companion && others_wait) {
      if (branch.slot.cached == 0) continue;
      cache_.forget(branch.slot);
      return;
    }
    const double logprob = branch.step < 0 ? 0.0 : log_[branch.step].logprob_total;
    occupants.push_back({id, branch.held, needs_decode(branch), logprob, branch.slot.cached,
                         branch.slot.evictions});
  }
  const Eviction chosen = choose_eviction(std::move(occupants));
  if (chosen.gives_up) {
    pool_.drop(chosen.branch, "unfinished");
    return;
  }
  Branch& branch = pool_[chosen.branch];
  ++branch.slot.evictions;
  cache_.forget(branch.slot);
  pool_.move_to_end(chosen.branch);
}

void StepSearch::observe(std::vector<Distribution> next, const float* hidden, size_t width) {
  check_output(next, hidden != nullptr, width);
  const std::vector<BranchCache::Row> rows = cache_.rows();
  expected_logits_ = expected_states_ = 0;
  counts_.rows_max = std::max(counts_.rows_max, static_cast<uint32_t>(rows.size()));
  counts_.cells_max = std::max(counts_.cells_max, cache_.cells());
  size_t distribution = 0;
  for (const BranchCache::Row& row : rows) {
    Branch& branch = pool_[row.branch];
    log_.tree().tail(branch.node, row.tokens, path_);
    branch.slot.cached += row.tokens;
    for (int32_t node : path_) {
      TokenNode& token = log_.tree()[node];
      count(branch, token);
      if (hidden != nullptr && state_wanted(token)) {
        token.hidden = log_.add_state(hidden, width);
        hidden += width;
      }
    }
    if (row.logits) {
      branch.next = std::make_shared<const Distribution>(std::move(next[distribution++]));
    }
  }
  cache_.begin_batch();
  // Expansion removes its branch, so all rows are read first.
  for (const BranchCache::Row& row : rows) {
    if (row.logits && !pool_[row.branch].candidate) {
      expansion_.expand(row.branch, !doubt_.widened());
    }
  }
}

void StepSearch::check_output(const std::vector<Distribution>& next, bool states,
                              size_t width) const {
  if (next.size() != expected_logits_ || (!states && expected_states_ > 0)) {
    throw std::invalid_argument("the output does not have the shape of the batch");
  }
  for (const Distribution& row : next) vocabulary_->check(row.tokens);
  if (expected_states_ > 0 && log_.state_width() != 0 && width != log_.state_width()) {
    throw std::invalid_argument("hidden has another width than in the batches before");
  }
}

void StepSearch::count(const Branch& branch, const TokenNode& token) {
  if (token.forced) {
    ++counts_.forced_tokens;
  } else {
    ++counts_.decode_tokens;
    counts_.drawn_tokens += doubt_.count(branch.beam, token.draws);
  }
}

void StepSearch::forget_cells() {
  expected_logits_ = expected_states_ = 0;
  cache_.take_back_rows();
  for (int32_t id = 0; id < pool_.size(); ++id) {
    if (pool_.alive(id) && pool_[id].slot.kv != 0) cache_.forget(pool_[id].slot);
  }
  cache_.take_ops();
}

void StepSearch::no_room() {
  if (cache_.rows().size() > 1) {
    cache_.halve_rows();
    cache_.take_back_rows();
  } else {
    cache_.take_back_rows();
    evict();
  }
}

uint64_t StepSearch::planned_tokens() const {
  uint64_t tokens = counts_.decode_tokens;
  const TokenTree& tree = log_.tree();
  for (const BranchCache::Row& row : cache_.rows()) {
    int32_t node = pool_[row.branch].node;
    for (uint32_t i = 0; i < row.tokens; ++i, node = tree[node].parent) {
      if (!tree[node].forced) ++tokens;
    }
  }
  return tokens;
}

// Stopping

// A branch at a boundary stays a candidate. A whole response that is still being written
// counts for what it has decided; every other open branch is replaced by the beam that it
// continues. A beam all of whose branches have died is no answer while there are others, nor is one
// that half of its draws have left behind: what they decided replaces it.
void StepSearch::stop() {
  if (stopped_ || done_) return;
  stopped_ = true;
  doubt_.widen();
  cache_.begin_batch();
  std::vector<Branch>& before = pool_.before();
  if (pool_.size() == 0) before.push_back(pool_.add_root());
  for (Branch& beam : before) {
    if (beam.step < 0) beam.score = 1;  // nothing is decided yet, so nothing is wrong
  }
  std::vector<Outcome> outcomes(before.size());
  before.erase(std::remove_if(before.begin(), before.end(),
                              [](const Branch& beam) { return beam.companion; }),
               before.end());
  for (int32_t id : pool_.round()) settle_at_stop(id, outcomes);
  const auto alive = [](const Outcome& of) { return of.alive; };
  if (std::none_of(outcomes.begin(), outcomes.end(), alive)) return;
  const auto replaced = [&](const Branch& beam) {
    const Outcome& of = outcomes[beam.beam];
    return beam.ended() || !of.alive || (of.candidate && of.decided >= of.open);
  };
  before.erase(std::remove_if(before.begin(), before.end(), replaced), before.end());
}

void StepSearch::settle_at_stop(int32_t id, std::vector<Outcome>& outcomes) {
  Branch& branch = pool_[id];
  if (branch.held) {  // it was never decoded, so it does not count
    pool_.remove(id);
    return;
  }
  if (branch.companion) {
    if (!branch.state.finished()) pool_.drop(id, "unfinished");
    return;
  }
  Outcome& outcome = outcomes[branch.beam];
  outcome.alive = true;
  const auto draws = static_cast<uint32_t>(branch.draws.size());
  const bool decided = branch.candidate ? scorable(branch) || branch.state.finished()
                                        : branch.step != branch.beam_step;
  outcome.candidate |= decided;
  (decided ? outcome.decided : outcome.open) += draws;
  if (!decided) {
    pool_.drop(id, "unfinished");
  } else if (!branch.candidate) {
    branch.candidate = true;
    branch.votes = draws;
  }
}

// Without the state of its boundary token a step can have no reward.
bool StepSearch::scorable(const Branch& branch) const {
  if (!options_.states_wanted || branch.step < 0) return true;
  return log_[branch.step].scored || log_.state(log_[branch.step]) != nullptr;
}

// Rewards and the end of a round

std::vector<int32_t> StepSearch::unscored() const {
  std::unordered_set<int32_t> seen;
  std::vector<int32_t> result;
  for (int32_t id : pool_.round()) {
    const Branch& branch = pool_[id];
    if (!branch.candidate || branch.held) continue;
    for (int32_t step = branch.step; step >= 0 && !log_[step].scored; step = log_[step].previous) {
      if (stopped_ && options_.states_wanted && log_.state(log_[step]) == nullptr) continue;
      if (seen.insert(step).second) result.push_back(step);
    }
  }
  std::sort(result.begin(), result.end());
  return result;
}

void StepSearch::keep(const std::vector<float>& rewards) {
  const std::vector<int32_t> fresh = unscored();
  if (rewards.size() != fresh.size()) {
    throw std::invalid_argument("there must be one reward for each step that waits for one");
  }
  for (const float reward : rewards) {
    if (!(reward >= 0.0f && reward <= 1.0f)) {  // NaN, too
      throw std::invalid_argument("a reward must be a number in 0 .. 1");
    }
  }
  for (size_t i = 0; i < fresh.size(); ++i) log_.set_reward(fresh[i], rewards[i]);
  std::vector<int32_t> ranked = selection_.scored();
  if (settled_) {
    ranked = pool_.beams();
    ranked.erase(
        std::remove_if(ranked.begin(), ranked.end(),
                       [&](int32_t id) { return !pool_.alive(id) || pool_[id].companion; }),
        ranked.end());
    finish_round(std::move(ranked));
    return;
  }
  if (!doubt_.widened()) {
    std::vector<bool> opened;
    counts_.drawn_tokens += doubt_.look_further(pool_, opened);
    if (std::find(opened.begin(), opened.end(), true) != opened.end()) {
      ++counts_.widened;
      pool_.note_widened(opened);
      return;
    }
  }
  selection_.rank(ranked);
  if (stopped_ && !options_.policy_rewards) drop_replaced(ranked);
  std::vector<int32_t> distinct = selection_.merged(ranked);
  if (stopped_) {  // there is no other round in which an open response could end
    std::stable_partition(distinct.begin(), distinct.end(),
                          [&](int32_t id) { return pool_[id].state.finished(); });
  }
  finish_round(selection_.kept(distinct));
}

// After a stop a beam is no answer where some of its draws have found something good.
void StepSearch::drop_replaced(const std::vector<int32_t>& ranked) {
  const auto replaced = [&](const Branch& beam) {
    return std::any_of(ranked.begin(), ranked.end(), [&](int32_t id) {
      return pool_[id].beam == beam.beam && pool_[id].score >= 0.5 * beam.score;
    });
  };
  std::vector<Branch>& before = pool_.before();
  before.erase(std::remove_if(before.begin(), before.end(), replaced), before.end());
}

void StepSearch::finish_round(std::vector<int32_t> kept) {
  if (kept.empty() && lost_.empty()) {
    for (const Branch& beam : pool_.before()) {
      if (!beam.companion) lost_.push_back(beam);
    }
  }
  done_ = stopped_ || options_.whole_responses;
  settled_ = settled_ || (!done_ && (kept.empty() || selection_.settled(kept)));
  const int32_t greedy = selection_.greedy_path();
  const bool contested = greedy >= 0 && selection_.contested(kept, greedy);
  if (settled_ && contested) follow_greedy_path_alone(kept, greedy);
  if (greedy >= 0 && pool_[greedy].companion) kept.push_back(greedy);
  for (int32_t id : kept) {
    if (!pool_[id].carried()) pool_.note_kept(id);
  }
  done_ = done_ || (settled_ && !contested);
  if (done_) {
    pool_.set_beams(std::move(kept));
  } else {
    begin_round(std::move(kept));
  }
}

// All that may be the answer is known but the end of the greedy path: the others grow no more.
void StepSearch::follow_greedy_path_alone(std::vector<int32_t>& kept, int32_t greedy) {
  kept.erase(std::remove(kept.begin(), kept.end(), greedy), kept.end());
  for (int32_t id : kept) pool_[id].at_limit = !pool_[id].state.finished();
  pool_[greedy].companion = true;
}

// Answers

Answer StepSearch::answer(const Branch& branch) const {
  Answer result{branch.text,
                log_.chain(branch.step),
                {},
                branch.score,
                0,
                branch.votes,
                branch.state.finished(),
                branch.on_greedy_path,
                branch.companion};
  const TokenTree& tree = log_.tree();
  for (int32_t node = branch.node; node != TokenTree::kRoot; node = tree[node].parent) {
    result.tokens.push_back(tree[node].token);
    result.logprob += tree[node].logprob;
  }
  std::reverse(result.tokens.begin(), result.tokens.end());
  return result;
}

std::vector<Answer> StepSearch::beams() const {
  if (done_) return answers();
  std::vector<Answer> result;
  for (const Branch& branch : pool_.before()) result.push_back(answer(branch));
  for (const Branch& branch : lost_) result.push_back(answer(branch));
  return result;
}

std::vector<Answer> StepSearch::answers() const {
  std::vector<Answer> result;
  for (int32_t id : pool_.beams()) {
    if (pool_.alive(id) && !pool_[id].companion) result.push_back(answer(pool_[id]));
  }
  if (stopped_ || result.empty()) {
    for (const Branch& branch : lost_.empty() ? pool_.before() : lost_) {
      result.push_back(answer(branch));
    }
  }
  for (int32_t id : pool_.beams()) {  // without its end the greedy path is not compared
    if (pool_.alive(id) && pool_[id].companion && pool_[id].state.finished()) {
      result.push_back(answer(pool_[id]));
    }
  }
  // Finished first, unless after a stop an unfinished one scores 10 times more: to decline, say,
  // takes one token, and the right call takes many.
  double open = 0;
  for (const Answer& other : result) {
    if (stopped_ && !settled_ && !other.complete) open = std::max(open, other.score);
  }
  const auto tier = [&](const Answer& a) {
    if (!a.complete) return 1;
    return a.score < kWorthKeeping * open ? 2 : 0;
  };
  std::stable_sort(result.begin(), result.end(), [&](const Answer& a, const Answer& b) {
    return tier(a) != tier(b) ? tier(a) < tier(b) : a.score > b.score;
  });
  return result;
}

SearchCounts StepSearch::counts() const {
  SearchCounts counts = counts_;
  counts.rounds = pool_.rounds();
  return counts;
}

}  // namespace toolprm
