"""What a search tells while it goes on. The last event of every stream is its `SearchResult`."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from toolprm_lite._core import StepSearch
from toolprm_lite.search.result import Call, SearchResult, Step
from toolprm_lite.search.text import closed_calls, made_step


@dataclass(frozen=True, slots=True)
class StepDecided:
    """A candidate that decided this step was kept. Told once for each step; what other beams
    decided in its place may still win."""

    round: int
    step: Step


@dataclass(frozen=True, slots=True)
class BeamKept:
    """A candidate of this round was kept: the next round goes on from it.

    `beam` is the place, from 0, of the beam that it came from, `text` what it added to that one,
    `kinds` the steps that this decided. `draws` is 0 for a candidate that came without being drawn.
    """

    round: int
    beam: int
    text: str
    kinds: list[str]
    score: float
    draws: int


@dataclass(frozen=True, slots=True)
class BeamDropped:
    """A candidate was dropped; the fields are as in `BeamKept`.

    `fate` says why: `merged` with an equal one, a `variant` of a kept decision, `outscored`,
    `unfinished` (a limit, or the stop, came first), or how its response became invalid.
    """

    round: int
    beam: int
    text: str
    kinds: list[str]
    score: float
    draws: int
    fate: str


@dataclass(frozen=True, slots=True)
class CallFinished:
    """A call that is whole, and the same in every beam that can still become the answer.

    Promised: whatever follows, a deadline or a cancel included, `SearchResult.calls[index]` will
    be this call, with this name and these arguments. It may be acted on before the list is
    finished. Only an exception ends a stream without the result.

    Not promised: that it is right, nor that calls which are in the result have been told. As long
    as a response without it is kept (one that declines, say), it is not told.
    """

    index: int
    call: Call


T = TypeVar("T")
Event: TypeAlias = StepDecided | BeamKept | BeamDropped | CallFinished | SearchResult


class Listener:
    """Asks a search, which must record its trace, what has happened since the last time."""

    def __init__(self, search: StepSearch, kinds: Sequence[str]) -> None:
        """`kinds` are the steps whose reward is a probability."""
        self._search = search
        self._kinds = kinds
        self._finished = 0

    def follow(self, rounds: Generator[None, None, T]) -> Generator[Event, None, T]:
        """Go through the rounds of a search and tell the events of each."""
        while True:
            try:
                next(rounds)
            except StopIteration as end:
                yield from self._news()
                value: T = end.value
                return value
            yield from self._news()

    def _news(self) -> Iterator[Event]:
        for entry, steps, response in self._search.news():
            turn, beam, text, kinds, score, draws, fate = entry
            for step, reward, logprob in steps:
                yield StepDecided(turn, made_step(step, response, reward, logprob, self._kinds))
            written = text.decode("utf-8", "replace")
            if fate == "kept":
                yield BeamKept(turn, beam, written, kinds, score, draws)
            else:
                yield BeamDropped(turn, beam, written, kinds, score, draws, fate)
        yield from self._finished_calls()

    def _finished_calls(self) -> Iterator[CallFinished]:
        beams = [closed_calls(steps, response) for response, steps in self._search.beams()]
        for calls in zip(*(calls[self._finished :] for calls in beams), strict=False):
            # As text: to Python 1, 1.0 and true are equal.
            if len({json.dumps(call, sort_keys=True) for call in calls}) != 1:
                break
            yield CallFinished(self._finished, calls[0])
            self._finished += 1
