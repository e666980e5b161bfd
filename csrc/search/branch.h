// A partial response while the search grows it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "format/continuation.h"
#include "format/step_segmenter.h"
#include "search/branch_cache.h"
#include "search/sampler.h"
#include "search/token_tree.h"

namespace toolprm {

struct Branch {
  // What is written.
  int32_t node = TokenTree::kRoot;
  int32_t step = -1;  // its last record in the log
  SegmenterState state;
  std::string text;
  uint32_t text_tokens = 0;  // outside calls
  uint32_t sampled = 0;      // tokens that were not forced
  double since_step = 0;     // log-probability since the last record
  CacheSlot slot;

  // How it continues.
  std::shared_ptr<const Distribution> next;
  std::vector<uint32_t> draws;
  std::vector<int32_t> forced;  // tokens that must follow, last first
  bool greedy = false;          // takes the most likely token, drawn or not
  bool follow = false;          // the same, on an undrawn way until it decides a step
  bool held = false;           // waits until its beam is widened: neither decoded nor scored before
  bool on_greedy_path = true;  // every sampled token was the most likely one
  // The greedy path where it is no beam: it takes the most likely tokens only, and neither merges
  // nor competes with the others.
  bool companion = false;

  // The beam that it continues.
  int32_t beam = 0;           // its rank
  int32_t beam_step = -1;     // its last record
  uint32_t beam_text = 0;     // bytes of its text
  int32_t trace_parent = -1;  // the node of that beam
  int32_t trace_id = -1;      // the node that this branch will be

  // As a candidate for the next beams.
  bool candidate = false;
  bool at_limit = false;  // a candidate that may not grow
  uint64_t decision = 0;  // what its first new step decided
  // Where the token that decided it leads beyond its first step: nowhere, to another call or
  // argument, or towards the end.
  Continuation leads = Continuation::kNone;
  uint32_t votes = 0;  // draws of this candidate and of those merged into it
  double judged = 0;   // by the reward alone
  double score = 0;    // with the policy's evidence

  bool ended() const { return state.finished() || at_limit; }
  // Whether it ended in an earlier round and is kept.
  bool carried() const { return step == beam_step; }
};

}  // namespace toolprm
