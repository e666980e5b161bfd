// The round: expand every beam to its next boundaries, take rewards, merge what is equal, keep N.
// It says what to decode and is told what came out; it knows neither the model nor the reward.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "choices.h"
#include "kv_ledger.h"
#include "sampler.h"
#include "step_segmenter.h"
#include "token_tree.h"

namespace toolprm {

enum class Aggregate : uint8_t { kLast, kMin, kProd, kMean };

struct SearchOptions {
  uint32_t beams = 2;         // N
  uint32_t root_draws = 16;   // draws of a response that nothing has been sampled of
  uint32_t beam_draws = 8;    // M
  bool follow_argmax = true;  // the most likely path is a candidate, drawn or not
  // How a call goes on behind a value is a finite choice: the likeliest token of each way is a
  // candidate too, drawn or not, where the policy gives it this log-probability. Above 0: none.
  float way_floor = 1;
  // Below 1 the most likely path goes first, and a beam's other candidates are looked at only where
  // they may lift the round's best score by more than 1 - doubt.
  double doubt = 1;
  bool whole_responses = false;  // rows run on over boundaries to the end: one round
  bool token_level = false;      // beam search over tokens: one a round, no draws, no rewards
  bool rank_by_draws = false;    // the vote: equal responses, most draws first
  bool policy_rewards = false;   // a step's reward is the probability of its sampled tokens
  bool states_wanted = false;    // rewards read the hidden state of every boundary token
  bool pool_states = false;      // and the mean over the step's tokens
  // A step of at most so many choices is not drawn from the vocabulary: all of them are candidates,
  // and where the model takes them at once they are decoded in one batch.
  uint32_t choices = 0;
  bool forks_within = true;  // as ModelInfo in backends/base.py has it
  Aggregate aggregate = Aggregate::kProd;
  double policy_weight = 0;
  uint32_t max_tokens = 512;
  uint32_t max_step_tokens = 512;
  uint32_t max_text_tokens = 64;
  uint32_t max_batch_tokens = 512;
  bool trace = false;
  SamplerOptions sampler;
  uint64_t prompt_hash = 0;  // of the prompt's tokens; the noise of the draws depends on it
};

// What the tokens of a vocabulary write.
struct Vocabulary {
  std::string bytes;
  std::vector<uint32_t> offsets;  // token t writes bytes [offsets[t], offsets[t + 1])
  std::vector<bool> ends;         // end-of-generation tokens
  std::array<std::vector<int32_t>, 256> by_first_byte;

  std::string_view text(int32_t token) const {
    return std::string_view(bytes).substr(offsets[token], offsets[token + 1] - offsets[token]);
  }
  size_t size() const { return ends.size(); }
};

struct StepRecord {
  Step step;
  int32_t previous;  // the step decided before it, or -1
  int32_t node;      // the boundary token
  uint32_t tokens;   // sampled for this step; a token that closes several counts for the first
  float logprob_sum, logprob_min, entropy;  // of these; entropy at the first
  double logprob_total;                     // of the response up to here
  float logprob_total_min;                  // the least of its tokens
  uint32_t draws;                           // that wrote it
  bool greedy;                              // on the most likely path
  bool goes_on;                             // its token has the comma behind it, too
  bool scored = false;
  float reward = 0;
  double log_product = 0, sum = 0;
  float least = 1;
  uint32_t count = 0;
  uint32_t copies = 0;  // FUNC_FINISH: calls before it that are equal
  double paid = 0;      // log-probability of the calls up to here that repeat others
};

// Rows to decode: the field meanings are those of backends/base.py's Batch.
struct SearchBatch {
  struct Fork {
    int32_t token, sequence, destination;
  };

