"""Limits of a search: a deadline, a budget of tokens, a cancel."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from toolprm_lite._core import StepSearch
from toolprm_lite.errors import ConfigError
from toolprm_lite.search import clock
from toolprm_lite.search.config import SearchConfig
from toolprm_lite.search.result import Stop

STEP_TOKENS = 64  # that one model step takes where there is a deadline
_POLL = 0.02  # seconds between checks of an event while waiting for the model


class Cancel(Protocol):
    """A `threading.Event`, or an object with the same method."""

    def is_set(self) -> bool: ...


class OwnCancel:
    """A search's cancel among those of others: if it raises, it counts as set, and
    `error` says why, so that its own search alone fails."""

    def __init__(self, event: Cancel) -> None:
        self._event = event
        self.error: Exception | None = None

    def is_set(self) -> bool:
        try:
            return self.error is not None or self._event.is_set()
        except Exception as error:
            self.error = error
            return True


@dataclass(frozen=True, slots=True)
class Limits:
    """`ends` is a reading of the clock; any of `cancels` that is set ends the search."""

    ends: float | None = None
    max_decode_tokens: int | None = None
    cancels: tuple[Cancel, ...] = ()

    @classmethod
    def of(
        cls,
        config: SearchConfig,
        *cancels: Cancel | None,
        called: float | None = None,
    ) -> Limits:
        """The limits of a search that was `called` when the clock said so; None is now.

        Raises `ConfigError` for a cancel that is none.
        """
        for event in cancels:
            if event is not None and not callable(getattr(event, "is_set", None)):
                raise ConfigError(
                    f"cancel is a {type(event).__name__}; give a threading.Event, or None"
                )
        called = clock.now() if called is None else called
        ends = None if config.deadline_ms is None else called + config.deadline_ms / 1e3
        events = tuple(event for event in cancels if event is not None)
        return cls(ends, config.max_decode_tokens, events)

    def reached(self, search: StepSearch | None = None) -> Stop | None:
        """What forbids the next model step: the one that `search` plans, or one of the prompt's."""
        for event in self.cancels:
            if event.is_set():
                return "cancelled"
        if self.ends is not None and clock.now() >= self.ends:
            return "deadline"
        budget = self.max_decode_tokens
        if budget is not None and search is not None and search.planned_tokens > budget:
            return "max_decode_tokens"
        return None

    def acquire(self, lock: threading.Lock) -> Stop | None:
        """Wait for `lock`: None when it is held, else what came before."""
        while True:
            stopped = self.reached()
            if stopped is not None:
                return stopped
            patience = _POLL if self.cancels else threading.TIMEOUT_MAX
            if self.ends is not None:
                patience = min(patience, max(0.0, self.ends - clock.now()))
            if lock.acquire(timeout=patience):
                return None
