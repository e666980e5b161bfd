// A search from its first token to its answers, with a model of the backend that it drives: which
// sequences are open, what tokens they hold, which cells these take. The policy prefers a few
// written responses, so that whole calls are reached; its distributions may also be broken in any
// way that a backend's arrays allow. Room, refusals, stops, forced tokens and rewards are random.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "features/grounding.h"
#include "generate.h"
#include "input.h"
#include "json_text.h"
#include "search/step_search.h"

namespace {

using namespace toolprm;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr size_t kMaxBatches = 4000;
constexpr uint32_t kMaxTokens = 60;
constexpr size_t kMaxText = 250;  // bytes of a preferred response

// Tools like those of applications, in addition to those that the input defines.
constexpr std::string_view kTools = R"([
  {"name": "get_weather", "parameters": {"type": "object", "additionalProperties": false,
    "required": ["city"], "properties": {
      "city": {"type": "string"},
      "days": {"type": "integer", "minimum": 1, "maximum": 14},
      "unit": {"enum": ["C", "F"]},
      "at": {"type": "array", "items": {"type": "number"}}}}},
  {"name": "get", "parameters": {"type": "object", "properties": {"a": {"type": "boolean"}}}},
  {"name": "f"}])";

using Path = std::vector<int32_t>;  // tokens of a response

uint64_t hash_of(const Path& path) {
  uint64_t hash = 77;
  for (int32_t token : path) hash = mix64(hash, static_cast<uint64_t>(token));
  return hash;
}

// The bytes of the texts that the policy prefers and some others, and pieces of these texts.
struct Pieces {
  std::vector<std::string> tokens;
  std::shared_ptr<Vocabulary> vocabulary;
  std::array<std::vector<int32_t>, 256> by_first_byte;
  std::vector<int32_t> ends;
  uint32_t bytes;  // tokens that are one byte

  Pieces(const std::vector<std::string>& texts, fuzz::Random& random) {
    std::string all = "{}[]\",: \n\\0159-.enamtruls\xC3\xFF";
    for (const std::string& text : texts) all += text;
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    for (char byte : all) tokens.push_back(std::string(1, byte));
    bytes = static_cast<uint32_t>(all.size());
    for (const char* piece : {"[{\"", "name", "\": \"", "\", \"", "arguments", "\": {\"", "\"}}]",
                              "}}", "]", "", ", ", "\": "}) {
      tokens.push_back(piece);
    }
    for (const std::string& text : texts) {
      for (size_t at = 0; at < text.size();) {
        const size_t size = 1 + random.below(9);
        if (size > 1) tokens.push_back(text.substr(at, size));
        at += size;
      }
    }
    for (int i = 0; i < 2; ++i) {
      ends.push_back(static_cast<int32_t>(tokens.size()));
      tokens.push_back(i == 0 ? "" : "<|end|>");
    }
    vocabulary = std::make_shared<Vocabulary>();
    for (const std::string& token : tokens) {
      const auto id = static_cast<int32_t>(vocabulary->size());
      if (!token.empty()) by_first_byte[static_cast<unsigned char>(token[0])].push_back(id);
      vocabulary->add(token);
    }
    for (int32_t end : ends) vocabulary->ends[end] = true;
  }

  // `text` in tokens, long ones mostly.
  Path tokenize(std::string_view text, fuzz::Random& random) const {
    Path path;
    while (!text.empty()) {
      int32_t best = -1;
      for (int32_t id : by_first_byte[static_cast<unsigned char>(text[0])]) {
        const std::string& token = tokens[static_cast<size_t>(id)];
        if (vocabulary->ends[id] || text.substr(0, token.size()) != token) continue;
        if (best < 0 || (token.size() > tokens[best].size() && !random.chance(8))) best = id;
      }
      path.push_back(best);
      text.remove_prefix(tokens[best].size());
    }
    return path;
  }
};

// What a distribution may look like. Sane ones come out of select_top_k; the others are made by
// hand, as a backend of another make might.
struct Policy {
  const Pieces& words;
  std::vector<Path> preferred;
  uint64_t seed;
  bool broken;
  uint32_t width;

