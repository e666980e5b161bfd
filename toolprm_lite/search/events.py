"""The events of a running search. The last event of every stream is its `SearchResult`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from toolprm_lite._core import StepSearch
from toolprm_lite.search.result import SearchResult
from toolprm_lite.search.steps import Call, Step
from toolprm_lite.search.text import closed_calls, made_step
from toolprm_lite.search.trace import TraceNode, trace_node


@dataclass(frozen=True, slots=True)
class StepDecided:
    """A candidate that decided this step was kept. Each step has one such event; what other beams
    decided in its place may still win."""

    round: int
    step: Step


@dataclass(frozen=True, slots=True)
class CallFinished:
    """A call that is whole, and the same in every beam that can still become the answer.

    Promised: whatever follows, a deadline or a cancel included, `SearchResult.calls[index]` will
    be this call, with this name and these arguments. It may be acted on before the list is
    finished. Only an exception ends a stream without the result.

    Not promised: that it is right, nor that every call of the result has such an event. As long as
    a response without it is kept (one that declines, say), there is none.
    """

    index: int
    call: Call


Event: TypeAlias = StepDecided | TraceNode | CallFinished | SearchResult


class Listener:
    """Reads from a search, which must record its trace, what has happened since the last call."""

    def __init__(self, search: StepSearch, kinds: Sequence[str]) -> None:
        """`kinds` are the steps whose reward is a probability."""
        self._search = search
        self._kinds = kinds
        self._nodes = 0  # of the trace that have been reported
        self._decided: set[int] = set()  # steps that have been reported
        self._finished = 0

    def news(self) -> Iterator[Event]:
        """What has happened since the last call."""
        nodes = self._search.trace(self._nodes)
        self._nodes += len(nodes)
        for node in nodes:
            if node.fate == "kept":
                for scored in node.steps:
                    if scored.index not in self._decided:
                        self._decided.add(scored.index)
                        yield StepDecided(node.round, made_step(scored, self._kinds))
            yield trace_node(node, self._kinds)
        yield from self._finished_calls()

    def _finished_calls(self) -> Iterator[CallFinished]:
        beams = [
            closed_calls(scored.step for scored in beam.steps) for beam in self._search.beams()
        ]
        for calls in zip(*(calls[self._finished :] for calls in beams), strict=False):
            # As text: to Python 1, 1.0 and true are equal.
            if len({json.dumps(call, sort_keys=True) for call in calls}) != 1:
                break
            yield CallFinished(self._finished, calls[0])
            self._finished += 1
