// Copies rows of named tensors out of a graph while ggml computes it: the evaluation callback,
// without a step through Python for each node. The functions of ggml come as addresses, so
// nothing of it is compiled against.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace toolprm {

class TensorTap {
 public:
  struct Library {
    const char* (*name)(const void* tensor);
    size_t (*bytes)(const void* tensor);
    void (*read)(const void* tensor, void* data, size_t offset, size_t size);
  };

  // Each tensor named has a row of `width` floats for every token, of which at most `ubatch` are
  // computed at once.
  TensorTap(Library library, std::vector<std::string> names, size_t width, uint32_t ubatch);

  // Other tensors from the next decode on.
  void aim(std::vector<std::string> names);

  // Announces a decode of `tokens` tokens. `wanted` are those whose rows shall be kept, `outputs`
  // those with logits, both rising. A last block computes its outputs only: there `wanted` must
  // be contained in `outputs`.
  void begin(uint32_t tokens, std::vector<int32_t> wanted, std::vector<int32_t> outputs);

  // ggml_backend_sched_eval_callback; `self` is the tap.
  static bool evaluate(void* tensor, bool ask, void* self) noexcept;

  // [wanted][names][width] of the last decode.
  const std::vector<float>& rows() const { return rows_; }
  size_t wanted() const { return wanted_.size(); }
  size_t width() const { return names_.size() * width_; }
  // The first tensor that the last decode had none of, or null.
  const std::string* missing() const;
  // What went wrong, or null.
  const char* failure() const { return failure_; }

 private:
  int place_of(std::string_view name) const;
  void collect(const void* tensor, size_t place);

  Library library_;
  std::vector<std::string> names_;
  size_t width_;
  uint32_t ubatch_;
  uint32_t tokens_ = 0;
  std::vector<int32_t> wanted_, outputs_;
  std::vector<uint32_t> starts_;  // tokens seen, by tensor
  std::vector<float> rows_;
  std::vector<float> span_;  // scratch
  const char* failure_ = nullptr;
};

}  // namespace toolprm
