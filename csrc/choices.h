// Steps whose choices are finite: which texts a function's name, an enum or a boolean may have, and
// the tokens that write them all as one tree. It knows neither beams nor the KV cache.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sampler.h"
#include "step_segmenter.h"
#include "tool_schema.h"

namespace toolprm {

// One way to complete a step. A string's closing quote is for the token that decides it, which may
// write more than that; a number is decided by what comes behind it.
struct Choice {
  std::string text;  // from where the response stands to the end of the value
  uint32_t body;     // bytes of it that are written before the token that decides the step
};

// The choices of the step that is being written, in the order of their texts; a list of values that
// are not strings keeps its own. Empty where the step has none, has more than `limit`, or is not
// far enough to tell: its value must be what comes next, or have begun.
std::vector<Choice> list_choices(const ToolSchema& tools, const SegmenterState& state,
                                 std::string_view response, size_t limit);

// A token of a choice. The tokens that lead to a node and the node's own write the beginning of
// every choice below it.
struct ChoiceNode {
  int32_t token = -1;
  bool forced = false;    // the constraint leaves no other
  bool boundary = false;  // decides the step, so that nothing of the tree follows
  bool last = false;      // a boundary behind which no distribution is wanted
  std::vector<int32_t> children;
  std::vector<int32_t> closers;  // tokens that may decide the step here
  int32_t number = 0;            // what batches call it

  // Of what is decoded ahead of the branches that take it.
  bool ahead = false;
  bool stops = false;  // a branch may stand here: `kv` holds the tokens up to here, and no more
  bool decoded = false;
  int32_t kv = 0;
  int32_t hidden = -1;
  std::shared_ptr<const Distribution> next;
};

// Node 0 is where the tree was planted; it has no token.
struct ChoiceTree {
  std::vector<ChoiceNode> nodes;

  int32_t child(int32_t node, int32_t token) const;
  // Whether what follows a node is one of its children, or a closer.
  bool narrows(int32_t node) const {
    return !nodes[node].children.empty() || !nodes[node].closers.empty();
  }
  // Whether something is chosen behind a node that is decoded ahead.
  bool wants_logits(int32_t node) const;
};

}  // namespace toolprm
