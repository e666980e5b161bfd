// Who owns which cell of the KV cache. One ledger serves backends that fork by sequence id and
// backends that keep all branch tokens in one flat cache with an ancestor mask.
#pragma once

#include <algorithm>
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

  // A new sequence that shares all cells of `source`; kNone when no id is free.
  int32_t fork(int32_t source);
  void drop(int32_t sequence);
  // A new cell at the end of `sequence`; kNone when all are taken. Cells are numbered in order of
  // arrival, after the prompt's.
  int32_t append(int32_t sequence);
  // Appends `count` cells, or none and returns false when not so many are free.
  bool extend(int32_t sequence, uint32_t count);
  // Lets go of the last `count` cells of a sequence, which others may share.
  void shorten(int32_t sequence, uint32_t count);
  // A cache shared with others: no more than this may be taken. What is taken already stays.
  void limit(int32_t sequences, uint32_t cells);

  uint32_t used() const { return used_; }
  uint32_t free_cells() const { return cells_ - std::min(used_, cells_); }
  int32_t open_sequences() const { return opened_; }

  // Forks and drops since the last call, in order.
  std::vector<Op> take_ops();

  // Flat caches: the end of the cache is reached when arrivals have used all places, though dead
  // cells may lie between. `compact` renumbers the used cells, in order, and returns the old
  // places of all of them, the prompt's included: new place i holds what was at the i-th. `settle`
  // moves nothing: it moves the end back to just after the last used cell.
  uint32_t end() const { return next_place_; }
  std::vector<uint32_t> compact();
  void settle();
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
    // It ends a run of ancestors in places without a gap, so that a mask is filled run by run: a
    // prompt is one. Compaction keeps neighbours neighbours.
    uint32_t run;    // cells of it
    int32_t before;  // the ancestor that the run follows on
  };

  void release(int32_t cell);
  std::vector<int32_t> living() const;  // cells, in the order of their places

  uint32_t cells_;
  uint32_t prompt_;
  uint32_t used_;
  uint32_t next_place_;
  std::vector<Cell> cells_by_id_;
  std::vector<int32_t> free_ids_;
  std::vector<int32_t> tips_;  // by sequence: its last cell, kNone when it is the bare prompt
  std::vector<bool> open_;     // by sequence
  std::vector<int32_t> free_sequences_;
  int32_t opened_ = 0;  // sequences, the prompt's not counted
  int32_t sequences_;   // that may be
  std::vector<Op> ops_;
};

}  // namespace toolprm
