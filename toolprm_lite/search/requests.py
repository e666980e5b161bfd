"""Requests of several searches: what `search_many` takes, and a queue for an application whose
threads each ask for themselves."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from toolprm_lite.errors import ConfigError, QueueFull
from toolprm_lite.search.config import SearchConfig
from toolprm_lite.search.model_lock import ModelLock
from toolprm_lite.search.result import SearchResult
from toolprm_lite.search.scheduler import Job, Scheduler
from toolprm_lite.tools import Tool

if TYPE_CHECKING:
    from toolprm_lite.search.searcher import RewardChoice, Searcher

Messages: TypeAlias = str | Sequence[Mapping[str, Any]]
Tools: TypeAlias = Iterable[Tool | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One question of many; the fields are those of `Searcher.search`. `config`: None is that of
    the call."""

    messages: Messages
    tools: Tools
    config: SearchConfig | None = None


class Answer(Future[SearchResult]):
    """A search's result to come. To wait for it is an error where the waiting thread itself keeps
    the model from the search, and in a forked child."""

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


class SearchQueue:
    """Searches that threads ask for, each for itself, with one model for all of them.

    What waits is searched together, as by `Searcher.search_many`: a search that is asked for while
    others run joins them at their next model step. There is nothing to close: a thread of the
    queue's own works as long as there is something to do, and holds the model meanwhile, so the
    searcher's other methods wait until the queue is empty.

    `length` bounds the searches that run or wait.
    """

    def __init__(self, searcher: Searcher, length: int = 64) -> None:
        if length < 1:
            raise ConfigError(f"length is {length!r}; a queue holds at least 1 search")
        self.length = length
        self._searcher = searcher
        self._mutex = threading.Lock()
        self._arrived: list[Job] = []
        self._news = threading.Event()  # that something has
        self._scheduler = Scheduler(searcher._backend, self._news.is_set, BaseException)
        self._held: list[Future[SearchResult]] = []
        self._worker: threading.Thread | None = None

    def __len__(self) -> int:
        """Searches that run or wait."""
        self._searcher._lock.refuse_inherited()
        return sum(not future.done() for future in list(self._held))

    def submit(
        self,
        messages: Messages,
        tools: Tools,
        config: SearchConfig | None = None,
        *,
        reward: RewardChoice = "auto",
        cancel: threading.Event | None = None,
    ) -> Future[SearchResult]:
        """Ask for a search. The arguments are those of `Searcher.search`; the clock of a deadline
        begins now. `asyncio.wrap_future` makes the answer one that a task can wait for; only
        `cancel` cancels the search.

        Raises `QueueFull` when the queue is full, and at once what is wrong with the input.
        """
        return self._submit(SearchRequest(messages, tools, config), reward, cancel)

    def _submit(
        self, request: SearchRequest, reward: RewardChoice, *cancels: threading.Event | None
    ) -> Future[SearchResult]:
        self._searcher._lock.refuse_inherited()
        job = self._searcher._job(request, reward, *cancels)
        with self._mutex:
            self._held = [future for future in self._held if not future.done()]
            if len(self._held) >= self.length:
                raise QueueFull(
                    f"the queue holds {self.length} searches, as many as it may; try again when "
                    "one has ended, or make it longer"
                )
            self._held.append(job.future)
            self._arrived.append(job)
            self._news.set()
            # A worker that an interrupt kept from starting is not alive, and is replaced.
            worker = self._worker
            start = worker is None or not worker.is_alive()
            if start:
                worker = self._worker = threading.Thread(target=self._work, name="toolprm-queue")
        if start:
            assert worker is not None
            try:
                worker.start()
            except Exception as error:
                self._give_up(worker, error)
                raise
        return job.future

    def search(
        self,
        messages: Messages,
        tools: Tools,
        config: SearchConfig | None = None,
        *,
        reward: RewardChoice = "auto",
        cancel: threading.Event | None = None,
    ) -> SearchResult:
        """`Searcher.search` by way of the queue. Raises `QueueFull` too."""
        self._searcher._lock.check()
        left = threading.Event()
        try:
            request = SearchRequest(messages, tools, config)
            return self._submit(request, reward, cancel, left).result()
        except BaseException:
            left.set()  # an interrupt: nobody waits for this search any more
            raise

    def _arrivals(self) -> list[Job]:
        with self._mutex:
            arrived, self._arrived = self._arrived, []
            self._news.clear()
            return arrived

    def _work(self) -> None:
        worker = threading.current_thread()
        try:
            while True:
                with self._mutex:
                    if self._worker is not worker:  # an interrupted start, since replaced
                        return
                    if not self._arrived:
                        self._worker = None
                        return
                self._searcher._serve(self._scheduler, self._arrivals, (self._news,))
        except BaseException as error:  # the callers that wait for a result are told
            self._give_up(worker, error)

    def _give_up(self, worker: threading.Thread, error: BaseException) -> None:
        """End what this worker will not search; the next that arrives starts a new one."""
        with self._mutex:
            if self._worker is not worker:
                return
            self._worker = None
            arrived, self._arrived = self._arrived, []
            self._news.clear()
        for job in arrived:
            job.future.set_exception(error)
