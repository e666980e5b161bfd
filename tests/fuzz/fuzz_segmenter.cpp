// The segmenter on any format, tools and response: the same steps and the same death whatever the
// pieces, forks that leave their source alone, steps in the specified order and within the bytes
// read. tests/support/slow_segmenter.py says which steps these are; this checks what holds for all
// of them.
#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "features/grounding.h"
#include "format/step_segmenter.h"
#include "generate.h"
#include "input.h"
#include "json_text.h"

namespace {

using namespace toolprm;

constexpr size_t kMaxResponse = 400;

struct Read {
  SegmenterState state;
  std::vector<Step> steps;
};

bool same(const Step& a, const Step& b) {
  return a.kind == b.kind && a.call == b.call && a.function == b.function &&
         a.parameter == b.parameter && a.key_begin == b.key_begin && a.key_end == b.key_end &&
         a.begin == b.begin && a.end == b.end && a.boundary == b.boundary &&
         a.decided == b.decided && a.written_call == b.written_call;
}

bool same(const std::vector<Step>& a, const std::vector<Step>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Step& x, const Step& y) { return same(x, y); });
}

// Everything a caller can see of two states that have read the same bytes.
void check_same(const StepSegmenter& segmenter, const Read& a, const Read& b,
                std::string_view response) {
  CHECK(a.state.envelope.mode == b.state.envelope.mode && a.state.death == b.state.death);
  CHECK(same(a.steps, b.steps));
  if (a.state.dead()) return;
  CHECK(a.state.position == response.size() && b.state.position == response.size());
  CHECK(a.state.decided() == b.state.decided() && a.state.call.calls == b.state.call.calls);
  CHECK(segmenter.merge_key(a.state, response) == segmenter.merge_key(b.state, response));
}

void advance(const StepSegmenter& segmenter, Read& read, std::string_view response) {
  const size_t steps = read.steps.size();
  const bool was_dead = read.state.dead();
  const bool was_finished = read.state.finished();
  const bool alive = segmenter.advance(read.state, response, read.steps);
  CHECK(alive == !read.state.dead());
  CHECK(read.state.dead() == (read.state.death != Death::kNone));
  if (was_dead || was_finished) CHECK(read.steps.size() == steps && alive == !was_dead);
}

// The order of steps, and where they may be.
void check_steps(const StepSegmenter& segmenter, const Read& read, std::string_view response,
                 const StepSegmenter::Limits& limits) {
  const ToolSchema& tools = segmenter.tools();
  uint32_t calls = 0;
  uint32_t boundary = 0;
  int32_t function = -1;
  StepKind last = StepKind::kFuncFinish;
  for (const Step& step : read.steps) {
    CHECK(last != StepKind::kTotalFinish);
    CHECK(step.begin <= step.end && step.end <= step.boundary);
    CHECK(step.boundary >= boundary && step.boundary <= response.size());
    boundary = step.boundary;
    const std::string_view text = response.substr(step.begin, step.end - step.begin);
    if (step.kind == StepKind::kTotalFinish) {
      CHECK(last == StepKind::kFuncFinish && step.call == -1 && step.function == -1);
      CHECK(text.empty() && calls == read.state.call.calls);
      CHECK(read.state.finished());
    } else {
      CHECK(step.call == static_cast<int32_t>(calls));
      CHECK(step.function >= 0 && static_cast<size_t>(step.function) < tools.functions().size());
      CHECK(step.kind == StepKind::kFuncName || step.function == function);
      function = step.function;
    }
    CHECK(step.kind == StepKind::kArgValue || (step.parameter == -1 && step.key_end == 0));
    JsonValue value;
    switch (step.kind) {
      case StepKind::kFuncName:
        CHECK(last == StepKind::kFuncFinish && calls < limits.max_calls);
        CHECK(parse_json(text, value) && value.string == tools.functions()[function].name);
        break;
      case StepKind::kArgValue: {
        CHECK(last == StepKind::kFuncName || last == StepKind::kArgValue);
        CHECK(step.key_begin < step.key_end && step.key_end < step.begin);
        JsonValue key;
        CHECK(parse_json(response.substr(step.key_begin, step.key_end - step.key_begin), key));
        CHECK(key.type == JsonType::kString);
        const SchemaNode& node = tools.node(tools.parameters(function));
        CHECK(node.properties.find(key.string) == step.parameter);
        CHECK(parse_json(text, value) && !has_duplicate_keys(value) && all_finite(value));
        break;
      }
      case StepKind::kParamFinish:
        CHECK(last == StepKind::kFuncName || last == StepKind::kArgValue);
        if (text.empty()) {
          value = fuzz::json_object({});
        } else {
          CHECK(parse_json(text, value));
        }
        CHECK(value.type == JsonType::kObject && !has_duplicate_keys(value));
        if (!tools.functions()[function].judged_whole &&
            !tools.node(tools.parameters(function)).judged) {
          CHECK(tools.valid(tools.parameters(function), value));
        }
        break;
      case StepKind::kFuncFinish: {
        CHECK(last == StepKind::kParamFinish);
        CHECK(parse_json(text, value) && value.type == JsonType::kObject);
        ++calls;
        break;
      }
      case StepKind::kTotalFinish:
        break;
    }
    last = step.kind;
  }
  CHECK(calls <= limits.max_calls);
  CHECK(read.state.dead() || calls == read.state.call.calls);
  const bool ended = !read.steps.empty() && last == StepKind::kTotalFinish;
  CHECK(ended == read.state.finished());
  if (ended) CHECK(!limits.require_call || calls > 0);
}

