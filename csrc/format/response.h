// A response that is read without a search: a segmenter's state together with its text.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "format/step_segmenter.h"

namespace toolprm {

class Response {
 public:
  explicit Response(std::shared_ptr<const StepSegmenter> segmenter)
      : segmenter_(std::move(segmenter)) {}

  // The steps that these bytes decide.
  std::vector<NamedStep> feed(std::string_view bytes);
  // The model has ended the response.
  std::vector<NamedStep> finish();

  // Reads `bytes` as `repeats` fresh responses, `stride` at a time (0: at once); returns the steps
  // of all. For measuring.
  size_t scan(std::string_view bytes, size_t repeats, size_t stride) const;
  // Copies the state `repeats` times. For measuring.
  uint64_t copy_states(size_t repeats) const;

  const std::shared_ptr<const StepSegmenter>& segmenter() const { return segmenter_; }
  const SegmenterState& state() const { return state_; }
  const std::string& text() const { return text_; }
  uint64_t merge_key() const { return segmenter_->merge_key(state_, text_); }

 private:
  std::vector<NamedStep> named() const;

  std::shared_ptr<const StepSegmenter> segmenter_;
  SegmenterState state_;
  std::string text_;
  std::vector<Step> steps_;
};

}  // namespace toolprm
