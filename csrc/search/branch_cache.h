// The KV cache as a search sees it: which tokens of a branch are in it, and which rows the next
// batch has. It knows paths of tokens; it does not know steps, rewards or rounds.
#pragma once

#include <cstdint>
#include <vector>

#include "search/kv_ledger.h"
#include "search/token_tree.h"

namespace toolprm {

// A branch's place in the cache.
struct CacheSlot {
  int32_t kv = 0;          // a sequence that branches may share; 0 is the prompt's
  uint32_t cached = 0;     // tokens of the response that the sequence holds
  uint32_t evictions = 0;  // in this round
};

// Rows to decode: the fields mean what those of backends/base.py's Batch mean.
struct SearchBatch {
  std::vector<KvLedger::Op> ops;
  std::vector<int32_t> tokens, positions, sequences, logits_at, hidden_at;
  std::vector<int32_t> branches;  // whose next token each of `logits_at` is for
};

class BranchCache {
 public:
  // A branch's tokens in the batch in flight.
  struct Row {
    int32_t branch;
    int32_t sequence;
    uint32_t tokens;
    bool logits;
  };

  BranchCache(int32_t sequences, uint32_t cells, uint32_t prompt_tokens, uint32_t batch_tokens);

  // A branch that shares the cells of another one. Every slot is shared or released once.
  void share(const CacheSlot& slot) { ++shared_[slot.kv].users; }
  void release(const CacheSlot& slot);
  // Evicts a branch: its tokens are decoded again when they are needed.
  void forget(CacheSlot& slot);

  // Appends the tokens of `node`'s path that are not in the cache yet. False, with nothing changed,
  // where cells, sequences or the batch have no room. `states_wanted(node)` chooses `hidden_at`.
  template <typename StatesWanted>
  bool add_row(int32_t branch, int32_t node, const TokenTree& tree, bool logits, CacheSlot& slot,
               const StatesWanted& states_wanted, SearchBatch& batch);
  // A new batch.
  void begin_batch() { rows_.clear(); }
  bool full() const { return rows_.size() >= row_limit_; }
  const std::vector<Row>& rows() const { return rows_; }
  std::vector<KvLedger::Op> take_ops() { return ledger_.take_ops(); }
  // The batch in flight was not decoded: its cells are free again.
  void take_back_rows();
  // Smaller batches from now on.
  void halve_rows() { row_limit_ = static_cast<uint32_t>(rows_.size() / 2); }

  // A cache that is shared with other searches: most cells, the prompt's included, and sequences of
  // this one, and most tokens of a batch, though a single row may have more. A search that `waits`
  // evicts none of its branches if no row fits.
  void set_room(uint32_t cells, int32_t sequences, uint32_t batch_tokens, bool waits);
  bool waits() const { return waits_; }

  uint32_t cells() const { return ledger_.used(); }
  int32_t sequences() const { return ledger_.open_sequences(); }

 private:
  struct SharedSequence {
    int32_t sequence;
    int32_t users;
  };

  // The slot's own sequence, which no other branch uses; false when there is none.
  bool own_sequence(CacheSlot& slot);
  bool fits(uint32_t count, const SearchBatch& batch) const;

  KvLedger ledger_;
  std::vector<SharedSequence> shared_;
  std::vector<Row> rows_;
  std::vector<int32_t> path_;  // scratch
  uint32_t prompt_tokens_;
  uint32_t batch_tokens_;
  uint32_t logits_limit_;
  uint32_t row_limit_ = UINT32_MAX;
  bool waits_ = false;
};

template <typename StatesWanted>
bool BranchCache::add_row(int32_t branch, int32_t node, const TokenTree& tree, bool logits,
                          CacheSlot& slot, const StatesWanted& states_wanted, SearchBatch& batch) {
  const uint32_t count = tree.depth(node) - slot.cached;
  if (!fits(count, batch) || !own_sequence(slot)) return false;
  const int32_t sequence = shared_[slot.kv].sequence;
  tree.tail(node, count, path_);
  for (int32_t at : path_) {
    ledger_.append(sequence);
    const auto place = static_cast<int32_t>(batch.tokens.size());
    batch.tokens.push_back(tree[at].token);
    batch.positions.push_back(static_cast<int32_t>(prompt_tokens_ + tree[at].depth - 1));
    batch.sequences.push_back(sequence);
    if (states_wanted(tree[at])) batch.hidden_at.push_back(place);
  }
  if (logits) {
    batch.logits_at.push_back(static_cast<int32_t>(batch.tokens.size()) - 1);
    batch.branches.push_back(branch);
  }
  rows_.push_back({branch, sequence, count, logits});
  return true;
}

}  // namespace toolprm
