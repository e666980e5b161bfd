"""Waits that would have no end are errors; all others end."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from contextvars import copy_context
from functools import partial
from typing import Any

import pytest

from support.mock_backend import MockBackend
from support.weather import QUESTION, RESPONSES, TOOLS, plain, settings
from toolprm_lite import Searcher, SearchQueue, SearchResult
from toolprm_lite.errors import ModelError, ToolprmError

GREEDY = settings("greedy")
ASKED = (QUESTION, TOOLS, GREEDY)
LIMIT = 30.0  # seconds; a wait that would have no end fails the test


def opened() -> tuple[Searcher, SearchQueue, Any]:
    """A searcher, its queue, and a stream of it that this context has begun to read."""
    searcher = Searcher(MockBackend(RESPONSES))
    stream = searcher.stream(QUESTION, TOOLS, settings("step-beam"))
    next(stream)
    return searcher, SearchQueue(searcher), stream


def within(work: Callable[[], None]) -> None:
    """Call in a thread of its own, which must end."""
    errors: list[BaseException] = []

    def call() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive(), "it waits without end"
    if errors:
        raise errors[0]


SAME_THREAD: dict[str, Callable[[Searcher, SearchQueue], Any]] = {
    "search": lambda searcher, queue: searcher.search(*ASKED),
    "search_many": lambda searcher, queue: searcher.search_many([ASKED[:2]], GREEDY),
    "stream": lambda searcher, queue: next(searcher.stream(*ASKED)),
    "queue.search": lambda searcher, queue: queue.search(*ASKED),
    "queue.submit": lambda searcher, queue: queue.submit(*ASKED).result(),
    "exception": lambda searcher, queue: queue.submit(*ASKED).exception(),
    "close": lambda searcher, queue: searcher.close(),
    "forget": lambda searcher, queue: searcher.forget(),
}


@pytest.mark.parametrize("way", SAME_THREAD)
def test_inside_a_stream_of_ones_own(way: str) -> None:
    def work() -> None:
        searcher, queue, stream = opened()
        with pytest.raises(ToolprmError, match="stream that this thread or task reads"):
            SAME_THREAD[way](searcher, queue)
        assert isinstance([*stream][-1], SearchResult)
        assert queue.search(*ASKED).complete

    within(work)


@pytest.mark.parametrize("way", SAME_THREAD)
def test_inside_a_reward(way: str) -> None:
    """Of a search alone and of one in a queue, whose thread would wait for itself."""

    def work() -> None:
        searcher = Searcher(MockBackend(RESPONSES))
        queue = SearchQueue(searcher)

        def judge(steps: list[Any]) -> list[float]:
            SAME_THREAD[way](searcher, queue)
            return [0.5] * len(steps)

        for ask in (searcher.search, queue.search):
            with pytest.raises(ToolprmError, match="nor can a reward search"):
                ask(*ASKED, reward=judge)
        assert queue.search(*ASKED).complete

    within(work)


def test_inside_a_callback_of_a_future() -> None:
    def work() -> None:
        searcher = Searcher(MockBackend(RESPONSES))
        queue = SearchQueue(searcher)
        seen: Future[BaseException | None] = Future()

        def ask(_: Future[SearchResult]) -> None:
            try:
                queue.search(*ASKED)
            except ToolprmError as error:
                seen.set_result(error)
            else:
                seen.set_result(None)

        go = threading.Event()
        searcher.engine.backend.on_step = lambda tokens: go.wait(LIMIT)
        queue.submit(*ASKED).add_done_callback(ask)
        go.set()
        assert isinstance(seen.result(LIMIT), ToolprmError)
        assert queue.search(*ASKED).complete

    within(work)


def test_what_is_asked_for_inside_a_stream_may_be_read_behind_it() -> None:
    def work() -> None:
        _, queue, stream = opened()
        future = queue.submit(*ASKED)
        stream.close()
        assert future.result(LIMIT).complete

    within(work)


TASKS: dict[str, Callable[[Searcher], Any]] = {
    "asearch": lambda searcher: searcher.asearch(*ASKED),
    "gathered": lambda searcher: asyncio.gather(searcher.asearch(*ASKED)),
    "task": lambda searcher: asyncio.create_task(searcher.asearch(*ASKED)),
    "timeout": lambda searcher: asyncio.wait_for(searcher.asearch(*ASKED), LIMIT / 2),
    "to_thread": lambda searcher: asyncio.to_thread(searcher.search, *ASKED),
    "astream": lambda searcher: anext(searcher.astream(*ASKED)),
    "blocking": lambda searcher: asyncio.sleep(0, searcher.search(*ASKED)),
}


@pytest.mark.parametrize("way", TASKS)
def test_inside_a_stream_of_the_same_task(way: str) -> None:
    async def ask() -> None:
        searcher, _, stream = opened()
        with pytest.raises(ToolprmError, match="stream that this thread or task reads"):
            await TASKS[way](searcher)
        stream.close()
        assert (await searcher.asearch(*ASKED)).complete

    within(lambda: asyncio.run(ask()))


def test_inside_a_stream_that_was_opened_before_the_event_loop() -> None:
    def work() -> None:
        searcher, _, stream = opened()
        with pytest.raises(ToolprmError, match="stream"):
            asyncio.run(searcher.asearch(*ASKED))
        stream.close()

    within(work)


def test_another_task_waits_until_the_stream_ends() -> None:
    async def reads(searcher: Searcher) -> None:
        for _ in searcher.stream(QUESTION, TOOLS, settings("step-beam")):
            await asyncio.sleep(0.001)

    async def ask() -> None:
        searcher = Searcher(MockBackend(RESPONSES))
        _, result = await asyncio.gather(reads(searcher), searcher.asearch(*ASKED))
        assert result.complete

    within(lambda: asyncio.run(ask()))


def test_a_blocking_search_beside_a_stream_of_another_task() -> None:
    """The loop's only thread would wait, so the stream's task could not go on."""

    async def ask() -> None:
        searcher = Searcher(MockBackend(RESPONSES))
        begun, done = asyncio.Event(), asyncio.Event()

        async def reads() -> None:
            for _ in searcher.stream(QUESTION, TOOLS, settings("step-beam")):
                begun.set()
                await done.wait()

        async def blocks() -> None:
            await begun.wait()
            try:
                with pytest.raises(ToolprmError, match="stream"):
                    searcher.search(*ASKED)
            finally:
                done.set()

        await asyncio.gather(blocks(), reads())

    within(lambda: asyncio.run(ask()))


@pytest.mark.parametrize("inner", ["asearch", "search", "queue.search", "astream"])
def test_inside_an_asynchronous_stream_all_go_on(inner: str) -> None:
    """Its search runs in a thread of its own, which does not wait for the reader."""

    async def ask() -> None:
        searcher = Searcher(MockBackend(RESPONSES))
        queue = SearchQueue(searcher)
        async with aclosing(searcher.astream(QUESTION, TOOLS, settings("step-beam"))) as events:
            async for event in events:
                if isinstance(event, SearchResult):
                    return
                if inner == "asearch":
                    found: Any = await searcher.asearch(*ASKED)
                elif inner == "astream":
                    found = [event async for event in searcher.astream(*ASKED)][-1]
                else:
                    found = SAME_THREAD[inner](searcher, queue)
                assert found.complete

    within(lambda: asyncio.run(ask()))


def test_a_pools_thread_that_read_a_stream_may_wait_for_it() -> None:
    """A web server's pool reads a stream step by step, each in whatever thread is idle, within a
    copy of the request's context."""

    def work() -> None:
        searcher = Searcher(MockBackend(RESPONSES))
        stream = searcher.stream(QUESTION, TOOLS, settings("step-beam"))
        first, second = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        first.submit(copy_context().run, next, stream).result(LIMIT)
        waits = first.submit(copy_context().run, partial(searcher.search, *ASKED))
        time.sleep(0.05)
        assert not waits.done()
        second.submit(copy_context().run, list, stream).result(LIMIT)
        assert waits.result(LIMIT).complete

    within(work)


