// What the tokens of a vocabulary write.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace toolprm {

struct Vocabulary {
  std::string bytes;
  std::vector<uint32_t> offsets{0};  // token t writes bytes [offsets[t], offsets[t + 1])
  std::vector<bool> ends;            // end-of-generation tokens

  void add(std::string_view text) {
    bytes += text;
    offsets.push_back(static_cast<uint32_t>(bytes.size()));
    ends.push_back(false);
  }
  std::string_view text(int32_t token) const {
    return std::string_view(bytes).substr(offsets[token], offsets[token + 1] - offsets[token]);
  }
  size_t size() const { return ends.size(); }
  // Some models have more logits than tokens: one that writes nothing known is no token. Throws
  // std::invalid_argument.
  void check(const std::vector<int32_t>& tokens) const {
    for (int32_t token : tokens) {
      if (token < 0 || static_cast<size_t>(token) >= size()) {
        throw std::invalid_argument("token " + std::to_string(token) +
                                    " is not in the vocabulary of " + std::to_string(size()) +
                                    " tokens");
      }
    }
  }
};

}  // namespace toolprm