  Distribution next(const Path& path) const {
    fuzz::Random random(mix64(seed, hash_of(path)));
    std::vector<int32_t> likely;
    size_t scripted = 0;  // of `likely`
    for (const Path& script : preferred) {
      const size_t depth = path.size();
      const bool on =
          depth <= script.size() && std::equal(path.begin(), path.end(), script.begin());
      if (on || random.chance(6)) {
        likely.push_back(depth < script.size() ? script[depth] : words.ends[0]);
      }
    }
    scripted = likely.size();
    const auto any = [&] {
      const auto size = static_cast<uint32_t>(words.tokens.size());
      return static_cast<int32_t>(
          random.chance(3) ? random.below(size) : words.bytes + random.below(size - words.bytes));
    };
    for (uint32_t i = random.below(3); i > 0; --i) likely.push_back(any());
    Distribution result;
    if (broken && random.chance(2)) {
      static constexpr float kOdd[] = {0,         -1,   -1e30f, -3.4e38f, -kInfinity,
                                       kInfinity, kNan, 5,      -0.0f,    -1e-40f};
      for (uint32_t i = random.below(width + 1); i > 0; --i) {
        result.tokens.push_back(likely.empty() || random.chance(3)
                                    ? any()
                                    : likely[random.below(static_cast<uint32_t>(likely.size()))]);
        result.logprobs.push_back(kOdd[random.below(std::size(kOdd))]);
      }
      result.entropy = kOdd[random.below(std::size(kOdd))];
      return result;
    }
    const size_t size = words.tokens.size();
    std::vector<float> logits(size, -20.0f);
    for (size_t i = likely.size(); i > 0; --i) {
      logits[likely[i - 1]] = static_cast<float>(random.uniform() * 4) + (i > scripted ? -2 : 0);
    }
    const bool odd = broken && random.chance(2);
    for (uint32_t i = 0; odd && i < 3; ++i) {
      static constexpr float kOdd[] = {-kInfinity, kInfinity, kNan, 3.4e38f, -3.4e38f};
      logits[random.below(static_cast<uint32_t>(size))] = kOdd[random.below(std::size(kOdd))];
    }
    std::vector<uint32_t> mask((size + 31) / 32);
    const bool masked = random.chance(2);
    for (uint32_t& word : mask) word = static_cast<uint32_t>(random.word());
    for (int32_t token : likely) mask[token / 32] |= 1u << (token % 32);
    std::vector<int32_t> tokens(width);
    std::vector<float> logprobs(width);
    select_top_k(logits.data(), size, masked ? mask.data() : nullptr, width, tokens.data(),
                 logprobs.data(), &result.entropy);
    size_t count = 0;
    while (count < width && tokens[count] >= 0) ++count;
    std::set<int32_t> distinct;
    for (size_t i = 0; i < count; ++i) {
      CHECK(static_cast<size_t>(tokens[i]) < size && distinct.insert(tokens[i]).second);
      CHECK(!masked || (mask[tokens[i] / 32] >> (tokens[i] % 32) & 1));
      if (!odd) CHECK(logprobs[i] <= 0 && (i == 0 || logprobs[i] <= logprobs[i - 1]));
    }
    result.tokens.assign(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(count));
    result.logprobs.assign(logprobs.begin(), logprobs.begin() + static_cast<std::ptrdiff_t>(count));
    return result;
  }
};

// A backend that keeps all tokens in one flat cache by a ledger of its own, as the torch backend
// does, and knows the cells of every sequence by heart.
class Cache {
 public:
  Cache(int32_t sequences, uint32_t prompt)
      : sequences_(sequences), prompt_(prompt), ledger_(sequences, 1u << 20, prompt) {
    open_[KvLedger::kPrompt] = {KvLedger::kPrompt, {}, {}};
  }

