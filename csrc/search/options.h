// The settings of one search, as plain values.
#pragma once

#include <cmath>
#include <cstdint>

#include "search/sampler.h"

namespace toolprm {

enum class Aggregate : uint8_t { kLast, kMin, kProd, kMean };

// What a score is multiplied with where the tokens are `gap` behind the most likely ones (see
// TokenTree::gap). A token that is 16 times less likely than another one says no more than that.
inline double gap_weight(double alpha, double gap) {
  constexpr double kLeast = -2.772588722239781;  // -log 16
  return std::exp(alpha * (gap > kLeast ? gap : kLeast));
}

struct SearchOptions {
  uint32_t beams = 2;         // N
  uint32_t root_draws = 16;   // draws of a response of which nothing has been sampled
  uint32_t beam_draws = 8;    // M
  bool follow_argmax = true;  // the most likely path is a candidate, drawn or not
  // How a call continues after a value is a finite choice: the likeliest token of each way is a
  // candidate too, drawn or not, where the policy gives it this log-probability. Above 0: none.
  float way_floor = 1;
  // Below 1 the most likely path goes first, and a beam's other candidates are decoded only where
  // they may raise the round's best score by more than 1 - doubt.
  double doubt = 1;
  bool whole_responses = false;  // rows continue over boundaries to the end: one round
  bool policy_rewards = false;   // a step's reward is the probability of its sampled tokens
  bool states_wanted = false;    // rewards read the hidden state of every boundary token
  bool pool_states = false;      // and the mean over the step's tokens
  Aggregate aggregate = Aggregate::kProd;
  double policy_gap = 0;  // alpha of gap_weight
  // Above 0 the greedy path is kept to its end, as a companion of the beams where it is none of
  // them. It can only be the answer where the logarithm of the best score is less than this above
  // that of its own; by how much less is the caller's choice.
  double margin = 0;
  uint32_t max_tokens = 512;
  uint32_t max_step_tokens = 512;
  uint32_t max_text_tokens = 64;
  uint32_t max_batch_tokens = 512;
  bool trace = false;
  SamplerOptions sampler;
  uint64_t prompt_hash = 0;  // of the prompt's tokens; the noise of the draws depends on it

  // Whether a score can only fall with every further step.
  bool falling() const { return aggregate == Aggregate::kProd || aggregate == Aggregate::kMin; }
};

}  // namespace toolprm
