#include "tool_schema.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <stdexcept>

namespace toolprm {

StringSet::StringSet(std::vector<std::string> strings) {
  order_.resize(strings.size());
  std::iota(order_.begin(), order_.end(), uint16_t{0});
  std::stable_sort(order_.begin(), order_.end(),
                   [&](uint16_t a, uint16_t b) { return strings[a] < strings[b]; });
  strings_.reserve(strings.size());
  for (uint16_t index : order_) strings_.push_back(std::move(strings[index]));
}

bool StringSet::narrow(Cursor& cursor, std::string_view bytes) const {
  for (size_t done = 0; done < bytes.size(); ++done) {
    if (cursor.high - cursor.low == 1) {  // one is left: the rest must match it
      const std::string_view rest = bytes.substr(done);
      const std::string_view text = std::string_view(strings_[cursor.low]).substr(cursor.depth);
      if (text.substr(0, rest.size()) != rest) return false;
      cursor.depth += static_cast<uint16_t>(rest.size());
      return true;
    }
    const int wanted = static_cast<unsigned char>(bytes[done]);
    const auto at = [&](uint16_t place) -> int {
      const std::string& text = strings_[place];
      return cursor.depth < text.size() ? static_cast<unsigned char>(text[cursor.depth]) : -1;
    };
    while (cursor.low < cursor.high && at(cursor.low) < wanted) ++cursor.low;
    uint16_t high = cursor.low;
    while (high < cursor.high && at(high) == wanted) ++high;
    cursor.high = high;
    if (cursor.low == cursor.high) return false;
    ++cursor.depth;
  }
  return true;
}

int StringSet::found(const Cursor& cursor) const {
  // Sorted, so the string that ends here comes before those that go on.
  if (cursor.low == cursor.high || strings_[cursor.low].size() != cursor.depth) return -1;
  return order_[cursor.low];
}

int StringSet::find(std::string_view text) const {
  Cursor cursor = start();
  return narrow(cursor, text) ? found(cursor) : -1;
}

// Turns JSON Schemas into nodes. References are compiled once each, so recursive ones close.
class SchemaCompiler {
 public:
  SchemaCompiler(std::vector<SchemaNode>& nodes, const JsonValue& root)
      : nodes_(nodes), root_(root) {}

  NodeId compile(const JsonValue& schema) {
    if (schema.type == JsonType::kBoolean) return schema.boolean ? kAnything : kNothing;
    if (schema.type != JsonType::kObject) throw std::invalid_argument("a schema is not an object");
    const JsonValue* ref = schema.find("$ref");
    if (ref != nullptr && !constrains_beside_ref(schema)) return reference(*ref);
    const NodeId id = add_node();
    fill(id, schema);
    return id;
  }

 private:
  NodeId add_node() {
    if (nodes_.size() >= kNothing) throw std::invalid_argument("its schema has too many parts");
    nodes_.emplace_back();
    return static_cast<NodeId>(nodes_.size() - 1);
  }

  // Annotations ask nothing, nor does a type that the target states as well.
  bool constrains_beside_ref(const JsonValue& schema) const {
    static constexpr std::string_view kSilent[] = {
        "$ref", "description", "title", "default", "example", "examples", "$defs", "definitions"};
    return std::any_of(schema.members.begin(), schema.members.end(), [&](const auto& member) {
      if (member.first == "type") {
        const JsonValue* target = resolve(schema.find("$ref")->string);
        const JsonValue* type = target == nullptr ? nullptr : target->find("type");
        return type == nullptr || canonical_hash(*type) != canonical_hash(member.second);
      }
      return std::find(std::begin(kSilent), std::end(kSilent), member.first) == std::end(kSilent);
    });
  }

  NodeId reference(const JsonValue& ref, int depth = 0) {
    if (ref.type != JsonType::kString || ref.string.empty() || ref.string[0] != '#') {
      throw std::invalid_argument("$ref '" + ref.string + "' is not a reference into the schema");
    }
    const auto known = references_.find(ref.string);
    if (known != references_.end()) return known->second;
    const JsonValue* target = resolve(ref.string);
    if (target == nullptr) {
      throw std::invalid_argument("$ref '" + ref.string + "' points at nothing");
    }
    if (target->type == JsonType::kBoolean) return compile(*target);
    if (target->type != JsonType::kObject) {
      throw std::invalid_argument("$ref '" + ref.string + "' does not point at a schema");
    }
    const JsonValue* further = target->find("$ref");
    if (further != nullptr && !constrains_beside_ref(*target)) {
      if (depth > 64) throw std::invalid_argument("$ref '" + ref.string + "' leads to itself");
      return reference(*further, depth + 1);
    }
    // The node is registered before it is filled: a schema may refer to itself.
    const NodeId id = add_node();
    references_[ref.string] = id;
    fill(id, *target);
    return id;
  }

