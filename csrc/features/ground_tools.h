// The tools of a request, made ready to judge steps by.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "features/ground_text.h"

namespace toolprm {

struct GroundParameter {
  std::string name;
  GroundText description;
  bool required = false;
  bool listed = false;  // by an enum or const
  bool has_default = false;
  uint64_t default_hash = 0;
};

struct GroundTool {
  std::vector<GroundParameter> parameters;
  uint32_t required = 0;  // how many of them
  GroundText description;
  float name_share = 0;         // of its name's words that the last user message has
  float description_share = 0;  // the same of its description's
  float rank = 0;               // by the sum of both: 0 the best .. 1
};

// `tools_json`: a list of tools; `last_message`: the user's. Throws std::invalid_argument for
// unusable tools.
std::vector<GroundTool> read_ground_tools(std::string_view tools_json,
                                          std::string_view last_message);

}  // namespace toolprm