  void apply(const std::vector<KvLedger::Op>& ops) {
    for (const KvLedger::Op& op : ops) {
      CHECK(open_.count(op.sequence) == 1);
      if (op.kind == KvLedger::Op::kFork) {
        CHECK(op.destination >= 1 && op.destination <= sequences_);
        CHECK(open_.count(op.destination) == 0);
        Sequence copy = open_.at(op.sequence);
        copy.own = ledger_.fork(copy.own);
        CHECK(copy.own != KvLedger::kNone);
        open_[op.destination] = std::move(copy);
      } else {
        CHECK(op.kind == KvLedger::Op::kDrop && op.sequence != KvLedger::kPrompt);
        ledger_.drop(open_.at(op.sequence).own);
        open_.erase(op.sequence);
      }
    }
    CHECK(ledger_.take_ops().size() == ops.size());
  }

  void append(int32_t sequence, int32_t token) {
    CHECK(sequence != KvLedger::kPrompt && open_.count(sequence) == 1);
    Sequence& to = open_.at(sequence);
    const int32_t cell = ledger_.append(to.own);
    CHECK(cell != KvLedger::kNone);
    to.cells.push_back(cell);
    to.path.push_back(token);
  }

  void shorten(int32_t sequence) {
    Sequence& from = open_.at(sequence);
    ledger_.shorten(from.own, 1);
    from.cells.pop_back();
    from.path.pop_back();
  }

  void clear() {
    for (auto at = open_.begin(); at != open_.end();) {
      if (at->first != KvLedger::kPrompt) ledger_.drop(at->second.own);
      at = at->first != KvLedger::kPrompt ? open_.erase(at) : std::next(at);
    }
    ledger_.take_ops();
  }

  const Path& path(int32_t sequence) const { return open_.at(sequence).path; }
  size_t sequences() const { return open_.size() - 1; }
  uint32_t used() const { return prompt_ + static_cast<uint32_t>(living().size()); }

  // The ledger's places: distinct, and a mask shows exactly the cells of its sequence.
  void check(fuzz::Random& random) {
    const std::set<int32_t> cells = living();
    CHECK(ledger_.used() == prompt_ + cells.size());
    if (random.chance(3)) {
      std::map<uint32_t, int32_t> before;
      for (int32_t cell : cells) before[ledger_.place(cell)] = cell;
      const std::vector<uint32_t> places = ledger_.compact();
      CHECK(places.size() == prompt_ + cells.size() && ledger_.end() == places.size());
      for (uint32_t place = 0; place < places.size(); ++place) {
        if (place < prompt_) CHECK(places[place] == place);
        if (place >= prompt_) CHECK(ledger_.place(before.at(places[place])) == place);
      }
    } else if (random.chance(2)) {
      ledger_.settle();
    }
    std::set<uint32_t> places;
    for (int32_t cell : cells) {
      const uint32_t place = ledger_.place(cell);
      CHECK(place >= prompt_ && place < ledger_.end() && places.insert(place).second);
    }
    for (const auto& [id, sequence] : open_) {
      if (sequence.cells.empty()) continue;
      std::vector<uint8_t> mask(ledger_.end() + random.below(3), 7);
      CHECK(ledger_.tip(sequence.own) == sequence.cells.back());
      ledger_.ancestor_mask(sequence.cells.back(), mask.data(), mask.size());
      std::vector<uint8_t> wanted(mask.size(), 0);
      std::fill(wanted.begin(), wanted.begin() + prompt_, uint8_t{1});
      for (int32_t cell : sequence.cells) wanted[ledger_.place(cell)] = 1;
      CHECK(mask == wanted);
    }
  }

 private:
  struct Sequence {
    int32_t own;  // its number in this cache's ledger
    Path path;
    std::vector<int32_t> cells;
  };

  std::set<int32_t> living() const {
    std::set<int32_t> cells;
    for (const auto& [id, sequence] : open_) {
      cells.insert(sequence.cells.begin(), sequence.cells.end());
    }
    return cells;
  }

  int32_t sequences_;
  uint32_t prompt_;
  KvLedger ledger_;
  std::map<int32_t, Sequence> open_;
};