  std::vector<KvLedger::Op> ops;
  std::vector<int32_t> tokens, positions, sequences, logits_at, hidden_at;
  std::vector<Fork> forks;
  // The branch whose next token each of `logits_at` is for. Below kUnmasked a node of a tree, as
  // `set_choices` has numbered them; kUnmasked where the choices alone say what is allowed.
  std::vector<int32_t> branches;
  static constexpr int32_t kUnmasked = -1;
};

// A branch that stands before choices.
struct ChoiceRequest {
  int32_t branch;
  std::string context;  // the response from the key on whose value is chosen
  std::vector<Choice> choices;
};

struct NewBranch {
  int32_t branch, parent, token;
};

struct TraceEntry {
  uint32_t round;
  int32_t beam;
  std::string text;
  std::vector<StepKind> kinds;
  double score;
  uint32_t draws;
  const char* fate;
  int32_t step;  // last record, or -1
  uint32_t tokens;
  bool greedy, finished;
};

struct Answer {
  std::string text;
  std::vector<int32_t> steps;  // records, first to last
  std::vector<int32_t> tokens;
  double score;
  double logprob;
  uint32_t draws;
  bool complete;
};

struct SearchCounts {
  uint64_t decode_tokens = 0, forced_tokens = 0, drawn_tokens = 0;
  uint32_t rounds = 0, widened = 0, choice_sets = 0, rows_max = 0, cells_max = 0;
};

class StepSearch {
 public:
  StepSearch(std::shared_ptr<const StepSegmenter> segmenter,
             std::shared_ptr<const Vocabulary> vocabulary, const SearchOptions& options,
             int32_t sequences, uint32_t cells, uint32_t prompt_tokens);
  StepSearch(const StepSearch&) = delete;

  // The root's next token is told by a distribution, or forced. Call one of them, once.
  void start(Distribution next);
  void start_forced(const std::vector<int32_t>& tokens);

  // Branches made since the last call. A constraint advances its own state with each, and tells
  // the tokens that must follow by `set_forced` before the next batch.
  // Then ask again: where choices have been decoded ahead, a branch is known to go on as soon as
  // its forced tokens are.
  std::vector<NewBranch> take_new();
  void set_forced(int32_t branch, const std::vector<int32_t>& tokens);
  int32_t branch_count() const { return static_cast<int32_t>(branches_.size()); }

  // Branches that stand before choices, each once. The tokens that write them can be told by
  // `set_choices` before the next batch; else the step is drawn.
  std::vector<ChoiceRequest> take_choices();
  bool awaits_choices(int32_t branch, size_t count) const;
  // Node i + 1 of the tree of choices writes tokens[i] behind node parents[i]; node 0 is the branch
  // as it stands. ends[c] is the node where the body of choice c ends, or -1 where it is left out.
  // Returns the number by which batches call node 1, that of node i being i - 1 less.
  int32_t set_choices(int32_t branch, const std::vector<int32_t>& parents,
                      const std::vector<int32_t>& tokens, const std::vector<bool>& forced,
                      const std::vector<int32_t>& ends);
  // Tokens that rows of logits must tell for every choice to be among them; 0: no choices.
  uint32_t choice_width() const;
  // The batch in flight has rows where only choices are allowed.
  bool narrowed() const;
  // Takes everything else out of their masks. `masks` has a row of `words` for each of `logits_at`.
  void narrow(uint32_t* masks, size_t words) const;

  // The next rows, or false when the round is complete: then rewards are due, and `keep`.
  bool next_batch(SearchBatch& batch);
  // One distribution for each of the batch's `logits_at`; `hidden` has a row of `width` for each
  // of `hidden_at`, or is null.
  void observe(std::vector<Distribution> next, const float* hidden, size_t width);
  // The batch did not fit: nothing of it was decoded.
  void no_room();

  // A cache that is shared with other searches, said anew before each batch. This one may hold so
  // many cells, its prompt's included, and sequences; its batch may have so many tokens, though a
  // single row any number. A search that `waits` gives up nothing of its own where no row fits: the
  // batch then has no rows, and is observed as it is.
  void set_room(uint32_t cells, int32_t sequences, uint32_t batch_tokens, bool waits);
  // Gives up everything behind the prompt, and the batch in flight: it is decoded again as needed.
  void forget_cells();
  uint32_t cells() const { return ledger_.used(); }
  int32_t sequences() const { return ledger_.open_sequences(); }
  // Sampled tokens that have been decoded once the batch in flight is.
  uint64_t planned_tokens() const;
  // No more is decoded, not even the batch in flight: the next call of `next_batch` says that the
  // round is complete, and `keep` then ends the search. A search that is over stays as it is.
  void stop();

