// The part of the search that knows choices: a step whose texts are finite is decoded as one tree
// of tokens ahead of its branches. They are then made as ever, from the distributions that are
// there already, so that draws, candidates and their certainty are those of any other step.
#include <algorithm>

#include "step_search.h"

namespace toolprm {

namespace {

// Tokens that end a choice where others go on; both must find room among the most likely.
constexpr size_t kClosers = 64;

bool structural(std::string_view text) {
  return text.find_first_not_of("\",:[]{} \t\r\n") == std::string_view::npos;
}

}  // namespace

uint32_t StepSearch::choice_width() const {
  return options_.choices == 0 ? 0 : options_.choices + static_cast<uint32_t>(kClosers);
}

std::vector<ChoiceRequest> StepSearch::take_choices() {
  std::vector<ChoiceRequest> result;
  if (options_.choices == 0) return result;
  for (int32_t id : round_) {
    if (branches_[id] == nullptr) continue;
    Branch& branch = at(id);
    if (branch.asked || branch.candidate || branch.choices != nullptr || !branch.forced.empty() ||
        !needs_decode(branch)) {
      continue;
    }
    branch.asked = true;
    std::vector<Choice> choices =
        list_choices(segmenter_->tools(), branch.state, branch.text, options_.choices);
    if (choices.empty()) continue;
    requests_.emplace_back(id, choices);
    result.push_back({id, branch.text.substr(branch.state.key_begin), std::move(choices)});
  }
  return result;
}

bool StepSearch::awaits_choices(int32_t id, size_t count) const {
  return std::any_of(requests_.begin(), requests_.end(), [&](const auto& known) {
    return known.first == id && known.second.size() == count;
  });
}

int32_t StepSearch::set_choices(int32_t id, const std::vector<int32_t>& parents,
                                const std::vector<int32_t>& tokens, const std::vector<bool>& forced,
                                const std::vector<int32_t>& ends) {
  Branch& branch = at(id);
  auto tree = std::make_shared<ChoiceTree>();
  struct Place {
    bool alive;
    std::string text;
    SegmenterState state;
  };
  std::vector<Place> places{{true, branch.text, branch.state}};
  tree->nodes.resize(tokens.size() + 1);
  const int32_t first = next_choice_ - 1;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int32_t parent = parents[i];
    const auto id_in_tree = static_cast<int32_t>(i + 1);
    ChoiceNode& node = tree->nodes[id_in_tree];
    node.token = tokens[i];
    node.forced = forced[i];
    node.number = --next_choice_;
    Place place = places[parent];
    if (tree->nodes[parent].boundary) {
      tree->nodes[parent].last = true;  // what follows is forced
      place.alive = false;
    }
    if (place.alive) {
      place.text += vocabulary_->text(node.token);
      steps_.clear();
      place.alive = segmenter_->advance(place.state, place.text, steps_);
      node.boundary = !steps_.empty();
      node.last = place.state.finished();
    }
    if (place.alive) tree->nodes[parent].children.push_back(id_in_tree);
    places.push_back(std::move(place));
  }
  const auto request = std::find_if(requests_.begin(), requests_.end(),
                                    [&](const auto& known) { return known.first == id; });
  for (size_t i = 0; i < ends.size(); ++i) {
    if (ends[i] < 0 || !places[ends[i]].alive) continue;
    ChoiceNode& node = tree->nodes[ends[i]];
    if (node.boundary) continue;
    const Place& place = places[ends[i]];
    const std::string_view text = request->second[i].text;
    for (int32_t token :
         closers(place.text, place.state,
                 text.substr(std::min(text.size(), place.text.size() - branch.text.size())))) {
      if (std::find(node.closers.begin(), node.closers.end(), token) == node.closers.end()) {
        node.closers.push_back(token);
      }
    }
    if (node.closers.size() > kClosers && !node.children.empty()) node.closers.resize(kClosers);
  }
  if (tree->narrows(0)) {
    branch.choices = std::move(tree);
    branch.choice = 0;
  }
  return first;
}

// The tokens that decide a step whose value has been written up to `rest`, shortest first. They may
// write some of what follows, but no text of their own.
std::vector<int32_t> StepSearch::closers(const std::string& text, const SegmenterState& state,
                                         std::string_view rest) const {
  std::vector<int32_t> found;
  const std::string_view beginnings = rest.empty() ? ",} \t\r\n" : rest.substr(0, 1);
  std::vector<Step> steps;
  std::string written = text;
  for (char byte : beginnings) {
    for (int32_t token : vocabulary_->by_first_byte[static_cast<unsigned char>(byte)]) {
      const std::string_view bytes = vocabulary_->text(token);
      if (vocabulary_->ends[token] || bytes.substr(0, rest.size()) != rest ||
          !structural(bytes.substr(rest.size()))) {
        continue;
      }
      SegmenterState after = state;
      written.resize(text.size());
      written += bytes;
      steps.clear();
      if (segmenter_->advance(after, written, steps) && !steps.empty()) found.push_back(token);
    }
  }
  std::stable_sort(found.begin(), found.end(), [&](int32_t a, int32_t b) {
    return vocabulary_->text(a).size() < vocabulary_->text(b).size();
  });
  return found;
}

