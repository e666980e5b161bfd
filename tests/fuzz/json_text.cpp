#include "json_text.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "input.h"

namespace fuzz {

JsonValue json_bool(bool value) {
  JsonValue result;
  result.type = JsonType::kBoolean;
  result.boolean = value;
  return result;
}

JsonValue json_number(std::string_view spelling) { return toolprm::parse_accepted_json(spelling); }

JsonValue json_string(std::string_view text) {
  JsonValue result;
  result.type = JsonType::kString;
  result.string = text;
  return result;
}

JsonValue json_list(std::vector<JsonValue> items) {
  JsonValue result;
  result.type = JsonType::kArray;
  result.items = std::move(items);
  return result;
}

JsonValue json_object(std::vector<std::pair<std::string, JsonValue>> members) {
  JsonValue result;
  result.type = JsonType::kObject;
  result.members = std::move(members);
  return result;
}

namespace {

class Writer {
 public:
  explicit Writer(const Style& style) : style_(style), random_(style.seed) {}

  std::string take() { return std::move(out_); }

  void value(const JsonValue& value) {
    space();
    switch (value.type) {
      case JsonType::kNull:
        out_ += "null";
        break;
      case JsonType::kBoolean:
        out_ += value.boolean ? "true" : "false";
        break;
      case JsonType::kNumber:
        number(value);
        break;
      case JsonType::kString:
        string(value.string);
        break;
      case JsonType::kArray:
        list(value);
        break;
      case JsonType::kObject:
        object(value);
        break;
    }
    space();
  }

 private:
  void space() {
    while (style_.spaces && random_.chance(3)) out_ += " \n\r\t"[random_.below(4)];
  }

  void number(const JsonValue& value) {
    const bool exact =
        value.string.find_first_of(".eE") == std::string::npos && std::fabs(value.number) >= 0x1p53;
    if (!style_.respell || exact || !std::isfinite(value.number) || random_.chance(2)) {
      out_ += value.string;
      return;
    }
    static constexpr const char* kForms[] = {"%.17g", "%.17e", "%.20E"};
    char spelled[64];
    std::snprintf(spelled, sizeof spelled, kForms[random_.below(3)], value.number);
    out_ += spelled;
    if (out_.find_first_of(".eE", out_.size() - std::char_traits<char>::length(spelled)) ==
            std::string::npos &&
        std::fabs(value.number) < 0x1p53) {
      out_ += random_.chance(2) ? ".0" : "";
    }
  }

  void unit(uint32_t code) {
    char escape[8];
    std::snprintf(escape, sizeof escape, random_.chance(2) ? "\\u%04x" : "\\u%04X", code);
    out_ += escape;
  }

  void string(std::string_view text) {
    out_ += '"';
    for (size_t at = 0; at < text.size();) {
      const auto lead = static_cast<unsigned char>(text[at]);
      const size_t size = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
      uint32_t code = size == 1 ? lead : lead & (0x7Fu >> size);
      for (size_t i = 1; i < size && at + i < text.size(); ++i) {
        code = code << 6 | (static_cast<unsigned char>(text[at + i]) & 0x3F);
      }
      const bool needed = code < 0x20 || code == '"' || code == '\\';
      if (!needed && !(style_.escapes && random_.chance(3))) {
        out_ += text.substr(at, size);
      } else if (constexpr std::string_view kShort = "\"\\/\b\f\n\r\t";
                 kShort.find(static_cast<char>(code)) != std::string_view::npos && code < 0x80 &&
                 random_.chance(2)) {
        out_ += {'\\', "\"\\/bfnrt"[kShort.find(static_cast<char>(code))]};
      } else if (code < 0x10000) {
        unit(code);
      } else {
        unit(0xD800 + ((code - 0x10000) >> 10));
        unit(0xDC00 + ((code - 0x10000) & 0x3FF));
      }
      at += size;
    }
    out_ += '"';
  }

  void list(const JsonValue& value_) {
    out_ += '[';
    space();
    for (const JsonValue& item : value_.items) {
      if (&item != &value_.items.front()) out_ += ',';
      value(item);
    }
    out_ += ']';
  }

  void object(const JsonValue& value_) {
    std::vector<size_t> order(value_.members.size());
    std::iota(order.begin(), order.end(), size_t{0});
    for (size_t i = order.size(); style_.shuffle && i > 1; --i) {
      std::swap(order[i - 1], order[random_.below(static_cast<uint32_t>(i))]);
    }
    out_ += '{';
    space();
    for (size_t i = 0; i < order.size(); ++i) {
      const auto& [key, member] = value_.members[order[i]];
      if (i > 0) out_ += ',';
      space();
      string(key);
      space();
      out_ += ':';
      value(member);
    }
    out_ += '}';
  }

  Style style_;
  Random random_;
  std::string out_;
};

}  // namespace

std::string write_json(const JsonValue& value, const Style& style) {
  Writer writer(style);
  writer.value(value);
  return writer.take();
}

}  // namespace fuzz
