// Names and listed strings, as they are read byte by byte.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace toolprm {

// A sorted set of strings that is narrowed byte by byte.
class StringSet {
 public:
  struct Cursor {
    uint32_t low = 0;
    uint32_t high = 0;  // the strings [low, high) begin with the `depth` bytes read so far
    uint32_t depth = 0;
  };

  StringSet() = default;
  explicit StringSet(std::vector<std::string> strings);

  Cursor start() const { return {0, static_cast<uint32_t>(strings_.size()), 0}; }
  // Narrows to the strings that continue with `bytes`; false when none is left.
  bool narrow(Cursor& cursor, std::string_view bytes) const;
  // The index, in the order given to the constructor, of the string that has been read whole, or
  // -1.
  int found(const Cursor& cursor) const;
  int find(std::string_view text) const;
  size_t size() const { return strings_.size(); }

 private:
  std::vector<std::string> strings_;  // sorted
  std::vector<uint32_t> order_;       // sorted place -> index given to the constructor
};

}  // namespace toolprm