  // Steps of this round's candidates that have no reward yet and can have one: after a stop the
  // state of the last ones may be missing.
  std::vector<int32_t> unscored() const;
  const StepRecord& record(int32_t index) const { return records_[index]; }
  size_t record_count() const { return records_.size(); }
  // The hidden state at the step's boundary token, or null.
  const float* hidden(const StepRecord& record) const;
  // Adds up the states of the tokens since the step before, and returns how many there are.
  uint32_t add_states(const StepRecord& record, float* sum) const;
  size_t hidden_width() const { return width_; }
  // The response up to the step's boundary.
  std::string text_of(const StepRecord& record) const;
  // Tokens of the response up to and with the boundary token.
  uint32_t depth(const StepRecord& record) const { return tree_.depth(record.node); }
  // One reward for each of `unscored()`. Ends the round, unless that leaves a doubt: then there are
  // more rows, and rewards are due once more.
  void keep(const std::vector<float>& rewards);

  bool done() const { return done_; }
  // Branches that go on; a constraint may forget all others.
  std::vector<int32_t> live() const;
  // The beams that this round goes on from, or once the search is done all that `answers` has: what
  // they share, every answer will have.
  std::vector<Answer> beams() const;
  // Best first: finished responses, then what was still alive.
  std::vector<Answer> answers() const;
  const std::vector<TraceEntry>& trace() const { return trace_; }
  const SearchCounts& counts() const { return counts_; }
  const StepSegmenter& segmenter() const { return *segmenter_; }

 private:
  struct SharedSequence {
    int32_t sequence;
    int32_t users;
  };

  // Where the token that decides something leads besides: on in the same call, to another call, or
  // towards the end.
  enum class Goes : uint8_t { kOn, kToAnother, kToTheEnd };

  struct Branch {
    int32_t node = TokenTree::kRoot;
    int32_t step = -1;    // last record
    int32_t kv = 0;       // shared sequence; 0 is the prompt's
    uint32_t cached = 0;  // tokens of the response that the sequence holds
    uint32_t text_tokens = 0;
    int32_t beam = 0;
    uint32_t beam_text = 0;  // length of the beam's text
    int32_t beam_step = -1;  // the beam's last record
    uint32_t evictions = 0;
    double partial = 0;    // log-probability since the last record
    double logprob = 0;    // of the response
    uint32_t sampled = 0;  // tokens of the response that were not forced
    uint32_t votes = 0;    // draws of this candidate and of those merged into it
    uint64_t decision = 0;
    Goes goes = Goes::kOn;
    double score = 0;
    bool follow = false;  // the most likely path from a way that was not drawn
    bool greedy = false;
    bool candidate = false;
    bool held = false;   // waits until its beam is doubtful; neither decoded nor judged before
    bool stuck = false;  // a candidate that may not go on
    bool told = false;   // by take_new: its forced tokens are known
    bool asked = false;  // by take_choices, where it stands
    bool apart = false;  // its choices did not fit into one batch
    int32_t choice = 0;  // its place in `choices`
    std::shared_ptr<ChoiceTree> choices;
    SegmenterState state;
    std::string text;
    std::vector<uint32_t> draws;
    std::vector<int32_t> forced;  // tokens that must follow, last first
    std::shared_ptr<const Distribution> next;

    bool ended() const { return state.finished() || stuck; }
  };

  struct Row {
    int32_t branch;
    uint32_t tokens;
    bool logits;
    // Choices that are decoded with it, in order; how many of them lie in the branch's own
    // sequence, and the sequences of the others.
    std::shared_ptr<ChoiceTree> choices;
    std::vector<int32_t> nodes;
    uint32_t line = 0;
    std::vector<int32_t> sequences;
  };

  // What a row of logits is for, where it is narrowed.
  struct Narrowed {
    std::shared_ptr<const ChoiceTree> choices;
    int32_t node;
  };

  // Where a value or a call has ended, what comes behind it.
  enum class Way : uint8_t { kNone, kMore, kClosed, kAnother, kFinished };
  struct Turn {
    uint64_t decision;  // the value, if this token ends it
    Way way;
    bool step;  // a step is decided
    bool operator==(const Turn& other) const {
      return decision == other.decision && way == other.way;
    }
  };