SearchOptions make_options(fuzz::Input& input) {
  SearchOptions options;
  const uint32_t flags = input.byte() | uint32_t{input.byte()} << 8;
  options.beams = 1 + input.below(3);
  options.root_draws = input.below(7);
  options.beam_draws = input.below(5);
  options.follow_argmax = flags & 1 ? options.root_draws == 0 : true;
  options.way_floor = flags & 2 ? -3.0f : 1.0f;
  options.whole_responses = (flags & 0x18) == 0x18;
  if (flags & 4) options.doubt = input.below(5) / 4.0;
  options.policy_rewards = (flags & 0x400) != 0;
  if (flags & 0x20) options.policy_gap = input.below(5) / 2.0;
  if (flags & 0x40) options.margin = 1 + input.below(3);
  options.states_wanted = (flags & 0x800) != 0;
  options.pool_states = options.states_wanted && (flags & 0x1000) != 0;
  options.trace = (flags & 0x2000) != 0;
  options.aggregate = static_cast<Aggregate>(input.below(4));
  options.max_tokens = input.chance(4) ? 1 + input.below(12) : kMaxTokens;
  options.max_step_tokens = input.chance(4) ? 1 + input.below(6) : 24;
  options.max_text_tokens = input.below(12);
  options.max_batch_tokens = 1 + input.below(32);
  static constexpr float kTemperatures[] = {0.8f, 0.0f, 2.0f, 1e-6f, 100.0f};
  options.sampler.temperature = input.pick(kTemperatures);
  options.sampler.top_k = 1 + input.below(8);
  options.sampler.top_p = input.chance(3) ? 0.5f : 1.0f;
  options.sampler.seed = input.byte();
  return options;
}

class Run {
 public:
  Run(const fuzz::JsonValue& tools, std::shared_ptr<const StepSegmenter> segmenter,
      const Pieces& words, const Policy& policy, const SearchOptions& options, int32_t sequences,
      uint32_t cells, uint32_t prompt, uint64_t seed, uint32_t events)
      : segmenter_(std::move(segmenter)),
        words_(words),
        policy_(policy),
        options_(options),
        prompt_(prompt),
        events_(events),
        random_(seed),
        cache_(sequences, prompt),
        tools_(tools),
        search_(segmenter_, words.vocabulary, nullptr, options, {sequences, cells, prompt}) {}

  void run() {
    start();
    size_t batches = 0;
    size_t rounds = 0;
    while (!search_.done()) {
      CHECK(++batches < kMaxBatches);
      follow();
      if (event(1)) give_room();
      SearchBatch batch;
      const bool wanted = search_.next_batch(batch);
      if (!wanted) {
        CHECK(++rounds <= 2 * (kMaxTokens + 2));
        keep();
        continue;
      }
      CHECK(!stopped_);
      for (int32_t branch : batch.branches) CHECK(is_live(branch));
      decode(batch);
    }
    check_answers();
    search_.forget_cells();
    CHECK(search_.cells() == prompt_ && search_.sequences() == 0);
  }

 private:
  // Whether something happens that is rare or never in a run of its own.
  bool event(uint32_t kind) { return (events_ >> kind & 1) && random_.chance(4); }

  bool is_live(int32_t branch) const {
    const std::vector<int32_t> live = search_.live();
    return std::find(live.begin(), live.end(), branch) != live.end();
  }

  std::vector<int32_t> forced(const Path& path) {
    if (!event(0)) return {};
    std::vector<int32_t> tokens;
    Path at = path;
    for (uint32_t i = 1 + random_.below(4); i > 0; --i) {
      const Path& script =
          policy_.preferred[random_.below(static_cast<uint32_t>(policy_.preferred.size()))];
      int32_t token = at.size() < script.size() ? script[at.size()] : words_.ends[0];
      if (random_.chance(8))
        token = static_cast<int32_t>(random_.below(static_cast<uint32_t>(words_.tokens.size())));
      tokens.push_back(token);
      at.push_back(token);
    }
    return tokens;
  }

