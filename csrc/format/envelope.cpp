#include "format/envelope.h"

#include "json/json_machine.h"

namespace toolprm {

namespace {

bool is_space(char byte) { return is_json_space(static_cast<unsigned char>(byte)); }

}  // namespace

MarkerMatcher::MarkerMatcher(std::string marker) : marker_(std::move(marker)) {
  back_.assign(marker_.size() + 1, 0);
  for (size_t i = 1, k = 0; i < marker_.size(); ++i) {
    while (k > 0 && marker_[i] != marker_[k]) k = back_[k];
    if (marker_[i] == marker_[k]) ++k;
    back_[i + 1] = static_cast<uint8_t>(k);
  }
}

bool MarkerMatcher::feed(uint8_t& progress, char byte) const {
  if (marker_.empty()) return false;
  while (progress > 0 && marker_[progress] != byte) progress = back_[progress];
  if (marker_[progress] == byte) ++progress;
  if (progress < marker_.size()) return false;
  progress = 0;
  return true;
}

uint64_t EnvelopeState::fingerprint() const {
  // Of a text nothing counts but how far a call has been begun in it.
  if (in_text()) return uint64_t{marker} | (mode == Mode::kCallProbe ? uint64_t{probed} << 8 : 0);
  return uint64_t{in_list} | uint64_t{in_marker} << 1;
}

Envelope::Envelope(const CallFormat& format, CallOpening opening, uint32_t max_calls)
    : open_marker_(format.open_marker),
      close_marker_(format.close_marker),
      opening_(std::move(opening)),
      max_calls_(max_calls) {}

Envelope::Event Envelope::read(EnvelopeState& state, char byte, uint32_t position,
                               uint32_t calls) const {
  switch (state.mode) {
    case Mode::kText:
    case Mode::kListProbe:
    case Mode::kCallProbe:
      return read_text(state, byte, position, calls);
    case Mode::kMarked:
    case Mode::kListStart:
    case Mode::kListCall:
      return read_marked(state, byte, position, calls);
    case Mode::kListNext:
      return read_list_next(state, byte, calls);
    case Mode::kAfterCall:
      if (is_space(byte)) return Event::kNone;
      if (byte == opening_.first) return begin_call(state, position - 1, calls);
      state.mode = Mode::kCloseMarker;
      state.marker = 0;
      return read_close_marker(state, byte, calls);
    case Mode::kCloseMarker:
      return read_close_marker(state, byte, calls);
    case Mode::kCall:
    case Mode::kFinished:
      break;
  }
  return Event::kNone;
}

Envelope::Event Envelope::read_text(EnvelopeState& state, char byte, uint32_t position,
                                    uint32_t calls) const {
  state.prose = state.prose || !is_space(byte);
  if (open_marker_.feed(state.marker, byte)) {
    state.mode = Mode::kMarked;
    state.in_marker = true;
    return Event::kNone;
  }
  if (state.mode == Mode::kListProbe) {
    if (is_space(byte)) return Event::kNone;
    if (byte == opening_.first || byte == ']') {
      state.in_list = true;
      state.marker = 0;
      return byte == ']' ? Event::kResponseEnd : begin_call(state, position - 1, calls);
    }
  } else if (state.mode == Mode::kCallProbe && recognise(state, byte)) {
    if (state.probed < opening_.recognised_by.size()) return Event::kNone;
    state.marker = 0;
    return begin_call(state, state.call_begin, calls);
  }
  state.mode = Mode::kText;
  if (byte == '[') {
    state.mode = Mode::kListProbe;
  } else if (byte == opening_.first) {
    state.mode = Mode::kCallProbe;
    state.call_begin = position - 1;
    state.probed = 0;
  }
  return Event::kNone;
}

bool Envelope::recognise(EnvelopeState& state, char byte) const {
  if (state.probed == 0 && is_space(byte)) return true;
  if (byte != opening_.recognised_by[state.probed]) return false;
  ++state.probed;
  return true;
}

// Where a call must come: after the open marker, or in a list.
Envelope::Event Envelope::read_marked(EnvelopeState& state, char byte, uint32_t position,
                                      uint32_t calls) const {
  if (is_space(byte)) return Event::kNone;
  if (byte == opening_.first) return begin_call(state, position - 1, calls);
  if (byte == '[' && state.mode == Mode::kMarked) {
    state.in_list = true;
    state.mode = Mode::kListStart;
    return Event::kNone;
  }
  return byte == ']' && state.mode == Mode::kListStart ? Event::kResponseEnd : Event::kMalformed;
}

Envelope::Event Envelope::read_list_next(EnvelopeState& state, char byte, uint32_t calls) const {
  if (is_space(byte)) return Event::kNone;
  if (byte == ']') return Event::kResponseEnd;
  if (byte != ',') return Event::kMalformed;
  if (calls >= max_calls_) return Event::kTooManyCalls;
  state.mode = Mode::kListCall;
  return Event::kNone;
}

Envelope::Event Envelope::read_close_marker(EnvelopeState& state, char byte, uint32_t calls) const {
  if (byte != close_marker_[state.marker]) return Event::kMalformed;
  if (++state.marker < close_marker_.size()) return Event::kNone;
  state.marker = 0;
  state.in_marker = false;
  state.mode = Mode::kText;
  return calls >= max_calls_ ? Event::kResponseEnd : Event::kNone;
}

Envelope::Event Envelope::begin_call(EnvelopeState& state, uint32_t begin, uint32_t calls) const {
  if (calls >= max_calls_) return Event::kTooManyCalls;
  state.mode = Mode::kCall;
  state.prose = false;
  state.call_begin = begin;
  return Event::kCallBegin;
}

Envelope::Event Envelope::end_call(EnvelopeState& state, uint32_t calls) const {
  if (state.in_list) {
    state.mode = Mode::kListNext;
  } else if (state.in_marker && !close_marker_.empty()) {
    state.mode = Mode::kAfterCall;
  } else {
    state.in_marker = false;
    state.mode = Mode::kText;
    if (calls >= max_calls_) return Event::kResponseEnd;
  }
  return Event::kNone;
}

}  // namespace toolprm