// A response that ends here.
void check_finish(const StepSegmenter& segmenter, const Read& read, std::string_view response,
                  const StepSegmenter::Limits& limits) {
  Read ended = read;
  const bool done = segmenter.finish(ended.state, ended.steps);
  CHECK(done == ended.state.finished() && done == !ended.state.dead());
  CHECK(ended.steps.size() == read.steps.size() + (done && !read.state.finished() ? 1 : 0));
  check_steps(segmenter, ended, response, limits);
  const size_t steps = ended.steps.size();
  CHECK(segmenter.finish(ended.state, ended.steps) == done && ended.steps.size() == steps);
}

// Refuses some arguments, whatever their spelling.
class Judge : public ArgumentJudge {
 public:
  explicit Judge(uint64_t seed) : seed_(seed) {}
  bool accepts(int function, bool whole, std::string_view arguments) const override {
    JsonValue value;
    CHECK(function >= 0 && parse_json(arguments, value) && value.type == JsonType::kObject);
    CHECK(!has_duplicate_keys(value) && (whole || value.members.size() == 1));
    return mix64(canonical_hash(value), seed_) % 8 != 0;
  }

 private:
  uint64_t seed_;
};

struct Subject {
  std::unique_ptr<StepSegmenter> segmenter;
  JsonValue tools;
  StepSegmenter::Limits limits;
};