  const JsonValue* resolve(const std::string& pointer) const {
    const JsonValue* at = &root_;
    for (size_t begin = 1; begin < pointer.size();) {
      if (pointer[begin] != '/') return nullptr;
      const size_t end = std::min(pointer.find('/', begin + 1), pointer.size());
      std::string key = pointer.substr(begin + 1, end - begin - 1);
      for (const auto& [from, to] : {std::pair{"~1", "/"}, std::pair{"~0", "~"}}) {
        for (size_t hit; (hit = key.find(from)) != std::string::npos;) key.replace(hit, 2, to);
      }
      if (at->type == JsonType::kArray) {
        size_t index = 0;
        if (key.empty() || key.find_first_not_of("0123456789") != std::string::npos) return nullptr;
        index = std::strtoul(key.c_str(), nullptr, 10);
        if (index >= at->items.size()) return nullptr;
        at = &at->items[index];
      } else {
        at = at->find(key);
      }
      if (at == nullptr) return nullptr;
      begin = end;
    }
    return at;
  }

  // Children may reallocate `nodes_`, so the node is built aside and stored at the end.
  void fill(NodeId id, const JsonValue& schema) {
    SchemaNode node;
    if (const JsonValue* ref = schema.find("$ref")) node.all_of.push_back(reference(*ref));
    types(node, schema);
    values(node, schema);
    numbers_and_strings(node, schema);
    object(node, schema);
    array(node, schema);
    list(schema, "allOf", node.all_of);
    list(schema, "anyOf", node.any_of);
    list(schema, "oneOf", node.one_of);
    if (const JsonValue* negated = schema.find("not")) {
      node.negated = compile(*negated);
      node.type_only = false;
    }
    if (node.combined()) node.type_only = false;
    nodes_[id] = std::move(node);
  }

  void list(const JsonValue& schema, std::string_view key, std::vector<NodeId>& nodes) {
    const JsonValue* parts = schema.find(key);
    if (parts == nullptr) return;
    for (const JsonValue& part : parts->items) nodes.push_back(compile(part));
  }

  static void add_type(SchemaNode& node, const std::string& name, bool& integer, bool& number) {
    static constexpr std::pair<std::string_view, JsonType> kTypes[] = {
        {"null", JsonType::kNull},     {"boolean", JsonType::kBoolean},
        {"number", JsonType::kNumber}, {"integer", JsonType::kNumber},
        {"string", JsonType::kString}, {"array", JsonType::kArray},
        {"object", JsonType::kObject}};
    for (const auto& [known, type] : kTypes) {
      if (known != name) continue;
      node.types |= SchemaNode::bit(type);
      integer |= name == "integer";
      number |= name == "number";
      return;
    }
    throw std::invalid_argument("type '" + name + "' is not one of JSON Schema's");
  }

  static void types(SchemaNode& node, const JsonValue& schema) {
    const JsonValue* type = schema.find("type");
    if (type == nullptr) return;
    node.types = 0;
    bool integer = false;
    bool number = false;
    if (type->type == JsonType::kString) {
      add_type(node, type->string, integer, number);
    } else {
      for (const JsonValue& one : type->items) add_type(node, one.string, integer, number);
    }
    node.integer_only = integer && !number;
    const JsonValue* nullable = schema.find("nullable");  // OpenAPI 3.0
    if (nullable != nullptr && nullable->boolean) node.types |= SchemaNode::bit(JsonType::kNull);
  }

  static void values(SchemaNode& node, const JsonValue& schema) {
    const JsonValue* constant = schema.find("const");
    const JsonValue* listed = schema.find("enum");
    if (constant == nullptr && listed == nullptr) return;
    std::vector<const JsonValue*> values;
    if (listed == nullptr) {
      values.push_back(constant);
    } else {
      for (const JsonValue& value : listed->items) {
        if (constant == nullptr || canonical_hash(*constant) == canonical_hash(value)) {
          values.push_back(&value);
        }
      }
    }
    node.listed = true;
    node.strings_listed = true;
    node.type_only = false;
    uint8_t types = 0;
    std::vector<std::string> strings;
    for (const JsonValue* value : values) {
      types |= SchemaNode::bit(value->type);
      node.allowed.push_back(canonical_hash(*value));
      switch (value->type) {
        case JsonType::kString:
          strings.push_back(value->string);
          break;
        case JsonType::kNumber:
          node.scalars.push_back(value->string);
          break;
        case JsonType::kBoolean:
          node.scalars.push_back(value->boolean ? "true" : "false");
          break;
        case JsonType::kNull:
          node.scalars.push_back("null");
          break;
        default:
          node.containers_listed = true;
      }
    }
    node.types &= types;
    node.strings = StringSet(std::move(strings));
  }

