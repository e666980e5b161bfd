// The only file that knows Python: it converts arguments and results. Arrays are copied at the
// border, where they are small.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>

#include "backend/tensor_tap.h"
#include "features/grounding.h"
#include "format/response.h"
#include "search/kv_ledger.h"
#include "search/sampler.h"
#include "search/step_search.h"
#include "search/step_table.h"

namespace py = pybind11;
using namespace toolprm;

namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Ints = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;
using Masks = py::array_t<uint32_t, py::array::c_style>;

// Arrays

template <typename T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::array_t<float> to_rows(const std::vector<float>& values, size_t rows, size_t width) {
  py::array_t<float> result({rows, width});
  std::copy(values.begin(), values.end(), result.mutable_data());
  return result;
}

py::array_t<int32_t> to_array(const std::vector<KvLedger::Op>& ops) {
  py::array_t<int32_t> result({static_cast<py::ssize_t>(ops.size()), py::ssize_t{3}});
  int32_t* out = result.mutable_data();
  for (const KvLedger::Op& op : ops) {
    *out++ = op.kind;
    *out++ = op.sequence;
    *out++ = op.destination;
  }
  return result;
}

std::optional<int32_t> non_negative(int32_t value) {
  return value < 0 ? std::nullopt : std::optional(value);
}

// A property with text of any encoding.
template <typename T>
auto as_bytes(std::string T::* text) {
  return [text](const T& self) { return py::bytes(self.*text); };
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
  const auto size = static_cast<size_t>(
      std::find_if(tokens, tokens + k, [](int32_t token) { return token < 0; }) - tokens);
  return {{tokens, tokens + size}, {logprobs, logprobs + size}, entropy};
}

// One distribution for each row of top_k's result.
std::vector<Distribution> make_distributions(const Ints& tokens, const Floats& logprobs,
                                             const Floats& entropy) {
  if (tokens.ndim() != 2 || logprobs.ndim() != 2 || entropy.ndim() != 1 ||
      logprobs.shape(0) != tokens.shape(0) || logprobs.shape(1) != tokens.shape(1) ||
      entropy.shape(0) != tokens.shape(0)) {
    throw std::invalid_argument("the output does not have the shape of the batch");
  }
  std::vector<Distribution> result;
  const auto k = static_cast<size_t>(tokens.shape(1));
  for (py::ssize_t row = 0; row < tokens.shape(0); ++row) {
    result.push_back(make_distribution(tokens.data() + row * k, logprobs.data() + row * k, k,
                                       entropy.data()[row]));
  }
  return result;
}

py::array_t<int32_t> draw(const Ints& tokens, const Floats& logprobs, uint64_t path, uint32_t draws,
                          float temperature, uint32_t top_k, float top_p, uint64_t seed) {
  if (tokens.ndim() != 1 || logprobs.ndim() != 1 || tokens.size() != logprobs.size()) {
    throw std::invalid_argument("tokens and logprobs must have one shape [k]");
  }
  std::vector<uint32_t> ids(draws);
  std::iota(ids.begin(), ids.end(), 0u);
  std::vector<int32_t> places;
  Sampler({temperature, top_k, top_p, seed})
      .draw(make_distribution(tokens.data(), logprobs.data(), tokens.size(), 0), path, ids, places);
  return to_array(places);
}

// Formats and tools

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

CallFormat make_format(std::string open_marker, std::string close_marker, const std::string& body,
                       std::string name_key, std::string arguments_key) {
  CallFormat format;
  format.open_marker = std::move(open_marker);
  format.close_marker = std::move(close_marker);
  format.body = body_kind(body);
  format.name_key = std::move(name_key);
  format.arguments_key = std::move(arguments_key);
  format.check();
  return format;
}

