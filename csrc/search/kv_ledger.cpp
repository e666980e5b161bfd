#include "search/kv_ledger.h"

#include <algorithm>
#include <cassert>

namespace toolprm {

KvLedger::KvLedger(int32_t sequences, uint32_t cells, uint32_t prompt)
    : cells_(cells),
      prompt_(prompt),
      used_(prompt),
      next_place_(prompt),
      tips_(sequences + 1, kNone),
      open_(sequences + 1, false),
      sequences_(sequences) {
  open_[kPrompt] = true;
  for (int32_t id = sequences; id >= 1; --id) free_sequences_.push_back(id);
}

int32_t KvLedger::fork(int32_t source) {
  assert(open_[source]);
  if (free_sequences_.empty() || opened_ >= sequences_) return kNone;
  ++opened_;
  const int32_t sequence = free_sequences_.back();
  free_sequences_.pop_back();
  open_[sequence] = true;
  tips_[sequence] = tips_[source];
  if (tips_[source] != kNone) ++cells_by_id_[tips_[source]].references;
  ops_.push_back({Op::kFork, source, sequence});
  return sequence;
}

void KvLedger::drop(int32_t sequence) {
  assert(sequence != kPrompt && open_[sequence]);
  open_[sequence] = false;
  --opened_;
  free_sequences_.push_back(sequence);
  release(tips_[sequence]);
  tips_[sequence] = kNone;
  ops_.push_back({Op::kDrop, sequence, 0});
}

void KvLedger::release(int32_t cell) {
  while (cell != kNone && --cells_by_id_[cell].references == 0) {
    const int32_t parent = cells_by_id_[cell].parent;
    if (cells_by_id_[cell].place + 1 == next_place_) --next_place_;
    free_ids_.push_back(cell);
    --used_;
    cell = parent;
  }
}

int32_t KvLedger::append(int32_t sequence) {
  assert(sequence != kPrompt && open_[sequence]);
  if (used_ >= cells_) return kNone;
  int32_t cell;
  if (free_ids_.empty()) {
    cell = static_cast<int32_t>(cells_by_id_.size());
    cells_by_id_.emplace_back();
  } else {
    cell = free_ids_.back();
    free_ids_.pop_back();
  }
  // The sequence lets go of its old tip and the new cell takes hold of it: the count stays.
  const int32_t parent = tips_[sequence];
  const bool near = parent != kNone && cells_by_id_[parent].place + 1 == next_place_;
  cells_by_id_[cell] = {parent, 1, next_place_++, near ? cells_by_id_[parent].run + 1 : 1,
                        near ? cells_by_id_[parent].before : parent};
  tips_[sequence] = cell;
  ++used_;
  return cell;
}

bool KvLedger::extend(int32_t sequence, uint32_t count) {
  if (count > free_cells()) return false;
  for (; count > 0; --count) append(sequence);
  return true;
}

void KvLedger::shorten(int32_t sequence, uint32_t count) {
  const int32_t old = tips_[sequence];
  int32_t tip = old;
  for (; count > 0; --count) {
    assert(tip != kNone);
    tip = cells_by_id_[tip].parent;
  }
  tips_[sequence] = tip;
  if (tip != kNone) ++cells_by_id_[tip].references;
  release(old);
}

void KvLedger::limit(int32_t sequences, uint32_t cells) {
  sequences_ = sequences;
  cells_ = cells;
}

std::vector<KvLedger::Op> KvLedger::take_ops() {
  std::vector<Op> ops;
  ops.swap(ops_);
  return ops;
}

std::vector<int32_t> KvLedger::living() const {
  std::vector<int32_t> result;
  std::vector<bool> free(cells_by_id_.size(), false);
  for (int32_t id : free_ids_) free[id] = true;
  for (size_t id = 0; id < cells_by_id_.size(); ++id) {
    if (!free[id]) result.push_back(static_cast<int32_t>(id));
  }
  std::sort(result.begin(), result.end(),
            [&](int32_t a, int32_t b) { return cells_by_id_[a].place < cells_by_id_[b].place; });
  return result;
}

std::vector<uint32_t> KvLedger::compact() {
  const std::vector<int32_t> cells = living();
  std::vector<uint32_t> places;
  places.reserve(prompt_ + cells.size());
  for (uint32_t place = 0; place < prompt_; ++place) places.push_back(place);
  for (int32_t id : cells) {
    places.push_back(cells_by_id_[id].place);
    cells_by_id_[id].place = static_cast<uint32_t>(places.size() - 1);
  }
  next_place_ = static_cast<uint32_t>(places.size());
  return places;
}

void KvLedger::settle() {
  const std::vector<int32_t> cells = living();
  next_place_ = cells.empty() ? prompt_ : cells_by_id_[cells.back()].place + 1;
}

void KvLedger::ancestor_mask(int32_t cell, uint8_t* mask, size_t size) const {
  std::fill(mask, mask + size, uint8_t{0});
  std::fill(mask, mask + std::min<size_t>(prompt_, size), uint8_t{1});
  for (; cell != kNone; cell = cells_by_id_[cell].before) {
    const size_t end = size_t{cells_by_id_[cell].place} + 1;
    const size_t begin = end - cells_by_id_[cell].run;
    std::fill(mask + std::min(begin, size), mask + std::min(end, size), uint8_t{1});
  }
}

}  // namespace toolprm