std::string marker(fuzz::Input& input) {
  static constexpr const char* kMarkers[] = {
      "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "aab", "aabaaab", "{",
      "[",           "\"",           "{\"name\":",   "\n",  "<|x|>",   "}"};
  if (!input.chance(4)) return input.pick(kMarkers);
  std::string result;
  for (uint32_t i = input.below(7); i > 0; --i) result += "ab<{[ \"\xFF"[input.below(8)];
  return result;
}

CallFormat make_format(fuzz::Input& input) {
  static constexpr const char* kKeys[] = {"name", "arguments", "parameters", "function", "",
                                          "n\"",  "\\",        "a",          " "};
  CallFormat format;
  const uint32_t kind = input.below(8);
  if (kind >= 3) format.open_marker = "<tool_call>", format.close_marker = "</tool_call>";
  if (kind >= 5) format.open_marker = marker(input), format.close_marker = marker(input);
  if (kind == 6) format.close_marker.clear();
  if (kind == 7) format.name_key = input.pick(kKeys), format.arguments_key = input.pick(kKeys);
  return format;
}

Subject make_subject(fuzz::Input& input) {
  Subject subject;
  const CallFormat format = make_format(input);
  subject.limits = {UINT32_MAX, input.chance(4)};
  if (input.chance(2)) subject.limits.max_calls = input.below(4);
  fuzz::Generator generator(input);
  subject.tools = generator.tools();
  std::shared_ptr<const ArgumentJudge> judge;
  if (input.chance(2)) judge = std::make_shared<Judge>(input.byte());
  try {
    subject.segmenter = std::make_unique<StepSegmenter>(ToolSchema(fuzz::write_json(subject.tools)),
                                                        format, subject.limits, std::move(judge));
  } catch (const std::invalid_argument&) {
  }
  return subject;
}

using Calls = std::vector<std::pair<std::string, JsonValue>>;

// `calls` as a model would write them; a style changes nothing that is decided.
std::string write_calls(const Calls& calls, const CallFormat& format, fuzz::Style style) {
  fuzz::Random random(style.seed);
  std::string response = format.tagged() ? "" : "[";
  const auto space = [&] {
    if (style.spaces && random.chance(2)) response += " \n"[random.below(2)];
  };
  // How a call is recognised in text is a matter of its first bytes.
  const std::string name_key = '"' + format.name_key + '"';
  for (const auto& [name, arguments] : calls) {
    if (&name != &calls.front().first) response += format.tagged() ? "\n" : ",";
    response += format.open_marker;
    space();
    response += '{';
    space();
    response += name_key;
    space();
    response += ':';
    response += fuzz::write_json(fuzz::json_string(name), style);
    response += ',';
    space();
    response += fuzz::write_json(fuzz::json_string(format.arguments_key), style);
    response += ':';
    style.seed = random.word();
    response += fuzz::write_json(arguments, style);
    response += '}';
    if (!format.close_marker.empty() && format.close_marker[0] > 0x20) space();
    response += format.close_marker;
  }
  return format.tagged() ? response : response + "]";
}

std::string edited(std::string response, fuzz::Input& input) {
  static constexpr const char* kPieces[] = {"{",    "}", "[", "]",      ",",    ":",   "\"", "\\",
                                            "null", "1", "-", "{\"a\"", "\xC3", "\\u", " ",  "e"};
  for (uint32_t i = input.below(4); i > 0 && !response.empty(); --i) {
    const size_t at = input.below(static_cast<uint32_t>(response.size()));
    switch (input.below(4)) {
      case 0:
        response.insert(at, input.pick(kPieces));
        break;
      case 1:
        response.erase(at, 1 + input.below(4));
        break;
      case 2:
        response[at] = static_cast<char>(input.byte());
        break;
      default:
        response.insert(at, response.substr(input.below(static_cast<uint32_t>(response.size())),
                                            input.below(32)));
    }
  }
  return response;
}

void check_splits(const Subject& subject, std::string_view response, uint64_t seed) {
  const StepSegmenter& segmenter = *subject.segmenter;
  fuzz::show("response", response);
  fuzz::Random random(seed);
  Read whole;
  advance(segmenter, whole, response);
  check_steps(segmenter, whole, response, subject.limits);

  std::vector<Read> prefixes(response.size() + 1);  // byte by byte
  for (size_t end = 1; end <= response.size(); ++end) {
    prefixes[end] = prefixes[end - 1];
    advance(segmenter, prefixes[end], response.substr(0, end));
  }
  check_same(segmenter, whole, prefixes.back(), response);

  const bool all = response.size() <= 48;  // else some of the splits in two
  for (size_t i = 0; i < (all ? response.size() : 16); ++i) {
    const size_t split = all ? i : random.below(static_cast<uint32_t>(response.size()));
    Read rest = prefixes[split];
    advance(segmenter, rest, response);
    check_same(segmenter, whole, rest, response);
    check_finish(segmenter, prefixes[split], response.substr(0, split), subject.limits);
  }
  Read pieces;
  for (size_t end = 0; end < response.size();) {
    end = std::min<size_t>(end + 1 + random.below(12), response.size());
    advance(segmenter, pieces, response.substr(0, end));
    check_same(segmenter, pieces, prefixes[end], response.substr(0, end));
  }
  check_finish(segmenter, whole, response, subject.limits);
  advance(segmenter, whole, std::string(response) + "x\"}]");
}

// Two spellings of the same calls decide the same, step by step.
void check_styles(const Subject& subject, const Calls& calls, uint64_t seed) {
  const StepSegmenter& segmenter = *subject.segmenter;
  const std::string plain = write_calls(calls, segmenter.format(), {});
  const std::string other = write_calls(calls, segmenter.format(), {seed, true, true, false, true});
  fuzz::show("plain", plain);
  fuzz::show("other", other);
  Read a, b;
  advance(segmenter, a, plain);
  advance(segmenter, b, other);
  CHECK(a.state.death == b.state.death && a.state.envelope.mode == b.state.envelope.mode);
  CHECK(a.steps.size() == b.steps.size());
  for (size_t i = 0; i < a.steps.size(); ++i) {
    CHECK(a.steps[i].kind == b.steps[i].kind && a.steps[i].decided == b.steps[i].decided);
    CHECK(a.steps[i].parameter == b.steps[i].parameter);
  }
  if (a.state.dead()) return;
  CHECK(a.state.decided() == b.state.decided());
  CHECK(segmenter.merge_key(a.state, plain) == segmenter.merge_key(b.state, other));
}

// A few words of each sort.
constexpr std::string_view kWords = R"({
  "stop": ["a", "of", "the", "may"], "endings": ["ing", "s", "e"], "second_endings": ["y", "i"],
  "numbers": {"one": 1, "five": 5, "twenty": 20, "half": 0.5, "zero": 0},
  "ordinals": {"third": 3}, "ordinal_endings": ["th"], "joins": ["and"],
  "scales": {"hundred": 100, "million": 1000000, "k": 1000, "percent": 0.01},
  "months": {"march": 3, "may": 5}, "weekdays": {"sunday": 7},
  "days": {"tomorrow": 1}, "clock": {"noon": 720}, "seconds": {"minutes": 60},
  "clock_words": {"am": ["am"], "pm": ["pm"], "past": ["past"], "to": ["to"], "at": ["at"],
                  "hour": ["clock"], "morning": ["morning"], "evening": ["evening"]},
  "units": {"kilometer": ["km", "kilometers"]}})";