Response make_response(const std::string& tools, const CallFormat& format,
                       std::optional<uint32_t> max_calls, bool require_call,
                       std::optional<py::function> judge) {
  std::shared_ptr<const ArgumentJudge> judges;
  if (judge) judges = std::make_shared<PythonJudge>(std::move(*judge));
  const StepSegmenter::Limits limits{max_calls.value_or(UINT32_MAX), require_call};
  return Response(
      std::make_shared<StepSegmenter>(ToolSchema(tools), format, limits, std::move(judges)));
}

std::shared_ptr<Vocabulary> make_vocabulary(const std::vector<py::bytes>& tokens,
                                            const std::vector<int32_t>& ends) {
  auto vocabulary = std::make_shared<Vocabulary>();
  for (const py::bytes& token : tokens) vocabulary->add(std::string_view(token));
  for (int32_t token : ends) vocabulary->ends.at(token) = true;
  return vocabulary;
}

py::array_t<float> ground(const Grounding& grounding,
                          const std::vector<std::reference_wrapper<const NamedStep>>& steps) {
  if (steps.empty()) throw std::invalid_argument("the chain has no step");
  Grounding::Chain chain;
  for (const NamedStep& step : steps) chain.push_back(&step);
  py::array_t<float> result(Grounding::kFeatures);
  grounding.features(chain, result.mutable_data());
  return result;
}

std::shared_ptr<Grounding> make_grounding(const std::string& tools_json,
                                          const Grounding::Texts& conversation,
                                          std::shared_ptr<Words> words,
                                          const Grounding::Texts& history) {
  return std::make_shared<Grounding>(tools_json, conversation, std::move(words), history);
}

