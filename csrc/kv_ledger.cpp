#include "kv_ledger.h"

#include <algorithm>
#include <cassert>

namespace toolprm {

KvLedger::KvLedger(int32_t sequences, uint32_t cells, uint32_t prompt)
    : cells_(cells),
      prompt_(prompt),
      used_(prompt),
      used_max_(prompt),
      next_place_(prompt),
      tips_(sequences + 1, kNone),
      open_(sequences + 1, false) {
  open_[kPrompt] = true;
  for (int32_t id = sequences; id >= 1; --id) free_sequences_.push_back(id);
}

int32_t KvLedger::fork(int32_t source, bool told) {
  assert(open_[source]);
  if (free_sequences_.empty()) return kNone;
  const int32_t sequence = free_sequences_.back();
  free_sequences_.pop_back();
  open_[sequence] = true;
  tips_[sequence] = tips_[source];
  if (tips_[source] != kNone) ++cells_by_id_[tips_[source]].references;
  if (told) ops_.push_back({Op::kFork, source, sequence});
  return sequence;
}

void KvLedger::drop(int32_t sequence, bool told) {
  assert(sequence != kPrompt && open_[sequence]);
  open_[sequence] = false;
  free_sequences_.push_back(sequence);
  release(tips_[sequence]);
  tips_[sequence] = kNone;
  if (told) ops_.push_back({Op::kDrop, sequence, 0});
}

void KvLedger::release(int32_t cell) {
  while (cell != kNone && --cells_by_id_[cell].references == 0) {
    const int32_t parent = cells_by_id_[cell].parent;
    free_ids_.push_back(cell);
    --used_;
    cell = parent;
  }
}

int32_t KvLedger::append(int32_t sequence) {
  assert(sequence != kPrompt && open_[sequence]);
  if (used_ == cells_) return kNone;
  int32_t cell;
  if (free_ids_.empty()) {
    cell = static_cast<int32_t>(cells_by_id_.size());
    cells_by_id_.emplace_back();
  } else {
    cell = free_ids_.back();
    free_ids_.pop_back();
  }
  // The sequence lets go of its old tip and the new cell takes hold of it: the count stays.
  cells_by_id_[cell] = {tips_[sequence], 1, next_place_++};
  tips_[sequence] = cell;
  used_max_ = std::max(used_max_, ++used_);
  return cell;
}

void KvLedger::retract(int32_t sequence, uint32_t count) {
  for (; count > 0; --count) {
    const int32_t cell = tips_[sequence];
    assert(cell != kNone && cells_by_id_[cell].references == 1);
    tips_[sequence] = cells_by_id_[cell].parent;
    if (cells_by_id_[cell].place + 1 == next_place_) --next_place_;
    free_ids_.push_back(cell);
    --used_;
  }
}

std::vector<KvLedger::Op> KvLedger::take_ops() {
  std::vector<Op> ops;
  ops.swap(ops_);
  return ops;
}

std::vector<uint32_t> KvLedger::compact() {
  std::vector<int32_t> living;
  std::vector<bool> free(cells_by_id_.size(), false);
  for (int32_t id : free_ids_) free[id] = true;
  for (size_t id = 0; id < cells_by_id_.size(); ++id) {
    if (!free[id]) living.push_back(static_cast<int32_t>(id));
  }
  std::sort(living.begin(), living.end(),
            [&](int32_t a, int32_t b) { return cells_by_id_[a].place < cells_by_id_[b].place; });
  std::vector<uint32_t> places;
  places.reserve(prompt_ + living.size());
  for (uint32_t place = 0; place < prompt_; ++place) places.push_back(place);
  for (int32_t id : living) {
    places.push_back(cells_by_id_[id].place);
    cells_by_id_[id].place = static_cast<uint32_t>(places.size() - 1);
  }
  next_place_ = static_cast<uint32_t>(places.size());
  return places;
}

void KvLedger::ancestor_mask(int32_t cell, uint8_t* mask, size_t size) const {
  std::fill(mask, mask + size, uint8_t{0});
  std::fill(mask, mask + std::min<size_t>(prompt_, size), uint8_t{1});
  for (; cell != kNone; cell = cells_by_id_[cell].parent) {
    if (cells_by_id_[cell].place < size) mask[cells_by_id_[cell].place] = 1;
  }
}

}  // namespace toolprm
