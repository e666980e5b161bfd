// Doubt: the most likely step of every beam goes first, and the other candidates are held. They are
// decoded only where the step costs so much that one of them may lift the round's best score.
#pragma once

#include <cstdint>
#include <vector>

#include "search/branch_pool.h"

namespace toolprm {

class Doubt {
 public:
  // `threshold` as SearchOptions::doubt; from 1 on nothing is held.
  explicit Doubt(double threshold) : threshold_(threshold) {}

  void begin_round(size_t beams);
  // Whether this round decodes all candidates.
  bool widened() const { return widened_; }
  void widen() { widened_ = true; }
  // Tokens that independent draws would have decoded for a token that `draws` draws took. What
  // belongs to held draws counts when their beam is widened.
  uint64_t count(int32_t beam, uint32_t draws);

  // After the most likely steps have their scores: releases the held candidates of doubtful beams
  // and removes the others. Returns the tokens that count now; `opened` says for each beam whether
  // it is widened.
  uint64_t look_further(BranchPool& pool, std::vector<bool>& opened);

 private:
  double threshold_;
  bool widened_ = true;
  std::vector<uint64_t> deferred_;  // by beam
};

}  // namespace toolprm
