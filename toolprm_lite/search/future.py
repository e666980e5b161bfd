"""A search's result to come."""

from __future__ import annotations

from concurrent.futures import Future

from toolprm_lite.search.model_lock import ModelLock
from toolprm_lite.search.result import SearchResult


class ResultFuture(Future[SearchResult]):
    """A future that refuses a wait without end: it raises where the waiting thread itself keeps the
    model from the search, and in a forked child."""

    def __init__(self, lock: ModelLock) -> None:
        super().__init__()
        self._lock = lock

    def result(self, timeout: float | None = None) -> SearchResult:
        self._check()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._check()
        return super().exception(timeout)

    def _check(self) -> None:
        if self._state != "FINISHED":  # not done(): a fork may have caught its lock in use
            self._lock.check()
