// How a branch takes a token: its text, its state and the steps that the token decides.
#pragma once

#include <memory>
#include <vector>

#include "format/step_segmenter.h"
#include "search/branch.h"
#include "search/options.h"
#include "search/step_log.h"
#include "search/vocabulary.h"

namespace toolprm {

// A token with what the tree keeps of it; a forced one has zeros.
struct Taken {
  int32_t token;
  float logprob = 0, behind = 0, entropy = 0;
  bool forced = false;
};

class Growth {
 public:
  Growth(const StepSegmenter& segmenter, const Vocabulary& vocabulary, const SearchOptions& options,
         StepLog& log)
      : segmenter_(segmenter), vocabulary_(vocabulary), options_(options), log_(log) {}

  // Appends a token; false when the response can no longer become a valid one: branch.state then
  // says of what it died.
  bool take(Branch& branch, const Taken& taken);
  // Whether a branch that has not reached a boundary is beyond the limits.
  bool too_long(const Branch& branch) const;

 private:
  bool read(Branch& branch, int32_t token);
  void log_steps(Branch& branch);
  bool runs_away(const Branch& branch) const;

  const StepSegmenter& segmenter_;
  const Vocabulary& vocabulary_;
  const SearchOptions& options_;
  StepLog& log_;
  std::vector<Step> steps_;  // scratch
};

}  // namespace toolprm
