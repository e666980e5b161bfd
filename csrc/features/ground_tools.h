// The tools of a request, made ready to judge steps by.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "features/facts.h"
#include "features/ground_text.h"
#include "features/words.h"

namespace toolprm {

struct GroundParameter {
  std::string name;
  GroundText description;
  bool required = false;
  bool listed = false;  // by an enum or const
  bool has_default = false;
  uint64_t default_hash = 0;
  // Whether the last user message speaks of it: the share of its name's and of its description's
  // content words that it has, and whether it names one of the values that the schema lists.
  float name_mention = 0, description_mention = 0;
  bool choice_mentioned = false;

  bool touched() const { return name_mention > 0 || description_mention > 0 || choice_mentioned; }
  bool mentioned() const {
    return name_mention == 1 || description_mention >= 0.5f || choice_mentioned;
  }
};

struct GroundTool {
  uint64_t name = 0;  // its hash
  std::vector<GroundParameter> parameters;
  uint32_t required = 0;           // how many of them
  std::vector<uint32_t> optional;  // the optional ones that the last user message touches
  GroundText description;
  float name_share = 0;         // of its name's words that the last user message has
  float description_share = 0;  // the same of its description's
  float rank = 0;               // by the sum of both: 0 the best .. 1
  // Of the content words of its name and description with the message's: the cosine; and its rank.
  float fit = 0, fit_rank = 0;
};

// `tools_json`: a list of tools; `last_message`: the user's, and `facts` what it says. Throws
// std::invalid_argument for unusable tools.
std::vector<GroundTool> read_ground_tools(std::string_view tools_json,
                                          std::string_view last_message, const Facts& facts,
                                          const Words& words);

}  // namespace toolprm
