// The only file that knows Python. Arrays are copied at the border: they are small.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>

#include "grounding.h"
#include "kv_ledger.h"
#include "sampler.h"
#include "step_search.h"
#include "step_segmenter.h"
#include "tensor_tap.h"

namespace py = pybind11;
using namespace toolprm;

namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Ints = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;
using Masks = py::array_t<uint32_t, py::array::c_style>;

const char* kind_name(StepKind kind) {
  static constexpr const char* kNames[kStepKinds] = {"FUNC_NAME", "ARG_VALUE", "PARAM_FINISH",
                                                     "FUNC_FINISH", "TOTAL_FINISH"};
  return kNames[static_cast<int>(kind)];
}

template <typename T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

// A step with its names looked up.
struct NamedStep {
  Step step;
  std::optional<std::string> function;
  std::optional<py::bytes> argument;  // decoded, UTF-8

  NamedStep(const Step& step, std::string_view response, const ToolSchema& tools) : step(step) {
    if (step.function >= 0) function = tools.functions()[step.function].name;
    if (step.kind == StepKind::kArgValue) {
      const auto raw = response.substr(step.key_begin, step.key_end - step.key_begin);
      argument = py::bytes(parse_accepted_json(raw).string);
    }
  }
};

// A judge in Python: called with (function, whole, arguments).
class PythonJudge : public ArgumentJudge {
 public:
  explicit PythonJudge(py::function accepts) : accepts_(std::move(accepts)) {}
  bool accepts(int function, bool whole, std::string_view arguments) const override {
    return accepts_(function, whole, py::bytes(arguments.data(), arguments.size())).cast<bool>();
  }

 private:
  py::function accepts_;
};

std::shared_ptr<const StepSegmenter> make_segmenter(const std::string& tools,
                                                    const CallFormat& format,
                                                    StepSegmenter::Limits limits,
                                                    std::optional<py::function> judge) {
  std::shared_ptr<const ArgumentJudge> judges;
  if (judge) judges = std::make_shared<PythonJudge>(std::move(*judge));
  return std::make_shared<StepSegmenter>(ToolSchema(tools), format, limits, std::move(judges));
}

// A segmenter with the text that it has read: what a caller without a search of its own needs.
class Segmenter {
 public:
  explicit Segmenter(std::shared_ptr<const StepSegmenter> segmenter)
      : segmenter_(std::move(segmenter)) {}

  std::vector<NamedStep> feed(std::string_view bytes) {
    text_ += bytes;
    steps_.clear();
    segmenter_->advance(state_, text_, steps_);
    return named();
  }

  std::vector<NamedStep> finish() {
    steps_.clear();
    segmenter_->finish(state_, steps_);
    return named();
  }

  // Reads `bytes` as `repeats` fresh responses, `stride` at a time, without Python in between;
  // returns the steps of all. For measuring.
  size_t scan(std::string_view bytes, size_t repeats, size_t stride) const {
    size_t steps = 0;
    std::vector<Step> found;
    for (size_t i = 0; i < repeats; ++i) {
      SegmenterState state;
      found.clear();
      for (size_t end = std::min(stride, bytes.size());;
           end = std::min(end + stride, bytes.size())) {
        segmenter_->advance(state, bytes.substr(0, end), found);
        if (end == bytes.size()) break;
      }
      steps += found.size();
    }
    return steps;
  }

  // Copies the state `repeats` times. For measuring.
  uint64_t copy_states(size_t repeats) const {
    std::vector<SegmenterState> copies(64);
    uint64_t sum = 0;
    for (size_t i = 0; i < repeats; ++i) {
      copies[i % 64] = state_;
      copies[i % 64].position += static_cast<uint32_t>(i);
      sum += copies[(i * 7) % 64].position;
    }
    return sum;
  }

  const SegmenterState& state() const { return state_; }
  py::bytes text() const { return py::bytes(text_); }
  uint64_t merge_key() const { return segmenter_->merge_key(state_, text_); }

 private:
  std::vector<NamedStep> named() const {
    std::vector<NamedStep> result;
    for (const Step& step : steps_) result.emplace_back(step, text_, segmenter_->tools());
    return result;
  }

  std::shared_ptr<const StepSegmenter> segmenter_;
  SegmenterState state_;
  std::string text_;
  std::vector<Step> steps_;
};

CallFormat make_format(std::string open_marker, std::string close_marker, std::string name_key,
                       std::string arguments_key) {
  if (open_marker.size() > 255 || close_marker.size() > 255) {
    throw std::invalid_argument("a marker is longer than 255 bytes");
  }
  return {std::move(open_marker), std::move(close_marker), std::move(name_key),
          std::move(arguments_key)};
}

StepSegmenter::Limits make_limits(std::optional<uint32_t> max_calls, bool require_call) {
  return {max_calls.value_or(UINT32_MAX), require_call};
}

