// Judges calls while a body reads them: what the tools' schemas allow, what is decided, and the
// steps. It hears events with spans and JSON, and does not know how a call is written.
//
// Dead: a tool's name that no tool has (at the first byte that no name continues with); a parameter
// that the schema does not allow (at the first byte), or twice; a value whose beginning shows a
// type that the schema does not allow; a string that no listed string goes on with; a value, nested
// ones included, that breaks the schema or repeats a key (nested names and types at once, the rest
// when the parameter's value ends); the end of the arguments without a required parameter, or with
// one twice that the schema does not name.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "format/step.h"
#include "json/json_machine.h"
#include "schema/tool_schema.h"

namespace toolprm {

// A part of the response, in bytes from its beginning.
struct Span {
  uint32_t begin, end;
};

// What is known of the calls so far. Trivially copyable: a copy is a fork.
struct CallState {
  // What the text that is being read must be one of: a tool's name, a property or a listed string.
  enum class Follow : uint8_t { kNothing, kName, kKey, kString };

  Follow follow = Follow::kNothing;
  NodeId followed = kAnything;    // schema of the object or string whose text is followed
  NodeId value_node = kAnything;  // schema of the value that comes next
  uint32_t calls = 0;             // closed so far
  int32_t function = -1;          // of the open call, once its name is decided
  int32_t parameter = -1;
  uint32_t tail_begin = 0;  // end of what was decided last
  StringSet::Cursor cursor;
  uint64_t open_decided = 0;    // function and arguments of the open call, in any order
  uint64_t closed_decided = 0;  // the closed calls, in any order
  std::array<uint64_t, ToolSchema::kMaxParameters / 64> seen{};
  std::array<NodeId, JsonMachine::kMaxDepth> nodes{};  // schema of the container at each level

  bool following() const { return follow != Follow::kNothing; }
  uint64_t decided() const;
};

// An argument that has ended, as its body decoded it.
struct ReadArgument {
  Span name, value;
  uint32_t boundary;           // just past the byte that showed the end of the value
  std::string_view name_json;  // the name as a JSON string
  std::string_view value_json;
};

// The events of one call, in this order: begin_call; begin_name, text, end_name; begin_arguments;
// for each argument a key, a value and end_argument; end_arguments; end_call. Containers within
// values have a level: 0 for the arguments themselves, at most kMaxDepth - 2. Every event returns
// what the response dies of, or kNone.
class CallJudge {
 public:
  // Without an ArgumentJudge, what the schema nodes do not decide counts as valid.
  CallJudge(ToolSchema tools, std::shared_ptr<const ArgumentJudge> arguments)
      : tools_(std::move(tools)), arguments_(std::move(arguments)) {}

  void begin_call(CallState& call) const;
  void begin_name(CallState& call) const;
  // Decoded bytes of the name, key or string that has begun; only needed while call.following().
  Death text(CallState& call, std::string_view bytes) const;
  Death end_name(CallState& call, Span name, std::vector<Step>& steps) const;

  void begin_arguments(CallState& call) const;
  // A key of the object at this level; at level 0 the name of an argument.
  void begin_key(CallState& call, int level) const;
  Death end_key(CallState& call, int level) const;
  // A value in the container at this level; the value of a container is at the next one.
  Death begin_value(CallState& call, JsonType type, int level) const;
  // A value within an argument's value has ended.
  Death end_value(CallState& call) const;
  // Another element of the array at this level comes.
  void next_element(CallState& call, int level) const;
  Death end_argument(CallState& call, const ReadArgument& argument, std::vector<Step>& steps) const;

  // `json`: the arguments, a JSON object.
  Death end_arguments(CallState& call, Span arguments, uint32_t boundary, std::string_view json,
                      std::vector<Step>& steps) const;
  void end_call(CallState& call, Span written, std::vector<Step>& steps) const;
  void end_response(CallState& call, uint32_t position, std::vector<Step>& steps) const;

  const ToolSchema& tools() const { return tools_; }

 private:
  NodeId element_node(NodeId array) const;
  Death check_value(const CallState& call, const ReadArgument& argument, uint64_t& hash) const;
  bool accepts(const CallState& call, bool whole, std::string_view arguments) const;

  ToolSchema tools_;
  std::shared_ptr<const ArgumentJudge> arguments_;
};

// A response in front of a judge while a body reads a call of it.
struct CallReading {
  const CallJudge& judge;
  CallState& call;
  std::string_view response;
  uint32_t& position;  // bytes read
  std::vector<Step>& steps;

  std::string_view slice(Span span) const {
    return response.substr(span.begin, span.end - span.begin);
  }
};

}  // namespace toolprm
