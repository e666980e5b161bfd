#include "format/response.h"

#include <algorithm>

namespace toolprm {

std::vector<NamedStep> Response::feed(std::string_view bytes) {
  text_ += bytes;
  steps_.clear();
  segmenter_->advance(state_, text_, steps_);
  return named();
}

std::vector<NamedStep> Response::finish() {
  steps_.clear();
  segmenter_->finish(state_, steps_);
  return named();
}

std::vector<NamedStep> Response::named() const {
  std::vector<NamedStep> result;
  for (const Step& step : steps_) result.push_back(segmenter_->named(step, text_));
  return result;
}

size_t Response::scan(std::string_view bytes, size_t repeats, size_t stride) const {
  if (stride == 0) stride = bytes.size();
  size_t steps = 0;
  std::vector<Step> found;
  for (size_t i = 0; i < repeats; ++i) {
    SegmenterState state;
    found.clear();
    for (size_t end = std::min(stride, bytes.size());; end = std::min(end + stride, bytes.size())) {
      segmenter_->advance(state, bytes.substr(0, end), found);
      if (end == bytes.size()) break;
    }
    steps += found.size();
  }
  return steps;
}

uint64_t Response::copy_states(size_t repeats) const {
  std::vector<SegmenterState> copies(64);
  uint64_t sum = 0;
  for (size_t i = 0; i < repeats; ++i) {
    copies[i % 64] = state_;
    copies[i % 64].position += static_cast<uint32_t>(i);
    sum += copies[(i * 7) % 64].position;
  }
  return sum;
}

}  // namespace toolprm
