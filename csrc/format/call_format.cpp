#include "format/call_format.h"

#include <stdexcept>

namespace toolprm {

BodyKind body_kind(std::string_view name) {
  if (name == "json") return BodyKind::kJson;
  throw std::invalid_argument("body is '" + std::string(name) + "'; it must be json");
}

void CallFormat::check() const {
  constexpr size_t kMaxMarker = 255;  // progress in a marker is one byte
  if (open_marker.size() > kMaxMarker || close_marker.size() > kMaxMarker) {
    throw std::invalid_argument("a marker is longer than 255 bytes");
  }
}

}  // namespace toolprm
