// What a step shares with the conversation: is a value found in it, is it the
// schema's default, is anything that the user named left unused. Numbers, not verdicts: a reward
// learns their weights. It knows nothing of models or searches.
//
// Texts are compared with ASCII letters lower-cased, runs of white space as one space, outer white
// space trimmed, and typographic quotes, dashes and spaces as their ASCII forms; words are runs of
// ASCII letters and digits and of all other bytes above 127. Bytes that are no UTF-8 do no harm.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "format/step.h"
#include "json/json_value.h"

namespace toolprm {

// A text made ready for look-ups.
class GroundText {
 public:
  enum class Match : uint8_t { kNone, kInside, kPhrase };  // kPhrase: word borders on both sides

  explicit GroundText(std::string_view text = {});

  Match find(std::string_view folded) const;
  bool has_word(std::string_view folded) const;
  bool has_number(double number) const;

 private:
  std::string folded_;
  std::vector<uint64_t> words_;  // hashes, sorted
  std::vector<double> numbers_;  // in digits or in words, sorted
};

class Grounding {
 public:
  static constexpr int kFeatures = 37;

  // `tools_json`: the list that the segmenter has, with the descriptions and defaults that the
  // model sees. `conversation`: (role, text). Throws std::invalid_argument for unusable tools.
  Grounding(std::string_view tools_json,
            const std::vector<std::pair<std::string, std::string>>& conversation);

  static const std::vector<std::string>& names();  // of the features

  // A step and those decided before it in its response, first to last.
  using Chain = std::vector<const NamedStep*>;

  // Writes kFeatures features of the last step of `chain`.
  void features(const Chain& chain, float* out) const;

 private:
  struct Parameter {
    std::string name;
    GroundText description;
    bool required = false;
    bool listed = false;  // by an enum or const
    bool has_default = false;
    uint64_t default_hash = 0;
  };

  struct Tool {
    std::vector<Parameter> parameters;
    uint32_t required = 0;
    GroundText description;
    float name_share = 0;         // of its name's words that the last user message has
    float description_share = 0;  // the same of its description's
    float rank = 0;               // by the sum of both: 0 the best .. 1
  };

  // A number of the last user message, and what a per cent sign or a word for its scale makes of
  // it.
  struct Mention {
    double value, scaled;
  };

  void add_tool(const JsonValue& tool);
  void add_mentions(std::string_view message);
  const Tool* tool(const Step& step) const;
  const Parameter* parameter(const NamedStep& named) const;
  void judge_name(const Chain& chain, float* out) const;
  void judge_value(const Chain& chain, float* out) const;
  void judge_finish(const Chain& chain, float* out) const;

  std::vector<Tool> tools_;
  GroundText all_;                     // the whole conversation
  GroundText last_;                    // the last user message
  std::vector<uint64_t> last_stems_;   // hashes, sorted
  std::vector<Mention> numbers_;       // of the last user message, in digits
  std::vector<std::string> mentions_;  // its quoted strings and capitalised words, folded
};

}  // namespace toolprm
