// The bodies that are known: how one call is written. A new one is a class like JsonBody in
// bodies/, an alternative here and a case in `make_body`.
#pragma once

#include <variant>

#include "format/bodies/json_body.h"
#include "format/call_format.h"

namespace toolprm {

using Body = std::variant<JsonBody>;
using BodyState = std::variant<JsonBody::State>;  // of an open call

inline Body make_body(const CallFormat& format) {
  switch (format.body) {
    case BodyKind::kJson:
      break;
  }
  return JsonBody(format.name_key, format.arguments_key);
}

}  // namespace toolprm