def test_a_stream_may_be_closed_by_another_thread() -> None:
    def work() -> None:
        searcher, queue, stream = opened()
        thread = threading.Thread(target=stream.close)
        thread.start()
        thread.join(LIMIT)
        assert searcher.search(*ASKED).complete
        assert queue.search(*ASKED).complete

    within(work)


def test_a_stream_that_is_being_read_can_not_be_closed() -> None:
    def work() -> None:
        searcher = Searcher(MockBackend(RESPONSES))
        reached, go = threading.Event(), threading.Event()

        def wait(tokens: int) -> None:
            reached.set()
            go.wait(LIMIT)

        searcher.engine.backend.on_step = wait
        stream = searcher.stream(QUESTION, TOOLS, GREEDY)
        events: list[Any] = []
        thread = threading.Thread(target=lambda: events.extend(stream))
        thread.start()
        assert reached.wait(LIMIT)
        with pytest.raises(ValueError, match="already executing"):
            stream.close()
        go.set()
        thread.join(LIMIT)
        assert isinstance(events[-1], SearchResult)
        assert searcher.search(*ASKED).complete

    within(work)


def test_a_forgotten_stream_lets_the_model_go() -> None:
    def work() -> None:
        searcher, _, stream = opened()
        del stream
        gc.collect()
        assert searcher.search(*ASKED).complete

    within(work)


