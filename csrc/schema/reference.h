// References within a JSON Schema.
#pragma once

#include <string_view>

#include "json/json_value.h"

namespace toolprm {

// What a reference into `root` points at, "#" and a JSON Pointer (RFC 6901, section 6); null where
// that is nothing, or no such reference.
const JsonValue* resolve_reference(std::string_view reference, const JsonValue& root);

}  // namespace toolprm
