// What is around calls: text, markers and the list. It finds where calls begin and where the
// response ends, and does not know how a call is written.
//
//   text      Anything. A call begins at the format's open marker, or at the text by which the body
//             recognises one (for JSON a `{` followed, white space aside, by the name key in
//             quotes); a list of calls at a `[` followed (white space aside) by a call's first byte
//             or `]`. Everything else stays text.
//   marker    After the open marker: white space, then a call or `[` (a list).
//   list      Calls separated by commas. Its `]` ends the response; what follows is ignored.
//   after     In a list: `,` or `]`. After a call behind a marker: another call, or the close
//             marker, after which text goes on (where the close marker is empty, at once).
//             Elsewhere: text.
// With `max_calls` reached, the close marker (or a bare call's end) ends the response.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "format/call_format.h"

namespace toolprm {

// Finds a marker in bytes that come one by one (Knuth, Morris, Pratt). The progress is the
// caller's, so that a fork is a copy of one number.
class MarkerMatcher {
 public:
  explicit MarkerMatcher(std::string marker);

  // True when `byte` completes the marker; the progress then starts again.
  bool feed(uint8_t& progress, char byte) const;

 private:
  std::string marker_;
  std::vector<uint8_t> back_;
};

struct EnvelopeState {
  enum class Mode : uint8_t {
    kText,
    kListProbe,  // after a `[` in text
    kCallProbe,  // after a call's first byte in text
    kMarked,     // after the open marker
    kAfterCall,  // behind the open marker, after a call
    kCloseMarker,
    kListStart,
    kListCall,  // after a comma of the list
    kListNext,  // after a call of the list
    kCall,
    kFinished,
  };

  Mode mode = Mode::kText;
  uint8_t marker = 0;  // progress in the open or close marker
  bool in_list = false;
  bool in_marker = false;   // behind the open marker
  bool prose = false;       // text other than white space has been read since the last call
  uint32_t probed = 0;      // how much of the text that a call is recognised by has been matched
  uint32_t call_begin = 0;  // of the call that has begun, or may have

  // Outside calls, where a model may also be writing prose.
  bool in_text() const { return mode <= Mode::kCallProbe; }
  // In text: whether its last bytes may be the beginning of a marker, call or list.
  bool may_begin_call() const { return marker > 0 || mode != Mode::kText; }
  // Whether the model may end the response here.
  bool may_end() const { return in_text() || mode == Mode::kAfterCall; }
  // Equal for two states of one mode and in_text() at the same place of the syntax.
  uint64_t fingerprint() const;
};

class Envelope {
 public:
  enum class Event : uint8_t { kNone, kCallBegin, kResponseEnd, kMalformed, kTooManyCalls };

  Envelope(const CallFormat& format, CallOpening opening, uint32_t max_calls);

  // Reads a byte outside calls; `position` counts it, `calls` have been closed. After kCallBegin
  // the call is to be read from state.call_begin on.
  Event read(EnvelopeState& state, char byte, uint32_t position, uint32_t calls) const;
  // A call ended, the `calls`-th.
  Event end_call(EnvelopeState& state, uint32_t calls) const;

 private:
  using Mode = EnvelopeState::Mode;

  Event read_text(EnvelopeState& state, char byte, uint32_t position, uint32_t calls) const;
  Event read_marked(EnvelopeState& state, char byte, uint32_t position, uint32_t calls) const;
  Event read_close_marker(EnvelopeState& state, char byte, uint32_t calls) const;
  Event read_list_next(EnvelopeState& state, char byte, uint32_t calls) const;
  bool recognise(EnvelopeState& state, char byte) const;
  Event begin_call(EnvelopeState& state, uint32_t begin, uint32_t calls) const;

  MarkerMatcher open_marker_;
  std::string close_marker_;
  CallOpening opening_;
  uint32_t max_calls_;
};

}  // namespace toolprm