// Features of steps that the search decides are numbers, whatever the conversation says.
void check_grounding(const Subject& subject, const Calls& calls, std::string_view response,
                     std::string message) {
  static const auto words = std::make_shared<const Words>(kWords);
  Grounding::Texts history = {{"get", message}};
  for (const auto& [name, arguments] : calls) {
    history.emplace_back(name, fuzz::write_json(arguments));
  }
  const Grounding grounding(fuzz::write_json(subject.tools),
                            {{"system", "Call get with 5 or \"a\" at half past five on March 25."},
                             {"user", std::move(message)}},
                            words, history);
  Read read;
  subject.segmenter->advance(read.state, response, read.steps);
  std::vector<NamedStep> named;
  for (const Step& step : read.steps) named.push_back(subject.segmenter->named(step, response));
  Grounding::Chain chain;
  for (const NamedStep& step : named) {
    chain.push_back(&step);
    float features[Grounding::kFeatures];
    grounding.features(chain, features);
    for (float feature : features) CHECK(feature >= 0 && feature < 100);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const uint32_t source = input.below(4);
  const uint64_t seed = 1 + input.byte();
  const Subject subject = make_subject(input);
  if (!subject.segmenter) return 0;
  const CallFormat& format = subject.segmenter->format();
  fuzz::show("tools", fuzz::write_json(subject.tools));
  fuzz::show("markers", format.open_marker + ' ' + format.close_marker);
  fuzz::show("keys", format.name_key + ' ' + format.arguments_key);
  fuzz::Generator generator(input);
  Calls calls;
  for (uint32_t i = input.below(3); i > 0; --i) calls.push_back(generator.call(subject.tools));
  std::string response;
  switch (source) {
    case 0:
      response = input.rest();
      break;
    case 1: {
      response = write_calls(calls, format, {});
      check_styles(subject, calls, seed);
      break;
    }
    default:
      response = write_calls(calls, format, {seed, source == 3, true, true, true});
      if (input.chance(3)) response.insert(0, "Sure. [1] {} ");
      response = edited(std::move(response), input);
  }
  if (response.size() > kMaxResponse) response.resize(kMaxResponse);
  check_splits(subject, response, seed);
  if (input.chance(4)) check_grounding(subject, calls, response, std::string(input.rest()));
  return 0;
}
