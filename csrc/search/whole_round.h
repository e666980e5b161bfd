// A search whose rows continue over boundaries to the end of the response, so that it has one round
// and nothing is kept on the way.
#pragma once

#include <cstdint>
#include <vector>

#include "search/branch_pool.h"
#include "search/options.h"

namespace toolprm {

// The first N of the responses, which are in order; the others are dropped.
std::vector<int32_t> keep_whole(const std::vector<int32_t>& distinct, const SearchOptions& options,
                                BranchPool& pool);

}  // namespace toolprm
