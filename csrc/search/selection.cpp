#include "search/selection.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <unordered_map>
#include <utility>

#include "search/whole_round.h"

namespace toolprm {

std::vector<int32_t> Selection::scored() {
  std::vector<int32_t> result;
  for (int32_t id : pool_.round()) {
    Branch& branch = pool_[id];
    if (branch.held) continue;
    if (branch.step >= 0) {
      branch.judged = log_.score(branch.step, branch.state.finished());
      branch.score = branch.judged * log_.weight(branch.step);
    }
    if (!branch.companion) result.push_back(id);
  }
  return result;
}

void Selection::let_go(int32_t id, std::string_view fate) {
  if (stays(id)) {
    pool_[id].companion = true;
  } else {
    pool_.drop(id, fate);
  }
}

void Selection::rank(std::vector<int32_t>& candidates) const {
  std::stable_sort(candidates.begin(), candidates.end(), [&](int32_t a, int32_t b) {
    if (pool_[a].score != pool_[b].score) return pool_[a].score > pool_[b].score;
    return pool_[a].votes > pool_[b].votes;
  });
}

std::vector<int32_t> Selection::merged(const std::vector<int32_t>& ranked) {
  std::unordered_map<uint64_t, int32_t> first;
  std::vector<int32_t> distinct;
  for (int32_t id : ranked) {
    const uint64_t key = segmenter_.merge_key(pool_[id].state, pool_[id].text);
    const auto [known, inserted] = first.emplace(key, id);
    if (inserted) {
      distinct.push_back(id);
    } else if (stays(id)) {  // the equal one has other tokens, so it may go on in another way
      pool_[known->second].votes += std::exchange(pool_[id].votes, 0);
      pool_[id].companion = true;
    } else {
      pool_.merge(id, known->second);
    }
  }
  return distinct;
}

namespace {

// Fills the N places. One decision has one place, though its best variant of each continuation is
// kept with it: what ends here is not scored until the next round. Other variants take places that
// stay empty. The best response that has ended is always kept: it costs nothing, and what outscores
// it now may end worse. A search that doubts drops what is far below the best, so that it comes
// back to one beam and to the cost of greedy decoding.
class Places {
 public:
  Places(const SearchOptions& options, const BranchPool& pool, double bar)
      : options_(options), pool_(pool), bar_(bar) {}

  bool take(int32_t id) {
    const Branch& branch = pool_[id];
    if (branch.score < bar_ && !branch.ended()) return false;
    const bool first_ended = branch.state.finished() && !ended_;
    ended_ |= branch.state.finished();
    const auto known = decisions_.find(branch.decision);
    if (branch.carried() || known == decisions_.end()) return take_place(id, first_ended);
    const auto way = static_cast<uint8_t>(1u << static_cast<int>(branch.leads));
    if (options_.way_floor <= 0 && !(known->second.ways & way) &&
        branch.score >= kWorthKeeping * known->second.score) {
      known->second.ways |= way;
      extra_.push_back(id);
      return true;
    }
    if (kept_.size() >= options_.beams) return false;
    variants_.push_back(id);
    return true;
  }

  const std::vector<int32_t>& variants() const { return variants_; }
  // The places are filled with variants; false when there is none left.
  bool take_variant(int32_t id) {
    if (kept_.size() >= options_.beams) return false;
    kept_.push_back(id);
    return true;
  }
  std::vector<int32_t> all() const {
    std::vector<int32_t> result = kept_;
    result.insert(result.end(), extra_.begin(), extra_.end());
    return result;
  }

 private:
  struct Decision {
    uint8_t ways;  // as bits
    double score;
  };

  bool take_place(int32_t id, bool first_ended) {
    const Branch& branch = pool_[id];
    if (kept_.size() >= options_.beams) {
      if (options_.way_floor > 0 || !first_ended) return false;
      extra_.push_back(id);
      return true;
    }
    kept_.push_back(id);
    const auto way = static_cast<uint8_t>(1u << static_cast<int>(branch.leads));
    if (!branch.carried()) decisions_[branch.decision] = {way, branch.score};
    return true;
  }

