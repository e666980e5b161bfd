// What happened to every candidate of a search, as data: a tree of nodes, each with the steps that
// it adds to its parent's and the fate it met.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "search/branch.h"
#include "search/step_log.h"

namespace toolprm {

struct TraceNode {
  int32_t id;
  int32_t parent;  // the node of the beam that it continues; -1: nothing was decided before it
  uint32_t round;
  int32_t beam;                // the rank of that beam
  std::string text;            // that it adds
  std::vector<int32_t> steps;  // records that it adds, first to last
  int32_t last_step;           // its last record, or -1
  uint32_t tokens;             // of the response
  double score;
  uint32_t draws;
  bool greedy;
  bool finished;
  bool widened = false;  // its beam's drawn candidates were decoded, too
  // kept, merged, variant, outscored, unfinished, or why it became invalid
  std::string_view fate;
  int32_t merged_into = -1;  // a node
};

class Trace {
 public:
  explicit Trace(bool on) : on_(on) {}

  int32_t next_id() { return next_id_++; }
  void begin_round(size_t beams) { widened_.assign(beams, false); }
  // The beams whose drawn candidates are decoded in this round.
  void widen(const std::vector<bool>& beams, uint32_t round);
  // Nodes are in the order in which their fates were decided.
  void add(const Branch& branch, const StepLog& log, uint32_t round, std::string_view fate,
           int32_t merged_into = -1);
  const std::vector<TraceNode>& nodes() const { return nodes_; }

 private:
  bool on_;
  int32_t next_id_ = 0;
  std::vector<bool> widened_;  // by beam, of this round
  std::vector<TraceNode> nodes_;
};

}  // namespace toolprm
