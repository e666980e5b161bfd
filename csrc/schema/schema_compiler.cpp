#include "schema/schema_compiler.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>

#include "schema/reference.h"

namespace toolprm {

namespace {

constexpr int kMaxNesting = 512;  // of schemas, references followed

// Keywords that say nothing of a value, and those that the nodes decide completely.
constexpr std::string_view kDecided[] = {
    "type",          "enum",          "const",       "minimum",     "maximum",
    "minLength",     "maxLength",     "properties",  "required",    "additionalProperties",
    "minProperties", "maxProperties", "prefixItems", "items",       "minItems",
    "maxItems",      "$ref",          "$defs",       "definitions", "exclusiveMinimum",
    "title",         "description",   "default",     "example",     "exclusiveMaximum",
    "examples",      "$comment",      "$schema",     "deprecated",  "readOnly",
    "writeOnly"};
constexpr std::string_view kBesideReference[] = {"$ref",    "description", "title", "default",
                                                 "example", "examples",    "$defs", "definitions"};

template <size_t N>
bool is_among(const std::string_view (&words)[N], std::string_view word) {
  return std::find(std::begin(words), std::end(words), word) != std::end(words);
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

  // Annotations constrain nothing, nor does a type that the target states as well.
  bool constrains_beside_ref(const JsonValue& schema) const {
    return std::any_of(schema.members.begin(), schema.members.end(), [&](const auto& member) {
      if (member.first == "type") {
        const JsonValue* target = resolve_reference(schema.find("$ref")->string, root_);
        const JsonValue* type = target == nullptr ? nullptr : target->find("type");
        return type == nullptr || canonical_hash(*type) != canonical_hash(member.second);
      }
      return !is_among(kBesideReference, member.first);
    });
  }

  NodeId reference(const JsonValue& ref) {
    const JsonValue* target = &ref;
    std::vector<std::string> passed;  // references that only lead to others
    const auto finish = [&](NodeId id) {
      for (const std::string& pointer : passed) references_[pointer] = id;
      return id;
    };
    for (const JsonValue* at = &ref; at != nullptr;) {
      if (at->type != JsonType::kString || at->string.empty() || at->string[0] != '#') {
        throw std::invalid_argument("$ref '" + at->string + "' is not a reference into the schema");
      }
      const auto known = references_.find(at->string);
      if (known != references_.end()) return finish(known->second);
      target = resolve_reference(at->string, root_);
      if (target == nullptr) {
        throw std::invalid_argument("$ref '" + at->string + "' points at nothing");
      }
      if (passed.size() >= kMaxNesting) {
        throw std::invalid_argument("$ref '" + at->string + "' leads to itself, or too far");
      }
      passed.push_back(at->string);
      at = target->find("$ref");
      if (at != nullptr && constrains_beside_ref(*target)) at = nullptr;
    }
    if (target->type == JsonType::kBoolean) return finish(compile(*target));
    if (target->type != JsonType::kObject) {
      throw std::invalid_argument("$ref '" + passed.back() + "' does not point at a schema");
    }
    // The node is registered before it is filled: a schema may refer to itself.
    const NodeId id = finish(add_node());
    fill(id, *target);
    return id;
  }

  // Children may reallocate `nodes_`, so the node is built separately and stored at the end.
  void fill(NodeId id, const JsonValue& schema) {
    if (++nesting_ > kMaxNesting) {
      throw std::invalid_argument("its schema, references followed, nests too deep");
    }
    SchemaNode node;
    if (const JsonValue* ref = schema.find("$ref")) {
      node.all_of.push_back(reference(*ref));
      node.judged_here = true;
    }
    types(node, schema);
    values(node, schema);
    numbers_and_strings(node, schema);
    object(node, schema);
    array(node, schema);
    list(schema, "allOf", node.all_of);
    list(schema, "anyOf", node.any_of);
    list(schema, "oneOf", node.one_of);
    for (const auto& [key, unused] : schema.members) {
      if (!is_among(kDecided, key)) node.judged_here = true;
    }
    if (node.judged_here) node.type_only = false;
    node.judged = node.judged_here;
    nodes_[id] = std::move(node);
    --nesting_;
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
  }

  static void values(SchemaNode& node, const JsonValue& schema) {
    const JsonValue* constant = schema.find("const");
    const JsonValue* listed = schema.find("enum");
    if (constant == nullptr && listed == nullptr) return;
    std::vector<const JsonValue*> values;
    if (listed == nullptr) {
      values.push_back(constant);
    } else {
      const uint64_t wanted = constant == nullptr ? 0 : canonical_hash(*constant);
      for (const JsonValue& value : listed->items) {
        if (constant == nullptr || canonical_hash(value) == wanted) values.push_back(&value);
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
      if (value->type == JsonType::kString) strings.push_back(value->string);
    }
    std::sort(node.allowed.begin(), node.allowed.end());
    node.types &= types;
    node.strings = StringSet(std::move(strings));
  }

  static void count(const JsonValue& schema, std::string_view key, uint32_t& target) {
    const JsonValue* value = schema.find(key);
    if (value == nullptr || value->type != JsonType::kNumber) return;
    target = static_cast<uint32_t>(std::clamp(value->number, 0.0, 4294967295.0));
  }

  // `sign`: 1 for a lower bound, -1 for an upper one.
  static void bound(SchemaNode& node, const JsonValue& schema, std::string_view key, int sign,
                    bool exclusive) {
    constexpr double kExactIntegers = 9007199254740992.0;  // 2^53
    const JsonValue* value = schema.find(key);
    if (value == nullptr || value->type != JsonType::kNumber) return;
    node.type_only = false;
    // Beyond, doubles can't distinguish neighbouring integers.
    if (!(std::fabs(value->number) < kExactIntegers)) node.judged_here = true;
    double& limit = sign > 0 ? node.minimum : node.maximum;
    bool& strict = sign > 0 ? node.exclusive_minimum : node.exclusive_maximum;
    if (sign * value->number < sign * limit) return;
    strict = exclusive || (strict && value->number == limit);
    limit = value->number;
  }

  static void numbers_and_strings(SchemaNode& node, const JsonValue& schema) {
    bound(node, schema, "minimum", 1, false);
    bound(node, schema, "maximum", -1, false);
    bound(node, schema, "exclusiveMinimum", 1, true);
    bound(node, schema, "exclusiveMaximum", -1, true);
    count(schema, "minLength", node.min_length);
    count(schema, "maxLength", node.max_length);
    node.type_only &= node.min_length == 0 && node.max_length == UINT32_MAX;
  }

  void object(SchemaNode& node, const JsonValue& schema) {
    std::vector<std::string> names;
    std::unordered_map<std::string_view, uint32_t> known;
    if (const JsonValue* properties = schema.find("properties")) {
      for (const auto& [name, property] : properties->members) {
        if (!known.emplace(name, static_cast<uint32_t>(names.size())).second) continue;
        names.push_back(name);
        node.property_nodes.push_back(compile(property));
      }
    }
    if (const JsonValue* additional = schema.find("additionalProperties")) {
      node.additional = compile(*additional);
    }
    // What a pattern allows the judge knows.
    const JsonValue* patterns = schema.find("patternProperties");
    if (patterns != nullptr && !patterns->members.empty()) node.additional = kAnything;
    if (const JsonValue* required = schema.find("required")) {
      for (const JsonValue& name : required->items) {
        const auto [at, added] = known.emplace(name.string, static_cast<uint32_t>(names.size()));
        if (added) {  // required but not described: constrained by `additional` only
          names.push_back(name.string);
          node.property_nodes.push_back(node.additional);
        }
        node.required.push_back(at->second);
      }
    }
    node.properties = StringSet(std::move(names));
    count(schema, "minProperties", node.min_properties);
    count(schema, "maxProperties", node.max_properties);
  }

  void array(SchemaNode& node, const JsonValue& schema) {
    list(schema, "prefixItems", node.prefix_items);
    if (const JsonValue* items = schema.find("items")) node.items = compile(*items);
    count(schema, "minItems", node.min_items);
    count(schema, "maxItems", node.max_items);
  }

  std::vector<SchemaNode>& nodes_;
  const JsonValue& root_;
  std::map<std::string, NodeId> references_;
  int nesting_ = 0;
};

// The first byte of a value shows its type, so the types that combinations leave are worked
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
    // What is held was made after its holder: from the end, most settle in one pass.
    for (auto at = nodes.rbegin(); at != nodes.rend(); ++at) {
      SchemaNode& node = *at;
      uint8_t mask = node.types & either(node.any_of) & either(node.one_of);
      for (NodeId id : node.all_of) mask &= types(id);
      changed |= mask != node.types;
      node.types = mask;
    }
  }
}

// A value is judged as a whole where anything that it holds is.
void spread_judged(std::vector<SchemaNode>& nodes) {
  std::vector<std::vector<NodeId>> holders(nodes.size());
  const auto hold = [&](NodeId holder, NodeId held) {
    if (held != kNothing && held != kAnything) holders[held].push_back(holder);
  };
  std::vector<NodeId> open;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const auto id = static_cast<NodeId>(i);
    for (NodeId property : nodes[i].property_nodes) hold(id, property);
    for (NodeId item : nodes[i].prefix_items) hold(id, item);
    hold(id, nodes[i].additional);
    hold(id, nodes[i].items);
    if (nodes[i].judged) open.push_back(id);
  }
  while (!open.empty()) {
    const NodeId id = open.back();
    open.pop_back();
    for (NodeId holder : holders[id]) {
      if (nodes[holder].judged) continue;
      nodes[holder].judged = true;
      open.push_back(holder);
    }
  }
}

}  // namespace

NodeId compile_schema(const JsonValue& schema, std::vector<SchemaNode>& nodes) {
  return SchemaCompiler(nodes, schema).compile(schema);
}

void settle_nodes(std::vector<SchemaNode>& nodes) {
  narrow_types(nodes);
  spread_judged(nodes);
}

}  // namespace toolprm