std::shared_ptr<Vocabulary> make_vocabulary(const std::vector<py::bytes>& tokens,
                                            const std::vector<int32_t>& ends) {
  auto vocabulary = std::make_shared<Vocabulary>();
  vocabulary->offsets.push_back(0);
  for (const py::bytes& token : tokens) {
    const std::string_view text(token);
    if (!text.empty()) {
      const auto id = static_cast<int32_t>(vocabulary->offsets.size()) - 1;
      vocabulary->by_first_byte[static_cast<unsigned char>(text[0])].push_back(id);
    }
    vocabulary->bytes += text;
    vocabulary->offsets.push_back(static_cast<uint32_t>(vocabulary->bytes.size()));
  }
  vocabulary->ends.assign(tokens.size(), false);
  for (int32_t token : ends) vocabulary->ends.at(token) = true;
  return vocabulary;
}

py::tuple top_k(const Floats& logits, const std::optional<Masks>& masks, size_t k) {
  if (logits.ndim() != 2) throw std::invalid_argument("logits must have shape [rows, vocabulary]");
  const py::ssize_t rows = logits.shape(0);
  const auto vocabulary = static_cast<size_t>(logits.shape(1));
  const size_t words = (vocabulary + 31) / 32;
  if (masks && (masks->ndim() != 2 || masks->shape(0) != rows ||
                static_cast<size_t>(masks->shape(1)) < words)) {
    throw std::invalid_argument("masks must have shape [rows, ceil(vocabulary / 32)]");
  }
  if (k == 0) throw std::invalid_argument("k must be at least 1");
  py::array_t<int32_t> tokens({rows, static_cast<py::ssize_t>(k)});
  py::array_t<float> logprobs({rows, static_cast<py::ssize_t>(k)});
  py::array_t<float> entropy(rows);
  const float* from = logits.data();
  const uint32_t* mask = masks ? masks->data() : nullptr;
  const size_t stride = masks ? static_cast<size_t>(masks->shape(1)) : 0;
  int32_t* tokens_out = tokens.mutable_data();
  float* logprobs_out = logprobs.mutable_data();
  float* entropy_out = entropy.mutable_data();
  {
    py::gil_scoped_release release;
    for (py::ssize_t row = 0; row < rows; ++row) {
      select_top_k(from + row * vocabulary, vocabulary, mask ? mask + row * stride : nullptr, k,
                   tokens_out + row * k, logprobs_out + row * k, entropy_out + row);
    }
  }
  return py::make_tuple(tokens, logprobs, entropy);
}

Distribution make_distribution(const int32_t* tokens, const float* logprobs, size_t k,
                               float entropy) {
  Distribution result;
  size_t size = 0;
  while (size < k && tokens[size] >= 0) ++size;
  result.tokens.assign(tokens, tokens + size);
  result.logprobs.assign(logprobs, logprobs + size);
  result.entropy = entropy;
  return result;
}

std::vector<Distribution> make_distributions(const Ints& tokens, const Floats& logprobs,
                                             const Floats& entropy, size_t rows) {
  if (tokens.ndim() != 2 || logprobs.ndim() != 2 || entropy.ndim() != 1 ||
      static_cast<size_t>(tokens.shape(0)) != rows || logprobs.shape(0) != tokens.shape(0) ||
      logprobs.shape(1) != tokens.shape(1) || entropy.shape(0) != tokens.shape(0)) {
    throw std::invalid_argument("the output does not have the shape of the batch");
  }
  std::vector<Distribution> result;
  const auto k = static_cast<size_t>(tokens.shape(1));
  for (size_t row = 0; row < rows; ++row) {
    result.push_back(make_distribution(tokens.data() + row * k, logprobs.data() + row * k, k,
                                       entropy.data()[row]));
  }
  return result;
}

py::array_t<int32_t> ops_array(const std::vector<KvLedger::Op>& ops) {
  py::array_t<int32_t> result({static_cast<py::ssize_t>(ops.size()), py::ssize_t{3}});
  int32_t* out = result.mutable_data();
  for (const KvLedger::Op& op : ops) {
    *out++ = op.kind;
    *out++ = op.sequence;
    *out++ = op.destination;
  }
  return result;
}

py::array_t<int32_t> forks_array(const std::vector<SearchBatch::Fork>& forks) {
  py::array_t<int32_t> result({static_cast<py::ssize_t>(forks.size()), py::ssize_t{3}});
  int32_t* out = result.mutable_data();
  for (const SearchBatch::Fork& fork : forks) {
    *out++ = fork.token;
    *out++ = fork.sequence;
    *out++ = fork.destination;
  }
  return result;
}

// The search as Python drives it; it remembers how many rows the batch in flight asked for.
class Search {
 public:
  Search(std::shared_ptr<const StepSegmenter> segmenter, std::shared_ptr<Vocabulary> vocabulary,
         const SearchOptions& options, int32_t sequences, uint32_t cells, uint32_t prompt_tokens,
         std::shared_ptr<const Grounding> grounding)
      : states_wanted_(options.states_wanted),
        pooled_(options.pool_states),
        grounding_(std::move(grounding)),
        vocabulary_(vocabulary->size()),
        search_(std::move(segmenter), std::move(vocabulary), options, sequences, cells,
                prompt_tokens) {}

