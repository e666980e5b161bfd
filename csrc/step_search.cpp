#include "step_search.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <unordered_map>
#include <unordered_set>

namespace toolprm {

namespace {
constexpr const char* kSpace = " \t\r\n";

// A way on that scores less than this share of its decision's best is not worth a round of draws.
constexpr double kCompanion = 0.1;

// A request may mean one call twice; more copies are a model that has lost its way.
constexpr uint32_t kMaxCopies = 3;
}  // namespace

StepSearch::StepSearch(std::shared_ptr<const StepSegmenter> segmenter,
                       std::shared_ptr<const Vocabulary> vocabulary, const SearchOptions& options,
                       int32_t sequences, uint32_t cells, uint32_t prompt_tokens)
    : segmenter_(std::move(segmenter)),
      vocabulary_(std::move(vocabulary)),
      options_(options),
      sampler_(options.sampler),
      tree_(options.prompt_hash),
      ledger_(sequences, cells, prompt_tokens),
      logits_limit_(static_cast<uint32_t>(sequences)),
      prompt_tokens_(prompt_tokens) {
  shared_.push_back({KvLedger::kPrompt, 1});  // the search itself always holds the prompt
  counts_.cells_max = prompt_tokens;
}

StepSearch::Branch& StepSearch::make_root() {
  branches_.push_back(std::make_unique<Branch>());
  at(0).told = true;
  ++shared_[0].users;
  beams_ = {0};
  return at(0);
}

void StepSearch::start(Distribution next) {
  make_root().next = std::make_shared<const Distribution>(std::move(next));
  begin_round();
}

void StepSearch::start_forced(const std::vector<int32_t>& tokens) {
  make_root().forced.assign(tokens.rbegin(), tokens.rend());
  begin_round();
}

void StepSearch::begin_round() {
  ++counts_.rounds;
  fallback_.clear();
  for (int32_t id : beams_) {
    fallback_.push_back(at(id));
    fallback_.back().beam = static_cast<int32_t>(fallback_.size()) - 1;
  }
  round_ = beams_;
  widened_ = options_.doubt >= 1;
  put_off_.assign(beams_.size(), 0);
  const std::vector<int32_t> beams = beams_;
  for (size_t rank = 0; rank < beams.size(); ++rank) {
    Branch& beam = at(beams[rank]);
    beam.beam = static_cast<int32_t>(rank);
    beam.beam_text = static_cast<uint32_t>(beam.text.size());
    beam.beam_step = beam.step;
    beam.candidate = beam.ended();
    if (beam.ended()) continue;
    // As long as nothing has been sampled the root's draws are still to be made.
    beam.draws.resize(beam.sampled ? options_.beam_draws : options_.root_draws);
    std::iota(beam.draws.begin(), beam.draws.end(), 0u);
    beam.greedy = options_.follow_argmax;
    beam.follow = false;
    beam.evictions = 0;
    absorb_forced(beams[rank]);
    if (options_.token_level) continue;
    if (branches_[beams[rank]] != nullptr && beam.next != nullptr && !beam.candidate) {
      expand(beams[rank]);
    }
  }
}

std::vector<NewBranch> StepSearch::take_new() {
  walk_choices();
  std::vector<NewBranch> result;
  result.swap(new_);
  for (const NewBranch& fresh : result) {
    if (branches_[fresh.branch] != nullptr) at(fresh.branch).told = true;
  }
  return result;
}

void StepSearch::set_forced(int32_t id, const std::vector<int32_t>& tokens) {
  if (branches_[id] == nullptr) return;
  at(id).forced.assign(tokens.rbegin(), tokens.rend());
  if (!at(id).candidate) absorb_forced(id);
}

// Takes one distribution apart into its distinct tokens: every token is one child that carries the
// draws which took it.
void StepSearch::expand(int32_t id) {
  const Branch& parent = at(id);
  const auto next = parent.next;
  sampler_.draw(*next, tree_.path(parent.node), parent.draws, places_);
  std::vector<std::pair<int32_t, std::vector<uint32_t>>> groups;
  const auto group = [&](int32_t place) -> std::vector<uint32_t>& {
    for (auto& [known, draws] : groups) {
      if (known == place) return draws;
    }
    return groups.emplace_back(place, std::vector<uint32_t>()).second;
  };
  const bool greedy = parent.greedy && !next->tokens.empty();
  const bool follow = parent.follow && !next->tokens.empty();
  if (greedy || follow) group(0);
  for (size_t i = 0; i < places_.size(); ++i) {
    if (places_[i] >= 0) group(places_[i]).push_back(parent.draws[i]);
  }
  const bool chosen = parent.choices != nullptr;
  if (chosen) {
    // Every choice is a candidate, drawn or not; of the tokens that end one here the likeliest is.
    const auto closes = [&](int32_t place) {
      return parent.choices->child(parent.choice, next->tokens[place]) < 0;
    };
    bool closed = std::any_of(groups.begin(), groups.end(),
                              [&](const auto& known) { return closes(known.first); });
    for (int32_t place = 0; place < static_cast<int32_t>(next->tokens.size()); ++place) {
      if (closes(place) && closed) continue;
      closed |= closes(place);
      group(place);
    }
  }
  std::vector<std::pair<int32_t, bool>> ways;  // place, whether it must be followed to a step
  if (options_.way_floor <= 0 && options_.follow_argmax) {
    turns_.clear();
    for (const auto& [place, draws] : groups) {
      const Turn turn = turn_of(parent, next->tokens[place]);
      if (turn.way != Way::kNone) turns_.push_back(turn);
    }
    if (!turns_.empty() || parent.step < 0) {
      const auto known = [&](uint64_t decision) {
        return std::any_of(turns_.begin(), turns_.end(),
                           [&](const Turn& turn) { return turn.decision == decision; });
      };
      for (size_t place = 0; place < next->tokens.size(); ++place) {
        if (next->logprobs[place] < options_.way_floor) break;
        const Turn turn = turn_of(parent, next->tokens[place]);
        const bool declines = parent.step < 0 && turn.way == Way::kFinished;
        if (turn.way == Way::kNone || !(declines || known(turn.decision)) ||
            std::find(turns_.begin(), turns_.end(), turn) != turns_.end()) {
          continue;
        }
        turns_.push_back(turn);
        ways.emplace_back(static_cast<int32_t>(place), !turn.step);
      }
    }
  }
  for (auto& [place, draws] : groups) {
    const bool likeliest = place == 0;
    const bool followed = (follow && likeliest) || (chosen && draws.empty());
    make_child(id, place, std::move(draws), greedy && likeliest, followed);
  }
  for (const auto& [place, open] : ways) make_child(id, place, {}, false, open);
  drop(id, nullptr);
}

// What a token does behind a value or a call, or in place of the first one: a look ahead on copies
// of text and state.
StepSearch::Turn StepSearch::turn_of(const Branch& parent, int32_t token) {
  const Turn none{0, Way::kNone, false};
  if (vocabulary_->ends[token]) return none;
  const std::string_view bytes = vocabulary_->text(token);
  if (bytes.find_first_of(",}]") == std::string_view::npos) return none;
  look_ahead_ = parent.text;
  look_ahead_ += bytes;
  SegmenterState state = parent.state;
  steps_.clear();
  if (!segmenter_->advance(state, look_ahead_, steps_)) return none;
  Turn turn{0, Way::kNone, !steps_.empty()};
  if (parent.step < 0 && !steps_.empty() && steps_.front().kind == StepKind::kTotalFinish) {
    turn.way = Way::kFinished;  // nothing is called
    return turn;
  }
  size_t from;
  if (!steps_.empty() && steps_.front().kind == StepKind::kArgValue) {
    turn.decision = steps_.front().decided;
    from = steps_.front().end;
  } else if (parent.step >= 0 && (records_[parent.step].step.kind == StepKind::kArgValue ||
                                  records_[parent.step].step.kind == StepKind::kFuncFinish)) {
    from = records_[parent.step].step.end;
  } else {
    return none;
  }
  const size_t first = look_ahead_.find_first_not_of(kSpace, from);
  // Only the byte right behind is a turn of this token: a later one is another step's business.
  if (first == std::string::npos || (turn.decision == 0 && first < parent.text.size())) return none;
  const char last = look_ahead_[look_ahead_.find_last_not_of(kSpace)];
  const bool behind_call =
      turn.decision == 0 && records_[parent.step].step.kind == StepKind::kFuncFinish;
  switch (look_ahead_[first]) {
    case ',':
      turn.way = behind_call ? Way::kAnother : Way::kMore;
      break;
    case '}':
    case ']':
      turn.way = state.finished() ? Way::kFinished : last == ',' ? Way::kAnother : Way::kClosed;
      break;
    default:
      return none;
  }
  return turn;
}

// The child's id, though it may be dead already.
int32_t StepSearch::make_child(int32_t parent_id, int32_t place, std::vector<uint32_t> draws,
                               bool greedy, bool follow) {
  const auto id = static_cast<int32_t>(branches_.size());
  branches_.push_back(std::make_unique<Branch>(at(parent_id)));
  Branch& child = at(id);
  const auto next = std::move(child.next);
  child.next = nullptr;
  child.draws = std::move(draws);
  child.greedy = greedy;
  child.follow = follow;
  child.held = !widened_ && !greedy;
  child.told = false;
  ++shared_[child.kv].users;
  round_.push_back(id);
  const int32_t token = next->tokens[place];
  if (!accept(child, token, next->logprobs[place], next->entropy, false)) {
    drop(id, death_text(child.state.death));
    return id;
  }
  if (!child.state.finished()) new_.push_back({id, parent_id, token});
  if (too_long(child)) drop(id, "unfinished");
  return id;
}

bool StepSearch::too_long(const Branch& branch) const {
  if (options_.token_level ? branch.ended() : branch.candidate) return false;
  const uint32_t length = tree_.depth(branch.node);
  const uint32_t before = branch.step < 0 ? 0 : depth(records_[branch.step]);
  return length >= options_.max_tokens || length - before >= options_.max_step_tokens;
}

// Appends a token to a branch; false when the response can no longer become a valid one.
bool StepSearch::accept(Branch& branch, int32_t token, float logprob, float entropy, bool forced) {
  const auto draws = static_cast<uint32_t>(branch.draws.size());
  branch.node = tree_.add(branch.node, token, draws, logprob, entropy, forced);
  branch.partial += logprob;
  branch.logprob += logprob;
  if (!forced) ++branch.sampled;
  branch.asked = false;
  if (branch.choices != nullptr) follow_choices(branch, token);
  steps_.clear();
  if (vocabulary_->ends[token]) {
    if (!segmenter_->finish(branch.state, steps_)) return false;
  } else {
    branch.text += vocabulary_->text(token);
    if (!segmenter_->advance(branch.state, branch.text, steps_)) return false;
    if (branch.state.in_text() && ++branch.text_tokens >= options_.max_text_tokens &&
        !segmenter_->finish(branch.state, steps_)) {
      return false;
    }
  }
  if (!steps_.empty()) {
    tree_[branch.node].boundary = true;
    branch.choices = nullptr;
    add_records(branch, steps_);
    if (runs_away(branch)) {
      branch.state.death = Death::kRunaway;
      return false;
    }
  }
  if (options_.token_level || !steps_.empty()) {
    branch.candidate = !options_.whole_responses || branch.state.finished();
    branch.votes = draws;
    branch.stuck = tree_.depth(branch.node) >= options_.max_tokens;
  }
  return true;
}

void StepSearch::absorb_forced(int32_t id) {
  Branch& branch = at(id);
  while (!branch.forced.empty() && !branch.candidate) {
    const int32_t token = branch.forced.back();
    branch.forced.pop_back();
    branch.next = nullptr;
    if (!accept(branch, token, 0, 0, true)) {
      drop(id, death_text(branch.state.death));
      return;
    }
    if (too_long(branch)) {
      drop(id, "unfinished");
      return;
    }
  }
}

void StepSearch::add_records(Branch& branch, const std::vector<Step>& steps) {
  for (const Step& step : steps) {
    StepRecord record{};
    record.step = step;
    record.previous = branch.step;
    record.node = branch.node;
    const int32_t before = branch.step < 0 ? TokenTree::kRoot : records_[branch.step].node;
    record.logprob_total = branch.step < 0 ? 0 : records_[branch.step].logprob_total;
    record.logprob_total_min = branch.step < 0 ? 0 : records_[branch.step].logprob_total_min;
    record.draws = static_cast<uint32_t>(branch.draws.size());
    record.greedy = branch.greedy;
    if (step.kind == StepKind::kArgValue || step.kind == StepKind::kFuncFinish) {
      const size_t next = branch.text.find_first_not_of(kSpace, step.end);
      record.goes_on = next != std::string::npos && branch.text[next] == ',';
    }
    for (int32_t node = branch.node; node != before; node = tree_[node].parent) {
      if (tree_[node].forced) continue;
      ++record.tokens;
      record.logprob_sum += tree_[node].logprob;
      record.logprob_min = std::min(record.logprob_min, tree_[node].logprob);
      record.entropy = tree_[node].entropy;
    }
    record.logprob_total += record.logprob_sum;
    record.logprob_total_min = std::min(record.logprob_total_min, record.logprob_min);
    branch.partial = 0;
    if (options_.token_level) {  // no reward is asked for
      record.scored = true;
      record.reward = std::exp(record.logprob_sum);
    }
    charge_for_repeats(record);
    // Variants of one decision differ in what their last token closes besides.
    if (&step == &steps.front()) {
      branch.decision = step.decided;
      branch.goes = Goes::kOn;
    } else {
      branch.goes = record.goes_on ? Goes::kToAnother : Goes::kToTheEnd;
    }
    branch.step = static_cast<int32_t>(records_.size());
    records_.push_back(record);
  }
}

// A call that repeats another one is paid for with the probability of its tokens, and of the token
// that closed the call before it: there it was decided that more would follow.
void StepSearch::charge_for_repeats(StepRecord& record) const {
  if (record.previous >= 0) record.paid = records_[record.previous].paid;
  if (record.step.kind != StepKind::kFuncFinish) return;
  double written = record.logprob_sum;
  for (int32_t at = record.previous; at >= 0; at = records_[at].previous) {
    const StepRecord& earlier = records_[at];
    if (earlier.step.call == record.step.call) {
      written += earlier.logprob_sum;
    } else if (earlier.step.kind == StepKind::kFuncFinish) {
      if (earlier.step.call == record.step.call - 1) written += tree_[earlier.node].logprob;
      record.copies += earlier.step.written_call == record.step.written_call;
    }
  }
  if (record.copies > 0) record.paid += written;
}

// Where nothing was drawn that leads here, a repeated call is never worth a look.
bool StepSearch::runs_away(const Branch& branch) const {
  for (int32_t at = branch.step; at != branch.beam_step && at >= 0; at = records_[at].previous) {
    const uint32_t copies = records_[at].copies;
    if (copies >= kMaxCopies) return true;
    if (copies > 0 && branch.draws.empty() && !branch.greedy && options_.follow_argmax) return true;
  }
  return false;
}

bool StepSearch::needs_decode(const Branch& branch) const {
  if (branch.held) return false;
  if (branch.next != nullptr) return false;  // though its KV may have been given up since
  if (tree_.depth(branch.node) == branch.cached) return false;
  return !branch.candidate || (options_.states_wanted && tree_[branch.node].hidden < 0);
}

bool StepSearch::next_batch(SearchBatch& batch) {
  batch = SearchBatch();
  in_flight_.clear();
  narrowed_.clear();
  requests_.clear();
  if (stopped_) return false;
  release_choices();
  prune();
  while (true) {
    round_.erase(std::remove_if(round_.begin(), round_.end(),
                                [&](int32_t id) { return branches_[id] == nullptr; }),
                 round_.end());
    bool wanted = false;
    for (int32_t id : round_) {
      if (!needs_decode(at(id))) continue;
      wanted = true;
      if (in_flight_.size() >= row_limit_) break;
      add_row(id, batch);
    }
    if (!in_flight_.empty()) break;
    if (!wanted) return false;
    if (waits_) break;
    make_room();
  }
  batch.ops = ledger_.take_ops();
  return true;
}

// Where rewards are the policy's probabilities, an open branch can only lose with every token. Once
// N decisions stand that nothing it may still become can outscore, it is dropped: a value that runs
// on and on costs no more than the others'.
void StepSearch::prune() {
  const bool falling =
      options_.aggregate == Aggregate::kProd || options_.aggregate == Aggregate::kMin;
  if (!options_.policy_rewards || !falling) return;
  if (options_.whole_responses || options_.token_level || !widened_) return;
  const auto log_aggregate = [&](const StepRecord* last, double more) {
    const double before = last == nullptr ? 0 : last->log_product;
    const double least = last == nullptr ? 0 : std::log(last->least);
    const double score =
        options_.aggregate == Aggregate::kProd ? before + more : std::min(least, more);
    const double total = last == nullptr ? 0 : last->logprob_total;
    return score + options_.policy_weight * (total + more);
  };
  std::unordered_map<uint64_t, double> best;  // by decision; ended beams stand for themselves
  for (int32_t id : round_) {
    if (branches_[id] == nullptr || !at(id).candidate) continue;
    const Branch& branch = at(id);
    const StepRecord* last = branch.beam_step < 0 ? nullptr : &records_[branch.beam_step];
    double more = 0;
    for (int32_t step = branch.step; step != branch.beam_step; step = records_[step].previous) {
      more += records_[step].logprob_sum;
    }
    const uint64_t key =
        branch.step == branch.beam_step ? mix64(static_cast<uint64_t>(id), 41) : branch.decision;
    const double score = log_aggregate(last, more);
    const auto [known, inserted] = best.emplace(key, score);
    if (!inserted) known->second = std::max(known->second, score);
  }
  if (best.size() < options_.beams) return;
  std::vector<double> scores;
  for (const auto& [key, score] : best) scores.push_back(score);
  std::nth_element(scores.begin(), scores.begin() + (options_.beams - 1), scores.end(),
                   std::greater<>());
  const double bar = scores[options_.beams - 1];
  for (int32_t id : round_) {
    if (branches_[id] == nullptr || at(id).candidate) continue;
    const int32_t step = at(id).step;
    if (log_aggregate(step < 0 ? nullptr : &records_[step], at(id).partial) < bar) {
      drop(id, "outscored");
    }
  }
}

// A branch that finds no sequence or no cells waits for a later batch.
void StepSearch::add_row(int32_t id, SearchBatch& batch) {
  Branch& branch = at(id);
  if (branch.choices != nullptr && add_choices(id, batch)) return;
  const uint32_t count = tree_.depth(branch.node) - branch.cached;
  if (count > ledger_.free_cells() || batch.logits_at.size() >= logits_limit_) return;
  if (!in_flight_.empty() && batch.tokens.size() + count > options_.max_batch_tokens) return;
  if (!own_sequence(branch)) return;
  add_tail(branch, count, batch);
  // What is forced to follow needs no distribution, nor does what has ended.
  const bool logits = branch.forced.empty() && !branch.ended();
  if (logits) want_logits(id, branch.choices, branch.choice, batch);
  in_flight_.push_back({id, count, logits, nullptr, {}, 0, {}});
}

// A sequence that no other branch uses; false when there is none.
bool StepSearch::own_sequence(Branch& branch) {
  SharedSequence& shared = shared_[branch.kv];
  if (branch.kv != 0 && shared.users == 1) return true;
  const int32_t sequence = ledger_.fork(shared.sequence);
  if (sequence == KvLedger::kNone) return false;
  --shared.users;
  branch.kv = static_cast<int32_t>(shared_.size());
  shared_.push_back({sequence, 1});
  return true;
}

// The branch's last `count` tokens, behind what its sequence holds.
void StepSearch::add_tail(const Branch& branch, uint32_t count, SearchBatch& batch) {
  const int32_t sequence = shared_[branch.kv].sequence;
  tree_.tail(branch.node, count, run_);
  for (int32_t node : run_) {
    ledger_.append(sequence);
    const auto place = static_cast<int32_t>(batch.tokens.size());
    batch.tokens.push_back(tree_[node].token);
    batch.positions.push_back(static_cast<int32_t>(prompt_tokens_ + tree_[node].depth - 1));
    batch.sequences.push_back(sequence);
    if (state_wanted(tree_[node])) batch.hidden_at.push_back(place);
  }
}

// The distribution behind the batch's last token: a branch's, or that of a node of its choices.
void StepSearch::want_logits(int32_t branch, const std::shared_ptr<const ChoiceTree>& choices,
                             int32_t node, SearchBatch& batch) {
  const bool narrowed = choices != nullptr && choices->narrows(node);
  const bool masked = !narrowed || !choices->nodes[node].closers.empty();
  batch.logits_at.push_back(static_cast<int32_t>(batch.tokens.size()) - 1);
  batch.branches.push_back(masked ? branch : SearchBatch::kUnmasked);
  narrowed_.push_back({narrowed ? choices : nullptr, node});
}

void StepSearch::observe(std::vector<Distribution> next, const float* hidden, size_t width) {
  size_t rows = 0;
  for (const Row& row : in_flight_) rows += 1 + row.sequences.size();
  counts_.rows_max = std::max(counts_.rows_max, static_cast<uint32_t>(rows));
  counts_.cells_max = std::max(counts_.cells_max, ledger_.used());
  if (options_.choices > 0) {  // the rows are wider than draws may be
    for (size_t row = 0; row < next.size(); ++row) {
      const size_t size = std::min<size_t>(next[row].tokens.size(), options_.sampler.top_k);
      if (narrowed_[row].choices != nullptr) continue;
      next[row].tokens.resize(size);
      next[row].logprobs.resize(size);
    }
  }
  size_t row = 0;
  for (const Row& done : in_flight_) {
    Branch& branch = at(done.branch);
    tree_.tail(branch.node, done.tokens, run_);
    branch.cached += done.tokens;
    for (int32_t node : run_) {
      TokenNode& token = tree_[node];
      ++(token.forced ? counts_.forced_tokens : counts_.decode_tokens);
      if (!token.forced) {
        counts_.drawn_tokens += widened_ ? token.draws : 1;
        if (!widened_) put_off_[branch.beam] += token.draws;
      }
      if (hidden != nullptr && state_wanted(token)) {
        token.hidden = add_hidden(hidden, width);
      }
    }
    if (done.logits) {
      branch.next = std::make_shared<const Distribution>(std::move(next[row++]));
    }
    if (done.choices != nullptr) observe_choices(done, next, row, hidden, width);
  }
  // Expansion drops its branch, so the rows are read to the end first. Where a round is one token
  // the beams expand together, when all their distributions are there.
  for (const Row& done : in_flight_) {
    if (done.logits && !at(done.branch).candidate && !options_.token_level) expand(done.branch);
  }
  in_flight_.clear();
}

// Keeps the state at `hidden`, moves on behind it, and returns its row.
int32_t StepSearch::add_hidden(const float*& hidden, size_t width) {
  width_ = width;
  hidden_.insert(hidden_.end(), hidden, hidden + width);
  hidden += width;
  return static_cast<int32_t>(hidden_.size() / width) - 1;
}

// Returns whether there were choices among them.
bool StepSearch::take_back_rows() {
  bool choices = false;
  for (const Row& row : in_flight_) {
    if (row.choices != nullptr) retract_choices(row);
    choices |= row.choices != nullptr;
    ledger_.shorten(shared_[at(row.branch).kv].sequence, row.tokens);
  }
  in_flight_.clear();
  return choices;
}

void StepSearch::set_room(uint32_t cells, int32_t sequences, uint32_t batch_tokens, bool waits) {
  ledger_.limit(sequences, cells);
  options_.max_batch_tokens = batch_tokens;
  waits_ = waits;
}

void StepSearch::forget_cells() {
  take_back_rows();  // a batch is wanted, so nothing else is decoded ahead
  for (const auto& branch : branches_) {
    if (branch != nullptr && branch->kv != 0) forget_kv(*branch);
  }
  ledger_.take_ops();
}

void StepSearch::no_room() {
  const size_t rows = in_flight_.size();
  if (take_back_rows()) return;  // one by one they may fit
  if (rows > 1) {
    row_limit_ = static_cast<uint32_t>(rows / 2);
  } else {
    make_room();
  }
}

uint64_t StepSearch::planned_tokens() const {
  uint64_t count = counts_.decode_tokens;
  for (const Row& row : in_flight_) {
    int32_t node = at(row.branch).node;
    for (uint32_t i = 0; i < row.tokens; ++i, node = tree_[node].parent) {
      if (!tree_[node].forced) ++count;
    }
    for (int32_t choice : row.nodes) {
      if (!row.choices->nodes[choice].forced) ++count;
    }
  }
  return count;
}

// What stands at a boundary is a candidate as ever. A whole response that is still being written
// stands for what it has decided; for any other open branch stands the beam that it came from. A
// beam whose every way on has died is no answer while there are others, and neither is one that
// half of the draws have gone on from: what they decided stands in its place. What is held was
// never looked at, and counts for nothing.
void StepSearch::stop() {
  if (stopped_ || done_) return;
  stopped_ = true;
  widened_ = true;
  in_flight_.clear();
  if (branches_.empty()) {
    make_root();
    fallback_.push_back(at(0));
  }
  if (options_.token_level) {
    std::vector<int32_t> ranked;
    for (int32_t id : beams_) {
      if (branches_[id] != nullptr) ranked.push_back(id);
    }
    std::stable_sort(ranked.begin(), ranked.end(), [&](int32_t a, int32_t b) {
      const bool finished = at(a).state.finished();
      return finished != at(b).state.finished() ? finished : at(a).score > at(b).score;
    });
    for (; ranked.size() > options_.beams; ranked.pop_back()) drop(ranked.back(), "outscored");
    if (!ranked.empty()) fallback_.clear();
    beams_ = std::move(ranked);
    done_ = true;
    return;
  }
  for (Branch& beam : fallback_) {
    if (beam.step < 0) beam.score = 1;  // nothing is decided yet, so nothing is wrong
  }
  struct Came {
    bool alive = false, candidate = false;
    uint32_t open = 0, decided = 0;  // draws
  };
  std::vector<Came> came(fallback_.size());
  for (int32_t id : round_) {
    if (branches_[id] == nullptr) continue;
    Branch& branch = at(id);
    if (branch.held) {
      drop(id, nullptr);
      continue;
    }
    came[branch.beam].alive = true;
    const auto draws = static_cast<uint32_t>(branch.draws.size());
    // What can't be judged, because its boundary token was never decoded, is a response that has
    // ended, or no candidate.
    const bool judged = !options_.states_wanted || branch.step < 0 ||
                        records_[branch.step].scored || hidden(records_[branch.step]) != nullptr;
    const bool decided =
        branch.candidate ? judged || branch.state.finished() : branch.step != branch.beam_step;
    came[branch.beam].candidate |= decided;
    (decided ? came[branch.beam].decided : came[branch.beam].open) += draws;
    if (!decided) {
      drop(id, "unfinished");
    } else if (!branch.candidate) {
      branch.candidate = true;
      branch.votes = draws;
    }
  }
  const auto alive = [](const Came& of) { return of.alive; };
  if (std::none_of(came.begin(), came.end(), alive)) return;
  if (options_.rank_by_draws) {
    for (Branch& beam : fallback_) beam.votes = came[beam.beam].open;
  }
  const auto replaced = [&](const Branch& beam) {
    const Came& of = came[beam.beam];
    return beam.ended() || !of.alive || (of.candidate && of.decided >= of.open);
  };
  fallback_.erase(std::remove_if(fallback_.begin(), fallback_.end(), replaced), fallback_.end());
}

// No row fits any more. Somebody's KV must go: that of a branch that is held and may never be
// looked at, else that of a candidate, which needs it only if it is kept, else that of the least
// likely open branch, which goes last from now on. What was dropped is decoded again when its turn
// comes. A branch that is alone in the cache is given up.
void StepSearch::make_room() {
  constexpr uint32_t kPatience = 8;
  const auto total = [&](int32_t id) {
    const int32_t step = at(id).step;
    return step < 0 ? 0.0 : records_[step].logprob_total;
  };
  std::vector<int32_t> alive;
  for (int32_t id : round_) {
    if (branches_[id] != nullptr) alive.push_back(id);
  }
  std::stable_sort(alive.begin(), alive.end(), [&](int32_t a, int32_t b) {
    if (at(a).held != at(b).held) return at(a).held;
    const bool idle_a = !needs_decode(at(a));
    const bool idle_b = !needs_decode(at(b));
    return idle_a != idle_b ? idle_a : total(a) < total(b);
  });
  const auto holds = [&](int32_t id) { return at(id).cached > 0; };
  const auto waits = [&](int32_t id) { return needs_decode(at(id)); };
  const auto victim = std::find_if(alive.begin(), alive.end(), holds);
  const auto waiting = std::count_if(alive.begin(), alive.end(), waits);
  if (victim == alive.end() || (waits(*victim) && waiting < 2) ||
      at(*victim).evictions >= kPatience) {
    drop(*std::find_if(alive.begin(), alive.end(), waits), "unfinished");
    return;
  }
  Branch& branch = at(*victim);
  ++branch.evictions;
  forget_kv(branch);
  round_.erase(std::find(round_.begin(), round_.end(), *victim));
  round_.push_back(*victim);
}

void StepSearch::release_kv(Branch& branch) {
  SharedSequence& shared = shared_[branch.kv];
  if (--shared.users == 0) ledger_.drop(shared.sequence);
}

// What was forgotten is decoded again, should it be needed.
void StepSearch::forget_kv(Branch& branch) {
  release_kv(branch);
  ++shared_[0].users;
  branch.kv = 0;
  branch.cached = 0;
}

void StepSearch::drop(int32_t id, const char* fate) {
  if (fate != nullptr) note(at(id), fate);
  release_kv(at(id));
  branches_[id] = nullptr;
}

void StepSearch::note(const Branch& branch, const char* fate) {
  if (!options_.trace) return;
  TraceEntry entry{counts_.rounds,
                   branch.beam,
                   branch.text.substr(branch.beam_text),
                   {},
                   branch.score,
                   static_cast<uint32_t>(branch.draws.size()),
                   fate,
                   branch.step,
                   tree_.depth(branch.node),
                   branch.greedy,
                   branch.state.finished()};
  for (int32_t step = branch.step; step != branch.beam_step; step = records_[step].previous) {
    entry.kinds.push_back(records_[step].step.kind);
  }
  std::reverse(entry.kinds.begin(), entry.kinds.end());
  trace_.push_back(std::move(entry));
}

std::vector<int32_t> StepSearch::unscored() const {
  std::unordered_set<int32_t> seen;
  std::vector<int32_t> result;
  for (int32_t id : round_) {
    if (branches_[id] == nullptr || !at(id).candidate || at(id).held) continue;
    for (int32_t step = at(id).step; step >= 0 && !records_[step].scored;
         step = records_[step].previous) {
      if (stopped_ && options_.states_wanted && hidden(records_[step]) == nullptr) continue;
      if (seen.insert(step).second) result.push_back(step);
    }
  }
  std::sort(result.begin(), result.end());
  return result;
}

const float* StepSearch::hidden(const StepRecord& record) const {
  const int32_t row = tree_[record.node].hidden;
  return row < 0 ? nullptr : hidden_.data() + static_cast<size_t>(row) * width_;
}

uint32_t StepSearch::add_states(const StepRecord& record, float* sum) const {
  const int32_t before = record.previous < 0 ? TokenTree::kRoot : records_[record.previous].node;
  uint32_t count = 0;
  int32_t node = record.node;
  do {  // a step that its predecessor's token closes has that token
    const int32_t row = tree_[node].hidden;
    if (row >= 0) {
      const float* state = hidden_.data() + static_cast<size_t>(row) * width_;
      for (size_t i = 0; i < width_; ++i) sum[i] += state[i];
      ++count;
    }
    node = tree_[node].parent;
  } while (node != TokenTree::kRoot && node != before && record.node != before);
  return count;
}

std::string StepSearch::text_of(const StepRecord& record) const {
  std::vector<int32_t> path;
  tree_.tail(record.node, tree_.depth(record.node), path);
  std::string text;
  for (int32_t node : path) {
    if (!vocabulary_->ends[tree_[node].token]) text += vocabulary_->text(tree_[node].token);
  }
  text.resize(record.step.boundary);
  return text;
}

double StepSearch::aggregate(const StepRecord& last) const {
  switch (options_.aggregate) {
    case Aggregate::kMin:
      return last.least;
    case Aggregate::kProd:
      return std::exp(last.log_product);
    case Aggregate::kMean:
      return last.sum / last.count;
    case Aggregate::kLast:
      break;
  }
  return last.reward;
}

void StepSearch::score(Branch& branch) const {
  if (branch.step < 0) return;
  double unjudged = 0;
  int32_t step = branch.step;
  for (; step >= 0 && !records_[step].scored; step = records_[step].previous) {
    unjudged += records_[step].logprob_sum;
  }
  // What a stop left unjudged of a response that has ended counts with the policy's probability.
  if (!branch.state.finished()) unjudged = 0;
  const StepRecord& last = records_[branch.step];
  const double logprob = unjudged + last.paid + options_.policy_weight * last.logprob_total;
  branch.score = (step < 0 ? 1.0 : aggregate(records_[step])) * std::exp(logprob);
}

void StepSearch::keep(const std::vector<float>& rewards) {
  if (options_.token_level) {
    keep_tokens();
    return;
  }
  const std::vector<int32_t> fresh = unscored();
  for (size_t i = 0; i < fresh.size(); ++i) {
    StepRecord& record = records_[fresh[i]];
    record.scored = true;
    record.reward = std::clamp(rewards[i], 0.0f, 1.0f);
    record.log_product = std::log(std::max(record.reward, 1e-30f));
    record.sum = record.reward;
    record.least = record.reward;
    record.count = 1;
    if (record.previous >= 0) {
      const StepRecord& previous = records_[record.previous];
      record.log_product += previous.log_product;
      record.sum += previous.sum;
      record.least = std::min(record.least, previous.least);
      record.count += previous.count;
    }
  }
  std::vector<int32_t> ranked;
  for (int32_t id : round_) {
    if (branches_[id] == nullptr || at(id).held) continue;
    score(at(id));
    ranked.push_back(id);
  }
  if (!widened_ && look_further()) return;
  std::stable_sort(ranked.begin(), ranked.end(), [&](int32_t a, int32_t b) {
    if (at(a).score != at(b).score) return at(a).score > at(b).score;
    return at(a).votes > at(b).votes;
  });

  if (stopped_ && !options_.policy_rewards && !options_.rank_by_draws) {
    // Fewer draws will do where they have found something good.
    const auto replaced = [&](const Branch& beam) {
      return std::any_of(ranked.begin(), ranked.end(), [&](int32_t id) {
        return at(id).beam == beam.beam && at(id).score >= 0.5 * beam.score;
      });
    };
    fallback_.erase(std::remove_if(fallback_.begin(), fallback_.end(), replaced), fallback_.end());
  }

  // Equal candidates are one: the best keeps its own KV, and only the counts add.
  std::unordered_map<uint64_t, int32_t> first;
  std::vector<int32_t> distinct;
  for (int32_t id : ranked) {
    const uint64_t key = segmenter_->merge_key(at(id).state, at(id).text);
    const auto [known, inserted] = first.emplace(key, id);
    if (inserted) {
      distinct.push_back(id);
    } else {
      at(known->second).votes += at(id).votes;
      drop(id, "merged");
    }
  }
  if (options_.rank_by_draws) {
    std::stable_sort(distinct.begin(), distinct.end(),
                     [&](int32_t a, int32_t b) { return at(a).votes > at(b).votes; });
  }
  if (stopped_) {  // there is no other round that what has ended could win
    std::stable_partition(distinct.begin(), distinct.end(),
                          [&](int32_t id) { return at(id).state.finished(); });
  }
  finish_search(choose(std::move(distinct)));
}

// Every beam has gone a step greedily, and is judged. What is right after a step was so before it:
// no other candidate of a beam should score more than the beam did, so the most that looking at
// them can add is by how much it stood above the round's best candidate. Where that is too little
// they are let go, undecoded; else the round goes on with them, and with what has been decoded.
// They waited in the sequences they branched off from, whose cells the greedy path holds anyway.
bool StepSearch::look_further() {
  widened_ = true;
  double best = -1;
  for (int32_t id : round_) {
    if (branches_[id] != nullptr && !at(id).held) best = std::max(best, at(id).score);
  }
  const bool lost = best < 0;  // the greedy paths died
  std::vector<bool> doubtful;
  for (const Branch& beam : fallback_) {
    const double before = beam.step < 0 ? 1 : beam.score;
    doubtful.push_back(before - std::max(best, 0.0) > 1 - options_.doubt ||
                       (lost && options_.doubt > 0));
  }
  std::vector<bool> open(fallback_.size(), false);
  for (int32_t id : round_) {
    if (branches_[id] == nullptr) continue;
    Branch& branch = at(id);
    if (branch.held && doubtful[branch.beam]) {
      branch.held = false;
      open[branch.beam] = true;
    } else if (branch.held) {
      drop(id, nullptr);
    } else if (!doubtful[branch.beam] && branch.step != branch.beam_step) {
      branch.draws.assign(1, 0);
      branch.votes = 1;
    }
  }
  const bool any = std::find(open.begin(), open.end(), true) != open.end();
  if (any) ++counts_.widened;
  for (size_t beam = 0; beam < open.size(); ++beam) {
    if (open[beam]) counts_.drawn_tokens += put_off_[beam];
  }
  return any;
}

// The best N, one for each decision. Of its variants the best that goes on another way behind it
// comes along, for what ends here is not judged until the next round; others take places that stay
// empty. The best response that has ended is never lost: it costs nothing, and what outscores it
// now may come to a worse end. A search that doubts drops what is far behind the best, so that it
// comes back to one beam and to the cost of greedy decoding.
std::vector<int32_t> StepSearch::choose(std::vector<int32_t> ranked) {
  std::vector<int32_t> kept;
  std::vector<int32_t> companions;
  std::vector<int32_t> variants;
  struct Kept {
    uint8_t ways;  // as bits
    double score;
  };
  std::unordered_map<uint64_t, Kept> decisions;
  bool ended = false;
  const double bar = ranked.empty() ? 0 : (1 - options_.doubt) * at(ranked.front()).score;
  const auto take = [&](int32_t id) {
    if (at(id).score < bar && !at(id).ended()) return false;
    const bool room = kept.size() < options_.beams;
    const bool carried = at(id).step == at(id).beam_step;  // ended in an earlier round
    const auto way = static_cast<uint8_t>(1u << static_cast<int>(at(id).goes));
    const auto known = decisions.find(at(id).decision);
    const bool best_ended = at(id).state.finished() && !ended;
    ended |= at(id).state.finished();
    if (options_.whole_responses || carried || known == decisions.end()) {
      if (!room) {
        if (options_.way_floor > 0 || !best_ended) return false;
        companions.push_back(id);
        return true;
      }
      kept.push_back(id);
      if (!carried) decisions[at(id).decision] = {way, at(id).score};
    } else if (options_.way_floor <= 0 && !(known->second.ways & way) &&
               at(id).score >= kCompanion * known->second.score) {
      known->second.ways |= way;
      companions.push_back(id);
    } else if (room) {
      variants.push_back(id);
    } else {
      return false;
    }
    return true;
  };
  for (int32_t id : ranked) {
    if (!take(id)) drop(id, "outscored");
  }
  for (int32_t id : variants) {
    if (kept.size() < options_.beams) {
      kept.push_back(id);
    } else {
      drop(id, "variant");
    }
  }
  kept.insert(kept.end(), companions.begin(), companions.end());
  std::stable_sort(kept.begin(), kept.end(),
                   [&](int32_t a, int32_t b) { return at(a).score > at(b).score; });
  return kept;
}

// Beam search as usual: the N likeliest of all beams' next tokens live on. What finishes among the
// first N is set aside and loses no beam its place; the N best of these stay, by log-probability a
// token. What dies has had its place: only the mask looks ahead. It is over when no beam stands
// better than the worst set aside, as with early_stopping=False and length_penalty=1 in
// transformers.
void StepSearch::keep_tokens() {
  struct Offer {
    double logprob;
    int32_t branch;
    int32_t place;  // in the branch's distribution; -1: its token was forced
  };
  const auto set_aside = [&](int32_t id) {
    return at(id).state.finished() && at(id).step == at(id).beam_step;
  };
  std::vector<Offer> offers;
  std::vector<int32_t> finished, expanded;
  for (int32_t id : beams_) {
    if (branches_[id] == nullptr) continue;
    const Branch& beam = at(id);
    if (set_aside(id)) {
      finished.push_back(id);
    } else if (beam.candidate) {
      offers.push_back({beam.logprob, id, -1});
    } else {
      expanded.push_back(id);
      // As many again as there are places: some may finish.
      const size_t count = std::min<size_t>(beam.next->tokens.size(), 2 * options_.beams);
      for (size_t place = 0; place < count; ++place) {
        offers.push_back(
            {beam.logprob + beam.next->logprobs[place], id, static_cast<int32_t>(place)});
      }
    }
  }
  std::stable_sort(offers.begin(), offers.end(),
                   [](const Offer& a, const Offer& b) { return a.logprob > b.logprob; });

  std::vector<int32_t> running;
  uint32_t places = options_.beams;
  for (size_t rank = 0; rank < offers.size(); ++rank) {
    const Offer& offer = offers[rank];
    int32_t id = offer.branch;
    if (places == 0) {
      if (offer.place < 0) drop(id, "outscored");
      continue;
    }
    if (offer.place >= 0) id = make_child(id, offer.place, at(id).draws, false, false);
    if (branches_[id] == nullptr) {
      --places;
      continue;
    }
    Branch& branch = at(id);
    branch.score = std::exp(branch.logprob / std::max(branch.sampled, 1u));
    if (!branch.state.finished()) {
      --places;
      running.push_back(id);
    } else if (rank < options_.beams) {
      forget_kv(branch);
      finished.push_back(id);
    } else {
      drop(id, "outscored");
    }
  }
  for (int32_t id : expanded) drop(id, nullptr);

  const auto better = [&](int32_t a, int32_t b) { return at(a).score > at(b).score; };
  const auto shorten = [&](std::vector<int32_t>& ranked) {
    for (; ranked.size() > options_.beams; ranked.pop_back()) drop(ranked.back(), "outscored");
  };
  std::stable_sort(finished.begin(), finished.end(), better);
  shorten(finished);
  const auto stuck = [&](int32_t id) { return at(id).stuck; };
  const auto hopeful = [&](int32_t id) { return better(id, finished.back()); };
  done_ =
      std::all_of(running.begin(), running.end(), stuck) ||
      (finished.size() == options_.beams && std::none_of(running.begin(), running.end(), hopeful));
  if (done_) {
    std::stable_sort(running.begin(), running.end(), better);
    finished.insert(finished.end(), running.begin(), running.end());
    shorten(finished);
    beams_ = std::move(finished);
  } else {
    running.insert(running.end(), finished.begin(), finished.end());
    beams_ = std::move(running);
  }
  for (int32_t id : beams_) {
    if (!set_aside(id)) note(at(id), "kept");
  }
  if (!done_) begin_round();
}

void StepSearch::finish_search(std::vector<int32_t> kept) {
  for (int32_t id : kept) {
    if (at(id).step != at(id).beam_step) note(at(id), "kept");
  }
  done_ = stopped_ || kept.empty() || options_.whole_responses || settled(kept);
  beams_ = std::move(kept);
  if (!done_) begin_round();
}

// Nothing that is still alive can win: all have ended, or the best has and scores only fall.
bool StepSearch::settled(const std::vector<int32_t>& kept) const {
  const auto ended = [&](int32_t id) { return at(id).ended(); };
  if (std::all_of(kept.begin(), kept.end(), ended)) return true;
  const bool falling =
      options_.aggregate == Aggregate::kProd || options_.aggregate == Aggregate::kMin;
  return falling && options_.policy_weight >= 0 && at(kept.front()).state.finished();
}

std::vector<int32_t> StepSearch::live() const {
  std::vector<int32_t> result;
  for (int32_t id : round_) {
    if (branches_[id] != nullptr) result.push_back(id);
  }
  return result;
}

Answer StepSearch::answer(const Branch& branch) const {
  Answer result{branch.text, {}, {}, branch.score, 0, branch.votes, branch.state.finished()};
  for (int32_t step = branch.step; step >= 0; step = records_[step].previous) {
    result.steps.push_back(step);
  }
  std::reverse(result.steps.begin(), result.steps.end());
  for (int32_t node = branch.node; node != TokenTree::kRoot; node = tree_[node].parent) {
    result.tokens.push_back(tree_[node].token);
    result.logprob += tree_[node].logprob;
  }
  std::reverse(result.tokens.begin(), result.tokens.end());
  return result;
}

std::vector<Answer> StepSearch::beams() const {
  if (done_) return answers();
  std::vector<Answer> result;
  for (const Branch& branch : fallback_) result.push_back(answer(branch));
  return result;
}

std::vector<Answer> StepSearch::answers() const {
  std::vector<Answer> result;
  for (int32_t id : beams_) {
    if (branches_[id] != nullptr) result.push_back(answer(at(id)));
  }
  if (stopped_ || result.empty()) {
    for (const Branch& branch : fallback_) result.push_back(answer(branch));
  }
  // What has ended goes first; after a stop not where what has not is much better: to decline, say,
  // takes one token, and the call that is right takes many.
  const bool vote = options_.rank_by_draws;
  double open = 0;
  for (const Answer& other : result) {
    if (other.complete || !stopped_) continue;
    open = vote ? open + other.draws : std::max(open, other.score);
  }
  const auto tier = [&](const Answer& a) {
    if (!a.complete) return 1;
    return (vote ? a.draws : a.score) < kCompanion * open ? 2 : 0;
  };
  std::stable_sort(result.begin(), result.end(), [&](const Answer& a, const Answer& b) {
    if (tier(a) != tier(b)) return tier(a) < tier(b);
    return vote ? a.draws > b.draws : a.score > b.score;
  });
  return result;
}

}  // namespace toolprm
