// What a search has found, in the form that its caller reads: named steps with their rewards, and a
// table of every step for a supervision set.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "format/step.h"
#include "search/step_search.h"

namespace toolprm {

// A decided step with what it was judged by.
struct ScoredStep {
  NamedStep step;
  int32_t index;  // its record in the log
  std::optional<float> reward;
  float logprob;  // of its sampled tokens
};

// A step and the response up to its boundary.
struct StepInResponse {
  NamedStep step;
  std::string response;
};

// A whole response that was drawn, and what became of it.
struct Trajectory {
  int32_t last_step;  // a row of the table, or -1
  uint32_t draws;
  bool greedy;
  bool finished;
  std::string_view fate;
  uint32_t tokens;
  std::string text;
};

// Every step that the search has decided, scored or not, kept or not, one row each. A step whose
// boundary token was never decoded is left out with all that followed it.
struct StepTable {
  std::vector<StepInResponse> steps;
  std::vector<int32_t> previous;  // the row of the step before, or -1
  std::vector<int32_t> tokens;    // of the response at the boundary token
  std::vector<int32_t> draws;     // that wrote it
  std::vector<double> gaps;       // of the response at the boundary token
  std::vector<bool> greedy;
  std::vector<bool> continues;  // its token has the comma of another argument or call after it, too
  RewardInputs inputs;
  std::vector<Trajectory> trajectories;  // of a search that traces
};

StepTable step_table(const StepSearch& search);
std::vector<StepInResponse> in_response(const StepSearch& search,
                                        const std::vector<int32_t>& steps);
// `response` reaches at least to the last step's boundary.
std::vector<ScoredStep> scored_steps(const StepSearch& search, const std::vector<int32_t>& steps,
                                     std::string_view response);
// The steps that a node of the trace adds.
std::vector<ScoredStep> scored_steps(const StepSearch& search, const TraceNode& node);

}  // namespace toolprm