  void start(const Ints& tokens, const Floats& logprobs, const Floats& entropy) {
    std::vector<Distribution> next = make_distributions(tokens, logprobs, entropy, 1);
    for (const Distribution& row : next) check_tokens(row.tokens);
    search_.start(std::move(next.front()));
  }

  void start_forced(const std::vector<int32_t>& tokens) {
    check_tokens(tokens);
    search_.start_forced(tokens);
  }

  void set_forced(int32_t branch, const std::vector<int32_t>& tokens) {
    if (branch < 0 || branch >= search_.branch_count()) {
      throw std::invalid_argument("there is no branch " + std::to_string(branch));
    }
    check_tokens(tokens);
    search_.set_forced(branch, tokens);
  }

  py::object next_batch() {
    SearchBatch batch;
    if (!search_.next_batch(batch)) return py::none();
    logits_ = batch.logits_at.size();
    states_ = batch.hidden_at.size();
    return py::make_tuple(ops_array(batch.ops), to_array(batch.tokens), to_array(batch.positions),
                          to_array(batch.sequences), to_array(batch.logits_at),
                          to_array(batch.hidden_at), forks_array(batch.forks), batch.branches);
  }

  std::vector<py::tuple> take_choices() {
    std::vector<py::tuple> result;
    for (const ChoiceRequest& request : search_.take_choices()) {
      std::vector<std::pair<py::bytes, uint32_t>> choices;
      for (const Choice& choice : request.choices) choices.emplace_back(choice.text, choice.body);
      result.push_back(py::make_tuple(request.branch, py::bytes(request.context), choices));
    }
    return result;
  }

  int32_t set_choices(int32_t branch, const std::vector<int32_t>& parents,
                      const std::vector<int32_t>& tokens, const std::vector<bool>& forced,
                      const std::vector<int32_t>& ends) {
    const auto nodes = static_cast<int32_t>(tokens.size());
    bool sound = parents.size() == tokens.size() && forced.size() == tokens.size() &&
                 search_.awaits_choices(branch, ends.size());
    for (int32_t node = 0; node < nodes && sound; ++node) {
      sound = parents[node] >= 0 && parents[node] <= node && tokens[node] >= 0 &&
              static_cast<size_t>(tokens[node]) < vocabulary_;
    }
    for (int32_t end : ends) sound = sound && end >= -1 && end <= nodes;
    if (!sound) throw std::invalid_argument("this is no tree of the choices that were asked for");
    return search_.set_choices(branch, parents, tokens, forced, ends);
  }

  void narrow(Masks masks) const {
    if (masks.ndim() != 2 || static_cast<size_t>(masks.shape(0)) != logits_ ||
        static_cast<size_t>(masks.shape(1)) * 32 < vocabulary_) {
      throw std::invalid_argument("masks must have shape [rows, ceil(vocabulary / 32)]");
    }
    search_.narrow(masks.mutable_data(), static_cast<size_t>(masks.shape(1)));
  }

  void observe(const Ints& tokens, const Floats& logprobs, const Floats& entropy,
               const std::optional<Floats>& hidden) {
    if (!hidden ? states_ > 0
                : hidden->ndim() != 2 || static_cast<size_t>(hidden->shape(0)) != states_) {
      throw std::invalid_argument("hidden does not have the shape of the batch");
    }
    std::vector<Distribution> next = make_distributions(tokens, logprobs, entropy, logits_);
    for (const Distribution& row : next) check_tokens(row.tokens);
    const size_t width = hidden ? static_cast<size_t>(hidden->shape(1)) : 0;
    if (search_.hidden_width() != 0 && states_ > 0 && width != search_.hidden_width()) {
      throw std::invalid_argument("hidden has another width than in the batches before");
    }
    search_.observe(std::move(next), hidden ? hidden->data() : nullptr, width);
  }

  void forget_cells() {
    search_.forget_cells();
    logits_ = states_ = 0;
  }

  std::vector<py::tuple> take_new() {
    std::vector<py::tuple> result;
    for (const NewBranch& fresh : search_.take_new()) {
      result.push_back(py::make_tuple(fresh.branch, fresh.parent, fresh.token));
    }
    return result;
  }

  // (kinds, features, hidden) of the steps that wait for a reward.
  py::tuple features() const {
    const std::vector<int32_t> steps = search_.unscored();
    const auto rows = static_cast<py::ssize_t>(steps.size());
    py::array_t<int8_t> kinds(rows);
    for (py::ssize_t row = 0; row < rows; ++row) {
      kinds.mutable_data()[row] = static_cast<int8_t>(search_.record(steps[row]).step.kind);
    }
    const auto [features, states] = inputs(steps);
    return py::make_tuple(kinds, features,
                          state_width() == 0 ? py::object(py::none()) : py::object(states));
  }