  void start() {
    if (event(5)) {
      search_.stop();  // before the prompt was decoded
      stopped_ = true;
      return;
    }
    const std::vector<int32_t> first = forced({});
    paths_[0] = first;
    if (first.empty()) {
      search_.start(policy_.next({}));
    } else {
      search_.start_forced(first);
    }
  }

  void follow() {
    for (auto fresh = search_.take_new(); !fresh.empty(); fresh = search_.take_new()) {
      for (const NewBranch& made : fresh) {
        CHECK(paths_.count(made.parent) == 1 && paths_.count(made.branch) == 0);
        CHECK(made.parent < made.branch);
        Path path = paths_.at(made.parent);
        path.push_back(made.token);
        const std::vector<int32_t> tokens = forced(path);
        path.insert(path.end(), tokens.begin(), tokens.end());
        paths_[made.branch] = std::move(path);
        if (!tokens.empty()) search_.set_forced(made.branch, tokens);
      }
    }
  }

  void give_room() {
    waits_ = random_.chance(2);
    search_.set_room(search_.cells() + random_.below(24),
                     search_.sequences() + static_cast<int32_t>(random_.below(3)),
                     1 + random_.below(32), waits_);
    shared_ = true;
  }

  void decode(const SearchBatch& batch) {
    cache_.apply(batch.ops);
    const size_t tokens = batch.tokens.size();
    CHECK(batch.positions.size() == tokens && batch.sequences.size() == tokens);
    CHECK(batch.branches.size() == batch.logits_at.size());
    CHECK(tokens > 0 || waits_);
    std::set<int32_t> rows;
    std::vector<float> states;
    std::vector<Distribution> next;
    size_t logits = 0, hidden = 0;
    for (size_t i = 0; i < tokens; ++i) {
      const int32_t sequence = batch.sequences[i];
      CHECK(batch.tokens[i] >= 0 && static_cast<size_t>(batch.tokens[i]) < words_.tokens.size());
      cache_.append(sequence, batch.tokens[i]);
      rows.insert(sequence);
      const Path& path = cache_.path(sequence);
      CHECK(static_cast<size_t>(batch.positions[i]) == prompt_ + path.size() - 1);
      if (hidden < batch.hidden_at.size() && batch.hidden_at[hidden] == static_cast<int32_t>(i)) {
        states.insert(states.end(), {static_cast<float>(path.size()), 1.0f});
        ++hidden;
      }
      if (logits < batch.logits_at.size() && batch.logits_at[logits] == static_cast<int32_t>(i)) {
        CHECK(paths_.at(batch.branches[logits]) == path);
        next.push_back(policy_.next(path));
        ++logits;
      }
    }
    CHECK(logits == batch.logits_at.size() && hidden == batch.hidden_at.size());
    CHECK(hidden == 0 || options_.states_wanted);
    CHECK(search_.cells() == cache_.used());
    CHECK(search_.sequences() == static_cast<int32_t>(cache_.sequences()));
    CHECK(shared_ || tokens <= options_.max_batch_tokens || rows.size() == 1);
    if (random_.chance(4)) cache_.check(random_);
    const uint64_t planned = search_.planned_tokens();

    if (event(2) && tokens > 0) {
      for (size_t i = tokens; i > 0; --i) cache_.shorten(batch.sequences[i - 1]);
      return search_.no_room();
    }
    if (event(3)) {
      search_.forget_cells();
      cache_.clear();
      CHECK(search_.cells() == prompt_ && search_.sequences() == 0);
      return search_.observe({}, nullptr, 0);
    }
    if (event(4)) {
      search_.stop();
      if (random_.chance(2)) search_.stop();
      stopped_ = true;
      return;
    }
    cells_max_ = std::max(cells_max_, cache_.used());
    search_.observe(std::move(next), options_.states_wanted ? states.data() : nullptr,
                    options_.states_wanted ? 2 : 0);
    CHECK(search_.counts().decode_tokens == planned);
    CHECK(search_.counts().cells_max == std::max(cells_max_, prompt_));
  }