def test_a_reader_that_fails_lets_the_model_go() -> None:
    def work() -> None:
        searcher, queue, stream = opened()
        stream.close()

        def read() -> None:
            for _ in searcher.stream(*ASKED):
                raise KeyError("listener")

        with pytest.raises(KeyError):
            read()
        gc.collect()
        assert queue.search(*ASKED).complete

        async def fails() -> None:
            async with aclosing(searcher.astream(*ASKED)) as events:
                async for _ in events:
                    raise KeyError("listener")

        with pytest.raises(KeyError):
            asyncio.run(fails())
        assert queue.search(*ASKED).complete

    within(work)


# Ends


def test_a_queue_outlives_the_names_of_it_and_of_its_searcher() -> None:
    def work() -> None:
        searcher = Searcher(MockBackend(RESPONSES))
        usual = plain(searcher.search(*ASKED))
        go = threading.Event()
        searcher.engine.backend.on_step = lambda tokens: go.wait(LIMIT)
        queue = SearchQueue(searcher)
        futures = [queue.submit(*ASKED) for _ in range(3)]
        model = weakref.ref(searcher.engine.backend)
        del searcher, queue
        gc.collect()
        go.set()
        assert [plain(future.result(LIMIT)) for future in futures] == [usual] * 3
        del futures
        ends = time.monotonic() + LIMIT
        while model() is not None and time.monotonic() < ends:
            time.sleep(0.01)
            gc.collect()
        assert model() is None

    within(work)


def test_closing_while_a_queue_works_waits_for_it() -> None:
    class Closable(MockBackend):
        closed = False

        def close(self) -> None:
            self.closed = True

        def tokenize(self, text: str) -> list[int]:
            if self.closed:
                raise ModelError("the model is closed; open it again")
            return super().tokenize(text)

    def work() -> None:
        searcher = Searcher(Closable(RESPONSES))
        queue = SearchQueue(searcher)
        go = threading.Event()
        searcher.engine.backend.on_step = lambda tokens: go.wait(LIMIT)
        futures = [queue.submit(*ASKED) for _ in range(3)]
        thread = threading.Thread(target=searcher.close)
        thread.start()
        go.set()
        # Those that were asked for either end, or are told that they came too late.
        for future in futures:
            error = future.exception(LIMIT)
            assert error is None or (isinstance(error, ModelError) and "closed" in str(error))
        thread.join(LIMIT)
        with pytest.raises(ModelError, match="closed"):
            queue.search(*ASKED)
        with pytest.raises(ModelError, match="closed"):
            searcher.search(*ASKED)

    within(work)


def test_a_queues_search_that_is_interrupted_ends() -> None:
    """Nobody waits for it any more."""
    searcher = Searcher(MockBackend(RESPONSES))
    queue = SearchQueue(searcher)
    go = threading.Event()
    searcher.engine.backend.on_step = lambda tokens: go.wait(LIMIT)
    kept: list[Future[SearchResult]] = []

    class Interrupted(Future[SearchResult]):
        def result(self, timeout: float | None = None) -> SearchResult:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        submit = queue._submit

        def broken(*args: Any) -> Future[SearchResult]:
            kept.append(submit(*args))
            return Interrupted()

        patched.setattr(queue, "_submit", broken)
        with pytest.raises(KeyboardInterrupt):
            queue.search(QUESTION, TOOLS, settings("step-beam"))
    go.set()
    assert kept[0].result(LIMIT).stopped == "cancelled"
    searcher.engine.backend.on_step = lambda tokens: None
    assert queue.submit(*ASKED).result(LIMIT).complete


@pytest.mark.parametrize("way", ["alone", "queue"])
def test_a_cancel_at_any_moment_ends_the_search(way: str) -> None:
    config = settings("step-beam")
    usual = Searcher(MockBackend(RESPONSES)).search(QUESTION, TOOLS, config)
    for moment in range(1, usual.stats.steps + 2):
        searcher = Searcher(MockBackend(RESPONSES))
        cancel, steps = threading.Event(), 0

        def step(tokens: int, moment: int = moment, cancel: Any = cancel) -> None:
            nonlocal steps
            steps += 1
            if steps == moment:
                thread = threading.Thread(target=cancel.set)
                thread.start()
                thread.join()

        searcher.engine.backend.on_step = step
        ask = searcher.search if way == "alone" else SearchQueue(searcher).search
        result = ask(QUESTION, TOOLS, config, cancel=cancel)
        assert steps == moment
        assert result.stopped in ("cancelled", None)
        assert result.stopped == "cancelled" or moment > usual.stats.steps
