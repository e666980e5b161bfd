"""A queue for an application whose threads each ask for themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from queue import SimpleQueue

from toolprm_lite.errors import ConfigError, QueueFull
from toolprm_lite.reward.base import RewardChoice
from toolprm_lite.search.config import SearchConfig
from toolprm_lite.search.events import Event
from toolprm_lite.search.job import Job
from toolprm_lite.search.limits import Limits
from toolprm_lite.search.request import Messages, SearchRequest, Tools, settings
from toolprm_lite.search.result import SearchResult
from toolprm_lite.search.searcher import Searcher


class SearchQueue:
    """A queue for threads that ask on their own, with one model for all of them.

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
        self._held: list[Future[SearchResult]] = []
        self._worker: threading.Thread | None = None

    def __len__(self) -> int:
        """Searches that run or wait."""
        self._searcher.engine.lock.refuse_inherited()
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

    def stream(
        self,
        messages: Messages,
        tools: Tools,
        config: SearchConfig | None = None,
        *,
        reward: RewardChoice = "auto",
        cancel: threading.Event | None = None,
    ) -> Generator[Event, None, None]:
        """`Searcher.stream` by way of the queue, from this call on: other searches go on while
        nobody reads, and closing the generator cancels the search. Raises as `submit` does."""
        events: SimpleQueue[Event | None] = SimpleQueue()
        left = threading.Event()
        request = SearchRequest(messages, tools, config)
        future = self._submit(request, reward, cancel, left, sink=events.put)
        future.add_done_callback(lambda _: events.put(None))
        return self._read(events, future, left)

    def _read(
        self,
        events: SimpleQueue[Event | None],
        future: Future[SearchResult],
        left: threading.Event,
    ) -> Generator[Event, None, None]:
        try:
            while True:
                if not future.done():
                    self._searcher.engine.lock.check()
                event = events.get()
                if event is None:
                    break
                yield event
            yield future.result()
        finally:
            left.set()

    def _submit(
        self,
        request: SearchRequest,
        reward: RewardChoice,
        *cancels: threading.Event | None,
        sink: Callable[[Event], None] | None = None,
    ) -> Future[SearchResult]:
        self._searcher.engine.lock.refuse_inherited()
        limits = Limits.of(settings(request.config), *cancels)
        job = self._searcher.job(request, reward, limits, sink=sink)
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
        self._searcher.engine.lock.check()
        left = threading.Event()
        try:
            request = SearchRequest(messages, tools, config)
            return self._submit(request, reward, cancel, left).result()
        except BaseException:
            left.set()  # an interrupt: no caller waits for this search any more
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
                self._searcher.engine.serve(self._arrivals, self._news)
        except BaseException as error:
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