  void keep() {
    std::vector<float> rewards;
    int32_t before = -1;
    for (int32_t index : search_.unscored()) {
      const StepLog& log = search_.log();
      CHECK(index > before && static_cast<size_t>(index) < log.size());
      before = index;
      const StepRecord& record = log[index];
      CHECK(!record.scored && record.previous < index);
      const RewardInputs inputs = log.inputs({index});
      CHECK(inputs.kinds.size() == 1 && inputs.features.size() == inputs.feature_count);
      if (options_.states_wanted) {
        const auto depth = static_cast<float>(log.depth(record));
        CHECK(inputs.state_width == (options_.pool_states ? 4 : 2));
        CHECK(inputs.states[0] == depth && inputs.states[1] == 1.0f);
        if (options_.pool_states) CHECK(inputs.states[2] <= depth && inputs.states[3] == 1.0f);
      }
      check_features(record);
      static constexpr float kRewards[] = {0.0f, 1.0f, 0.5f, 1e-30f};
      float reward =
          random_.chance(2) ? kRewards[random_.below(4)] : static_cast<float>(random_.uniform());
      if (options_.policy_rewards) {
        const float probability = std::exp(record.logprob_sum);
        reward = probability >= 0 && probability <= 1 ? probability : 0;
      }
      rewards.push_back(reward);
    }
    search_.keep(rewards);
    if (random_.chance(4)) check_in_order(search_.beams());
  }

  void check_features(const StepRecord& record) {
    const std::string text = search_.log().text(record);
    CHECK(text.size() == record.step.boundary);
    if (!random_.chance(16)) return;
    std::vector<NamedStep> named;
    for (const StepRecord* at = &record;; at = &search_.log()[at->previous]) {
      named.insert(named.begin(), segmenter_->named(at->step, text));
      if (at->previous < 0) break;
    }
    Grounding::Chain chain;
    for (const NamedStep& step : named) chain.push_back(&step);
    if (grounding_ == nullptr) {
      grounding_ = std::make_unique<Grounding>(
          fuzz::write_json(tools_),
          std::vector<std::pair<std::string, std::string>>{{"user", "Is Paris sunny for 5 days?"}});
    }
    float features[Grounding::kFeatures];
    grounding_->features(chain, features);
    for (float feature : features) CHECK(feature >= 0 && feature < 100);
  }

  void check_in_order(const std::vector<Answer>& answers) const {
    for (const Answer& answer : answers) {
      std::string text;
      for (int32_t token : answer.tokens) {
        if (!words_.vocabulary->ends[token]) text += words_.tokens[token];
      }
      CHECK(text == answer.text);
      CHECK(answer.tokens.size() <= std::max(options_.max_tokens, 1u) + 8);
      SegmenterState state;
      std::vector<Step> steps;
      CHECK(segmenter_->advance(state, answer.text, steps));
      if (answer.complete) CHECK(segmenter_->finish(state, steps));
      CHECK(answer.complete == state.finished());
      CHECK(answer.steps.size() == steps.size());
      for (size_t i = 0; i < steps.size(); ++i) {
        const StepRecord& record = search_.log()[answer.steps[i]];
        CHECK(record.step.kind == steps[i].kind && record.step.decided == steps[i].decided);
        CHECK(record.previous == (i == 0 ? -1 : answer.steps[i - 1]));
      }
    }
  }

  void check_answers() {
    CHECK(search_.done());
    const std::vector<Answer> answers = search_.answers();
    CHECK(!answers.empty());
    check_in_order(answers);
    for (size_t i = 1; i < answers.size() && !stopped_ && !policy_.broken; ++i) {
      const Answer& better = answers[i - 1];
      const Answer& worse = answers[i];
      CHECK(better.complete || !worse.complete);
      if (better.complete != worse.complete) continue;
      CHECK(better.score >= worse.score);
    }
    for (const Answer& answer : answers) {
      if (!policy_.broken) CHECK(answer.score >= 0 && std::isfinite(answer.score));
    }
    const SearchCounts counts = search_.counts();
    CHECK(counts.widened <= counts.rounds);
    check_trace(counts.rounds);
  }

