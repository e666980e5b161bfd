// Who owns which cell of the KV cache. One ledger serves backends that fork by sequence id and
// backends that keep all branch tokens in one flat cache behind an ancestor mask.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace toolprm {

class KvLedger {
 public:
  struct Op {
    enum Kind : int32_t { kFork, kDrop } kind;
    int32_t sequence;     // the source of a fork
    int32_t destination;  // of a fork
  };
  static constexpr int32_t kNone = -1;
  static constexpr int32_t kPrompt = 0;  // the prompt's own sequence: never dropped

  // `cells` counts all cells, `prompt` those that the prompt holds from the beginning.
  KvLedger(int32_t sequences, uint32_t cells, uint32_t prompt);

  // A new sequence that shares all cells of `source`; kNone when no id is free. What is not `told`
  // is not among the operations: a fork within a batch, and its undoing.
  int32_t fork(int32_t source, bool told = true);
  void drop(int32_t sequence, bool told = true);
  // A new cell at the end of `sequence`; kNone when all are taken. Cells are numbered in order of
  // arrival, behind the prompt's.
  int32_t append(int32_t sequence);
  // Takes back the last `count` cells of a sequence that shares none of them.
  void retract(int32_t sequence, uint32_t count);

  uint32_t used() const { return used_; }
  uint32_t free_cells() const { return cells_ - used_; }
  uint32_t used_max() const { return used_max_; }
  size_t free_sequences() const { return free_sequences_.size(); }

  // Forks and drops since the last call, in order.
  std::vector<Op> take_ops();

  // Flat caches: the end of the cache is reached when arrivals have used all places, though dead
  // cells may lie between. `compact` numbers the living cells anew, in order, and returns the old
  // places of all of them, the prompt's included: new place i holds what was at the i-th.
  uint32_t end() const { return next_place_; }
  std::vector<uint32_t> compact();
  uint32_t place(int32_t cell) const { return cells_by_id_[cell].place; }
  int32_t tip(int32_t sequence) const { return tips_[sequence]; }
  // mask[p] = 1 for every place that the last token of `sequence` attends to, itself included; 0
  // elsewhere. `size` is the mask's length.
  void ancestor_mask(int32_t cell, uint8_t* mask, size_t size) const;

 private:
  struct Cell {
    int32_t parent;       // kNone: the prompt
    uint32_t references;  // sequences that end here, and cells that follow
    uint32_t place;
  };

  void release(int32_t cell);

  uint32_t cells_;
  uint32_t prompt_;
  uint32_t used_;
  uint32_t used_max_;
  uint32_t next_place_;
  std::vector<Cell> cells_by_id_;
  std::vector<int32_t> free_ids_;
  std::vector<int32_t> tips_;  // by sequence: its last cell, kNone when it is the bare prompt
  std::vector<bool> open_;     // by sequence
  std::vector<int32_t> free_sequences_;
  std::vector<Op> ops_;
};

}  // namespace toolprm
