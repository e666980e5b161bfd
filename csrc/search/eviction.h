// Which branch is evicted when no row fits.
#pragma once

#include <cstdint>
#include <vector>

namespace toolprm {

// A living branch, as far as the choice depends on it.
struct Occupant {
  int32_t branch;
  bool held;       // it may never be decoded further
  bool waits;      // it has tokens to decode
  double logprob;  // of its decided steps
  uint32_t cached;
  uint32_t evictions;
};

struct Eviction {
  int32_t branch;
  bool gives_up;  // the branch is dropped for good: nothing else can be evicted
};

// Evicts in this order: a held branch, an idle candidate (which needs its cells only if it is
// kept), the least likely open branch. What is evicted is decoded again when its turn comes. A
// branch that is alone in the cache, or is evicted repeatedly, is dropped. At least one
// occupant waits.
Eviction choose_eviction(std::vector<Occupant> occupants);

}  // namespace toolprm