void bind_formats(py::module_& m) {
  py::class_<NamedStep>(m, "Step")
      .def_property_readonly("kind", [](const NamedStep& s) { return kind_name(s.step.kind); })
      .def_property_readonly("call", [](const NamedStep& s) { return non_negative(s.step.call); })
      .def_readonly("function", &NamedStep::function)
      .def_readonly("argument", &NamedStep::argument)
      .def_property_readonly("value",
                             [](const NamedStep& s) -> std::optional<py::bytes> {
                               if (!s.value) return std::nullopt;
                               return py::bytes(*s.value);
                             })
      .def_property_readonly("text", as_bytes(&NamedStep::text))
      .def_property_readonly("begin", [](const NamedStep& s) { return s.step.begin; })
      .def_property_readonly("end", [](const NamedStep& s) { return s.step.end; })
      .def_property_readonly("boundary", [](const NamedStep& s) { return s.step.boundary; })
      .def_property_readonly("decided", [](const NamedStep& s) { return s.step.decided; });

  py::class_<CallFormat>(m, "CallFormat")
      .def(py::init(&make_format), py::kw_only(), py::arg("open_marker") = "",
           py::arg("close_marker") = "", py::arg("body") = "json", py::arg("name_key") = "name",
           py::arg("arguments_key") = "arguments");

  py::class_<Response>(m, "Segmenter")
      .def(py::init(&make_response), py::arg("tools_json"), py::arg("format") = CallFormat(),
           py::kw_only(), py::arg("max_calls") = py::none(), py::arg("require_call") = false,
           py::arg("judge") = py::none())
      .def(
          "feed",
          [](Response& self, const py::bytes& data) { return self.feed(std::string_view(data)); },
          py::arg("data"))
      .def("finish", &Response::finish)
      .def("copy", [](const Response& self) { return Response(self); })
      .def(
          "scan",
          [](const Response& self, const py::bytes& data, size_t repeats, size_t stride) {
            return self.scan(std::string_view(data), repeats, stride);
          },
          py::arg("data"), py::arg("repeats"), py::arg("stride") = 0)
      .def("copy_states", &Response::copy_states, py::arg("repeats"),
           py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("dead", [](const Response& self) { return self.state().dead(); })
      .def_property_readonly("death",
                             [](const Response& self) { return death_text(self.state().death); })
      .def_property_readonly("finished",
                             [](const Response& self) { return self.state().finished(); })
      .def_property_readonly("in_text", [](const Response& self) { return self.state().in_text(); })
      .def_property_readonly("text", [](const Response& self) { return py::bytes(self.text()); })
      .def_property_readonly("decided", [](const Response& self) { return self.state().decided(); })
      .def_property_readonly("merge_key", &Response::merge_key);

  py::class_<Words, std::shared_ptr<Words>>(m, "Words")
      .def(py::init<const std::string&>(), py::arg("json"));

  py::class_<Grounding, std::shared_ptr<Grounding>>(m, "Grounding")
      .def(py::init(&make_grounding), py::arg("tools_json"), py::arg("conversation"), py::kw_only(),
           py::arg("words") = py::none(), py::arg("history") = Grounding::Texts())
      .def_static("names", &Grounding::names)
      .def("features", &ground, py::arg("chain"));
}

// The KV cache and the tap

void bind_drawing(py::module_& m) {
  m.def("top_k", &top_k, py::arg("logits"), py::arg("masks"), py::arg("k"));
  m.def("draw", &draw, py::arg("tokens"), py::arg("logprobs"), py::arg("path"), py::arg("draws"),
        py::arg("temperature"), py::arg("top_k"), py::arg("top_p"), py::arg("seed"));

  py::class_<Vocabulary, std::shared_ptr<Vocabulary>>(m, "Vocabulary")
      .def(py::init(&make_vocabulary), py::arg("tokens"), py::arg("ends"))
      .def("__len__", &Vocabulary::size);
}

void bind_ledger(py::module_& m) {
  py::class_<KvLedger>(m, "KvLedger")
      .def(py::init([](int32_t sequences, uint32_t cells, uint32_t prompt) {
             if (sequences < 1 || prompt > cells) {
               throw std::invalid_argument("a ledger needs a sequence and cells for its prompt");
             }
             return KvLedger(sequences, cells, prompt);
           }),
           py::arg("sequences"), py::arg("cells"), py::arg("prompt"))
      .def("fork", &KvLedger::fork, py::arg("source"))
      .def("drop", &KvLedger::drop, py::arg("sequence"))
      .def("append", &KvLedger::append, py::arg("sequence"))
      .def("extend", &KvLedger::extend, py::arg("sequence"), py::arg("count"))
      .def("shorten", &KvLedger::shorten, py::arg("sequence"), py::arg("count"))
      .def("limit", &KvLedger::limit, py::arg("sequences"), py::arg("cells"))
      .def("take_ops", [](KvLedger& self) { return to_array(self.take_ops()); })
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
      .def_property_readonly("end", &KvLedger::end);
}

void bind_tap(py::module_& m) {
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
}

// The search

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

void bind_options(py::module_& m) {
  py::class_<SearchOptions>(m, "SearchOptions")
      .def(py::init<>())
      .def_readwrite("beams", &SearchOptions::beams)
      .def_readwrite("root_draws", &SearchOptions::root_draws)
      .def_readwrite("beam_draws", &SearchOptions::beam_draws)
      .def_readwrite("follow_argmax", &SearchOptions::follow_argmax)
      .def_readwrite("way_floor", &SearchOptions::way_floor)
      .def_readwrite("doubt", &SearchOptions::doubt)
      .def_readwrite("whole_responses", &SearchOptions::whole_responses)
      .def_readwrite("policy_rewards", &SearchOptions::policy_rewards)
      .def_readwrite("states_wanted", &SearchOptions::states_wanted)
      .def_readwrite("pool_states", &SearchOptions::pool_states)
      .def_property("aggregate", nullptr,
                    [](SearchOptions& self, const std::string& name) {
                      self.aggregate = parse_aggregate(name);
                    })
      .def_readwrite("policy_gap", &SearchOptions::policy_gap)
      .def_readwrite("margin", &SearchOptions::margin)
      .def_readwrite("max_tokens", &SearchOptions::max_tokens)
      .def_readwrite("max_step_tokens", &SearchOptions::max_step_tokens)
      .def_readwrite("max_text_tokens", &SearchOptions::max_text_tokens)
      .def_readwrite("max_batch_tokens", &SearchOptions::max_batch_tokens)
      .def_readwrite("trace", &SearchOptions::trace)
      .def_property("temperature", nullptr,
                    [](SearchOptions& self, float value) { self.sampler.temperature = value; })
      .def_property("top_k", nullptr,
                    [](SearchOptions& self, uint32_t value) { self.sampler.top_k = value; })
      .def_property("top_p", nullptr,
                    [](SearchOptions& self, float value) { self.sampler.top_p = value; })
      .def_property("seed", nullptr,
                    [](SearchOptions& self, uint64_t value) { self.sampler.seed = value; })
      .def_readwrite("prompt_hash", &SearchOptions::prompt_hash);
}

void bind_results(py::module_& m) {
  py::class_<SearchBatch>(m, "SearchBatch")
      .def_property_readonly("ops", [](const SearchBatch& b) { return to_array(b.ops); })
      .def_property_readonly("tokens", [](const SearchBatch& b) { return to_array(b.tokens); })
      .def_property_readonly("positions",
                             [](const SearchBatch& b) { return to_array(b.positions); })
      .def_property_readonly("sequences",
                             [](const SearchBatch& b) { return to_array(b.sequences); })
      .def_property_readonly("logits_at",
                             [](const SearchBatch& b) { return to_array(b.logits_at); })
      .def_property_readonly("hidden_at",
                             [](const SearchBatch& b) { return to_array(b.hidden_at); })
      .def_readonly("branches", &SearchBatch::branches);

  py::class_<RewardInputs>(m, "RewardInputs")
      .def_property_readonly("kinds", [](const RewardInputs& r) { return to_array(r.kinds); })
      .def_property_readonly("features",
                             [](const RewardInputs& r) {
                               return to_rows(r.features, r.kinds.size(), r.feature_count);
                             })
      .def_property_readonly("states", [](const RewardInputs& r) {
        return to_rows(r.states, r.kinds.size(), r.state_width);
      });

  py::class_<ScoredStep>(m, "ScoredStep")
      .def_readonly("step", &ScoredStep::step)
      .def_readonly("index", &ScoredStep::index)
      .def_readonly("reward", &ScoredStep::reward)
      .def_readonly("logprob", &ScoredStep::logprob);

  py::class_<StepInResponse>(m, "StepInResponse")
      .def_readonly("step", &StepInResponse::step)
      .def_property_readonly("response", as_bytes(&StepInResponse::response));

  py::class_<Trajectory>(m, "Trajectory")
      .def_readonly("last_step", &Trajectory::last_step)
      .def_readonly("draws", &Trajectory::draws)
      .def_readonly("greedy", &Trajectory::greedy)
      .def_readonly("finished", &Trajectory::finished)
      .def_readonly("fate", &Trajectory::fate)
      .def_readonly("tokens", &Trajectory::tokens)
      .def_property_readonly("text", as_bytes(&Trajectory::text));

  py::class_<StepTable>(m, "StepTable")
      .def_readonly("steps", &StepTable::steps)
      .def_property_readonly("previous", [](const StepTable& t) { return to_array(t.previous); })
      .def_property_readonly("tokens", [](const StepTable& t) { return to_array(t.tokens); })
      .def_property_readonly("draws", [](const StepTable& t) { return to_array(t.draws); })
      .def_property_readonly("gaps", [](const StepTable& t) { return to_array(t.gaps); })
      .def_readonly("greedy", &StepTable::greedy)
      .def_readonly("continues", &StepTable::continues)
      .def_readonly("inputs", &StepTable::inputs)
      .def_readonly("trajectories", &StepTable::trajectories);

  py::class_<SearchCounts>(m, "SearchCounts")
      .def_readonly("decode_tokens", &SearchCounts::decode_tokens)
      .def_readonly("forced_tokens", &SearchCounts::forced_tokens)
      .def_readonly("drawn_tokens", &SearchCounts::drawn_tokens)
      .def_readonly("rounds", &SearchCounts::rounds)
      .def_readonly("widened", &SearchCounts::widened)
      .def_readonly("rows_max", &SearchCounts::rows_max)
      .def_readonly("kv_cells", &SearchCounts::cells_max);
}

// A value of the core with its steps named, as they hold no text of their own.
struct NamedAnswer {
  Answer answer;
  std::vector<ScoredStep> steps;
};

struct NamedNode {
  TraceNode node;
  std::vector<ScoredStep> steps;
};

std::vector<NamedAnswer> named(const StepSearch& search, std::vector<Answer> answers) {
  std::vector<NamedAnswer> result;
  for (Answer& answer : answers) {
    std::vector<ScoredStep> steps = scored_steps(search, answer.steps, answer.text);
    result.push_back({std::move(answer), std::move(steps)});
  }
  return result;
}

void bind_answers(py::module_& m) {
  py::class_<NamedAnswer>(m, "Answer")
      .def_property_readonly("text", [](const NamedAnswer& a) { return py::bytes(a.answer.text); })
      .def_readonly("steps", &NamedAnswer::steps)
      .def_property_readonly("tokens", [](const NamedAnswer& a) { return a.answer.tokens; })
      .def_property_readonly("score", [](const NamedAnswer& a) { return a.answer.score; })
      .def_property_readonly("logprob", [](const NamedAnswer& a) { return a.answer.logprob; })
      .def_property_readonly("draws", [](const NamedAnswer& a) { return a.answer.draws; })
      .def_property_readonly("complete", [](const NamedAnswer& a) { return a.answer.complete; })
      .def_property_readonly("greedy", [](const NamedAnswer& a) { return a.answer.greedy; })
      .def_property_readonly("companion", [](const NamedAnswer& a) { return a.answer.companion; });

  py::class_<NamedNode>(m, "TraceNode")
      .def_property_readonly("id", [](const NamedNode& n) { return n.node.id; })
      .def_property_readonly("parent",
                             [](const NamedNode& n) { return non_negative(n.node.parent); })
      .def_property_readonly("round", [](const NamedNode& n) { return n.node.round; })
      .def_property_readonly("beam", [](const NamedNode& n) { return n.node.beam; })
      .def_property_readonly("text", [](const NamedNode& n) { return py::bytes(n.node.text); })
      .def_readonly("steps", &NamedNode::steps)
      .def_property_readonly("tokens", [](const NamedNode& n) { return n.node.tokens; })
      .def_property_readonly("score", [](const NamedNode& n) { return n.node.score; })
      .def_property_readonly("draws", [](const NamedNode& n) { return n.node.draws; })
      .def_property_readonly("greedy", [](const NamedNode& n) { return n.node.greedy; })
      .def_property_readonly("finished", [](const NamedNode& n) { return n.node.finished; })
      .def_property_readonly("widened", [](const NamedNode& n) { return n.node.widened; })
      .def_property_readonly("fate", [](const NamedNode& n) { return n.node.fate; })
      .def_property_readonly("merged_into",
                             [](const NamedNode& n) { return non_negative(n.node.merged_into); });
}

std::unique_ptr<StepSearch> make_search(const Response& segmenter,
                                        std::shared_ptr<Vocabulary> vocabulary,
                                        std::shared_ptr<Grounding> grounding,
                                        const SearchOptions& options, int32_t sequences,
                                        uint32_t cells, uint32_t prompt_tokens) {
  return std::make_unique<StepSearch>(segmenter.segmenter(), std::move(vocabulary),
                                      std::move(grounding), options,
                                      CacheLimits{sequences, cells, prompt_tokens});
}

void observe(StepSearch& search, const Ints& tokens, const Floats& logprobs, const Floats& entropy,
             const std::optional<Floats>& hidden) {
  if (hidden &&
      (hidden->ndim() != 2 || static_cast<size_t>(hidden->shape(0)) != search.expected_states())) {
    throw std::invalid_argument("hidden does not have the shape of the batch");
  }
  search.observe(make_distributions(tokens, logprobs, entropy), hidden ? hidden->data() : nullptr,
                 hidden ? static_cast<size_t>(hidden->shape(1)) : 0);
}

std::vector<NamedNode> trace(const StepSearch& search, size_t begin) {
  std::vector<NamedNode> result;
  const std::vector<TraceNode>& nodes = search.trace().nodes();
  for (size_t i = begin; i < nodes.size(); ++i) {
    result.push_back({nodes[i], scored_steps(search, nodes[i])});
  }
  return result;
}

void bind_search(py::module_& m) {
  py::class_<StepSearch>(m, "StepSearch")
      .def(py::init(&make_search), py::kw_only(), py::arg("segmenter"), py::arg("vocabulary"),
           py::arg("grounding"), py::arg("options"), py::arg("sequences"), py::arg("cells"),
           py::arg("prompt_tokens"))
      .def(
          "start",
          [](StepSearch& self, const Ints& tokens, const Floats& logprobs, const Floats& entropy) {
            std::vector<Distribution> next = make_distributions(tokens, logprobs, entropy);
            if (next.size() != 1) throw std::invalid_argument("start takes one distribution");
            self.start(std::move(next.front()));
          },
          py::arg("tokens"), py::arg("logprobs"), py::arg("entropy"))
      .def("start_forced", &StepSearch::start_forced, py::arg("tokens"))
      .def("take_new",
           [](StepSearch& self) {
             std::vector<std::tuple<int32_t, int32_t, int32_t>> result;
             for (const NewBranch& made : self.take_new()) {
               result.emplace_back(made.branch, made.parent, made.token);
             }
             return result;
           })
      .def("set_forced", &StepSearch::set_forced, py::arg("branch"), py::arg("tokens"))
      .def("next_batch",
           [](StepSearch& self) -> std::optional<SearchBatch> {
             SearchBatch batch;
             if (!self.next_batch(batch)) return std::nullopt;
             return batch;
           })
      .def("observe", &observe, py::arg("tokens"), py::arg("logprobs"), py::arg("entropy"),
           py::arg("hidden"))
      .def("no_room", &StepSearch::no_room)
      .def("set_room", &StepSearch::set_room, py::kw_only(), py::arg("cells"), py::arg("sequences"),
           py::arg("batch_tokens"), py::arg("waits"))
      .def("forget_cells", &StepSearch::forget_cells)
      .def_property_readonly("cells", &StepSearch::cells)
      .def_property_readonly("sequences", &StepSearch::sequences)
      .def_property_readonly("planned_tokens", &StepSearch::planned_tokens)
      .def("stop", &StepSearch::stop)
      .def("reward_inputs",
           [](const StepSearch& self) { return self.log().inputs(self.unscored()); })
      .def("pending", [](const StepSearch& self) { return in_response(self, self.unscored()); })
      .def(
          "keep",
          [](StepSearch& self, const Floats& rewards) {
            self.keep({rewards.data(), rewards.data() + rewards.size()});
          },
          py::arg("rewards"))
      .def("live", &StepSearch::live)
      .def("beams", [](const StepSearch& self) { return named(self, self.beams()); })
      .def("answers", [](const StepSearch& self) { return named(self, self.answers()); })
      .def("trace", &trace, py::arg("begin") = 0)
      .def("step_table", &step_table)
      .def("counts", &StepSearch::counts)
      .def_property_readonly("done", &StepSearch::done);
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The native core of toolprm_lite. Its documented face is _core.pyi.";
  bind_formats(m);
  bind_drawing(m);
  bind_ledger(m);
  bind_tap(m);
  bind_options(m);
  bind_results(m);
  bind_answers(m);
  bind_search(m);
}
