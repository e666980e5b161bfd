#include "search/step_table.h"

namespace toolprm {

StepTable step_table(const StepSearch& search) {
  const StepLog& log = search.log();
  std::vector<int32_t> rows(log.size(), -1);  // by record
  std::vector<int32_t> decoded;
  StepTable table;
  for (size_t i = 0; i < log.size(); ++i) {
    const StepRecord& record = log[static_cast<int32_t>(i)];
    if (search.states_wanted() && log.state(record) == nullptr) continue;
    if (record.previous >= 0 && rows[record.previous] < 0) continue;
    rows[i] = static_cast<int32_t>(decoded.size());
    decoded.push_back(static_cast<int32_t>(i));
    table.previous.push_back(record.previous < 0 ? -1 : rows[record.previous]);
    table.tokens.push_back(static_cast<int32_t>(log.depth(record)));
    table.draws.push_back(static_cast<int32_t>(record.draws));
    table.gaps.push_back(log.tree().gap(record.node));
    table.greedy.push_back(record.greedy);
    table.continues.push_back(record.continues);
  }
  table.steps = in_response(search, decoded);
  table.inputs = log.inputs(decoded);
  for (const TraceNode& node : search.trace().nodes()) {
    const int32_t last = node.last_step < 0 ? -1 : rows[node.last_step];
    table.trajectories.push_back(
        {last, node.draws, node.greedy, node.finished, node.fate, node.tokens, node.text});
  }
  return table;
}

std::vector<StepInResponse> in_response(const StepSearch& search,
                                        const std::vector<int32_t>& steps) {
  std::vector<StepInResponse> result;
  for (int32_t index : steps) {
    const StepRecord& record = search.log()[index];
    std::string response = search.log().text(record);
    NamedStep named = search.segmenter().named(record.step, response);
    result.push_back({std::move(named), std::move(response)});
  }
  return result;
}

std::vector<ScoredStep> scored_steps(const StepSearch& search, const std::vector<int32_t>& steps,
                                     std::string_view response) {
  std::vector<ScoredStep> result;
  for (int32_t index : steps) {
    const StepRecord& record = search.log()[index];
    result.push_back({search.segmenter().named(record.step, response), index,
                      record.scored ? std::optional(record.reward) : std::nullopt,
                      record.logprob_sum});
  }
  return result;
}

std::vector<ScoredStep> scored_steps(const StepSearch& search, const TraceNode& node) {
  if (node.steps.empty()) return {};
  return scored_steps(search, node.steps, search.log().text(search.log()[node.last_step]));
}

}  // namespace toolprm
