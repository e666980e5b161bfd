"""One search on its way through the engine."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from toolprm_lite._core import StepSearch
from toolprm_lite.backends.base import Prefill
from toolprm_lite.search.events import Event, Listener
from toolprm_lite.search.limits import Limits
from toolprm_lite.search.loop import Answer, ModelRequest, Prepared, RowsRequest, Timing
from toolprm_lite.search.outcome import judged_kinds
from toolprm_lite.search.result import Stop


@dataclass(slots=True)
class Ended:
    """What became of a search: `prepared` is None where it was stopped before it began."""

    prepared: Prepared | None
    prefill: Prefill
    stopped: Stop | None
    timing: Timing
    seconds: float  # since it was admitted


@dataclass(slots=True, eq=False)
class Job:
    """A search that an engine drives. The holder of the model calls `prepare` and `conclude`;
    `prepare` gives None for a search that needs no model step. `sink` gets the events, where they
    are wanted, in the thread that drives. The result, or the error, goes into `future`."""

    limits: Limits
    prepare: Callable[[], Prepared | None]
    conclude: Callable[[Ended], Any]
    future: Future[Any] = field(default_factory=Future)
    sink: Callable[[Event], None] | None = None

    prepared: Prepared | None = None
    layers: tuple[int, ...] = ()  # that its reward reads
    timing: Timing = field(default_factory=Timing)
    prefill: Prefill = field(default_factory=lambda: Prefill(0, 0, None))
    stopped: Stop | None = None
    started: float = 0.0  # when it was admitted first
    begun: bool = False  # its first token's distribution is known
    requests: Generator[ModelRequest, Answer, None] | None = None
    request: ModelRequest = None  # the last one
    prompt: int | None = None  # its number, while it is admitted
    prompt_begun: bool = False
    sequences: dict[int, int] = field(default_factory=dict)  # its own, and the backend's for them
    renumbered: bool = False  # some sequence has another number in the backend
    has_all_room: bool = False  # it was alone when it was last given room
    stepped: int = 0  # the last model step it took part in
    cells_max: int = 0  # that its branches have held
    listener: Listener | None = None

    @property
    def search(self) -> StepSearch:
        assert self.prepared is not None
        return self.prepared.search

    @property
    def cells(self) -> int:
        """Cells that its branches hold."""
        assert self.prepared is not None
        return self.prepared.search.cells - len(self.prepared.prompt)

    @property
    def rows(self) -> RowsRequest:
        """The rows that it waits for."""
        assert isinstance(self.request, RowsRequest)
        return self.request

    @property
    def waits_for_room(self) -> bool:
        return isinstance(self.request, RowsRequest) and len(self.request.batch.tokens) == 0

    def add_prefill(self, part: Prefill, seconds: float) -> None:
        """A part of the prompt is done; it took so long, of which the model's time is known where
        it is the last part."""
        self.timing.prefill += seconds if part.output is None else part.output.model_seconds
        reused = 0 if self.prompt_begun else part.reused_tokens
        self.prompt_begun = True
        self.prefill = Prefill(
            self.prefill.reused_tokens + reused,
            self.prefill.prefill_tokens + part.prefill_tokens,
            part.output,
        )

    def listen(self) -> None:
        """Report what has happened in the search since the last time."""
        if self.sink is None:
            return
        if self.listener is None:
            assert self.prepared is not None
            self.listener = Listener(self.search, judged_kinds(self.prepared.reward))
        for event in self.listener.news():
            self.sink(event)