  // Every step the search has decided, scored or not, kept or not; a step whose boundary token was
  // never decoded is left out with all that followed it.
  py::dict records() const {
    std::vector<int32_t> places(search_.record_count(), -1);
    std::vector<int32_t> decoded;
    std::vector<py::tuple> steps;
    std::vector<int32_t> previous, tokens, draws;
    std::vector<bool> greedy, goes_on;
    for (size_t i = 0; i < search_.record_count(); ++i) {
      const StepRecord& record = search_.record(static_cast<int32_t>(i));
      if (states_wanted_ && search_.hidden(record) == nullptr) continue;
      if (record.previous >= 0 && places[record.previous] < 0) continue;
      places[i] = static_cast<int32_t>(decoded.size());
      decoded.push_back(static_cast<int32_t>(i));
      const std::string text = search_.text_of(record);
      steps.push_back(py::make_tuple(named(record.step, text), py::bytes(text)));
      previous.push_back(record.previous < 0 ? -1 : places[record.previous]);
      tokens.push_back(static_cast<int32_t>(search_.depth(record)));
      draws.push_back(static_cast<int32_t>(record.draws));
      greedy.push_back(record.greedy);
      goes_on.push_back(record.goes_on);
    }
    const auto [features, states] = inputs(decoded);
    std::vector<py::tuple> trajectories;
    for (const TraceEntry& entry : search_.trace()) {
      trajectories.push_back(py::make_tuple(entry.step < 0 ? -1 : places[entry.step], entry.draws,
                                            entry.greedy, entry.finished, entry.fate, entry.tokens,
                                            py::bytes(entry.text)));
    }
    py::dict result;
    result["steps"] = steps;
    result["previous"] = to_array(previous);
    result["tokens"] = to_array(tokens);
    result["draws"] = to_array(draws);
    result["greedy"] = greedy;
    result["goes_on"] = goes_on;
    result["features"] = features;
    result["states"] = states;
    result["trajectories"] = trajectories;
    return result;
  }

  NamedStep named(const Step& step, std::string_view response) const {
    return NamedStep(step, response, search_.segmenter().tools());
  }

  // (step, response up to its boundary) of the steps that wait for a reward.
  std::vector<py::tuple> pending() const {
    std::vector<py::tuple> result;
    for (int32_t index : search_.unscored()) {
      const StepRecord& record = search_.record(index);
      const std::string response = search_.text_of(record);
      result.push_back(py::make_tuple(named(record.step, response), py::bytes(response)));
    }
    return result;
  }

  void keep(const Floats& rewards) {
    const std::vector<float> values(rewards.data(), rewards.data() + rewards.size());
    if (values.size() != search_.unscored().size()) {
      throw std::invalid_argument("there must be one reward for each step that waits for one");
    }
    for (const float value : values) {
      if (!(value >= 0.0f && value <= 1.0f)) {  // NaN, too
        throw std::invalid_argument("a reward must be a number in 0 .. 1");
      }
    }
    search_.keep(values);
  }

  // (step, reward, logprob); the reward is None where a stop came before it.
  py::tuple judged(const StepRecord& record, std::string_view response) const {
    return py::make_tuple(named(record.step, response),
                          record.scored ? std::optional(record.reward) : std::nullopt,
                          record.logprob_sum);
  }

  // (text, steps) of the beams that go on.
  std::vector<py::tuple> beams() const {
    std::vector<py::tuple> result;
    for (const Answer& answer : search_.beams()) {
      std::vector<NamedStep> steps;
      for (int32_t index : answer.steps) {
        steps.push_back(named(search_.record(index).step, answer.text));
      }
      result.push_back(py::make_tuple(py::bytes(answer.text), steps));
    }
    return result;
  }

  // (text, [(step, reward, logprob)], tokens, score, logprob, draws, complete), best first.
  std::vector<py::tuple> answers() const {
    std::vector<py::tuple> result;
    for (const Answer& answer : search_.answers()) {
      std::vector<py::tuple> steps;
      for (int32_t index : answer.steps) {
        steps.push_back(judged(search_.record(index), answer.text));
      }
      result.push_back(py::make_tuple(py::bytes(answer.text), steps, answer.tokens, answer.score,
                                      answer.logprob, answer.draws, answer.complete));
    }
    return result;
  }

  static py::tuple traced(const TraceEntry& entry) {
    std::vector<const char*> kinds;
    for (StepKind kind : entry.kinds) kinds.push_back(kind_name(kind));
    return py::make_tuple(entry.round, entry.beam, py::bytes(entry.text), kinds, entry.score,
                          entry.draws, entry.fate);
  }

  // (round, beam, text, kinds, score, draws, fate)
  std::vector<py::tuple> trace() const {
    std::vector<py::tuple> result;
    for (const TraceEntry& entry : search_.trace()) result.push_back(traced(entry));
    return result;
  }

