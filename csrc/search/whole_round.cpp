#include "search/whole_round.h"

namespace toolprm {

std::vector<int32_t> keep_whole(const std::vector<int32_t>& distinct, const SearchOptions& options,
                                BranchPool& pool) {
  std::vector<int32_t> kept;
  for (int32_t id : distinct) {
    if (kept.size() < options.beams) {
      kept.push_back(id);
    } else {
      pool.drop(id, "outscored");
    }
  }
  return kept;
}

}  // namespace toolprm
