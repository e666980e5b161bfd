// A compiled JSON Schema: a tree of nodes, by their numbers.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "json/json_value.h"
#include "schema/string_set.h"

namespace toolprm {

using NodeId = uint16_t;
inline constexpr NodeId kAnything = 0;      // the empty schema
inline constexpr NodeId kNothing = 0xFFFF;  // the schema `false`

// What is decided early and cheaply. `judged` says that the schema has other constraints, too.
struct SchemaNode {
  static constexpr uint8_t bit(JsonType type) { return uint8_t(1u << static_cast<uint8_t>(type)); }

  uint8_t types = 0x3F;       // a bit for each JsonType
  bool integer_only = false;  // numbers must have no fractional part
  bool type_only = true;      // only the two fields above constrain a scalar
  bool judged_here = false;   // the schema has keywords that the core does not decide
  bool judged = false;        // so has this one, or one of a value that it holds

  bool listed = false;            // enum or const: the value is one of `allowed`
  std::vector<uint64_t> allowed;  // canonical hashes, sorted
  bool strings_listed = false;    // every string allowed is in `strings`
  StringSet strings;

  double minimum = -std::numeric_limits<double>::infinity();
  double maximum = std::numeric_limits<double>::infinity();
  bool exclusive_minimum = false;
  bool exclusive_maximum = false;
  uint32_t min_length = 0;  // in code points
  uint32_t max_length = UINT32_MAX;

  StringSet properties;
  std::vector<NodeId> property_nodes;
  std::vector<uint32_t> required;  // indices into properties
  NodeId additional = kAnything;
  uint32_t min_properties = 0;
  uint32_t max_properties = UINT32_MAX;

  std::vector<NodeId> prefix_items;
  NodeId items = kAnything;
  uint32_t min_items = 0;
  uint32_t max_items = UINT32_MAX;

  // Read for the types that they leave; the judge decides them.
  std::vector<NodeId> all_of, any_of, one_of;

  bool allows(JsonType type) const { return types & bit(type); }
};

}  // namespace toolprm