  static void number(const JsonValue& schema, std::string_view key, double& target) {
    const JsonValue* value = schema.find(key);
    if (value != nullptr && value->type == JsonType::kNumber) target = value->number;
  }

  static void count(const JsonValue& schema, std::string_view key, uint32_t& target) {
    double value = target;
    number(schema, key, value);
    target = static_cast<uint32_t>(std::clamp(value, 0.0, 4294967295.0));
  }

  static void numbers_and_strings(SchemaNode& node, const JsonValue& schema) {
    number(schema, "minimum", node.minimum);
    number(schema, "maximum", node.maximum);
    number(schema, "multipleOf", node.multiple_of);
    bound(schema, "exclusiveMinimum", node.minimum, node.exclusive_minimum, 1);
    bound(schema, "exclusiveMaximum", node.maximum, node.exclusive_maximum, -1);
    count(schema, "minLength", node.min_length);
    count(schema, "maxLength", node.max_length);
    const SchemaNode open;
    node.type_only &= node.minimum == open.minimum && node.maximum == open.maximum &&
                      node.multiple_of == 0 && node.min_length == 0 &&
                      node.max_length == open.max_length;
  }

  // Draft 4 has a boolean beside the bound, later drafts a bound of its own.
  static void bound(const JsonValue& schema, std::string_view key, double& limit, bool& exclusive,
                    int sign) {
    const JsonValue* value = schema.find(key);
    if (value == nullptr) return;
    if (value->type == JsonType::kBoolean) {
      exclusive = value->boolean;
    } else if (value->type == JsonType::kNumber && sign * value->number >= sign * limit) {
      limit = value->number;
      exclusive = true;
    }
  }

  void object(SchemaNode& node, const JsonValue& schema) {
    std::vector<std::string> names;
    const JsonValue* properties = schema.find("properties");
    if (properties != nullptr) {
      for (const auto& [name, property] : properties->members) {
        if (std::find(names.begin(), names.end(), name) != names.end()) continue;
        names.push_back(name);
        node.property_nodes.push_back(compile(property));
      }
    }
    if (const JsonValue* additional = schema.find("additionalProperties")) {
      node.additional = compile(*additional);
    }
    if (const JsonValue* required = schema.find("required")) {
      for (const JsonValue& name : required->items) {
        auto at = std::find(names.begin(), names.end(), name.string);
        if (at == names.end()) {  // required but not described: whatever `additional` asks
          names.push_back(name.string);
          node.property_nodes.push_back(node.additional);
          at = names.end() - 1;
        }
        node.required.push_back(static_cast<uint16_t>(at - names.begin()));
      }
    }
    node.properties = StringSet(std::move(names));
    count(schema, "minProperties", node.min_properties);
    count(schema, "maxProperties", node.max_properties);
  }

  void array(SchemaNode& node, const JsonValue& schema) {
    list(schema, "prefixItems", node.prefix_items);
    if (const JsonValue* items = schema.find("items")) {
      if (items->type == JsonType::kArray) {  // the tuple form before draft 2020-12
        list(schema, "items", node.prefix_items);
        const JsonValue* rest = schema.find("additionalItems");
        if (rest != nullptr) node.items = compile(*rest);
      } else {
        node.items = compile(*items);
      }
    }
    count(schema, "minItems", node.min_items);
    count(schema, "maxItems", node.max_items);
    const JsonValue* unique = schema.find("uniqueItems");
    node.unique_items = unique != nullptr && unique->boolean;
  }

  std::vector<SchemaNode>& nodes_;
  const JsonValue& root_;
  std::map<std::string, NodeId> references_;
};

namespace {

// What the first byte of a value tells is its type, so the types that combinations leave are worked
// out beforehand. The masks only shrink: the loop ends.
void narrow_types(std::vector<SchemaNode>& nodes) {
  const auto types = [&](NodeId id) -> uint8_t { return id == kNothing ? 0 : nodes[id].types; };
  const auto either = [&](const std::vector<NodeId>& ids) {
    uint8_t mask = 0;
    for (NodeId id : ids) mask |= types(id);
    return ids.empty() ? uint8_t{0x3F} : mask;
  };
  for (bool changed = true; changed;) {
    changed = false;
    for (SchemaNode& node : nodes) {
      uint8_t mask = node.types & either(node.any_of) & either(node.one_of);
      for (NodeId id : node.all_of) mask &= types(id);
      changed |= mask != node.types;
      node.types = mask;
    }
  }
}

size_t code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char byte) { return (byte & 0xC0) != 0x80; });
}

}  // namespace

