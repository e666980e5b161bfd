// How a model family writes calls: what is around them (the envelope) and how one is written (the
// body).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace toolprm {

enum class BodyKind : uint8_t {
  kJson,  // {"name": ..., "arguments": {...}}
};
// By its name: "json". Throws std::invalid_argument for others.
BodyKind body_kind(std::string_view name);

struct CallFormat {
  // Every call, or a list of them, comes between `open_marker` and `close_marker`, for example
  // <tool_call>...</tool_call>. Without markers the calls are one list.
  std::string open_marker;
  std::string close_marker;  // may be empty: then a call's end is the end of its body

  BodyKind body = BodyKind::kJson;
  std::string name_key = "name";  // of a JSON body
  std::string arguments_key = "arguments";

  bool tagged() const { return !open_marker.empty(); }
  // Throws std::invalid_argument for what can't be a format.
  void check() const;
};

// What the envelope must know of a body: the byte that begins a call, and the text after it (white
// space between them aside) by which a call is recognised outside markers and lists.
struct CallOpening {
  char first;
  std::string recognised_by;
};

}  // namespace toolprm
