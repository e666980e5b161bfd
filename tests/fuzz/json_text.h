// JSON values built and written by the fuzz targets.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json/json_value.h"

namespace fuzz {

using toolprm::JsonType;
using toolprm::JsonValue;

JsonValue json_bool(bool value);
JsonValue json_number(std::string_view spelling);
JsonValue json_string(std::string_view text);
JsonValue json_list(std::vector<JsonValue> items);
JsonValue json_object(std::vector<std::pair<std::string, JsonValue>> members);

// How a value is written. All styles write equal values. Seed 0 is the plain style.
struct Style {
  uint64_t seed = 0;
  bool spaces = false;   // white space between tokens
  bool escapes = false;  // characters as escapes
  bool shuffle = false;  // members in another order
  bool respell = false;  // numbers in another spelling
};

std::string write_json(const JsonValue& value, const Style& style = {});

}  // namespace fuzz