  // (trace entry, [(step, reward, logprob)], response) of the entries that came since the last
  // call; the steps of what was kept, each told once.
  std::vector<py::tuple> news() {
    std::vector<py::tuple> result;
    told_.resize(search_.record_count());
    for (; told_entries_ < search_.trace().size(); ++told_entries_) {
      const TraceEntry& entry = search_.trace()[told_entries_];
      std::vector<int32_t> fresh;
      std::string response;
      if (entry.step >= 0 && std::string_view(entry.fate) == "kept") {
        response = search_.text_of(search_.record(entry.step));
        for (int32_t step = entry.step; step >= 0 && !told_[step];
             step = search_.record(step).previous) {
          told_[step] = true;
          fresh.push_back(step);
        }
      }
      py::list steps;
      for (auto step = fresh.rbegin(); step != fresh.rend(); ++step) {
        steps.append(judged(search_.record(*step), response));
      }
      result.push_back(py::make_tuple(traced(entry), steps, py::bytes(response)));
    }
    return result;
  }

  py::dict counts() const {
    const SearchCounts& counts = search_.counts();
    py::dict result;
    result["decode_tokens"] = counts.decode_tokens;
    result["forced_tokens"] = counts.forced_tokens;
    result["drawn_tokens"] = counts.drawn_tokens;
    result["rounds"] = counts.rounds;
    result["widened"] = counts.widened;
    result["choice_sets"] = counts.choice_sets;
    result["rows_max"] = counts.rows_max;
    result["kv_cells"] = counts.cells_max;
    return result;
  }

  StepSearch& search() { return search_; }
  const StepSearch& search() const { return search_; }

 private:
  static constexpr py::ssize_t kCertainty = 6;

  // Some models have more logits than tokens: one that writes nothing known is no token.
  void check_tokens(const std::vector<int32_t>& tokens) const {
    for (int32_t token : tokens) {
      if (token < 0 || static_cast<size_t>(token) >= vocabulary_) {
        throw std::invalid_argument("token " + std::to_string(token) +
                                    " is not in the vocabulary of " + std::to_string(vocabulary_) +
                                    " tokens");
      }
    }
  }

  py::ssize_t feature_count() const {
    return kCertainty + (grounding_ ? static_cast<py::ssize_t>(Grounding::kFeatures) : 0);
  }

  py::ssize_t state_width() const {
    return static_cast<py::ssize_t>(search_.hidden_width()) * (pooled_ ? 2 : 1);
  }

  // Features and states of these steps, a row each.
  std::pair<py::array_t<float>, py::array_t<float>> inputs(
      const std::vector<int32_t>& steps) const {
    const auto rows = static_cast<py::ssize_t>(steps.size());
    py::array_t<float> features({rows, feature_count()});
    py::array_t<float> states({rows, state_width()});
    for (py::ssize_t row = 0; row < rows; ++row) {
      const StepRecord& record = search_.record(steps[row]);
      write_features(record, features.mutable_data(row, 0));
      if (state_width() > 0) write_state(record, states.mutable_data(row, 0));
    }
    return {features, states};
  }

  void write_features(const StepRecord& record, float* out) const {
    *out++ = record.logprob_sum;
    *out++ = record.logprob_min;
    *out++ = record.tokens == 0 ? 0 : record.logprob_sum / static_cast<float>(record.tokens);
    *out++ = record.entropy;
    *out++ = static_cast<float>(record.logprob_total);
    *out++ = record.logprob_total_min;
    if (!grounding_) return;
    chain_.clear();
    for (const StepRecord* step = &record;; step = &search_.record(step->previous)) {
      chain_.push_back(&step->step);
      if (step->previous < 0) break;
    }
    std::reverse(chain_.begin(), chain_.end());
    grounding_->features(chain_, search_.text_of(record), out);
  }

  // The boundary token's state, and when pooled the mean of the step's tokens' states.
  void write_state(const StepRecord& record, float* out) const {
    const float* state = search_.hidden(record);
    if (state == nullptr) throw std::logic_error("a step has no hidden state");
    const size_t width = search_.hidden_width();
    std::memcpy(out, state, width * sizeof(float));
    if (!pooled_) return;
    float* mean = out + width;
    std::fill(mean, mean + width, 0.0f);
    const auto count = static_cast<float>(std::max(1u, search_.add_states(record, mean)));
    for (size_t i = 0; i < width; ++i) mean[i] /= count;
  }

  bool states_wanted_;
  bool pooled_;
  std::shared_ptr<const Grounding> grounding_;
  size_t vocabulary_;
  mutable std::vector<const Step*> chain_;  // scratch
  StepSearch search_;
  size_t logits_ = 0;
  size_t states_ = 0;
  size_t told_entries_ = 0;
  std::vector<bool> told_;  // by record
};

py::array_t<float> ground(const Grounding& grounding,
                          const std::vector<std::reference_wrapper<const NamedStep>>& chain,
                          const py::bytes& response) {
  if (chain.empty()) throw std::invalid_argument("the chain has no step");
  std::vector<const Step*> steps;
  for (const NamedStep& named : chain) steps.push_back(&named.step);
  py::array_t<float> result(Grounding::kFeatures);
  grounding.features(steps, std::string_view(response), result.mutable_data());
  return result;
}

