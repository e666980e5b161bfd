#include "schema/tool_schema.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <unordered_set>

#include "schema/schema_compiler.h"

namespace toolprm {

namespace {

size_t code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char byte) { return (byte & 0xC0) != 0x80; });
}

}  // namespace

ToolSchema::ToolSchema(std::string_view tools_json) {
  JsonValue tools;
  if (!parse_json(tools_json, tools) || tools.type != JsonType::kArray) {
    throw std::invalid_argument("the tools are not a JSON list, or nest too deep");
  }
  if (tools.items.size() >= kNothing) throw std::invalid_argument("there are too many tools");
  nodes_.emplace_back();  // kAnything
  std::vector<std::string> names;
  std::unordered_set<std::string_view> known;
  for (const JsonValue& tool : tools.items) {
    const JsonValue* name = tool.find("name");
    if (name == nullptr || name->type != JsonType::kString || name->string.empty()) {
      throw std::invalid_argument("tool " + std::to_string(names.size() + 1) + " has no name");
    }
    if (!known.insert(name->string).second) {
      throw std::invalid_argument(name->string + ": two tools have this name");
    }
    names.push_back(name->string);
    ToolFunction function;
    function.name = name->string;
    if (const JsonValue* parameters = tool.find("parameters")) {
      try {
        function.parameters = compile_schema(*parameters, nodes_);
      } catch (const std::invalid_argument& error) {
        throw std::invalid_argument(name->string + ": " + error.what());
      }
      function.judged_each = parameters->find("patternProperties") != nullptr ||
                             parameters->find("propertyNames") != nullptr;
    }
    functions_.push_back(std::move(function));
  }
  names_ = StringSet(std::move(names));
  settle_nodes(nodes_);
  for (ToolFunction& function : functions_) {
    if (function.parameters == kNothing || !node(function.parameters).allows(JsonType::kObject)) {
      throw std::invalid_argument(function.name + ": its parameters can never be an object");
    }
    const SchemaNode& parameters = node(function.parameters);
    if (parameters.properties.size() > kMaxParameters) {
      throw std::invalid_argument(function.name + ": it has more than 256 parameters");
    }
    function.judged_whole = parameters.judged_here || parameters.listed;
  }
}

bool ToolSchema::valid(NodeId id, const JsonValue& value) const {
  if (id == kNothing) return false;
  const SchemaNode& schema = nodes_[id];
  if (!schema.allows(value.type)) return false;
  if (schema.listed &&
      !std::binary_search(schema.allowed.begin(), schema.allowed.end(), canonical_hash(value))) {
    return false;
  }
  switch (value.type) {
    case JsonType::kNumber: {
      const double number = value.number;
      if (schema.integer_only && !value.integral) return false;
      return number >= schema.minimum && number <= schema.maximum &&
             !(schema.exclusive_minimum && number == schema.minimum) &&
             !(schema.exclusive_maximum && number == schema.maximum);
    }
    case JsonType::kString: {
      if (schema.min_length == 0 && schema.max_length == UINT32_MAX) return true;
      const size_t length = code_points(value.string);
      return length >= schema.min_length && length <= schema.max_length;
    }
    case JsonType::kArray: {
      const size_t size = value.items.size();
      if (size < schema.min_items || size > schema.max_items) return false;
      for (size_t i = 0; i < size; ++i) {
        const bool fixed = i < schema.prefix_items.size();
        if (!valid(fixed ? schema.prefix_items[i] : schema.items, value.items[i])) return false;
      }
      return true;
    }
    case JsonType::kObject: {
      if (value.members.size() < schema.min_properties ||
          value.members.size() > schema.max_properties) {
        return false;
      }
      uint64_t few = 0;  // most objects have few properties: no allocation then
      std::vector<bool> many(schema.properties.size() > 64 ? schema.properties.size() : 0);
      for (const auto& [key, member] : value.members) {
        const int index = schema.properties.find(key);
        if (index >= 0) {
          if (many.empty()) {
            few |= uint64_t{1} << index;
          } else {
            many[index] = true;
          }
        }
        if (!valid(index >= 0 ? schema.property_nodes[index] : schema.additional, member)) {
          return false;
        }
      }
      return std::all_of(schema.required.begin(), schema.required.end(), [&](uint32_t index) {
        return many.empty() ? (few >> index) & 1 : bool{many[index]};
      });
    }
    default:
      return true;
  }
}

}  // namespace toolprm
