// Expands a branch by its next distribution: all draws are taken at once, equal ones become one
// child, and the continuations that no draw took are children, too.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "format/continuation.h"
#include "search/branch_pool.h"
#include "search/growth.h"
#include "search/options.h"
#include "search/sampler.h"

namespace toolprm {

struct NewBranch {
  int32_t branch, parent, token;
};

class Expansion {
 public:
  Expansion(const StepSegmenter& segmenter, const Vocabulary& vocabulary,
            const SearchOptions& options, StepLog& log, BranchPool& pool)
      : vocabulary_(vocabulary),
        options_(options),
        log_(log),
        pool_(pool),
        growth_(segmenter, vocabulary, options, log),
        sampler_(options.sampler),
        ways_(segmenter) {}

  // Begins the round of a beam: its draws, the tokens forced on it, and its children where its next
  // distribution is known. `hold`: children off the most likely path wait.
  void begin(int32_t beam, bool hold);
  // Replaces a branch by its children.
  void expand(int32_t branch, bool hold);
  // Appends the forced tokens up to the first boundary.
  void take_forced(int32_t branch);

  // Branches made since the last call that may grow.
  std::vector<NewBranch> take_new() { return std::exchange(new_, {}); }

 private:
  struct Child {
    int32_t place;  // in the distribution
    std::vector<uint32_t> draws;
    bool follow = false;  // undrawn: it must be followed to its next step
  };

  std::vector<Child>& draw(const Branch& parent);
  void add_ways(const Branch& parent);
  Way way(const Branch& parent, int32_t token);
  void add_child(int32_t parent, Child child, bool hold);

  const Vocabulary& vocabulary_;
  const SearchOptions& options_;
  StepLog& log_;
  BranchPool& pool_;
  Growth growth_;
  Sampler sampler_;
  WayFinder ways_;
  std::vector<NewBranch> new_;
  std::vector<int32_t> places_;  // scratch
  std::vector<Child> children_;  // scratch
  std::vector<Way> known_ways_;  // scratch
};

}  // namespace toolprm
