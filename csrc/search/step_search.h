// The search: grow every beam to its next boundaries, take rewards, keep N, until the beams have
// ended. It says what to decode and is given what came out; it knows neither the model nor the
// reward.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "features/grounding.h"
#include "format/step_segmenter.h"
#include "search/branch_cache.h"
#include "search/branch_pool.h"
#include "search/doubt.h"
#include "search/expansion.h"
#include "search/options.h"
#include "search/selection.h"
#include "search/step_log.h"
#include "search/vocabulary.h"

namespace toolprm {

struct Answer {
  std::string text;
  std::vector<int32_t> steps;  // records, first to last
  std::vector<int32_t> tokens;
  double score;
  double logprob;
  uint32_t draws;
  bool complete;
  bool greedy;     // every sampled token was the most likely one
  bool companion;  // it was kept for the margin alone
};

struct SearchCounts {
  uint64_t decode_tokens = 0, forced_tokens = 0, drawn_tokens = 0;
  uint32_t rounds = 0, widened = 0, rows_max = 0, cells_max = 0;
};

// The cache of a search: a backend's limits and the prompt that is already in it.
struct CacheLimits {
  int32_t sequences;
  uint32_t cells;
  uint32_t prompt_tokens;
};

class StepSearch {
 public:
  // `grounding` may be null: rewards then get no grounding features.
  StepSearch(std::shared_ptr<const StepSegmenter> segmenter,
             std::shared_ptr<const Vocabulary> vocabulary,
             std::shared_ptr<const Grounding> grounding, const SearchOptions& options,
             const CacheLimits& limits);
  StepSearch(const StepSearch&) = delete;

  // Arguments that do not fit the search (a token outside the vocabulary, a branch that does not
  // exist, an output of another shape, a reward outside 0 .. 1) throw std::invalid_argument before
  // anything is changed.

  // The first token is drawn from a distribution, or tokens are forced. Call one of them, once.
  void start(Distribution next);
  void start_forced(const std::vector<int32_t>& tokens);

  // Branches made since the last call. A constraint advances its own state with each, and gives
  // the tokens that must follow to `set_forced` before the next batch.
  std::vector<NewBranch> take_new() { return expansion_.take_new(); }
  void set_forced(int32_t branch, const std::vector<int32_t>& tokens);
  int32_t branch_count() const { return pool_.size(); }

  // The next rows, or false when the round is complete: then rewards are due, and `keep`.
  bool next_batch(SearchBatch& batch);
  // One distribution for each of the batch's `logits_at`; `hidden` has a row of `width` for each
  // of `hidden_at`, or is null where there are none.
  void observe(std::vector<Distribution> next, const float* hidden, size_t width);
  // The batch did not fit: nothing of it was decoded.
  void no_room();
  // Set before every next_batch where the cache is shared; see BranchCache.
  void set_room(uint32_t cells, int32_t sequences, uint32_t batch_tokens, bool waits) {
    cache_.set_room(cells, sequences, batch_tokens, waits);
  }
  // Frees every cell but the prompt's, and drops the batch in flight: it is decoded again.
  void forget_cells();
  uint32_t cells() const { return cache_.cells(); }
  int32_t sequences() const { return cache_.sequences(); }
  // Sampled tokens that have been decoded once the batch in flight is.
  uint64_t planned_tokens() const;
  // No more is decoded, not even the batch in flight: the next `next_batch` returns false, and
  // `keep` then ends the search. A search that is done is not changed.
  void stop();

  // Steps of this round's candidates that have no reward yet and can have one: after a stop the
  // state of the last ones may be missing.
  std::vector<int32_t> unscored() const;
  // One reward for each of `unscored()`. Ends the round, unless a beam is doubtful: then there are
  // more rows, and rewards are due once more.
  void keep(const std::vector<float>& rewards);

  bool done() const { return done_; }
  // Branches that may grow; a constraint may forget all others.
  std::vector<int32_t> live() const { return pool_.round(); }
  // The beams that this round grows; once the search is done, all answers.
  std::vector<Answer> beams() const;
  // Best first: finished responses, then what was still alive.
  std::vector<Answer> answers() const;
  SearchCounts counts() const;

  const StepLog& log() const { return log_; }
  const Trace& trace() const { return pool_.trace(); }
  const StepSegmenter& segmenter() const { return *segmenter_; }
  const Vocabulary& vocabulary() const { return *vocabulary_; }
  bool states_wanted() const { return options_.states_wanted; }
  // Rows of hidden states that the batch in flight needs.
  size_t expected_states() const { return expected_states_; }

 private:
  // What became of a beam when the search was stopped.
  struct Outcome {
    bool alive = false, candidate = false;
    uint32_t open = 0, decided = 0;  // draws
  };

  void begin_round(std::vector<int32_t> beams);
  bool needs_decode(const Branch& branch) const;
  bool state_wanted(const TokenNode& node) const {
    return options_.states_wanted && node.hidden < 0 && (node.boundary || options_.pool_states);
  }
  bool fill(SearchBatch& batch);
  void evict();
  void check_output(const std::vector<Distribution>& next, bool states, size_t width) const;
  void count(const Branch& branch, const TokenNode& token);
  void settle_at_stop(int32_t id, std::vector<Outcome>& outcomes);
  bool scorable(const Branch& branch) const;
  void drop_replaced(const std::vector<int32_t>& ranked);
  void finish_round(std::vector<int32_t> kept);
  void follow_greedy_path_alone(std::vector<int32_t>& kept, int32_t greedy);
  Answer answer(const Branch& branch) const;

  std::shared_ptr<const StepSegmenter> segmenter_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  const SearchOptions options_;
  StepLog log_;
  BranchCache cache_;
  BranchPool pool_;
  Expansion expansion_;
  Selection selection_;
  Doubt doubt_;
  SearchCounts counts_;
  size_t expected_logits_ = 0;  // of the batch in flight
  size_t expected_states_ = 0;
  bool done_ = false;
  bool stopped_ = false;
  bool settled_ = false;       // nothing can win any more but the greedy path, by the margin
  std::vector<Branch> lost_;   // the last beams, where none of them could be continued
  std::vector<int32_t> path_;  // scratch
};

}  // namespace toolprm
