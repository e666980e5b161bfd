// Tools, values and calls built from a fuzzed input, so that the code after the parser is reached.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "input.h"
#include "json_text.h"

namespace fuzz {

class Generator {
 public:
  explicit Generator(Input& input) : input_(input) {}

  // A list of {"name", "parameters"}, mostly one that compiles.
  JsonValue tools();
  JsonValue schema(int depth = 0);
  JsonValue value(int depth = 0);
  // Mostly valid under `schema`; references start at `root`.
  JsonValue fitting(const JsonValue& schema, const JsonValue& root, int depth = 0);
  // The arguments of a call of one of `tools`: its name and a mostly valid object.
  std::pair<std::string, JsonValue> call(const JsonValue& tools);
  std::string text();
  std::string name();

 private:
  void add_keyword(JsonValue& schema, int depth);
  void add_typical(JsonValue& schema, std::string_view type, int depth);
  JsonValue schemas(int depth, int most);
  JsonValue named_schemas(int depth);
  JsonValue names();
  JsonValue count();
  JsonValue number();
  std::string reference();

  Input& input_;
  int spent_ = 0;  // parts built; keeps a schema small
};

}  // namespace fuzz