ToolSchema::ToolSchema(std::string_view tools_json) {
  JsonValue tools;
  if (!parse_json(tools_json, tools) || tools.type != JsonType::kArray) {
    throw std::invalid_argument("the tools are not a JSON list");
  }
  if (tools.items.size() >= kNothing) throw std::invalid_argument("there are too many tools");
  nodes_.emplace_back();  // kAnything
  std::vector<std::string> names;
  for (const JsonValue& tool : tools.items) {
    const JsonValue* name = tool.find("name");
    if (name == nullptr || name->type != JsonType::kString || name->string.empty()) {
      throw std::invalid_argument("tool " + std::to_string(names.size() + 1) + " has no name");
    }
    if (std::find(names.begin(), names.end(), name->string) != names.end()) {
      throw std::invalid_argument(name->string + ": two tools have this name");
    }
    names.push_back(name->string);
    ToolFunction function{name->string, kAnything, false};
    if (const JsonValue* parameters = tool.find("parameters")) {
      try {
        function.parameters = SchemaCompiler(nodes_, *parameters).compile(*parameters);
      } catch (const std::invalid_argument& error) {
        throw std::invalid_argument(name->string + ": " + error.what());
      }
    }
    functions_.push_back(std::move(function));
  }
  names_ = StringSet(std::move(names));
  narrow_types(nodes_);
  for (ToolFunction& function : functions_) {
    if (function.parameters == kNothing || !node(function.parameters).allows(JsonType::kObject)) {
      throw std::invalid_argument(function.name + ": its parameters can never be an object");
    }
    const SchemaNode& parameters = node(function.parameters);
    if (parameters.properties.size() > kMaxParameters) {
      throw std::invalid_argument(function.name + ": it has more than 256 parameters");
    }
    function.whole_check = parameters.combined() || parameters.negated != kNothing ||
                           parameters.listed || parameters.additional != kNothing ||
                           parameters.min_properties > 0 || parameters.max_properties != UINT32_MAX;
  }
}

bool ToolSchema::valid(NodeId id, const JsonValue& value, int depth) const {
  // A schema may refer to itself without consuming anything; no real one nests this far.
  if (id == kNothing || depth > 256) return false;
  const SchemaNode& schema = nodes_[id];
  if (!schema.allows(value.type)) return false;
  const auto accepts = [&](NodeId part) { return valid(part, value, depth + 1); };
  if (schema.listed && std::find(schema.allowed.begin(), schema.allowed.end(),
                                 canonical_hash(value)) == schema.allowed.end()) {
    return false;
  }
  switch (value.type) {
    case JsonType::kNumber: {
      const double number = value.number;
      if (schema.integer_only && !value.integral) return false;
      if (number < schema.minimum || (schema.exclusive_minimum && number == schema.minimum) ||
          number > schema.maximum || (schema.exclusive_maximum && number == schema.maximum)) {
        return false;
      }
      if (schema.multiple_of > 0) {
        const double ratio = number / schema.multiple_of;
        if (std::fabs(ratio - std::round(ratio)) > 1e-9 * std::max(1.0, std::fabs(ratio))) {
          return false;
        }
      }
      break;
    }
    case JsonType::kString: {
      if (schema.min_length == 0 && schema.max_length == UINT32_MAX) break;
      const size_t length = code_points(value.string);
      if (length < schema.min_length || length > schema.max_length) return false;
      break;
    }
    case JsonType::kArray: {
      const size_t size = value.items.size();
      if (size < schema.min_items || size > schema.max_items) return false;
      std::vector<uint64_t> seen;
      for (size_t i = 0; i < size; ++i) {
        const bool fixed = i < schema.prefix_items.size();
        if (!valid(fixed ? schema.prefix_items[i] : schema.items, value.items[i], depth + 1)) {
          return false;
        }
        if (schema.unique_items) seen.push_back(canonical_hash(value.items[i]));
      }
      std::sort(seen.begin(), seen.end());
      if (std::adjacent_find(seen.begin(), seen.end()) != seen.end()) return false;
      break;
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
        if (!valid(index >= 0 ? schema.property_nodes[index] : schema.additional, member,
                   depth + 1)) {
          return false;
        }
      }
      for (uint16_t index : schema.required) {
        if (many.empty() ? !((few >> index) & 1) : !many[index]) return false;
      }
      break;
    }
    default:
      break;
  }
  if (!std::all_of(schema.all_of.begin(), schema.all_of.end(), accepts)) return false;
  if (!schema.any_of.empty() && std::none_of(schema.any_of.begin(), schema.any_of.end(), accepts)) {
    return false;
  }
  if (!schema.one_of.empty() &&
      std::count_if(schema.one_of.begin(), schema.one_of.end(), accepts) != 1) {
    return false;
  }
  return schema.negated == kNothing || !valid(schema.negated, value, depth + 1);
}

}  // namespace toolprm
