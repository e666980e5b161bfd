#include "schema/reference.h"

#include <algorithm>
#include <cstdlib>
#include <string>

namespace toolprm {

namespace {

int hex_digit(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  const char lower = static_cast<char>(digit | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// A reference token of a JSON Pointer in a URI fragment (RFC 6901, section 6).
std::string pointer_token(std::string_view raw) {
  std::string token;
  for (size_t i = 0; i < raw.size(); ++i) {
    const bool two = raw[i] == '%' && i + 2 < raw.size();
    if (two && hex_digit(raw[i + 1]) >= 0 && hex_digit(raw[i + 2]) >= 0) {
      token.push_back(static_cast<char>(hex_digit(raw[i + 1]) * 16 + hex_digit(raw[i + 2])));
      i += 2;
    } else if (raw[i] == '~' && i + 1 < raw.size() && (raw[i + 1] == '0' || raw[i + 1] == '1')) {
      token.push_back(raw[++i] == '0' ? '~' : '/');
    } else {
      token.push_back(raw[i]);
    }
  }
  return token;
}

const JsonValue* step_into(const JsonValue& value, const std::string& key) {
  if (value.type != JsonType::kArray) return value.find(key);
  if (key.empty() || key.find_first_not_of("0123456789") != std::string::npos) return nullptr;
  const size_t index = std::strtoul(key.c_str(), nullptr, 10);
  return index < value.items.size() ? &value.items[index] : nullptr;
}

}  // namespace

const JsonValue* resolve_reference(std::string_view reference, const JsonValue& root) {
  if (reference.empty() || reference[0] != '#') return nullptr;
  const JsonValue* at = &root;
  for (size_t begin = 1; begin < reference.size() && at != nullptr;) {
    if (reference[begin] != '/') return nullptr;
    const size_t end = std::min(reference.find('/', begin + 1), reference.size());
    at = step_into(*at, pointer_token(reference.substr(begin + 1, end - begin - 1)));
    begin = end;
  }
  return at;
}

}  // namespace toolprm
