// The branches of a search: which are alive, which of them this round grows, and which are its
// beams. Dropping one frees its cells and puts its fate into the trace.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "search/branch.h"
#include "search/branch_cache.h"
#include "search/step_log.h"
#include "search/trace.h"

namespace toolprm {

class BranchPool {
 public:
  BranchPool(BranchCache& cache, const StepLog& log, bool trace)
      : cache_(cache), log_(log), trace_(trace) {}

  // The branch of the empty response; the only beam.
  Branch& add_root();
  // A copy of a branch that shares its cells, as part of the round. Returns its id.
  int32_t fork(int32_t parent);
  bool alive(int32_t id) const { return branches_[id] != nullptr; }
  int32_t size() const { return static_cast<int32_t>(branches_.size()); }
  Branch& operator[](int32_t id) { return *branches_[id]; }
  const Branch& operator[](int32_t id) const { return *branches_[id]; }

  // A branch that its children replace, or of which nothing was decoded.
  void remove(int32_t id);
  void drop(int32_t id, std::string_view fate);
  // Of two equal candidates the better one gets the draws of both.
  void merge(int32_t id, int32_t into);
  void note_kept(int32_t id);
  // The beams whose drawn candidates are decoded in this round, too.
  void note_widened(const std::vector<bool>& beams) { trace_.widen(beams, rounds_); }

  // A round that grows these branches, or ends with them.
  void begin_round(std::vector<int32_t> beams);
  void set_beams(std::vector<int32_t> beams) { beams_ = std::move(beams); }
  const std::vector<int32_t>& beams() const { return beams_; }
  // The beams as they were when the round began: the answer if all die, or the search is stopped.
  std::vector<Branch>& before() { return before_; }
  const std::vector<Branch>& before() const { return before_; }
  // The living branches of the round.
  std::vector<int32_t> round() const;
  // It is decoded last from now on.
  void move_to_end(int32_t id);
  void remove_dead();
  uint32_t rounds() const { return rounds_; }
  const Trace& trace() const { return trace_; }

 private:
  BranchCache& cache_;
  const StepLog& log_;
  Trace trace_;
  uint32_t rounds_ = 0;
  std::vector<std::unique_ptr<Branch>> branches_;
  std::vector<int32_t> beams_;
  std::vector<Branch> before_;
  std::vector<int32_t> round_;
};

}  // namespace toolprm
