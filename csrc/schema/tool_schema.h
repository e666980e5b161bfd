// Tools compiled once: the names of functions, and each one's parameters as a tree of schema nodes.
// The segmenter queries it byte by byte for what may follow, and value by value for what is valid.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "json/json_value.h"

namespace toolprm {

// A sorted set of strings that is narrowed byte by byte.
class StringSet {
 public:
  struct Cursor {
    uint32_t low = 0;
    uint32_t high = 0;  // the strings [low, high) begin with the `depth` bytes read so far
    uint32_t depth = 0;
  };

  StringSet() = default;
  explicit StringSet(std::vector<std::string> strings);

  Cursor start() const { return {0, static_cast<uint32_t>(strings_.size()), 0}; }
  // Narrows to the strings that continue with `bytes`; false when none is left.
  bool narrow(Cursor& cursor, std::string_view bytes) const;
  // The index, in the order given to the constructor, of the string that has been read whole, or
  // -1.
  int found(const Cursor& cursor) const;
  int find(std::string_view text) const;
  size_t size() const { return strings_.size(); }

 private:
  std::vector<std::string> strings_;  // sorted
  std::vector<uint32_t> order_;       // sorted place -> index given to the constructor
};

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

struct ToolFunction {
  std::string name;
  NodeId parameters = kAnything;
  bool judged_each = false;   // patternProperties or propertyNames: each argument is judged
  bool judged_whole = false;  // the arguments together are judged
};

// Decides what the core does not: a validator of the whole of JSON Schema.
class ArgumentJudge {
 public:
  virtual ~ArgumentJudge() = default;
  // `arguments`: a JSON object, of all the arguments or (not `whole`) of a single one.
  virtual bool accepts(int function, bool whole, std::string_view arguments) const = 0;
};

class ToolSchema {
 public:
  static constexpr size_t kMaxParameters = 256;

  // `tools_json`: a list of {"name", "parameters"}, JSON Schemas of draft 2020-12. Throws
  // std::invalid_argument whose message begins with the tool's name where one is at fault.
  explicit ToolSchema(std::string_view tools_json);

  const StringSet& names() const { return names_; }
  const std::vector<ToolFunction>& functions() const { return functions_; }
  const SchemaNode& node(NodeId id) const { return nodes_[id]; }
  NodeId parameters(int function) const { return functions_[function].parameters; }

  // Whether `value` fits what the nodes say; the whole answer where `node(id).judged` is false.
  bool valid(NodeId id, const JsonValue& value) const;

 private:
  friend class SchemaCompiler;

  std::vector<SchemaNode> nodes_;
  StringSet names_;
  std::vector<ToolFunction> functions_;
};

}  // namespace toolprm
