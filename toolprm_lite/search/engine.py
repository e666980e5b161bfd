"""The only driver of a model: it owns the backend, the lock and the scheduler.

A lone search is one job; a stream is a job whose events are wanted; several jobs share model steps.
The caller that wants results drives its jobs, and holds the model's lock while they run.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from toolprm_lite.backends.base import Backend
from toolprm_lite.prompt import parse_messages
from toolprm_lite.reward.base import Reward
from toolprm_lite.reward.margin import NO_MARGIN
from toolprm_lite.search.config import SearchConfig
from toolprm_lite.search.events import Event
from toolprm_lite.search.future import ResultFuture
from toolprm_lite.search.job import Ended, Job
from toolprm_lite.search.limits import Limits, OwnCancel
from toolprm_lite.search.loop import Prepared
from toolprm_lite.search.model_lock import Hold, ModelLock
from toolprm_lite.search.outcome import (
    found_result,
    found_stats,
    unsearched_result,
)
from toolprm_lite.search.prepare import Preparer
from toolprm_lite.search.request import SearchRequest, checked_tools, settings
from toolprm_lite.search.result import SearchResult, Stats
from toolprm_lite.search.scheduler import Scheduler, conclude
from toolprm_lite.tools import Tool


class Engine:
    """Searches with one model, for any number of callers and threads."""

    def __init__(self, backend: Backend, model: str) -> None:
        """`model` is the name that results carry."""
        self.backend = backend
        self.model = model
        self.lock = ModelLock()
        self.preparer = Preparer(backend)
        self._scheduler = Scheduler(backend)

    # Jobs

    def job(
        self,
        request: SearchRequest,
        reward: Reward,
        limits: Limits,
        *,
        sink: Callable[[Event], None] | None = None,
    ) -> Job:
        """A search whose future gets a `SearchResult`, and `sink` its events as they happen.

        Raises what is wrong with the input as far as no model is needed to see it.
        """
        config = settings(request.config)
        messages = parse_messages(request.messages)
        tools = checked_tools(request.tools)

        def prepare() -> Prepared | None:
            if config.tool_choice == "none":
                return None
            return self.preparer.prepare(messages, tools, config, reward, sink is not None)

        def finish(ended: Ended) -> SearchResult:
            return self._result(ended, config, reward, tools)

        return self._own_job(limits, prepare, finish, sink)

    def record_job(self, request: SearchRequest, reward: Reward) -> Job:
        """Whole responses, the most likely one among them. The future gets the search and its
        `Stats`. Raises as `job` does."""
        config = replace(
            settings(request.config), strategy="best-of-n", trace=True, margin=NO_MARGIN
        )
        messages = parse_messages(request.messages)
        tools = checked_tools(request.tools)

        def prepare() -> Prepared:
            return self.preparer.prepare(messages, tools, config, reward, follow_argmax=True)

        def finish(ended: Ended) -> tuple[Any, Stats]:
            assert ended.prepared is not None
            return ended.prepared.search, _stats(ended)

        return self._own_job(Limits(), prepare, finish)

    def _result(
        self, ended: Ended, config: SearchConfig, reward: Reward, tools: list[Tool]
    ) -> SearchResult:
        if ended.prepared is None:
            return unsearched_result(config, reward, self.model, tools, ended.stopped)
        return found_result(
            ended.prepared, config, reward, self.model, _stats(ended), tools, ended.stopped
        )

    def _own_job(
        self,
        limits: Limits,
        prepare: Callable[[], Prepared | None],
        finish: Callable[[Ended], Any],
        sink: Callable[[Event], None] | None = None,
    ) -> Job:
        """A job that fails alone where its own cancels can't be asked."""
        own = tuple(map(OwnCancel, limits.cancels))

        def concluded(ended: Ended) -> Any:
            for cancel in own:
                if cancel.error is not None:
                    raise cancel.error
            return finish(ended)

        future = ResultFuture(self.lock)
        job = Job(replace(limits, cancels=own), prepare, concluded, future, sink)
        future.set_running_or_notify_cancel()  # only its limits cancel it
        return job

    # Driving

    def run(self, jobs: Iterable[Job]) -> None:
        """Search until all of these jobs have ended. Raises only what is no job's own."""
        for _ in self._drive(list(jobs)):
            pass

    def stream(self, job: Job, events: deque[Event]) -> Generator[Event, None, None]:
        """The events of a job, which its sink puts into `events`, as they happen. The model is held
        until the last one has been read, or the generator is closed; errors are in the job's
        future."""
        for _ in self._drive([job]):
            while events:
                yield events.popleft()
                self.lock.mark()

    def serve(self, arrivals: Callable[[], list[Job]], news: threading.Event) -> None:
        """Search until nothing is left and nothing arrives. `news` is set when something has
        arrived: a model step later it takes part. An error of any kind ends only its own job."""
        for _ in self._drive(arrivals(), arrivals, news, BaseException):
            pass

    @contextmanager
    def alone(self) -> Iterator[Backend]:
        """The backend, while nobody searches."""
        hold = Hold()
        try:
            self.lock.acquire(hold, Limits())
            yield self.backend
        finally:
            self.lock.release(hold)

    def _drive(
        self,
        jobs: list[Job],
        arrivals: Callable[[], list[Job]] = list,
        news: threading.Event | None = None,
        own: type[BaseException] = Exception,
    ) -> Generator[None, None, None]:
        """Yields after every model step. Closed early it drops its jobs."""
        scheduler, waiting = self._scheduler, jobs
        events = () if news is None else (news,)
        while waiting:
            hold = Hold()
            try:
                if self.lock.acquire(hold, _limits(waiting, events)) is not None:
                    waiting = [*_still_waiting(waiting, own), *arrivals()]
                    continue
                scheduler.own = own
                scheduler.arrived = bool if news is None else news.is_set
                for job in waiting:
                    scheduler.add(job)
                waiting = []
                while scheduler.busy:
                    scheduler.step()
                    yield
                    for job in arrivals():
                        scheduler.add(job)
            except GeneratorExit:
                scheduler.abandon()
                raise
            except BaseException as error:
                scheduler.fail(error)
                for job in waiting:
                    job.future.set_exception(error)
                waiting = []
                if not isinstance(error, Exception):
                    raise
            finally:
                self.lock.release(hold)
            waiting = arrivals()


def _stats(ended: Ended) -> Stats:
    assert ended.prepared is not None
    stats = found_stats(ended.prepared, ended.prefill, ended.timing)
    stats.ms["total"] = 1e3 * ended.seconds
    return stats


def _limits(jobs: list[Job], events: tuple[threading.Event, ...]) -> Limits:
    """Reached when those of any job are, or an event is set."""
    ends = [job.limits.ends for job in jobs if job.limits.ends is not None]
    cancels = tuple(event for job in jobs for event in job.limits.cancels)
    return Limits(min(ends, default=None), None, (*cancels, *events))


def _still_waiting(jobs: list[Job], own: type[BaseException]) -> list[Job]:
    """Ends the jobs whose limits are reached, without the model."""
    left = []
    for job in jobs:
        job.stopped = job.limits.reached()
        if job.stopped is None:
            left.append(job)
        else:
            conclude(job, None, own)
    return left
