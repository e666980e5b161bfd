// Every token of a search once: the tree that the draws share.
#pragma once

#include <cstdint>
#include <vector>

#include "json/json_value.h"  // mix64

namespace toolprm {

struct TokenNode {
  int32_t parent;  // TokenTree::kRoot: the prompt
  int32_t token;
  uint32_t depth;  // tokens of the response up to and with this one
  uint32_t draws;  // draws that took this token; 0 on a greedy path that no draw follows
  uint64_t path;   // identifies the prompt and the tokens from the root
  float logprob;   // raw; 0 for a forced token
  double gap;      // see TokenTree::gap
  float entropy;   // of the distribution the token was taken from, in nats
  bool forced;     // the constraint left no choice
  bool boundary;   // closes a step
  int32_t hidden;  // row of the hidden states, or -1
};

class TokenTree {
 public:
  static constexpr int32_t kRoot = -1;

  // `prompt` identifies the prompt: the paths of two prompts differ, and so does the noise of their
  // draws.
  explicit TokenTree(uint64_t prompt) : root_path_(mix64(kRootPath, prompt)) {}

  // `behind`: how far a sampled token's log-probability is below that of the most likely token
  // that was allowed in its place, at most 0.
  int32_t add(int32_t parent, int32_t token, uint32_t draws, float logprob, float behind,
              float entropy, bool forced) {
    const uint64_t above = parent == kRoot ? root_path_ : nodes_[parent].path;
    const uint32_t depth = parent == kRoot ? 1 : nodes_[parent].depth + 1;
    nodes_.push_back({parent, token, depth, draws, mix64(above, static_cast<uint64_t>(token) + 1),
                      logprob, gap(parent) + behind, entropy, forced, false, -1});
    return static_cast<int32_t>(nodes_.size() - 1);
  }

  uint64_t path(int32_t node) const { return node == kRoot ? root_path_ : nodes_[node].path; }
  uint32_t depth(int32_t node) const { return node == kRoot ? 0 : nodes_[node].depth; }
  // How far the tokens up to this one are behind the most likely ones, each in its own place: a
  // sum of log-probability ratios, 0 on the greedy path.
  double gap(int32_t node) const { return node == kRoot ? 0 : nodes_[node].gap; }
  TokenNode& operator[](int32_t node) { return nodes_[node]; }
  const TokenNode& operator[](int32_t node) const { return nodes_[node]; }
  size_t size() const { return nodes_.size(); }

  // The last `count` nodes of the path that ends at `node`, first to last.
  void tail(int32_t node, uint32_t count, std::vector<int32_t>& out) const {
    out.resize(count);
    for (uint32_t i = count; i > 0; --i) {
      out[i - 1] = node;
      node = nodes_[node].parent;
    }
  }

 private:
  static constexpr uint64_t kRootPath = 0x70726D5F6C697465ULL;

  uint64_t root_path_;
  std::vector<TokenNode> nodes_;
};

}  // namespace toolprm
