#include "features/grounding.h"

#include <algorithm>
#include <cmath>

#include "features/step_value.h"
#include "json/json_value.h"

namespace toolprm {

namespace {

// The one list of features. Counts are log1p. Heads read them by name: add at the end, and never
// change what a name stands for.
#define TOOLPRM_FEATURES(X)                                     \
  /* ARG_VALUE */                                               \
  X(kFound, "value_found")                                      \
  X(kFoundLast, "value_found_in_last_message")                  \
  X(kWords, "value_words_found")                                \
  X(kWordsLast, "value_words_found_in_last_message")            \
  X(kPhrase, "value_found_as_phrase")                           \
  X(kInParameter, "value_in_parameter_description")             \
  X(kInTool, "value_in_tool_description")                       \
  X(kIsDefault, "value_is_default")                             \
  X(kRequired, "parameter_required")                            \
  X(kListed, "parameter_listed")                                \
  X(kHasDefault, "parameter_has_default")                       \
  X(kString, "value_is_string")                                 \
  X(kNumber, "value_is_number")                                 \
  X(kBoolean, "value_is_boolean")                               \
  X(kArray, "value_is_array")                                   \
  X(kObject, "value_is_object")                                 \
  X(kLength, "value_length")                                    \
  X(kEmpty, "value_empty")                                      \
  X(kRepeated, "value_repeated_in_call")                        \
  X(kArguments, "arguments_before")                             \
  /* PARAM_FINISH, FUNC_FINISH, TOTAL_FINISH */                 \
  X(kRequiredGiven, "required_given_share")                     \
  X(kOptionalOmitted, "optional_omitted")                       \
  X(kOptionalGiven, "optional_given")                           \
  X(kNumbersUsed, "numbers_used_share")                         \
  X(kNumbersUsedCount, "numbers_used")                          \
  X(kNumbersUnused, "numbers_unused")                           \
  X(kMentionsUsed, "mentions_used_share")                       \
  X(kMentionsUsedCount, "mentions_used")                        \
  X(kMentionsUnused, "mentions_unused")                         \
  X(kDeclined, "declined")                                      \
  /* the same and FUNC_NAME */                                  \
  X(kCalls, "calls")                                            \
  /* FUNC_NAME */                                               \
  X(kNameWords, "name_words_in_last_message")                   \
  X(kDescriptionWords, "description_words_in_last_message")     \
  X(kRank, "tool_rank")                                         \
  X(kTools, "tools")                                            \
  X(kTimesCalled, "times_called_before")                        \
  X(kToolsUnused, "other_tools_unused")                         \
  /* ARG_VALUE, in whatever form it is said */                  \
  X(kGiven, "value_given")                                      \
  X(kGivenLast, "value_given_in_last_message")                  \
  X(kGivenShare, "value_words_given")                           \
  X(kGivenShareLast, "value_words_given_in_last_message")       \
  /* PARAM_FINISH, FUNC_FINISH, TOTAL_FINISH */                 \
  X(kOmittedMentioned, "omitted_mentioned")                     \
  X(kOmittedName, "omitted_name_in_last_message")               \
  X(kOmittedDescription, "omitted_description_in_last_message") \
  X(kOmittedChoices, "omitted_choices_in_last_message")         \
  /* FUNC_NAME */                                               \
  X(kFit, "tool_fit")                                           \
  X(kFitRank, "tool_fit_rank")                                  \
  /* FUNC_NAME, TOTAL_FINISH: of those not called */            \
  X(kOtherFit, "other_tool_fit")                                \
  /* all but ARG_VALUE */                                       \
  X(kFunctionBefore, "function_in_history")                     \
  X(kCallBefore, "call_in_history")

enum Feature : int {
#define TOOLPRM_ID(id, name) id,
  TOOLPRM_FEATURES(TOOLPRM_ID)
#undef TOOLPRM_ID
      kCount
};
static_assert(kCount == Grounding::kFeatures);

const Words& no_words() {
  static const Words kNone;
  return kNone;
}

// Of an argument among those of its call; their hashes are added up.
uint64_t argument_hash(std::string_view name, uint64_t value) {
  return mix64(hash_bytes(name), value);
}

const GroundParameter* find_parameter(const GroundTool& tool, std::string_view name) {
  for (const GroundParameter& parameter : tool.parameters) {
    if (parameter.name == name) return &parameter;
  }
  return nullptr;
}

bool is_default(const GroundParameter* parameter, uint64_t value) {
  return parameter != nullptr && parameter->has_default && parameter->default_hash == value;
}

// Whether `at` names the function of a call that `last` judges: the end of the response judges all
// calls, other steps only their own.
bool names_judged_call(const NamedStep& at, const Step& last) {
  return at.step.kind == StepKind::kFuncName &&
         (last.kind == StepKind::kTotalFinish || at.step.call == last.call);
}

float log_count(size_t count) { return static_cast<float>(std::log1p(static_cast<double>(count))); }

}  // namespace

Grounding::Grounding(std::string_view tools_json, const Texts& conversation,
                     std::shared_ptr<const Words> words, const Texts& history)
    : words_(std::move(words)) {
  std::string all;
  std::string_view last;
  for (const auto& [role, text] : conversation) {
    all += text;
    all += '\x1f';  // so that no phrase spans two messages
    if (role == "user") last = text;
  }
  const Words& known = words_ ? *words_ : no_words();
  all_ = {GroundText(all), Facts(all, known)};
  last_ = {GroundText(last), Facts(last, known)};
  tools_ = read_ground_tools(tools_json, last, last_.facts, known);
  mentions_ = Mentions(last);
  read_history(history);
}

// Calls of tools that are not offered now can't be repeated. An argument that is the schema's
// default is as good as none.
void Grounding::read_history(const Texts& history) {
  for (const auto& [name, arguments] : history) {
    const uint64_t hash = hash_bytes(name);
    const auto called = std::find_if(tools_.begin(), tools_.end(),
                                     [&](const GroundTool& tool) { return tool.name == hash; });
    JsonValue given;
    if (called == tools_.end() || !parse_json(arguments, given)) continue;
    PastCall past{static_cast<int32_t>(called - tools_.begin()), 0};
    for (const auto& [key, value] : given.members) {
      const uint64_t written = canonical_hash(value);
      if (!is_default(find_parameter(*called, key), written)) {
        past.arguments += argument_hash(key, written);
      }
    }
    history_.push_back(past);
  }
}

bool Grounding::was_called(int32_t function) const {
  return std::any_of(history_.begin(), history_.end(),
                     [&](const PastCall& past) { return past.function == function; });
}

bool Grounding::was_called(int32_t function, uint64_t arguments) const {
  return std::any_of(history_.begin(), history_.end(), [&](const PastCall& past) {
    return past.function == function && past.arguments == arguments;
  });
}

const std::vector<std::string>& Grounding::names() {
  static const std::vector<std::string> kNames = {
#define TOOLPRM_NAME(id, name) name,
      TOOLPRM_FEATURES(TOOLPRM_NAME)
#undef TOOLPRM_NAME
  };
  return kNames;
}

const GroundTool* Grounding::tool(const Step& step) const {
  if (step.function < 0 || static_cast<size_t>(step.function) >= tools_.size()) return nullptr;
  return &tools_[step.function];
}

// By name: a segmenter's index counts what references and `required` add in another order.
const GroundParameter* Grounding::parameter(const NamedStep& named) const {
  const GroundTool* known = tool(named.step);
  return known == nullptr || !named.argument ? nullptr : find_parameter(*known, *named.argument);
}

void Grounding::features(const Chain& chain, float* out) const {
  std::fill(out, out + kFeatures, 0.0f);
  if (chain.empty()) return;
  switch (chain.back()->step.kind) {
    case StepKind::kFuncName:
      return judge_name(chain, out);
    case StepKind::kArgValue:
      return judge_value(chain, out);
    default:
      return judge_finish(chain, out);
  }
}

void Grounding::judge_name(const Chain& chain, float* out) const {
  const Step& step = chain.back()->step;
  size_t calls = 0;
  size_t times = 0;
  size_t others = 0;  // other tools that were called
  for (size_t i = 0; i < chain.size(); ++i) {
    const Step& other = chain[i]->step;
    if (other.kind != StepKind::kFuncName) continue;
    ++calls;
    if (i + 1 == chain.size()) break;
    if (other.function == step.function) {
      ++times;
      continue;
    }
    others += std::none_of(chain.begin(), chain.begin() + i, [&](const NamedStep* earlier) {
      return earlier->step.kind == StepKind::kFuncName && earlier->step.function == other.function;
    });
  }
  out[kCalls] = log_count(calls);
  out[kTools] = log_count(tools_.size());
  out[kTimesCalled] = log_count(times);
  const size_t used = others + 1;
  out[kToolsUnused] = log_count(tools_.size() > used ? tools_.size() - used : 0);
  if (const GroundTool* known = tool(step)) {
    out[kNameWords] = known->name_share;
    out[kDescriptionWords] = known->description_share;
    out[kRank] = known->rank;
    out[kFit] = known->fit;
    out[kFitRank] = known->fit_rank;
  }
  out[kOtherFit] = best_fit(chain);
  out[kFunctionBefore] = was_called(step.function);
}

// Of the tools that the response does not call.
float Grounding::best_fit(const Chain& chain) const {
  float best = 0;
  for (size_t i = 0; i < tools_.size(); ++i) {
    if (tools_[i].fit <= best) continue;
    const bool called = std::any_of(chain.begin(), chain.end(), [&](const NamedStep* at) {
      return at->step.kind == StepKind::kFuncName && at->step.function == static_cast<int32_t>(i);
    });
    if (!called) best = tools_[i].fit;
  }
  return best;
}

void Grounding::judge_value(const Chain& chain, float* out) const {
  const Step& step = chain.back()->step;
  const GroundTool* known_tool = tool(step);
  const GroundParameter* known = parameter(*chain.back());
  const StepValue value(*chain.back());
  if (known != nullptr) {
    out[kRequired] = known->required;
    out[kListed] = known->listed;
    out[kHasDefault] = known->has_default;
  }
  size_t arguments = 0;
  const uint64_t hash = value.hash();
  for (size_t i = 0; i + 1 < chain.size(); ++i) {
    const Step& other = chain[i]->step;
    if (other.kind != StepKind::kArgValue || other.call != step.call) continue;
    ++arguments;
    if (out[kRepeated] == 0) out[kRepeated] = StepValue(*chain[i]).hash() == hash;
  }
  out[kArguments] = static_cast<float>(arguments) / 8;

  out[kString] = value.type == JsonType::kString;
  out[kNumber] = value.type == JsonType::kNumber;
  out[kBoolean] = value.type == JsonType::kBoolean;
  out[kArray] = value.type == JsonType::kArray;
  out[kObject] = value.type == JsonType::kObject;
  out[kLength] = log_count(value.length()) / 5;
  out[kEmpty] = value.empty();
  out[kIsDefault] = is_default(known, hash);

  ValueSearch search(all_, last_, known != nullptr ? &known->description : nullptr,
                     known_tool != nullptr ? &known_tool->description : nullptr,
                     words_ ? *words_ : no_words());
  search.look_up(value);
  if (!search.any) return;
  out[kFound] = search.found;
  out[kFoundLast] = search.found_last;
  out[kPhrase] = search.phrase;
  out[kInParameter] = search.in_parameter;
  out[kInTool] = search.in_tool;
  out[kWords] = search.words_share();
  out[kWordsLast] = search.words_share_last();
  out[kGiven] = search.given;
  out[kGivenLast] = search.given_last;
  out[kGivenShare] = search.given_share();
  out[kGivenShareLast] = search.given_share_last();
}

void Grounding::judge_finish(const Chain& chain, float* out) const {
  const Step& step = chain.back()->step;
  const bool total = step.kind == StepKind::kTotalFinish;
  size_t calls = 0;
  size_t required = 0, required_given = 0;
  size_t optional = 0, optional_given = 0, optional_known = 0;
  WrittenValues written;
  for (const NamedStep* at : chain) {
    const bool judged = total || at->step.call == step.call;
    if (at->step.kind == StepKind::kFuncName) {
      ++calls;
      const GroundTool* known = tool(at->step);
      if (!judged || known == nullptr) continue;
      required += known->required;
      optional += known->parameters.size() - known->required;
    } else if (at->step.kind == StepKind::kArgValue) {
      if (judged) {
        const GroundParameter* known = parameter(*at);
        const bool needed = known != nullptr && known->required;
        required_given += needed;
        optional_given += !needed;
        optional_known += known != nullptr && !needed;
      }
      if (!mentions_.empty()) written.add(StepValue(*at));
    }
  }
  const auto share = [](size_t part, size_t whole) {
    return whole == 0 ? 1.0f : static_cast<float>(part) / static_cast<float>(whole);
  };
  out[kRequiredGiven] = share(required_given, required);
  out[kOptionalOmitted] = log_count(optional > optional_known ? optional - optional_known : 0);
  out[kOptionalGiven] = log_count(optional_given);

  const size_t numbers_used = written.numbers_of(mentions_);
  const size_t texts_used = written.texts_of(mentions_);
  out[kNumbersUsed] = share(numbers_used, mentions_.numbers.size());
  out[kNumbersUsedCount] = log_count(numbers_used);
  out[kNumbersUnused] = log_count(mentions_.numbers.size() - numbers_used);
  out[kMentionsUsed] = share(texts_used, mentions_.texts.size());
  out[kMentionsUsedCount] = log_count(texts_used);
  out[kMentionsUnused] = log_count(mentions_.texts.size() - texts_used);
  out[kDeclined] = total && calls == 0;
  out[kCalls] = log_count(calls);
  judge_omitted(chain, out);
  if (!history_.empty()) judge_repeats(chain, out);
  if (total) out[kOtherFit] = best_fit(chain);
}

// The optional parameters that the last user message speaks of, and the judged calls leave out.
void Grounding::judge_omitted(const Chain& chain, float* out) const {
  const Step& step = chain.back()->step;
  size_t mentioned = 0, choices = 0;
  for (const NamedStep* call : chain) {
    if (!names_judged_call(*call, step)) continue;
    const GroundTool* known = tool(call->step);
    if (known == nullptr) continue;
    for (uint32_t index : known->optional) {
      const GroundParameter& parameter = known->parameters[index];
      const bool given = std::any_of(chain.begin(), chain.end(), [&](const NamedStep* at) {
        return at->step.kind == StepKind::kArgValue && at->step.call == call->step.call &&
               at->argument == parameter.name;
      });
      if (given) continue;
      mentioned += parameter.mentioned();
      choices += parameter.choice_mentioned;
      out[kOmittedName] = std::max(out[kOmittedName], parameter.name_mention);
      out[kOmittedDescription] = std::max(out[kOmittedDescription], parameter.description_mention);
    }
  }
  out[kOmittedMentioned] = log_count(mentioned);
  out[kOmittedChoices] = log_count(choices);
}

// Whether a judged call, or its function, is in the history of the conversation.
void Grounding::judge_repeats(const Chain& chain, float* out) const {
  const Step& step = chain.back()->step;
  for (const NamedStep* call : chain) {
    if (!names_judged_call(*call, step)) continue;
    if (!was_called(call->step.function)) continue;
    out[kFunctionBefore] = 1;
    uint64_t arguments = 0;
    for (const NamedStep* at : chain) {
      if (at->step.kind != StepKind::kArgValue || at->step.call != call->step.call) continue;
      const uint64_t value = StepValue(*at).hash();
      if (!is_default(parameter(*at), value)) {
        arguments += argument_hash(at->argument ? *at->argument : std::string(), value);
      }
    }
    if (was_called(call->step.function, arguments)) out[kCallBefore] = 1;
  }
}

}  // namespace toolprm