  const SearchOptions& options_;
  const BranchPool& pool_;
  double bar_;
  bool ended_ = false;
  std::vector<int32_t> kept_, extra_, variants_;
  std::unordered_map<uint64_t, Decision> decisions_;
};

}  // namespace

std::vector<int32_t> Selection::kept(const std::vector<int32_t>& distinct) {
  std::vector<int32_t> beams;
  if (options_.whole_responses) {
    beams = keep_whole(distinct, options_, pool_);
  } else {
    const double bar = distinct.empty() ? 0 : (1 - options_.doubt) * pool_[distinct.front()].score;
    Places places(options_, pool_, bar);
    for (int32_t id : distinct) {
      if (!places.take(id)) let_go(id, "outscored");
    }
    for (int32_t id : places.variants()) {
      if (!places.take_variant(id)) let_go(id, "variant");
    }
    beams = places.all();
  }
  std::stable_sort(beams.begin(), beams.end(),
                   [&](int32_t a, int32_t b) { return pool_[a].score > pool_[b].score; });
  return beams;
}

bool Selection::settled(const std::vector<int32_t>& kept) const {
  const auto ended = [&](int32_t id) { return pool_[id].ended(); };
  if (std::all_of(kept.begin(), kept.end(), ended)) return true;
  return options_.falling() && pool_[kept.front()].state.finished();
}

int32_t Selection::greedy_path() const {
  if (options_.margin <= 0) return -1;
  for (int32_t id : pool_.round()) {
    if (pool_[id].on_greedy_path) return id;
  }
  return -1;
}

bool Selection::contested(const std::vector<int32_t>& kept, int32_t greedy) const {
  if (pool_[greedy].ended()) return false;
  double best = 0;
  for (int32_t id : kept) {
    if (pool_[id].state.finished()) best = std::max(best, pool_[id].score);
  }
  if (!options_.falling() || best == 0 || std::isinf(options_.margin)) return true;
  return std::log(best) - std::log(pool_[greedy].score) < options_.margin;
}

void Selection::prune() {
  const std::vector<double> scores = decided_scores();
  if (scores.size() < options_.beams) return;
  std::vector<double> best = scores;
  std::nth_element(best.begin(), best.begin() + (options_.beams - 1), best.end(), std::greater<>());
  const double bar = best[options_.beams - 1];
  for (int32_t id : pool_.round()) {
    Branch& branch = pool_[id];
    if (branch.candidate || branch.companion) continue;
    if (log_score(branch.step, branch.since_step, branch.node) >= bar) continue;
    if (stays(id)) branch.draws.clear();
    let_go(id, "outscored");
  }
}

// The best logarithmic score of each decision; beams that have ended count for themselves.
std::vector<double> Selection::decided_scores() const {
  std::unordered_map<uint64_t, double> best;
  for (int32_t id : pool_.round()) {
    const Branch& branch = pool_[id];
    if (!branch.candidate || branch.companion) continue;
    double more = 0;
    for (int32_t step = branch.step; step != branch.beam_step; step = log_[step].previous) {
      more += log_[step].logprob_sum;
    }
    const uint64_t key = branch.carried() ? mix64(static_cast<uint64_t>(id), 41) : branch.decision;
    const double score = log_score(branch.beam_step, more, log_[branch.step].node);
    const auto [known, inserted] = best.emplace(key, score);
    if (!inserted) known->second = std::max(known->second, score);
  }
  std::vector<double> scores;
  for (const auto& [key, score] : best) scores.push_back(score);
  return scores;
}

// The logarithm of what a response scores at most whose scored steps end at `last` and whose tokens
// since, up to `node`, have the log-probability `more`.
double Selection::log_score(int32_t last, double more, int32_t node) const {
  const double before = last < 0 ? 0 : log_[last].log_product;
  const double least = last < 0 ? 0 : std::log(log_[last].least);
  const double judged =
      options_.aggregate == Aggregate::kProd ? before + more : std::min(least, more);
  return judged + std::log(gap_weight(options_.policy_gap, log_.tree().gap(node)));
}

}  // namespace toolprm