Aggregate parse_aggregate(const std::string& name) {
  static constexpr std::pair<std::string_view, Aggregate> kNames[] = {{"last", Aggregate::kLast},
                                                                      {"min", Aggregate::kMin},
                                                                      {"prod", Aggregate::kProd},
                                                                      {"mean", Aggregate::kMean}};
  for (const auto& [known, aggregate] : kNames) {
    if (known == name) return aggregate;
  }
  throw std::invalid_argument("aggregate must be last, min, prod or mean");
}

std::optional<int32_t> non_negative(int32_t value) {
  return value < 0 ? std::nullopt : std::optional(value);
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The native core of toolprm_lite. Its documented face is _core.pyi.";

  py::class_<NamedStep>(m, "Step")
      .def_property_readonly("kind", [](const NamedStep& s) { return kind_name(s.step.kind); })
      .def_property_readonly("call", [](const NamedStep& s) { return non_negative(s.step.call); })
      .def_readonly("function", &NamedStep::function)
      .def_property_readonly("argument",
                             [](const NamedStep& s) -> std::optional<py::str> {
                               if (!s.argument) return std::nullopt;
                               return py::str(*s.argument);
                             })
      .def_property_readonly("key_begin", [](const NamedStep& s) { return s.step.key_begin; })
      .def_property_readonly("key_end", [](const NamedStep& s) { return s.step.key_end; })
      .def_property_readonly("begin", [](const NamedStep& s) { return s.step.begin; })
      .def_property_readonly("end", [](const NamedStep& s) { return s.step.end; })
      .def_property_readonly("boundary", [](const NamedStep& s) { return s.step.boundary; })
      .def_property_readonly("decided", [](const NamedStep& s) { return s.step.decided; });

  py::class_<CallFormat>(m, "CallFormat")
      .def(py::init(&make_format), py::arg("open_marker") = "", py::arg("close_marker") = "",
           py::arg("name_key") = "name", py::arg("arguments_key") = "arguments");

  py::class_<Segmenter>(m, "Segmenter")
      .def(py::init([](const std::string& tools, std::string open_marker, std::string close_marker,
                       std::string name_key, std::string arguments_key,
                       std::optional<uint32_t> max_calls, bool require_call,
                       std::optional<py::function> judge) {
             return Segmenter(
                 make_segmenter(tools,
                                make_format(std::move(open_marker), std::move(close_marker),
                                            std::move(name_key), std::move(arguments_key)),
                                make_limits(max_calls, require_call), std::move(judge)));
           }),
           py::arg("tools_json"), py::arg("open_marker") = "", py::arg("close_marker") = "",
           py::arg("name_key") = "name", py::arg("arguments_key") = "arguments",
           py::arg("max_calls") = py::none(), py::arg("require_call") = false,
           py::arg("judge") = py::none())
      .def(
          "feed",
          [](Segmenter& self, const py::bytes& data) { return self.feed(std::string_view(data)); },
          py::arg("data"))
      .def("finish", &Segmenter::finish)
      .def("copy", [](const Segmenter& self) { return Segmenter(self); })
      .def(
          "scan",
          [](const Segmenter& self, const py::bytes& data, size_t repeats, size_t stride) {
            const std::string_view bytes(data);
            return self.scan(bytes, repeats, stride == 0 ? bytes.size() : stride);
          },
          py::arg("data"), py::arg("repeats"), py::arg("stride") = 0)
      .def("copy_states", &Segmenter::copy_states, py::arg("repeats"),
           py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("dead", [](const Segmenter& self) { return self.state().dead(); })
      .def_property_readonly("death",
                             [](const Segmenter& self) { return death_text(self.state().death); })
      .def_property_readonly("finished",
                             [](const Segmenter& self) { return self.state().finished(); })
      .def_property_readonly("in_text",
                             [](const Segmenter& self) { return self.state().in_text(); })
      .def_property_readonly("text", &Segmenter::text)
      .def_property_readonly("decided",
                             [](const Segmenter& self) { return self.state().decided(); })
      .def_property_readonly("merge_key", &Segmenter::merge_key);

  m.def("top_k", &top_k, py::arg("logits"), py::arg("masks"), py::arg("k"));

  m.def(
      "draw",
      [](const Ints& tokens, const Floats& logprobs, uint64_t path, uint32_t draws,
         float temperature, uint32_t top_k, float top_p, uint64_t seed) {
        if (tokens.ndim() != 1 || logprobs.ndim() != 1 || tokens.size() != logprobs.size()) {
          throw std::invalid_argument("tokens and logprobs must have one shape [k]");
        }
        const Distribution distribution =
            make_distribution(tokens.data(), logprobs.data(), tokens.size(), 0);
        std::vector<uint32_t> ids(draws);
        for (uint32_t i = 0; i < draws; ++i) ids[i] = i;
        std::vector<int32_t> places;
        Sampler({temperature, top_k, top_p, seed}).draw(distribution, path, ids, places);
        return to_array(places);
      },
      py::arg("tokens"), py::arg("logprobs"), py::arg("path"), py::arg("draws"),
      py::arg("temperature"), py::arg("top_k"), py::arg("top_p"), py::arg("seed"));

  py::class_<KvLedger>(m, "KvLedger")
      .def(py::init([](int32_t sequences, uint32_t cells, uint32_t prompt) {
             if (sequences < 1 || prompt > cells) {
               throw std::invalid_argument("a ledger needs a sequence and cells for its prompt");
             }
             return KvLedger(sequences, cells, prompt);
           }),
           py::arg("sequences"), py::arg("cells"), py::arg("prompt"))
      .def("fork", &KvLedger::fork, py::arg("source"), py::arg("told") = true)
      .def("drop", &KvLedger::drop, py::arg("sequence"), py::arg("told") = true)
      .def("append", &KvLedger::append, py::arg("sequence"))
      .def("extend", &KvLedger::extend, py::arg("sequence"), py::arg("count"))
      .def("shorten", &KvLedger::shorten, py::arg("sequence"), py::arg("count"))
      .def("limit", &KvLedger::limit, py::arg("sequences"), py::arg("cells"))
      .def("take_ops", [](KvLedger& self) { return ops_array(self.take_ops()); })
      .def("compact", [](KvLedger& self) { return to_array(self.compact()); })
      .def("settle", &KvLedger::settle)
      .def("place", &KvLedger::place, py::arg("cell"))
      .def("tip", &KvLedger::tip, py::arg("sequence"))
      .def(
          "ancestor_mask",
          [](const KvLedger& self, const std::vector<int32_t>& cells, py::ssize_t size) {
            py::array_t<uint8_t> masks({static_cast<py::ssize_t>(cells.size()), size});
            for (size_t row = 0; row < cells.size(); ++row) {
              self.ancestor_mask(cells[row], masks.mutable_data(row, 0), size);
            }
            return masks;
          },
          py::arg("cells"), py::arg("size"))
      .def_property_readonly("used", &KvLedger::used)
      .def_property_readonly("used_max", &KvLedger::used_max)
      .def_property_readonly("end", &KvLedger::end);

  py::class_<TensorTap>(m, "TensorTap")
      .def(py::init([](uintptr_t name, uintptr_t bytes, uintptr_t read,
                       std::vector<std::string> names, size_t width, uint32_t ubatch) {
             TensorTap::Library library;
             library.name = reinterpret_cast<decltype(library.name)>(name);
             library.bytes = reinterpret_cast<decltype(library.bytes)>(bytes);
             library.read = reinterpret_cast<decltype(library.read)>(read);
             if (!library.name || !library.bytes || !library.read || ubatch == 0) {
               throw std::invalid_argument("the addresses and ubatch must not be 0");
             }
             return std::make_unique<TensorTap>(library, std::move(names), width, ubatch);
           }),
           py::arg("name"), py::arg("bytes"), py::arg("read"), py::arg("names"), py::arg("width"),
           py::arg("ubatch"))
      .def("aim", &TensorTap::aim, py::arg("names"))
      .def(
          "begin",
          [](TensorTap& self, uint32_t tokens, const Ints& wanted, const Ints& outputs) {
            self.begin(tokens, {wanted.data(), wanted.data() + wanted.size()},
                       {outputs.data(), outputs.data() + outputs.size()});
          },
          py::arg("tokens"), py::arg("wanted"), py::arg("outputs"))
      .def("rows",
           [](const TensorTap& self) {
             py::array_t<float> rows({self.wanted(), self.width()});
             std::copy(self.rows().begin(), self.rows().end(), rows.mutable_data());
             return rows;
           })
      .def_property_readonly("address",
                             [](TensorTap& self) { return reinterpret_cast<uintptr_t>(&self); })
      .def_property_readonly_static(
          "callback",
          [](const py::object&) { return reinterpret_cast<uintptr_t>(&TensorTap::evaluate); })
      .def_property_readonly("missing",
                             [](const TensorTap& self) -> std::optional<std::string> {
                               if (!self.missing()) return std::nullopt;
                               return *self.missing();
                             })
      .def_property_readonly("failure", &TensorTap::failure);

  py::class_<Vocabulary, std::shared_ptr<Vocabulary>>(m, "Vocabulary")
      .def(py::init(&make_vocabulary), py::arg("tokens"), py::arg("ends"))
      .def("__len__", &Vocabulary::size);

  py::class_<Grounding, std::shared_ptr<Grounding>>(m, "Grounding")
      .def(py::init<const std::string&, const std::vector<std::pair<std::string, std::string>>&>(),
           py::arg("tools_json"), py::arg("conversation"))
      .def_static("names", &Grounding::names)
      .def("features", &ground, py::arg("chain"), py::arg("response"));

  py::class_<Search>(m, "StepSearch")
      .def(py::init([](const std::string& tools, const CallFormat& format,
                       std::shared_ptr<Vocabulary> vocabulary, int32_t sequences, uint32_t cells,
                       uint32_t prompt_tokens, std::optional<uint32_t> max_calls, bool require_call,
                       std::optional<py::function> judge, uint32_t beams, uint32_t root_draws,
                       uint32_t beam_draws, bool follow_argmax, bool whole_responses,
                       bool rank_by_draws, bool policy_rewards, bool states_wanted,
                       bool pool_states, std::shared_ptr<Grounding> grounding,
                       const std::string& aggregate, double policy_weight, float way_floor,
                       uint32_t max_tokens, uint32_t max_step_tokens, uint32_t max_text_tokens,
                       uint32_t max_batch_tokens, float temperature, uint32_t top_k, float top_p,
                       uint64_t seed, uint64_t prompt_hash, bool trace, bool token_level,
                       double doubt, uint32_t choices, bool forks_within) {
             SearchOptions options;
             options.beams = beams;
             options.root_draws = root_draws;
             options.beam_draws = beam_draws;
             options.follow_argmax = follow_argmax;
             options.whole_responses = whole_responses;
             options.token_level = token_level;
             options.rank_by_draws = rank_by_draws;
             options.policy_rewards = policy_rewards;
             options.states_wanted = states_wanted;
             options.pool_states = pool_states;
             options.aggregate = parse_aggregate(aggregate);
             options.policy_weight = policy_weight;
             options.way_floor = way_floor;
             options.doubt = doubt;
             options.choices = choices;
             options.forks_within = forks_within;
             options.max_tokens = max_tokens;
             options.max_step_tokens = max_step_tokens;
             options.max_text_tokens = max_text_tokens;
             options.max_batch_tokens = max_batch_tokens;
             options.trace = trace;
             options.sampler = {temperature, top_k, top_p, seed};
             options.prompt_hash = prompt_hash;
             auto segmenter = make_segmenter(tools, format, make_limits(max_calls, require_call),
                                             std::move(judge));
             return std::make_unique<Search>(std::move(segmenter), std::move(vocabulary), options,
                                             sequences, cells, prompt_tokens, std::move(grounding));
           }),
           py::kw_only(), py::arg("tools_json"), py::arg("format"), py::arg("vocabulary"),
           py::arg("sequences"), py::arg("cells"), py::arg("prompt_tokens"), py::arg("max_calls"),
           py::arg("require_call"), py::arg("judge"), py::arg("beams"), py::arg("root_draws"),
           py::arg("beam_draws"), py::arg("follow_argmax"), py::arg("whole_responses"),
           py::arg("rank_by_draws"), py::arg("policy_rewards"), py::arg("states_wanted"),
           py::arg("pool_states"), py::arg("grounding"), py::arg("aggregate"),
           py::arg("policy_weight"), py::arg("way_floor"), py::arg("max_tokens"),
           py::arg("max_step_tokens"), py::arg("max_text_tokens"), py::arg("max_batch_tokens"),
           py::arg("temperature"), py::arg("top_k"), py::arg("top_p"), py::arg("seed"),
           py::arg("prompt_hash"), py::arg("trace"), py::arg("token_level"), py::arg("doubt"),
           py::arg("choices"), py::arg("forks_within"))
      .def("start", &Search::start, py::arg("tokens"), py::arg("logprobs"), py::arg("entropy"))
      .def("start_forced", &Search::start_forced, py::arg("tokens"))
      .def("take_new", &Search::take_new)
      .def("set_forced", &Search::set_forced, py::arg("branch"), py::arg("tokens"))
      .def("take_choices", &Search::take_choices)
      .def("set_choices", &Search::set_choices, py::arg("branch"), py::arg("parents"),
           py::arg("tokens"), py::arg("forced"), py::arg("ends"))
      .def_property_readonly("choice_width",
                             [](const Search& self) { return self.search().choice_width(); })
      .def_property_readonly("narrowed",
                             [](const Search& self) { return self.search().narrowed(); })
      .def("narrow", &Search::narrow, py::arg("masks").noconvert())
      .def("next_batch", &Search::next_batch)
      .def("observe", &Search::observe, py::arg("tokens"), py::arg("logprobs"), py::arg("entropy"),
           py::arg("hidden"))
      .def("no_room", [](Search& self) { self.search().no_room(); })
      .def(
          "set_room",
          [](Search& self, uint32_t cells, int32_t sequences, uint32_t batch_tokens, bool waits) {
            self.search().set_room(cells, sequences, batch_tokens, waits);
          },
          py::kw_only(), py::arg("cells"), py::arg("sequences"), py::arg("batch_tokens"),
          py::arg("waits"))
      .def("forget_cells", &Search::forget_cells)
      .def_property_readonly("cells", [](const Search& self) { return self.search().cells(); })
      .def_property_readonly("sequences",
                             [](const Search& self) { return self.search().sequences(); })
      .def_property_readonly("planned_tokens",
                             [](const Search& self) { return self.search().planned_tokens(); })
      .def("stop", [](Search& self) { self.search().stop(); })
      .def("features", &Search::features)
      .def("records", &Search::records)
      .def("pending", &Search::pending)
      .def("keep", &Search::keep, py::arg("rewards"))
      .def("live", [](const Search& self) { return self.search().live(); })
      .def("beams", &Search::beams)
      .def("answers", &Search::answers)
      .def("trace", &Search::trace)
      .def("news", &Search::news)
      .def("counts", &Search::counts)
      .def_property_readonly("done", [](const Search& self) { return self.search().done(); });
}
