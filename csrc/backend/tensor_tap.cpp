#include "backend/tensor_tap.h"

#include <algorithm>
#include <cstring>

namespace toolprm {

TensorTap::TensorTap(Library library, std::vector<std::string> names, size_t width, uint32_t ubatch)
    : library_(library), names_(std::move(names)), width_(width), ubatch_(ubatch) {
  begin(0, {}, {});
}

void TensorTap::aim(std::vector<std::string> names) {
  names_ = std::move(names);
  begin(0, {}, {});
}

void TensorTap::begin(uint32_t tokens, std::vector<int32_t> wanted, std::vector<int32_t> outputs) {
  tokens_ = tokens;
  wanted_ = std::move(wanted);
  outputs_ = std::move(outputs);
  starts_.assign(names_.size(), 0);
  rows_.assign(wanted_.size() * names_.size() * width_, 0);
  failure_ = nullptr;
}

bool TensorTap::evaluate(void* tensor, bool ask, void* self) noexcept {
  auto& tap = *static_cast<TensorTap*>(self);
  const int place = tap.place_of(tap.library_.name(tensor));
  if (ask) return place >= 0;
  if (place >= 0) {
    try {
      tap.collect(tensor, static_cast<size_t>(place));
    } catch (...) {
      tap.failure_ = "out of memory";
    }
  }
  return true;  // false would stop the graph halfway
}

const std::string* TensorTap::missing() const {
  if (wanted_.empty()) return nullptr;
  for (size_t place = 0; place < names_.size(); ++place) {
    if (starts_[place] == 0) return &names_[place];
  }
  return nullptr;
}

int TensorTap::place_of(std::string_view name) const {
  for (size_t place = 0; place < names_.size(); ++place) {
    if (names_[place] == name) return static_cast<int>(place);
  }
  return -1;
}

// One physical batch: its tokens are in order.
void TensorTap::collect(const void* tensor, size_t place) {
  const uint32_t start = starts_[place];
  const uint32_t end = starts_[place] = std::min(start + ubatch_, tokens_);
  const auto rank = [](const std::vector<int32_t>& sorted, uint32_t token) {
    return std::lower_bound(sorted.begin(), sorted.end(), static_cast<int32_t>(token));
  };
  const auto first = rank(wanted_, start);
  const auto last = rank(wanted_, end);
  if (first == last) return;
  const size_t row_bytes = width_ * sizeof(float);
  const size_t available = library_.bytes(tensor) / row_bytes;
  const bool whole = available == end - start;  // else a row for each output
  const auto before = rank(outputs_, start);
  const auto row_of = [&](int32_t token) {
    if (whole) return static_cast<size_t>(token) - start;
    return static_cast<size_t>(rank(outputs_, static_cast<uint32_t>(token)) - before);
  };
  const size_t low = row_of(*first);
  const size_t high = row_of(*(last - 1)) + 1;
  if (high > available) {
    failure_ = "a tensor has fewer rows than tokens";
    return;
  }
  span_.resize((high - low) * width_);
  library_.read(tensor, span_.data(), low * row_bytes, span_.size() * sizeof(float));
  for (auto token = first; token != last; ++token) {
    const auto row = static_cast<size_t>(token - wanted_.begin());
    std::memcpy(rows_.data() + (row * names_.size() + place) * width_,
                span_.data() + (row_of(*token) - low) * width_, row_bytes);
  }
}

}  // namespace toolprm
