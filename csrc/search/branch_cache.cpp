#include "search/branch_cache.h"

namespace toolprm {

BranchCache::BranchCache(int32_t sequences, uint32_t cells, uint32_t prompt_tokens,
                         uint32_t batch_tokens)
    : ledger_(sequences, cells, prompt_tokens),
      prompt_tokens_(prompt_tokens),
      batch_tokens_(batch_tokens),
      logits_limit_(static_cast<uint32_t>(sequences)) {
  shared_.push_back({KvLedger::kPrompt, 1});  // the search itself always holds the prompt
}

void BranchCache::release(const CacheSlot& slot) {
  SharedSequence& shared = shared_[slot.kv];
  if (--shared.users == 0) ledger_.drop(shared.sequence);
}

void BranchCache::forget(CacheSlot& slot) {
  release(slot);
  ++shared_[0].users;
  slot.kv = 0;
  slot.cached = 0;
}

bool BranchCache::fits(uint32_t count, const SearchBatch& batch) const {
  if (count > ledger_.free_cells() || batch.logits_at.size() >= logits_limit_) return false;
  return rows_.empty() || batch.tokens.size() + count <= batch_tokens_;
}

bool BranchCache::own_sequence(CacheSlot& slot) {
  SharedSequence& shared = shared_[slot.kv];
  if (slot.kv != 0 && shared.users == 1) return true;
  const int32_t sequence = ledger_.fork(shared.sequence);
  if (sequence == KvLedger::kNone) return false;
  --shared.users;
  slot.kv = static_cast<int32_t>(shared_.size());
  shared_.push_back({sequence, 1});
  return true;
}

void BranchCache::take_back_rows() {
  for (const Row& row : rows_) ledger_.shorten(row.sequence, row.tokens);
  rows_.clear();
}

void BranchCache::set_room(uint32_t cells, int32_t sequences, uint32_t batch_tokens, bool waits) {
  ledger_.limit(sequences, cells);
  batch_tokens_ = batch_tokens;
  waits_ = waits;
}

}  // namespace toolprm
