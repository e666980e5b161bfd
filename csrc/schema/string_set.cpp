#include "schema/string_set.h"

#include <algorithm>
#include <numeric>

namespace toolprm {

StringSet::StringSet(std::vector<std::string> strings) {
  order_.resize(strings.size());
  std::iota(order_.begin(), order_.end(), 0u);
  std::stable_sort(order_.begin(), order_.end(),
                   [&](uint32_t a, uint32_t b) { return strings[a] < strings[b]; });
  strings_.reserve(strings.size());
  for (uint32_t index : order_) strings_.push_back(std::move(strings[index]));
}

bool StringSet::narrow(Cursor& cursor, std::string_view bytes) const {
  for (size_t done = 0; done < bytes.size(); ++done) {
    if (cursor.high - cursor.low == 1) {  // one is left: the rest must match it
      const std::string_view rest = bytes.substr(done);
      const std::string_view text = std::string_view(strings_[cursor.low]).substr(cursor.depth);
      if (text.substr(0, rest.size()) != rest) return false;
      cursor.depth += static_cast<uint32_t>(rest.size());
      return true;
    }
    const int wanted = static_cast<unsigned char>(bytes[done]);
    // By the byte at `depth`; a string that has ended comes first.
    const auto below = [&](int bound) {
      return [depth = cursor.depth, bound](const std::string& text) {
        return (depth < text.size() ? static_cast<unsigned char>(text[depth]) : -1) < bound;
      };
    };
    const auto begin = strings_.begin();
    const auto low = std::partition_point(begin + cursor.low, begin + cursor.high, below(wanted));
    const auto high = std::partition_point(low, begin + cursor.high, below(wanted + 1));
    cursor.low = static_cast<uint32_t>(low - begin);
    cursor.high = static_cast<uint32_t>(high - begin);
    if (cursor.low == cursor.high) return false;
    ++cursor.depth;
  }
  return true;
}

int StringSet::found(const Cursor& cursor) const {
  // Sorted, so the string that ends here comes before the longer ones.
  if (cursor.low == cursor.high || strings_[cursor.low].size() != cursor.depth) return -1;
  return static_cast<int>(order_[cursor.low]);
}

int StringSet::find(std::string_view text) const {
  Cursor cursor = start();
  return narrow(cursor, text) ? found(cursor) : -1;
}

}  // namespace toolprm
