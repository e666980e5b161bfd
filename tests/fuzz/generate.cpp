#include "generate.h"

#include <algorithm>

namespace fuzz {

namespace {

constexpr int kMaxParts = 48;
constexpr int kMaxDepth = 5;

constexpr const char* kTypes[] = {"string", "integer", "number", "boolean",
                                  "object", "array",   "null",   "string"};
constexpr const char* kNames[] = {"a",    "b",   "ab", "abc", "city", "days",
                                  "x y",  "",    "/",  "a/b", "a~b",  "\xC3\xA9t\xC3\xA9",
                                  "name", "$ref"};
constexpr const char* kTools[] = {"get", "get_weather", "get_w", "f", "g", "\xE2\x82\xAC", "a\"b"};
constexpr const char* kNumbers[] = {"0",    "1",    "-1",    "2",          "5",
                                    "5.0",  "0.5",  "-0",    "1e2",        "100",
                                    "0.1",  "3",    "1e-7",  "4294967296", "9007199254740993",
                                    "1e20", "-2.5", "1E400", "1.5e-400"};

const JsonValue* resolve(const JsonValue& root, const std::string& pointer) {
  const JsonValue* at = &root;
  for (size_t begin = 1; begin < pointer.size() && at != nullptr;) {
    const size_t end = std::min(pointer.find('/', begin + 1), pointer.size());
    at = at->find(pointer.substr(begin + 1, end - begin - 1));
    begin = end;
  }
  return at;
}

}  // namespace

std::string Generator::text() {
  static constexpr const char* kTexts[] = {
      "",   "a",  "b",    "ab",   "abc", "Paris",    "Par", "\xF0\x9F\x98\x80",
      "\"", "\\", "x\ny", "true", "5",   "New York", "<b>", "\xC3\xA9"};
  if (!input_.chance(8)) return input_.pick(kTexts);
  std::string result;
  for (uint32_t i = input_.below(24); i > 0; --i) result += static_cast<char>(input_.byte() & 0x7F);
  return result;
}

std::string Generator::name() {
  if (!input_.chance(16)) return input_.pick(kNames);
  return text();
}

JsonValue Generator::number() { return json_number(input_.pick(kNumbers)); }

JsonValue Generator::count() {
  static constexpr const char* kCounts[] = {"0", "1", "2", "3", "1.0", "5e9", "-1"};
  return json_number(input_.pick(kCounts));
}

JsonValue Generator::value(int depth) {
  switch (input_.below(depth < kMaxDepth ? 8 : 5)) {
    case 0:
      return json_string(text());
    case 1:
      return number();
    case 2:
      return json_bool(input_.chance(2));
    case 3:
      return JsonValue();
    case 4:
      return json_string("a");
    case 5:
    case 6: {
      std::vector<JsonValue> items;
      for (uint32_t i = input_.below(4); i > 0; --i) items.push_back(value(depth + 1));
      return json_list(std::move(items));
    }
    default: {
      std::vector<std::pair<std::string, JsonValue>> members;
      for (uint32_t i = input_.below(4); i > 0; --i) {
        std::string key = name();
        members.emplace_back(std::move(key), value(depth + 1));
      }
      return json_object(std::move(members));
    }
  }
}

JsonValue Generator::names() {
  std::vector<JsonValue> names;
  for (uint32_t i = input_.below(4); i > 0; --i) names.push_back(json_string(name()));
  return json_list(std::move(names));
}

JsonValue Generator::schemas(int depth, int most) {
  std::vector<JsonValue> parts;
  for (uint32_t i = 1 + input_.below(static_cast<uint32_t>(most)); i > 0; --i) {
    parts.push_back(schema(depth + 1));
  }
  return json_list(std::move(parts));
}

JsonValue Generator::named_schemas(int depth) {
  std::vector<std::pair<std::string, JsonValue>> members;
  for (uint32_t i = input_.below(5); i > 0; --i) {
    std::string key = name();
    members.emplace_back(std::move(key), schema(depth + 1));
  }
  return json_object(std::move(members));
}

std::string Generator::reference() {
  static constexpr const char* kReferences[] = {"#/$defs/a",
                                                "#/$defs/b",
                                                "#",
                                                "#/properties/a",
                                                "#/definitions/a",
                                                "#/$defs/ab",
                                                "#/properties/city",
                                                "#/$defs/",
                                                "#/$defs/a~1b",
                                                "#/nowhere",
                                                "#/items",
                                                "#/$defs/%20",
                                                "a.json",
                                                ""};
  return input_.pick(kReferences);
}

void Generator::add_typical(JsonValue& schema, std::string_view type, int depth) {
  auto& members = schema.members;
  if (type == "object") {
    members.emplace_back("properties", named_schemas(depth));
    if (input_.chance(2)) {
      std::vector<JsonValue> required;
      for (const auto& property : members.back().second.members) {
        if (input_.chance(2)) required.push_back(json_string(property.first));
      }
      members.emplace_back("required", json_list(std::move(required)));
    }
    if (input_.chance(2)) members.emplace_back("additionalProperties", json_bool(false));
  } else if (type == "array") {
    if (input_.chance(4)) members.emplace_back("prefixItems", schemas(depth, 3));
    members.emplace_back("items", this->schema(depth + 1));
  } else if (type == "string" && input_.chance(2)) {
    std::vector<JsonValue> texts;
    for (uint32_t i = input_.below(6); i > 0; --i) texts.push_back(json_string(text()));
    members.emplace_back("enum", json_list(std::move(texts)));
  }
}

void Generator::add_keyword(JsonValue& schema, int depth) {
  const auto add = [&](const char* key, JsonValue value) {
    schema.members.emplace_back(key, std::move(value));
  };
  const auto combine = [&](const char* key) {
    ++combination_;
    add(key, schemas(depth, 3));
    --combination_;
  };
  switch (input_.below(44)) {
    case 0: {
      std::vector<JsonValue> types;
      for (uint32_t i = input_.below(4); i > 0; --i)
        types.push_back(json_string(input_.pick(kTypes)));
      return add("type", json_list(std::move(types)));
    }
    case 1:
      return add("nullable", json_bool(true));
    case 2: {
      std::vector<JsonValue> values;
      for (uint32_t i = input_.below(5); i > 0; --i) values.push_back(value(3));
      return add("enum", json_list(std::move(values)));
    }
    case 3:
      return add("const", value(3));
    case 4:
      return add("minimum", number());
    case 5:
      return add("maximum", number());
    case 6:
      return add("exclusiveMinimum", input_.chance(2) ? json_bool(true) : number());
    case 7:
      return add("exclusiveMaximum", input_.chance(2) ? json_bool(true) : number());
    case 8:
      return add("multipleOf", number());
    case 9:
      return add("minLength", count());
    case 10:
      return add("maxLength", count());
    case 11:
      return add("pattern", json_string(text()));
    case 12:
      return add("format", json_string("date"));
    case 13:
      return add("properties", named_schemas(depth));
    case 14:
      return add("required", names());
    case 15:
      return add("additionalProperties", this->schema(depth + 1));
    case 16:
      return add("patternProperties", named_schemas(depth));
    case 17:
      return add("minProperties", count());
    case 18:
      return add("maxProperties", count());
    case 19:
      return add("propertyNames", this->schema(depth + 1));
    case 20:
      return add("dependentRequired", json_object({{"a", names()}}));
    case 21:
      return add("items", this->schema(depth + 1));
    case 22:
      return add("items", schemas(depth, 3));
    case 23:
      return add("additionalItems", this->schema(depth + 1));
    case 24:
      return add("prefixItems", schemas(depth, 3));
    case 25:
      return add("minItems", count());
    case 26:
      return add("maxItems", count());
    case 27:
      return add("uniqueItems", json_bool(true));
    case 28:
      return add("contains", this->schema(depth + 1));
    case 29:
      return add("minContains", count());
    case 30:
      return combine("allOf");
    case 31:
      return combine("anyOf");
    case 32:
      return combine("oneOf");
    case 33: {
      ++combination_;
      add("not", this->schema(depth + 1));
      --combination_;
      return;
    }
    case 34: {
      ++combination_;
      add("if", this->schema(depth + 1));
      add("then", this->schema(depth + 1));
      add("else", this->schema(depth + 1));
      --combination_;
      return;
    }
    case 35:
      return add("dependencies", json_object({{"a", input_.chance(2) ? names() : value(3)}}));
    case 36:
      return add("description", json_string(text()));
    case 37:
      return add("default", value(3));
    case 38:
      return add("$defs", named_schemas(depth));
    case 39:
      if (combination_ > 0 && combined_ == Combined::kWithoutReferences) return;
      return add("$ref", json_string(reference()));
    case 40:
      return add("type", json_string(input_.pick(kTypes)));
    case 41:
      return add("unevaluatedProperties", json_bool(false));
    case 42: {  // a keyword with a value of a type that it can't have
      static constexpr const char* kKeywords[] = {
          "type",  "enum", "properties", "required", "items", "anyOf",       "minimum",
          "allOf", "$ref", "minLength",  "$defs",    "const", "prefixItems", "not"};
      return add(input_.pick(kKeywords), value(3));
    }
    default:
      return add(input_.chance(2) ? "title" : "examples", value(3));
  }
}

JsonValue Generator::schema(int depth) {
  if (++spent_ > kMaxParts || depth > kMaxDepth) return json_bool(true);
  const uint32_t kind = input_.below(32);
  if (kind == 31) return json_bool(false);
  if (kind == 30) return json_bool(true);
  JsonValue result = json_object({});
  if (kind >= 26 && (combination_ == 0 || combined_ == Combined::kWithReferences)) {
    result.members.emplace_back("$ref", json_string(reference()));
    if (kind >= 28) return result;
  } else if (kind < 24) {
    const std::string_view type = kTypes[kind % 8];
    result.members.emplace_back("type", json_string(type));
    add_typical(result, type, depth);
  }
  for (uint32_t i = input_.below(4); i > 0; --i) add_keyword(result, depth);
  return result;
}

JsonValue Generator::tools() {
  std::vector<JsonValue> tools;
  for (uint32_t i = 1 + input_.below(3); i > 0; --i) {
    spent_ = 0;
    std::vector<std::pair<std::string, JsonValue>> tool;
    tool.emplace_back("name", json_string(kTools[(input_.byte() + i) % std::size(kTools)]));
    if (!input_.chance(16)) {
      JsonValue parameters = json_object({{"type", json_string("object")}});
      add_typical(parameters, "object", 0);
      if (input_.chance(2)) parameters.members.emplace_back("$defs", named_schemas(0));
      for (uint32_t j = input_.below(3); j > 0; --j) add_keyword(parameters, 0);
      tool.emplace_back("parameters", input_.chance(16) ? schema() : std::move(parameters));
    }
    tools.push_back(json_object(std::move(tool)));
  }
  return json_list(std::move(tools));
}

JsonValue Generator::fitting(const JsonValue& schema, const JsonValue& root, int depth) {
  if (depth > 8 || input_.chance(24)) return value(3);
  if (const JsonValue* ref = schema.find("$ref")) {
    const JsonValue* target = resolve(root, ref->string);
    return target == nullptr ? value(3) : fitting(*target, root, depth + 1);
  }
  if (const JsonValue* constant = schema.find("const")) return *constant;
  if (const JsonValue* listed = schema.find("enum"); listed != nullptr && !listed->items.empty()) {
    return listed->items[input_.below(static_cast<uint32_t>(listed->items.size()))];
  }
  for (const char* key : {"anyOf", "oneOf"}) {
    const JsonValue* parts = schema.find(key);
    if (parts == nullptr || parts->items.empty()) continue;
    const auto size = static_cast<uint32_t>(parts->items.size());
    return fitting(parts->items[input_.below(size)], root, depth + 1);
  }
  const JsonValue* type = schema.find("type");
  std::string_view wanted;
  if (type != nullptr && type->type == JsonType::kArray && !type->items.empty()) {
    wanted = type->items[input_.below(static_cast<uint32_t>(type->items.size()))].string;
  } else if (type != nullptr) {
    wanted = type->string;
  } else if (schema.find("properties") != nullptr) {
    wanted = "object";
  }
  if (wanted == "string") {
    const JsonValue* least = schema.find("minLength");
    return json_string(least != nullptr && least->number > 0 ? "abc" : text());
  }
  if (wanted == "integer" || wanted == "number") {
    for (const char* key : {"minimum", "maximum"}) {
      const JsonValue* bound = schema.find(key);
      if (bound != nullptr && bound->type == JsonType::kNumber && input_.chance(2)) return *bound;
    }
    return number();
  }
  if (wanted == "boolean") return json_bool(input_.chance(2));
  if (wanted == "null") return JsonValue();
  if (wanted == "array") {
    const JsonValue* items = schema.find("items");
    std::vector<JsonValue> result;
    for (uint32_t i = input_.below(4); i > 0; --i) {
      result.push_back(items == nullptr ? value(4) : fitting(*items, root, depth + 1));
    }
    return json_list(std::move(result));
  }
  if (wanted != "object") return value(3);
  std::vector<std::pair<std::string, JsonValue>> members;
  const JsonValue* required = schema.find("required");
  if (const JsonValue* properties = schema.find("properties")) {
    for (const auto& property : properties->members) {
      const std::string& key = property.first;
      const bool needed =
          required != nullptr && std::any_of(required->items.begin(), required->items.end(),
                                             [&](const auto& one) { return one.string == key; });
      if (needed ? input_.chance(32) : input_.chance(2)) continue;
      members.emplace_back(key, fitting(property.second, root, depth + 1));
    }
  }
  if (input_.chance(6)) {
    std::string key = name();
    members.emplace_back(std::move(key), value(3));
  }
  return json_object(std::move(members));
}

std::pair<std::string, JsonValue> Generator::call(const JsonValue& tools) {
  if (tools.items.empty()) return {"f", json_object({})};
  const JsonValue& tool = tools.items[input_.below(static_cast<uint32_t>(tools.items.size()))];
  const JsonValue* name = tool.find("name");
  const JsonValue* parameters = tool.find("parameters");
  JsonValue arguments = json_object({});
  if (parameters != nullptr) arguments = fitting(*parameters, *parameters);
  return {name == nullptr ? "f" : name->string, std::move(arguments)};
}

}  // namespace fuzz