  Turn turn_of(const Branch& parent, int32_t token);
  Branch& make_root();
  void begin_round();
  void expand(int32_t id);
  int32_t make_child(int32_t parent, int32_t place, std::vector<uint32_t> draws, bool greedy,
                     bool follow);
  bool accept(Branch& branch, int32_t token, float logprob, float entropy, bool forced);
  bool too_long(const Branch& branch) const;
  bool state_wanted(const TokenNode& node) const {
    return options_.states_wanted && node.hidden < 0 && (node.boundary || options_.pool_states);
  }
  void absorb_forced(int32_t id);
  void add_records(Branch& branch, const std::vector<Step>& steps);
  void charge_for_repeats(StepRecord& record) const;
  bool runs_away(const Branch& branch) const;
  // step_choices.cpp
  std::vector<int32_t> closers(const std::string& text, const SegmenterState& state,
                               std::string_view rest) const;
  void walk_choices();
  void follow_choices(Branch& branch, int32_t token);
  bool choice_wanted(const Branch& branch, const ChoiceNode& node, uint32_t depth) const;
  void find_choices(const Branch& branch, int32_t parent, uint32_t depth, Row& row) const;
  bool add_choices(int32_t id, SearchBatch& batch);
  void place_choices(int32_t parent, uint32_t depth, int32_t kv, Row& row, SearchBatch& batch);
  void retract_choices(const Row& row);
  void observe_choices(const Row& row, std::vector<Distribution>& next, size_t& at,
                       const float*& hidden, size_t width);
  void release_choices();
  bool choice_state_wanted(const ChoiceNode& node) const {
    return options_.states_wanted && (node.boundary || options_.pool_states);
  }

  bool needs_decode(const Branch& branch) const;
  int32_t add_hidden(const float*& hidden, size_t width);
  bool own_sequence(Branch& branch);
  void add_tail(const Branch& branch, uint32_t count, SearchBatch& batch);
  void want_logits(int32_t branch, const std::shared_ptr<const ChoiceTree>& choices, int32_t node,
                   SearchBatch& batch);
  void add_row(int32_t id, SearchBatch& batch);
  bool take_back_rows();
  void make_room();
  void release_kv(Branch& branch);
  void forget_kv(Branch& branch);
  void drop(int32_t id, const char* fate);
  double aggregate(const StepRecord& last) const;
  void score(Branch& branch) const;
  void prune();
  std::vector<int32_t> choose(std::vector<int32_t> ranked);
  bool look_further();
  void keep_tokens();
  void finish_search(std::vector<int32_t> kept);
  bool settled(const std::vector<int32_t>& kept) const;
  Answer answer(const Branch& branch) const;
  void note(const Branch& branch, const char* fate);
  Branch& at(int32_t id) { return *branches_[id]; }
  const Branch& at(int32_t id) const { return *branches_[id]; }

  std::shared_ptr<const StepSegmenter> segmenter_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  SearchOptions options_;
  Sampler sampler_;
  TokenTree tree_;
  KvLedger ledger_;
  uint32_t logits_limit_;  // rows of logits that a batch may ask for
  uint32_t prompt_tokens_;
  uint32_t row_limit_ = UINT32_MAX;
  bool waits_ = false;

  std::vector<std::unique_ptr<Branch>> branches_;
  std::vector<SharedSequence> shared_;
  std::vector<StepRecord> records_;
  std::vector<float> hidden_;
  size_t width_ = 0;

  std::vector<int32_t> beams_;    // kept by the last round
  std::vector<Branch> fallback_;  // the same, as they stood then: the answer if all die, or stop
  std::vector<int32_t> round_;    // branches of this round, open or at a boundary
  std::vector<NewBranch> new_;
  std::vector<Row> in_flight_;
  std::vector<Narrowed> narrowed_;  // by row of logits of the batch in flight
  // Choices that are decoded ahead of their branches hold their sequences until all have arrived.
  std::vector<Row> ahead_;
  std::vector<std::pair<int32_t, std::vector<Choice>>> requests_;  // by branch
  int32_t next_choice_ = SearchBatch::kUnmasked;
  std::vector<TraceEntry> trace_;
  SearchCounts counts_;
  bool widened_ = true;            // this round looks at all candidates
  std::vector<uint64_t> put_off_;  // by beam: drawn tokens that count if it is looked at further
  bool done_ = false;
  bool stopped_ = false;

  std::vector<Step> steps_;      // scratch
  std::vector<Turn> turns_;      // scratch
  std::string look_ahead_;       // scratch
  std::vector<int32_t> places_;  // scratch
  std::vector<int32_t> run_;     // scratch
};

}  // namespace toolprm
