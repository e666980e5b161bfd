// Where calls stand in a model's output, and under which keys their parts are found.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace toolprm {

struct CallFormat {
  // Tagged formats put every call between `open_marker` and `close_marker`, for example
  // <tool_call>{...}</tool_call>. Without markers the calls are one JSON list.
  std::string open_marker;
  std::string close_marker;  // may be empty: then a call's end is its closing brace
  std::string name_key = "name";
  std::string arguments_key = "arguments";

  bool tagged() const { return !open_marker.empty(); }
};

// Finds a marker in bytes that come one by one (Knuth, Morris, Pratt). The progress is the
// caller's, so that a fork is a copy of one number.
class MarkerMatcher {
 public:
  explicit MarkerMatcher(std::string marker) : marker_(std::move(marker)) {
    back_.assign(marker_.size() + 1, 0);
    for (size_t i = 1, k = 0; i < marker_.size(); ++i) {
      while (k > 0 && marker_[i] != marker_[k]) k = back_[k];
      if (marker_[i] == marker_[k]) ++k;
      back_[i + 1] = static_cast<uint8_t>(k);
    }
  }

  // True when `byte` completes the marker; the progress then starts again.
  bool feed(uint8_t& progress, char byte) const {
    if (marker_.empty()) return false;
    while (progress > 0 && marker_[progress] != byte) progress = back_[progress];
    if (marker_[progress] == byte) ++progress;
    if (progress < marker_.size()) return false;
    progress = 0;
    return true;
  }

 private:
  std::string marker_;
  std::vector<uint8_t> back_;
};

}  // namespace toolprm
