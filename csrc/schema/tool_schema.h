// Tools compiled once: the names of functions, and each one's parameters as a tree of schema nodes.
// The segmenter queries it byte by byte for what may follow, and value by value for what is valid.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "json/json_value.h"
#include "schema/schema_node.h"
#include "schema/string_set.h"

namespace toolprm {

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
  std::vector<SchemaNode> nodes_;
  StringSet names_;
  std::vector<ToolFunction> functions_;
};

}  // namespace toolprm
