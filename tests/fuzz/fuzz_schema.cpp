// Tools compiled and values judged: nothing but std::invalid_argument comes out, in bounded time
// (libFuzzer's -timeout), and a verdict does not depend on how the value is written. StringSet
// agrees with a plain list of strings.
#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "generate.h"
#include "input.h"
#include "json_text.h"
#include "schema/tool_schema.h"

namespace {

using namespace toolprm;

// The two places that know how schemas are compiled and asked.
std::unique_ptr<ToolSchema> compile(const std::string& tools_json) {
  fuzz::show("tools", tools_json);
  try {
    return std::make_unique<ToolSchema>(tools_json);
  } catch (const std::invalid_argument& error) {
    CHECK(error.what()[0] != 0);
    return nullptr;
  }
}

bool valid(const ToolSchema& tools, int function, const JsonValue& value) {
  return tools.valid(tools.parameters(function), value);
}

void judge(const ToolSchema& tools, const JsonValue& value, uint64_t seed) {
  for (size_t function = 0; function < tools.functions().size(); ++function) {
    const auto index = static_cast<int>(function);
    const bool verdict = valid(tools, index, value);
    fuzz::show("value", fuzz::write_json(value));
    const std::string written = fuzz::write_json(value, {seed, true, true, true, true});
    JsonValue again;
    CHECK(parse_json(written, again));
    if (!has_duplicate_keys(value)) CHECK(valid(tools, index, again) == verdict);
  }
}

void check_string_set(fuzz::Input& input) {
  std::vector<std::string> strings;
  const uint32_t letters = 1 + input.below(4);
  for (uint32_t i = input.below(12); i > 0; --i) {
    std::string& text = strings.emplace_back();
    for (uint32_t j = input.below(8); j > 0; --j) {
      text += static_cast<char>("a\xFF\x7F\x01"[input.below(letters)]);
    }
  }
  const StringSet set(strings);
  CHECK(set.size() == strings.size());
  StringSet::Cursor cursor = set.start();
  std::string read;
  for (uint32_t piece = 0; piece < 6; ++piece) {
    std::string bytes;
    for (uint32_t j = input.below(5); j > 0; --j) {
      bytes += static_cast<char>("a\xFF\x7F\x01"[input.below(letters)]);
    }
    const bool alive = set.narrow(cursor, bytes);
    read += bytes;
    const auto begins = [&](const std::string& text) {
      return text.compare(0, read.size(), read) == 0;
    };
    const auto left = std::count_if(strings.begin(), strings.end(), begins);
    CHECK(alive == (left > 0 || read.empty()));
    const auto found = std::find(strings.begin(), strings.end(), read);
    const int index = found == strings.end() ? -1 : static_cast<int>(found - strings.begin());
    CHECK(set.find(read) == index);
    if (!alive) return;
    CHECK(cursor.high - cursor.low == left);
    CHECK(set.found(cursor) == index);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const uint32_t mode = input.below(8);
  if (mode == 7) {
    check_string_set(input);
    return 0;
  }
  if (mode == 6) {  // tools, a line feed, a value
    const std::string_view text = input.rest();
    const size_t end = std::min(text.find('\n'), text.size());
    const auto tools = compile(std::string(text.substr(0, end)));
    JsonValue value;
    if (tools && parse_json(text.substr(std::min(end + 1, text.size())), value)) {
      judge(*tools, value, 1);
    }
    return 0;
  }
  fuzz::Generator generator(input);
  const JsonValue source = generator.tools();
  const auto tools = compile(fuzz::write_json(source));
  if (!tools) return 0;
  CHECK(tools->functions().size() == source.items.size());
  for (size_t function = 0; function < source.items.size(); ++function) {
    CHECK(tools->names().find(source.items[function].find("name")->string) ==
          static_cast<int>(function));
  }
  const uint64_t seed = 1 + input.byte();
  for (int i = 0; i < 3; ++i) judge(*tools, generator.call(source).second, seed);
  judge(*tools, generator.value(), seed);
  return 0;
}
