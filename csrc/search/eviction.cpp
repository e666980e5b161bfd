#include "search/eviction.h"

#include <algorithm>

namespace toolprm {

Eviction choose_eviction(std::vector<Occupant> occupants) {
  constexpr uint32_t kPatience = 8;
  std::stable_sort(occupants.begin(), occupants.end(), [](const Occupant& a, const Occupant& b) {
    if (a.held != b.held) return a.held;
    return a.waits != b.waits ? b.waits : a.logprob < b.logprob;
  });
  const auto waits = [](const Occupant& one) { return one.waits; };
  const auto victim = std::find_if(occupants.begin(), occupants.end(),
                                   [](const Occupant& one) { return one.cached > 0; });
  const auto waiting = std::count_if(occupants.begin(), occupants.end(), waits);
  if (victim == occupants.end() || (victim->waits && waiting < 2) ||
      victim->evictions >= kPatience) {
    return {std::find_if(occupants.begin(), occupants.end(), waits)->branch, true};
  }
  return {victim->branch, false};
}

}  // namespace toolprm