bool StepSearch::narrowed() const {
  return std::any_of(narrowed_.begin(), narrowed_.end(),
                     [](const Narrowed& row) { return row.choices != nullptr; });
}

void StepSearch::narrow(uint32_t* masks, size_t words) const {
  std::vector<int32_t> allowed;
  for (size_t row = 0; row < narrowed_.size(); ++row) {
    if (narrowed_[row].choices == nullptr) continue;
    const ChoiceTree& tree = *narrowed_[row].choices;
    const ChoiceNode& node = tree.nodes[narrowed_[row].node];
    uint32_t* mask = masks + row * words;
    allowed.clear();
    for (int32_t token : node.closers) {
      if ((mask[token / 32] >> (token % 32)) & 1) allowed.push_back(token);
    }
    for (int32_t child : node.children) allowed.push_back(tree.nodes[child].token);
    std::fill(mask, mask + words, 0u);
    for (int32_t token : allowed) mask[token / 32] |= 1u << (token % 32);
  }
}

// What has been decoded ahead is taken apart level by level: the tokens that a constraint forces on
// a branch must be known before it goes on.
void StepSearch::walk_choices() {
  if (ahead_.empty()) return;
  const std::vector<int32_t> ids = round_;
  for (int32_t id : ids) {
    if (branches_[id] == nullptr) continue;
    const Branch& branch = at(id);
    if (branch.told && !branch.candidate && branch.choices != nullptr && branch.next != nullptr &&
        branch.forced.empty()) {
      expand(id);
    }
  }
}

// A branch has taken a token of its step: what was decoded of it is the branch's own.
void StepSearch::follow_choices(Branch& branch, int32_t token) {
  const ChoiceNode& before = branch.choices->nodes[branch.choice];
  const int32_t child = branch.choices->child(branch.choice, token);
  if (child < 0) {
    // Its sequence holds tokens of another choice.
    if (before.decoded && !before.stops) forget_kv(branch);
    branch.choices = nullptr;
    return;
  }
  branch.choice = child;
  const ChoiceNode& node = branch.choices->nodes[child];
  if (!node.decoded) return;
  TokenNode& written = tree_[branch.node];
  written.hidden = node.hidden;
  if (!node.forced) counts_.drawn_tokens += written.draws;
  branch.next = node.next;
  if (!node.stops) return;
  release_kv(branch);
  branch.kv = node.kv;
  ++shared_[node.kv].users;
  branch.cached = written.depth;
}

// Whether a node at this depth of the response is decoded ahead. A boundary is for its state alone;
// a branch that is too long is given up.
bool StepSearch::choice_wanted(const Branch& branch, const ChoiceNode& node, uint32_t depth) const {
  if (node.boundary) return options_.states_wanted;
  const uint32_t before = branch.step < 0 ? 0 : this->depth(records_[branch.step]);
  return depth < options_.max_tokens && depth - before < options_.max_step_tokens;
}

// Marks what is decoded ahead below a node at this depth, in the order of the batch.
void StepSearch::find_choices(const Branch& branch, int32_t parent, uint32_t depth,
                              Row& row) const {
  if (row.nodes.size() > options_.max_batch_tokens) return;  // more than there will be room for
  ChoiceNode& node = row.choices->nodes[parent];
  bool some = false;
  bool all = true;
  for (int32_t child : node.children) {
    ChoiceNode& below = row.choices->nodes[child];
    below.ahead = choice_wanted(branch, below, depth + 1);
    some |= below.ahead;
    all &= below.ahead;
    if (!below.ahead) continue;
    row.nodes.push_back(child);
    find_choices(branch, child, depth + 1, row);
  }
  node.stops = node.boundary || !node.closers.empty() || !some || !all;
}

