// A call as a JSON object: the value of the name key is a tool's name; the value of the arguments
// key, an object, holds the parameters; other keys are skipped. Without an arguments key the
// arguments are empty.
//
// Dead: JSON that is malformed or nests deeper than JsonMachine::kMaxDepth; name or arguments
// twice, or the arguments before the name; no name.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "format/call_format.h"
#include "format/call_judge.h"
#include "json/json_machine.h"

namespace toolprm {

class JsonBody {
 public:
  enum class Key : uint8_t { kOther, kName, kArguments };

  // Of an open call.
  struct State {
    JsonMachine json;
    Key key = Key::kOther;
    bool has_name = false;
    bool has_arguments = false;
    uint32_t call_begin = 0;
    uint32_t arguments_begin = 0;
    uint32_t key_begin = 0, key_end = 0;
    uint32_t value_begin = 0;

    bool ended() const { return json.done(); }
    // An argument has ended, and nothing but white space has been read after it.
    bool after_argument() const {
      return key == Key::kArguments && json.depth() == 2 && json.after_value();
    }
    uint64_t fingerprint() const;
  };

  JsonBody(std::string name_key, std::string arguments_key)
      : name_key_(std::move(name_key)), arguments_key_(std::move(arguments_key)) {}

  // Bytes of which one follows every value, before another argument or the end.
  static constexpr const char* kDelimiters = ",}";

  CallOpening opening() const { return {'{', '"' + name_key_ + '"'}; }

  // The call begins at this byte.
  State begin(uint32_t position) const;
  // Reads on to the end of the call, or of the bytes that are there.
  Death read(State& state, CallReading& reading) const;

  // Decoded parts of an ARG_VALUE: the name in UTF-8, the value as JSON.
  std::string argument_name(const Step& step, std::string_view response) const;
  std::string argument_value(const Step& step, std::string_view response) const;

  // What has been written since the last decision: equal for texts that differ in white space only.
  uint64_t hash_tail(std::string_view tail) const;

 private:
  Death read_byte(State& state, CallReading& reading) const;
  void begin_key(State& state, CallReading& reading) const;
  Death end_key(State& state, CallReading& reading) const;
  Death end_call_key(State& state, CallReading& reading) const;
  Death begin_value(State& state, CallReading& reading, JsonEvent event) const;
  Death end_value(State& state, CallReading& reading, uint32_t end, int depth) const;
  Death end_object(State& state, CallReading& reading) const;
  Death end_call(State& state, CallReading& reading) const;

  std::string name_key_, arguments_key_;
};

}  // namespace toolprm
