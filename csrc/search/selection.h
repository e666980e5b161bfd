// The end of a round: candidates are scored, equal ones merge, and N of them are kept.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "format/step_segmenter.h"
#include "search/branch_pool.h"
#include "search/options.h"
#include "search/step_log.h"

namespace toolprm {

// A score below this share of a better one's gets no round of draws.
inline constexpr double kWorthKeeping = 0.1;

class Selection {
 public:
  Selection(const StepSegmenter& segmenter, const SearchOptions& options, const StepLog& log,
            BranchPool& pool)
      : segmenter_(segmenter), options_(options), log_(log), pool_(pool) {}

  // Gives the candidates that are not held their scores, and returns them without the companion.
  std::vector<int32_t> scored();
  // Best first; draws break ties.
  void rank(std::vector<int32_t>& candidates) const;
  // One of each set of equal candidates: the best keeps its own KV, and gets the draws of all.
  std::vector<int32_t> merged(const std::vector<int32_t>& ranked);
  // The next beams, best first; all others are dropped. With a margin, the greedy path becomes the
  // companion where it would be merged or dropped.
  std::vector<int32_t> kept(const std::vector<int32_t>& distinct);
  // Whether nothing alive can win over the first of `kept`.
  bool settled(const std::vector<int32_t>& kept) const;
  // The living greedy path of a search with a margin, or -1.
  int32_t greedy_path() const;
  // Whether the greedy path is unfinished and may still be the answer in place of the best of
  // `kept`.
  bool contested(const std::vector<int32_t>& kept, int32_t greedy) const;
  // Drops open branches that can't be among the N any more, where rewards are the policy's
  // probabilities: there a branch only loses with every token.
  void prune();

 private:
  bool stays(int32_t id) const { return options_.margin > 0 && pool_[id].on_greedy_path; }
  void let_go(int32_t id, std::string_view fate);
  double log_score(int32_t last, double more, int32_t node) const;
  std::vector<double> decided_scores() const;

  const StepSegmenter& segmenter_;
  const SearchOptions& options_;
  const StepLog& log_;
  BranchPool& pool_;
};

}  // namespace toolprm