// A row for the branch and one for each of its choices, sharing what they share. False: they do not
// fit, or are not wanted at once, and the branch is a row like any other. True without a row: it
// waits for a batch that has room.
bool StepSearch::add_choices(int32_t id, SearchBatch& batch) {
  Branch& branch = at(id);
  if (!widened_ || branch.apart || !options_.forks_within) return false;
  const uint32_t depth = tree_.depth(branch.node);
  Row row{id, depth - branch.cached, true, branch.choices, {}, 0, {}};
  find_choices(branch, branch.choice, depth, row);
  if (row.nodes.empty()) return false;
  size_t logits = 1;
  size_t sequences = branch.kv == 0 || shared_[branch.kv].users > 1 ? 1 : 0;
  const auto count = [&](const ChoiceNode& node) {
    const auto lines =
        std::count_if(node.children.begin(), node.children.end(),
                      [&](int32_t child) { return row.choices->nodes[child].ahead; });
    sequences += static_cast<size_t>(lines - (lines > 0 && !node.stops ? 1 : 0));
  };
  count(row.choices->nodes[branch.choice]);
  for (int32_t node : row.nodes) {
    count(row.choices->nodes[node]);
    if (row.choices->wants_logits(node)) ++logits;
  }
  const size_t tokens = row.tokens + row.nodes.size();
  if (tokens > ledger_.free_cells() || sequences > static_cast<size_t>(ledger_.free_sequences()) ||
      tokens > options_.max_batch_tokens || logits > logits_limit_) {
    return false;
  }
  if (!in_flight_.empty() && (batch.tokens.size() + tokens > options_.max_batch_tokens ||
                              batch.logits_at.size() + logits > logits_limit_)) {
    return true;
  }
  own_sequence(branch);
  add_tail(branch, row.tokens, batch);
  want_logits(id, row.choices, branch.choice, batch);
  place_choices(branch.choice, depth, branch.kv, row, batch);
  ++counts_.choice_sets;
  in_flight_.push_back(std::move(row));
  return true;
}

// The node's own token is the batch's last one. The first line below it goes on in its sequence,
// unless a branch may stand there; the others branch off.
void StepSearch::place_choices(int32_t parent, uint32_t depth, int32_t kv, Row& row,
                               SearchBatch& batch) {
  const ChoiceNode& above = row.choices->nodes[parent];
  const auto token = static_cast<int32_t>(batch.tokens.size()) - 1;
  const int32_t line = shared_[at(row.branch).kv].sequence;
  std::vector<std::pair<int32_t, int32_t>> lines;
  bool inherits = !above.stops;
  for (int32_t child : above.children) {
    if (!row.choices->nodes[child].ahead) continue;
    lines.emplace_back(child, kv);
    if (!inherits) {
      const int32_t source = shared_[kv].sequence;
      const int32_t sequence = ledger_.fork(source, false);
      batch.forks.push_back({token, source, sequence});
      row.sequences.push_back(sequence);
      lines.back().second = static_cast<int32_t>(shared_.size());
      shared_.push_back({sequence, 0});
    }
    inherits = false;
  }
  for (const auto& [child, own] : lines) {
    ChoiceNode& node = row.choices->nodes[child];
    const int32_t sequence = shared_[own].sequence;
    ledger_.append(sequence);
    if (sequence == line) ++row.line;
    batch.tokens.push_back(node.token);
    batch.positions.push_back(static_cast<int32_t>(prompt_tokens_ + depth));
    batch.sequences.push_back(sequence);
    if (choice_state_wanted(node)) {
      batch.hidden_at.push_back(static_cast<int32_t>(batch.tokens.size()) - 1);
    }
    if (row.choices->wants_logits(child)) want_logits(node.number, row.choices, child, batch);
    if (node.stops) {
      node.kv = own;
      ++shared_[own].users;
    }
    place_choices(child, depth + 1, own, row, batch);
  }
}

void StepSearch::retract_choices(const Row& row) {
  for (int32_t id : row.nodes) {
    const ChoiceNode& node = row.choices->nodes[id];
    if (node.stops) --shared_[node.kv].users;
  }
  for (auto sequence = row.sequences.rbegin(); sequence != row.sequences.rend(); ++sequence) {
    ledger_.drop(*sequence, false);
  }
  Branch& branch = at(row.branch);
  ledger_.shorten(shared_[branch.kv].sequence, row.line);
  branch.apart = true;
  --counts_.choice_sets;
}

void StepSearch::observe_choices(const Row& row, std::vector<Distribution>& next, size_t& at,
                                 const float*& hidden, size_t width) {
  row.choices->nodes[this->at(row.branch).choice].decoded = true;
  for (int32_t id : row.nodes) {
    ChoiceNode& node = row.choices->nodes[id];
    node.decoded = true;
    ++(node.forced ? counts_.forced_tokens : counts_.decode_tokens);
    if (hidden != nullptr && choice_state_wanted(node)) {
      node.hidden = add_hidden(hidden, width);
    }
    if (row.choices->wants_logits(id)) {
      node.next = std::make_shared<const Distribution>(std::move(next[at++]));
    }
  }
  ahead_.push_back(row);
}

// All branches have arrived: what none of them has taken is let go.
void StepSearch::release_choices() {
  for (const Row& row : ahead_) {
    for (int32_t id : row.nodes) {
      const ChoiceNode& node = row.choices->nodes[id];
      if (!node.stops) continue;
      SharedSequence& shared = shared_[node.kv];
      if (--shared.users == 0) ledger_.drop(shared.sequence);
    }
  }
  ahead_.clear();
}

}  // namespace toolprm