  // Every node has its own number, and its parent was kept in an earlier round.
  void check_trace(uint32_t rounds) const {
    std::map<int32_t, const TraceNode*> known;
    for (const TraceNode& node : search_.trace().nodes()) {
      CHECK(!node.fate.empty() && node.round >= 1 && node.round <= rounds);
      CHECK(node.last_step < static_cast<int32_t>(search_.log().size()));
      CHECK(known.emplace(node.id, &node).second);
      if (node.parent < 0) continue;
      const TraceNode& parent = *known.at(node.parent);
      CHECK(parent.fate == "kept" && parent.round < node.round);
    }
    for (const auto& [id, node] : known) {
      if (node->merged_into >= 0) CHECK(known.count(node->merged_into) == 1);
      CHECK((node->merged_into >= 0) == (node->fate == "merged"));
    }
  }

  std::shared_ptr<const StepSegmenter> segmenter_;
  const Pieces& words_;
  const Policy& policy_;
  const SearchOptions& options_;
  uint32_t prompt_;
  uint32_t events_;
  fuzz::Random random_;
  Cache cache_;
  const fuzz::JsonValue& tools_;
  std::unique_ptr<Grounding> grounding_;  // made when it is asked first
  StepSearch search_;
  std::unordered_map<int32_t, Path> paths_;  // of every branch, with the tokens forced on it
  uint32_t cells_max_ = 0;
  bool waits_ = false, shared_ = false, stopped_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const uint64_t seed = input.byte() | uint64_t{input.byte()} << 8;
  const SearchOptions options = make_options(input);
  const bool broken = input.chance(4);
  const uint32_t events = input.byte();
  const auto sequences = static_cast<int32_t>(1 + input.below(16));
  const uint32_t prompt = 1 + input.below(8);
  const uint32_t cells = prompt + (input.chance(2) ? input.below(64) : 1000);
  StepSegmenter::Limits limits{UINT32_MAX, input.chance(4)};
  if (input.chance(2)) limits.max_calls = 1 + input.below(3);
  CallFormat format;
  if (input.chance(3)) format.open_marker = "<tool_call>", format.close_marker = "</tool_call>";

  fuzz::Generator generator(input);
  const fuzz::JsonValue tools = input.chance(2) ? parse_accepted_json(kTools) : generator.tools();
  std::shared_ptr<const StepSegmenter> segmenter;
  try {
    segmenter =
        std::make_shared<StepSegmenter>(ToolSchema(fuzz::write_json(tools)), format, limits);
  } catch (const std::invalid_argument&) {
    return 0;
  }
  std::vector<std::string> texts;
  for (int i = 0; i < 3; ++i) {
    std::string text = format.tagged() ? "" : "[";
    for (uint32_t calls = (1 + input.below(4)) % 4; calls > 0; --calls) {
      const auto [name, arguments] = generator.call(tools);
      if (!format.tagged() && text.size() > 1) text += ", ";
      text += format.open_marker + "{\"name\": " + fuzz::write_json(fuzz::json_string(name)) +
              ", \"arguments\": " + fuzz::write_json(arguments) + "}" + format.close_marker;
    }
    if (!format.tagged()) text += "]";
    if (text.size() > kMaxText) text.resize(kMaxText);
    if (i > 0 && input.below(3) == 0) text = texts[0];  // the same in other tokens
    fuzz::show("preferred", text);
    texts.push_back(std::move(text));
  }
  fuzz::Random random(seed);
  const Pieces words(texts, random);
  Policy policy{words, {}, seed, broken, 1 + input.below(8)};
  for (const std::string& text : texts) policy.preferred.push_back(words.tokenize(text, random));
  Run(tools, segmenter, words, policy, options, sequences, cells, prompt, seed, events).run();
  return 0;
}
