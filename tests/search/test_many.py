"""Several searches on one context: each gives what it gives alone."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from support.clock import Clock
from support.mock_backend import MockBackend
from support.numbered_tools import backend, request, responses, tool
from support.step_rewards import KindReward, States
from support.weather import plain, settings
from toolprm_lite import SearchConfig, Searcher, SearchQueue, SearchRequest, SearchResult
from toolprm_lite.constraint import Constraint
from toolprm_lite.errors import (
    ConfigError,
    ConstraintError,
    ContextError,
    ModelError,
    ProblemError,
    QueueFull,
    ToolprmError,
    ToolsError,
)
from toolprm_lite.search.config import STRATEGIES
from toolprm_lite.search.request import RequestsFailed


def requests(count: int, strategy: str = "step-beam", **more: object) -> list[SearchRequest]:
    return [request(n, settings(strategy, seed=n, **more)) for n in range(count)]


def alone(asked: list[SearchRequest], reward: Any = "auto", **more: Any) -> list[SearchResult]:
    searcher = Searcher(backend(**more))
    return [searcher.search(one.messages, one.tools, one.config, reward=reward) for one in asked]


def same(found: list[SearchResult], expected: list[SearchResult]) -> None:
    assert [plain(result) for result in found] == [plain(result) for result in expected]


def answers(found: list[SearchResult]) -> list[dict[str, object]]:
    """Without the counts: what a search gave up for others is decoded again."""
    records = [plain(result) for result in found]
    for record in records:
        del record["stats"]
    return records


# Sixteen at once


@pytest.mark.parametrize("reward", ["policy", States()])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_sixteen_at_once_are_sixteen_alone(strategy: str, reward: object) -> None:
    asked = requests(16, strategy)
    expected = alone(asked, reward)
    assert len({json.dumps(result.calls) for result in expected}) > 8
    model = backend(context=16384, max_sequences=1000)
    found = Searcher(model).search_many(asked, reward=reward)
    same(found, expected)
    assert model.prompts_max == 16
    alone_steps = sum(result.stats.steps for result in expected)
    assert model.steps < alone_steps / 4
    assert len(model.prompts) == 1  # the last one stays, for the next search to reuse


def test_constrained_and_free_searches_share_a_step() -> None:
    asked = requests(6) + requests(6, constrain="on") + requests(6, "greedy", top_k=3)
    same(Searcher(backend(context=16384)).search_many(asked), alone(asked))


def test_more_requests_than_prompts_wait_for_their_turn() -> None:
    asked = requests(20)
    for most in (1, 3, 7):
        model = backend(context=16384, max_prompts=most)
        same(Searcher(model).search_many(asked), alone(asked))
        assert model.prompts_max == most


@pytest.mark.parametrize("room", [50, 100, 200, 400, 1000, 2000])
def test_searches_that_find_no_cells_wait(room: int) -> None:
    asked = requests(12, beams=4, expand=12)
    expected = alone(asked)
    context = max(result.stats.prompt_tokens for result in expected) + room
    model = backend(context=context)
    found = Searcher(model).search_many(asked)
    assert answers(found) == answers(alone(asked, context=context))
    assert 0 < model.cells_max <= context
    assert (model.prompts_max > 1) == (room > 400)


@pytest.mark.parametrize("sequences", [1, 2, 5, 16])
def test_searches_share_few_sequences(sequences: int) -> None:
    asked = requests(12, "best-of-n")
    model = backend(context=16384, max_sequences=sequences)
    found = Searcher(model).search_many(asked)
    assert [result.calls for result in found] == [result.calls for result in alone(asked)]


def test_one_that_runs_long_is_put_back_and_comes_to_the_same_end() -> None:
    """The first admitted grows into the room that the others took."""
    texts = {f"tool_{n} is": {long_call(n, 1): 0.6, long_call(n, 2): 0.4} for n in range(6)}
    asked = requests(6, "best-of-n", max_step_tokens=2000, max_tokens=2000)
    wide = Searcher(MockBackend({"[]": 1.0}, by_prompt=texts, context=32768))
    expected = [wide.search(one.messages, one.tools, one.config) for one in asked]
    prompt = max(result.stats.prompt_tokens for result in expected)
    cells = max(result.stats.kv_cells for result in expected)
    model = MockBackend({"[]": 1.0}, by_prompt=texts, context=cells + prompt + 200)
    found = Searcher(model).search_many(asked)
    assert answers(found) == answers(expected)
    # What was put back was decoded again.
    again = [result.stats.decode_tokens for result in found]
    assert sum(again) > sum(result.stats.decode_tokens for result in expected)


def long_call(number: int, variant: int) -> str:
    arguments = {"city": f"{variant}" + "y" * 150 + f"{number}"}
    return json.dumps([{"name": f"tool_{number}", "arguments": arguments}])


@pytest.mark.parametrize("refuse", [0.2, 0.9])
def test_a_backend_that_refuses_steps_loses_nothing(refuse: float) -> None:
    asked = requests(8)
    model = backend(context=16384, refuse=refuse)
    assert answers(Searcher(model).search_many(asked)) == answers(alone(asked))


def test_a_step_has_a_bounded_number_of_rows() -> None:
    asked = requests(16, "best-of-n", samples=64, temperature=3.0)
    model = backend(context=16384, max_sequences=1000)
    found = Searcher(model).search_many(asked)
    assert 64 < max(model.step_tokens) <= 512
    same(found, alone(asked))


def test_every_search_takes_part_in_every_step() -> None:
    asked = requests(8)
    model = backend(context=16384)
    found = Searcher(model).search_many(asked)
    assert model.steps == max(result.stats.steps for result in found)


def test_rows_beyond_the_limit_take_turns(clock: Clock) -> None:
    """With a deadline a step takes 64 tokens: no search waits much longer than another."""
    asked = requests(16, "best-of-n", samples=32, temperature=2.0, deadline_ms=1e9)
    model = backend(context=16384, max_sequences=200)
    model.on_step = clock.step
    found = Searcher(model).search_many(asked)
    assert max(clock.steps) <= 64
    same(found, alone(asked, max_sequences=200))


# Errors


def test_one_bad_request_loses_no_other() -> None:
    asked: list[Any] = requests(5)
    asked[1] = SearchRequest("What?", [{"name": "f", "parameters": {"type": "nonsense"}}])
    asked[3] = SearchRequest(3, [tool(3)])  # type: ignore[arg-type]
    asked.append(request(5, settings("greedy", tool_choice="nobody")))
    asked.append(SearchRequest("word " * 9000, [tool(1)]))
    good = [asked[n] for n in (0, 2, 4)]
    message = r"4 of 7.*request 1: .*request 6: .*--context"
    with pytest.raises(RequestsFailed, match=message) as raised:
        Searcher(backend(context=8192)).search_many(asked)
    error = raised.value
    kinds = {n: type(one) for n, one in error.errors.items()}
    assert kinds == {1: ToolsError, 3: ProblemError, 5: ConfigError, 6: ContextError}
    assert [n for n, result in enumerate(error.results) if result is None] == [1, 3, 5, 6]
    same([result for result in error.results if result is not None], alone(good))


def test_a_reward_that_fails_fails_its_own_search() -> None:
    def judge(steps: list[Any]) -> list[float]:
        if any(step.function == "tool_2" for step in steps):
            raise KeyError("tool_2")
        return [0.5] * len(steps)

    asked = requests(4)
    with pytest.raises(RequestsFailed, match="request 2: 'tool_2'") as raised:
        Searcher(backend(context=8192)).search_many(asked, reward=judge)
    assert list(raised.value.errors) == [2]
    good = [n for n in range(4) if n != 2]
    same([raised.value.results[n] for n in good], alone([asked[n] for n in good], judge))


def test_a_mask_that_fails_fails_its_own_search(monkeypatch: pytest.MonkeyPatch) -> None:
    start, calls = Constraint.start, 0

    def broken(self: Constraint) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise ConstraintError("no mask")
        return start(self)

    monkeypatch.setattr(Constraint, "start", broken)
    with pytest.raises(RequestsFailed, match="request 1: no mask") as raised:
        Searcher(backend(context=8192)).search_many(requests(3, constrain="on"))
    assert [result is None for result in raised.value.results] == [False, True, False]


def test_a_model_that_fails_fails_what_is_left() -> None:
    model = backend(context=8192, max_prompts=2)
    searcher = Searcher(model)
    asked = requests(6)
    steps = 0

    def step(tokens: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 60:
            raise ModelError("out of order")

    model.on_step = step
    with pytest.raises(RequestsFailed, match="out of order") as raised:
        searcher.search_many(asked)
    done = [n for n, result in enumerate(raised.value.results) if result is not None]
    assert 0 < len(done) < 6
    model.on_step = lambda tokens: None
    same(searcher.search_many(asked), alone(asked))


def test_an_interrupt_ends_them_all() -> None:
    model = backend(context=8192)
    searcher = Searcher(model)

    def interrupt(tokens: int) -> None:
        raise KeyboardInterrupt

    model.on_step = interrupt
    with pytest.raises(KeyboardInterrupt):
        searcher.search_many(requests(3))
    model.on_step = lambda tokens: None
    same(searcher.search_many(requests(3)), alone(requests(3)))


def test_nothing_to_call_and_nothing_asked() -> None:
    searcher = Searcher(backend())
    assert searcher.search_many([]) == []
    (none,) = searcher.search_many([request(1, settings("greedy", tool_choice="none"))])
    assert (none.calls, none.complete) == ([], True)
    pair = ("What would tool_3 is say?", [tool(3)])
    (found,) = searcher.search_many([pair], settings("greedy"))
    same([found], alone([SearchRequest(*pair, settings("greedy"))]))


# Limits


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_limits_are_each_searchs_own(clock: Clock, strategy: str) -> None:
    free = requests(6, strategy)
    expected = alone(free)
    for steps in range(1, 40, 12):
        # Deadlines and budgets of the odd ones; the even ones come to their end.
        asked = [
            one
            if n % 2 == 0
            else request(n, settings(strategy, seed=n, **limit))
            for n, (one, limit) in enumerate(
                zip(free, [{"deadline_ms": 1e3 * steps - 500}, {"max_decode_tokens": steps}] * 3,
                    strict=True)
            )
        ]  # fmt: skip
        asked[1] = request(1, settings(strategy, seed=1, deadline_ms=1e3 * steps - 500))
        model = backend(context=8192)
        model.on_step = clock.step
        clock.steps.clear()
        clock.now = 100.0
        found = Searcher(model).search_many(asked)
        assert answers(found[::2]) == answers(expected[::2])
        for result in found[1::2]:
            assert result.complete == (not result.missing)
            assert result.stopped in (None, "deadline", "max_decode_tokens")
        for n in (3, 5):
            assert found[n].stats.decode_tokens <= steps
        assert found[1].stopped == ("deadline" if steps < 10 else found[1].stopped)


def test_a_deadline_is_met_while_others_are_prefilled(clock: Clock) -> None:
    asked = [request(0, settings("step-beam", deadline_ms=20_500)), *requests(8)[1:]]
    model = backend(context=8192)
    model.on_step = clock.step
    timed, *others = Searcher(model).search_many(asked)
    assert timed.stopped == "deadline"
    assert timed.stats.ms["total"] < 21_500
    # In parts as long as it was there, and whole from then on.
    assert max(clock.steps[:20]) == 64
    assert max(clock.steps[21:]) > 64
    assert [result.stopped for result in others] == [None] * 7
    assert answers(others) == answers(alone(asked[1:]))


def test_those_that_wait_are_stopped_in_time(clock: Clock) -> None:
    asked = [
        request(n, settings("step-beam", deadline_ms=None if n == 0 else 3_500)) for n in range(4)
    ]
    model = backend(context=8192, max_prompts=1)
    model.on_step = clock.step
    first, *others = Searcher(model).search_many(asked)
    assert (first.stopped, first.complete) == (None, True)
    assert [result.stopped for result in others] == ["deadline"] * 3
    assert all(result.missing == ["what to call", "the end of the list"] for result in others)


def test_one_cancel_ends_them_all() -> None:
    cancel = threading.Event()
    model = backend(context=8192)
    model.on_step = lambda tokens: cancel.set() if model.steps == 5 else None
    found = Searcher(model).search_many(requests(6), cancel=cancel)
    assert [result.stopped for result in found] == ["cancelled"] * 6
    assert model.steps == 5
    assert len(model.prompts) == 1  # the last one stays, for the next search to reuse


def test_waiting_for_the_model_ends_in_time() -> None:
    searcher = Searcher(backend(context=8192))
    stream = searcher.stream("tool_1 is", [tool(1)], settings("step-beam"))
    next(stream)
    with pytest.raises(ToolprmError, match="stream"):
        searcher.search_many(requests(2))
    found: list[list[SearchResult]] = []
    thread = threading.Thread(
        target=lambda: found.append(searcher.search_many(requests(3, deadline_ms=30)))
    )
    thread.start()
    thread.join(30)
    assert [result.stopped for result in found[0]] == ["deadline"] * 3
    stream.close()
    same(searcher.search_many(requests(3)), alone(requests(3)))


# Rewards that read other layers, or the request


def test_searches_that_read_other_layers_take_turns() -> None:
    class Deeper(KindReward):
        name = "deeper"
        layers = (3,)

    searcher = Searcher(backend(context=8192))
    queue = SearchQueue(searcher)
    asked = requests(9)
    rewards = [(States(), Deeper(), "policy")[n % 3] for n in range(9)]
    futures = [
        queue.submit(one.messages, one.tools, one.config, reward=reward)
        for one, reward in zip(asked, rewards, strict=True)
    ]
    for future, one, reward in zip(futures, asked, rewards, strict=True):
        same([future.result(30)], alone([one], reward))


def test_a_queue_and_searches_alone_take_turns() -> None:
    """The layers and the prompt that the other search left do not matter."""

    class Deeper(KindReward):
        name = "deeper"
        layers = (3, 1)

    tight = alone(requests(1))[0].stats.prompt_tokens + 120
    searcher = Searcher(backend(context=tight))
    queue = SearchQueue(searcher)
    for n, one in enumerate(requests(6)):
        arguments = (one.messages, one.tools, one.config)
        futures = [queue.submit(*arguments, reward=States()) for _ in range(2)]
        expected = alone([one], States(), context=tight)
        assert answers([future.result(30) for future in futures]) == answers(expected * 2), n
        found = searcher.search(*arguments, reward=Deeper())
        same([found], alone([one], Deeper(), context=tight))


# Threads


def test_sixteen_threads_of_twenty_searches() -> None:
    asked = requests(20)
    expected = alone(asked)
    searcher = Searcher(backend(context=16384, max_sequences=1000))
    queue = SearchQueue(searcher, length=16)
    for way in (searcher.search, queue.search):
        found: dict[tuple[int, int], SearchResult] = {}
        errors: list[BaseException] = []

        def work(thread: int, way: Any = way, found: Any = found, errors: Any = errors) -> None:
            try:
                for n in range(20):
                    one = asked[(thread + n) % 20]
                    result = way(one.messages, one.tools, one.config)
                    found[thread, (thread + n) % 20] = result
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert errors == []
        assert len(found) == 320
        known = [plain(result) for result in expected]
        for (_, n), result in found.items():
            assert plain(result) == known[n]
    assert len(queue) == 0


@pytest.fixture
def held() -> Iterator[tuple[MockBackend, threading.Event]]:
    """A model whose first step waits until the event is set."""
    model, go = backend(context=8192), threading.Event()
    model.on_step = lambda tokens: None if go.wait(30) else pytest.fail("never let go")
    yield model, go
    go.set()


def test_a_full_queue_refuses(held: tuple[MockBackend, threading.Event]) -> None:
    model, go = held
    queue = SearchQueue(Searcher(model), length=3)
    asked = requests(5)
    taken = [queue.submit(one.messages, one.tools, one.config) for one in asked[:3]]
    assert len(queue) == 3
    with pytest.raises(QueueFull, match="holds 3 searches"):
        queue.search(asked[3].messages, asked[3].tools, asked[3].config)
    go.set()
    same([future.result(30) for future in taken], alone(asked[:3]))
    late = queue.search(asked[4].messages, asked[4].tools, asked[4].config)
    same([late], alone(asked[4:]))
    with pytest.raises(ConfigError, match="length"):
        SearchQueue(Searcher(model), length=0)


def test_what_arrives_joins_what_runs(held: tuple[MockBackend, threading.Event]) -> None:
    model, go = held
    searcher = Searcher(model)
    queue = SearchQueue(searcher)
    asked = requests(4)
    first = queue.submit(asked[0].messages, asked[0].tools, asked[0].config)
    others = [queue.submit(one.messages, one.tools, one.config) for one in asked[1:]]
    go.set()
    same([future.result(30) for future in [first, *others]], alone(asked))
    assert model.prompts_max == 4
    with pytest.raises(ToolsError):
        queue.submit("What?", [{"name": ""}])
    bad = queue.submit("What?", [tool(1)], settings("greedy", tool_choice="nobody"))
    assert isinstance(bad.exception(30), ConfigError)


def test_cancels_and_deadlines_in_a_queue(held: tuple[MockBackend, threading.Event]) -> None:
    model, go = held
    searcher = Searcher(model)
    queue = SearchQueue(searcher)
    cancel = threading.Event()
    futures: list[Future[SearchResult]] = [
        queue.submit("tool_1 is", [tool(1)], settings("greedy")),
        queue.submit("tool_2 is", [tool(2)], settings("greedy"), cancel=cancel),
        queue.submit("tool_3 is", [tool(3)], settings("greedy", deadline_ms=1)),
    ]
    assert not futures[0].cancel()  # only the event cancels
    cancel.set()
    go.set()
    stops = [future.result(30).stopped for future in futures]
    assert stops == [None, "cancelled", "deadline"]


def test_what_waits_for_a_search_alone_ends_in_time(
    held: tuple[MockBackend, threading.Event],
) -> None:
    model, go = held
    searcher = Searcher(model)
    queue = SearchQueue(searcher)
    thread = threading.Thread(
        target=lambda: searcher.search("tool_1 is", [tool(1)], settings("greedy"))
    )
    thread.start()
    while not searcher.engine.lock.locked():
        time.sleep(0.001)
    patient = queue.submit("tool_2 is", [tool(2)], settings("greedy"))
    timed = queue.submit("tool_3 is", [tool(3)], settings("greedy", deadline_ms=30))
    assert timed.result(30).stopped == "deadline"
    assert not patient.done()
    go.set()
    assert patient.result(30).complete
    thread.join(30)


def test_a_queue_with_an_event_loop() -> None:
    queue = SearchQueue(Searcher(backend(context=8192)))
    asked = requests(6)

    async def ask() -> list[SearchResult]:
        futures = [queue.submit(one.messages, one.tools, one.config) for one in asked]
        return await asyncio.gather(*map(asyncio.wrap_future, futures))

    same(asyncio.run(ask()), alone(asked))


def test_the_searcher_waits_for_the_queue_and_closes_after_it() -> None:
    searcher = Searcher(backend(context=8192))
    queue = SearchQueue(searcher)
    asked = requests(3)
    futures = [queue.submit(one.messages, one.tools, one.config) for one in asked]
    same([searcher.search(one.messages, one.tools, one.config) for one in asked], alone(asked))
    same([future.result(30) for future in futures], alone(asked))
    searcher.close()


def test_a_thread_that_left_a_stream_open_is_not_the_next_one() -> None:
    """Thread ids are given again: the thread itself shows who holds the model."""
    searcher = Searcher(backend())
    one = request(1)
    kept: list[Any] = []

    def begin() -> None:
        kept.append(searcher.stream(one.messages, one.tools))
        next(kept[0])

    first = threading.Thread(target=begin)
    first.start()
    first.join()
    queue = SearchQueue(searcher)
    futures = [queue.submit(one.messages, one.tools) for _ in range(3)]
    time.sleep(0.05)
    assert not any(future.done() for future in futures)
    kept[0].close()
    assert all(future.result(timeout=30).calls for future in futures)


def test_a_queue_outlives_a_reward_that_ends_its_thread() -> None:
    class Leaves(States):
        def score(self, batch: Any) -> Any:
            raise SystemExit("enough")

    queue = SearchQueue(Searcher(backend()))
    one = request(1)
    with pytest.raises(SystemExit):
        queue.search(one.messages, one.tools, reward=Leaves())
    assert queue.submit(one.messages, one.tools).result(timeout=30).calls


def test_a_thread_that_does_not_start_leaves_the_queue_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = SearchQueue(Searcher(backend()))
    one = request(1)
    with monkeypatch.context() as patched:

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            queue.submit(one.messages, one.tools)
    assert len(queue) == 0
    assert queue.search(one.messages, one.tools).calls


def test_a_prompt_is_interrupted_for_what_arrives() -> None:
    class Parts(MockBackend):
        """Prefills 512 tokens at a time where nothing else is asked for."""

        def prefill(self, *args: Any, chunk: int | None = None, **more: Any) -> Any:
            return super().prefill(*args, chunk=chunk or 512, **more)

    model = Parts({'[{"name": "tool_1", "arguments": {"city": "Rome"}}]': 1.0}, context=20000)
    reached, go = threading.Event(), threading.Event()
    parts: list[int] = []

    def on_step(tokens: int) -> None:
        parts.append(tokens)
        if len(parts) == 2:
            reached.set()
            assert go.wait(30)

    model.on_step = on_step
    searcher = Searcher(model)
    queue = SearchQueue(searcher)
    long = queue.submit("x" * 8000, [tool(1)])
    assert reached.wait(30)
    given_up = threading.Event()
    given_up.set()
    short = queue.submit("q", [tool(1)], cancel=given_up)
    short.add_done_callback(lambda _: parts.append(-1))
    go.set()
    assert short.result(timeout=30).stopped == "cancelled"
    assert long.result(timeout=30).calls
    assert parts.index(-1) <= 3  # at most after the part in progress


def test_requests_that_are_none_fail_alone() -> None:
    searcher = Searcher(backend())
    good = request(1)
    bad: list[Any] = [("q", None), ("q",), 7, ("q", "tool"), SearchRequest("q", [tool(1)], {})]  # type: ignore[arg-type]
    with pytest.raises(RequestsFailed) as raised:
        searcher.search_many([good, *bad])
    kinds = [ToolsError, ProblemError, ProblemError, ToolsError, ConfigError]
    assert [type(raised.value.errors[n]) for n in range(1, 6)] == kinds
    assert raised.value.results[0] is not None
    assert raised.value.results[0].calls


def test_the_clock_of_many_begins_with_the_call(clock: Clock) -> None:
    def slowly() -> Iterator[SearchRequest]:
        for n in range(3):
            yield request(n, SearchConfig(deadline_ms=700))
            clock.now += 0.4

    found = Searcher(backend()).search_many(slowly())
    assert [result.stopped for result in found] == ["deadline"] * 3


# One job's failure


class Picky(MockBackend):
    """Has the layers 0 to 4, as it says."""

    def tap(self, layers: Any) -> None:
        for layer in layers:
            if not 0 <= layer <= self.info.layers:
                raise ModelError(f"layer {layer} can't be tapped")
        super().tap(layers)


class Impossible(KindReward):
    name = "impossible"
    layers = (99,)


class Raises(States):
    """A reward whose failure is no `Exception`."""

    def score(self, batch: Any) -> Any:
        raise GeneratorExit("enough")


def by_tool(count: int) -> dict[str, dict[str, float]]:
    return {f"tool_{n} is": responses(n) for n in range(count)}


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("bad", [Impossible(), Raises()])
def test_a_bad_reward_in_a_queue_fails_its_own_search(bad: Any, place: int) -> None:
    model, go = Picky({"[]": 1.0}, by_prompt=by_tool(4), context=8192), threading.Event()
    model.on_step = lambda tokens: None if go.wait(30) else pytest.fail("never let go")
    queue = SearchQueue(Searcher(model))
    asked = requests(4)
    rewards: list[Any] = ["policy", States(), "policy", States()]
    rewards[place] = bad
    futures = [
        queue.submit(one.messages, one.tools, one.config, reward=reward)
        for one, reward in zip(asked, rewards, strict=True)
    ]
    go.set()
    error = futures[place].exception(30)
    assert isinstance(error, ModelError if bad.layers == (99,) else GeneratorExit)
    for n, (future, one, reward) in enumerate(zip(futures, asked, rewards, strict=True)):
        if n != place:
            same([future.result(30)], alone([one], reward))


def test_a_layer_that_is_none_fails_its_own_search() -> None:
    class Odd(KindReward):
        layers = 3  # type: ignore[assignment]

    queue = SearchQueue(Searcher(backend(context=8192)))
    asked = requests(3)
    futures = [
        queue.submit(one.messages, one.tools, one.config, reward=reward)
        for one, reward in zip(asked, ["policy", Odd(), "policy"], strict=True)
    ]
    assert isinstance(futures[1].exception(30), TypeError)
    same([futures[n].result(30) for n in (0, 2)], alone([asked[0], asked[2]]))


def test_a_prompt_at_which_the_model_fails_fails_its_own_search() -> None:
    """What the others had in the context is decoded again."""

    class Fails(MockBackend):
        def prefill(self, tokens: Any, *args: Any, **more: Any) -> Any:
            if b"tool_2 is" in b"".join(self.token_bytes[token] for token in tokens):
                raise ModelError("this graph has no such tensor")
            return super().prefill(tokens, *args, **more)

    asked = requests(4)
    model = Fails({"[]": 1.0}, by_prompt=by_tool(4), context=8192)
    with pytest.raises(RequestsFailed, match="request 2: this graph") as raised:
        Searcher(model).search_many(asked)
    assert list(raised.value.errors) == [2]
    found = [result for result in raised.value.results if result is not None]
    assert answers(found) == answers(alone([asked[n] for n in (0, 1, 3)]))


def test_a_cancel_that_can_not_be_asked_fails_its_own_search() -> None:
    class Lost(threading.Event):
        def is_set(self) -> bool:
            raise ConnectionError("the process that had it is gone")

    queue = SearchQueue(Searcher(backend(context=8192)))
    asked = requests(3)
    futures = [
        queue.submit(one.messages, one.tools, one.config, cancel=cancel)
        for one, cancel in zip(asked, [None, Lost(), threading.Event()], strict=True)
    ]
    assert isinstance(futures[1].exception(30), ConnectionError)
    same([futures[n].result(30) for n in (0, 2)], alone([asked[0], asked[2]]))
    with pytest.raises(ConfigError, match="cancel is a str"):
        queue.submit("q", [tool(1)], cancel="soon")  # type: ignore[arg-type]


def test_a_callback_that_fails_disturbs_no_other_search(
    held: tuple[MockBackend, threading.Event],
) -> None:
    model, go = held
    queue = SearchQueue(Searcher(model))
    asked = requests(3)
    futures = [queue.submit(one.messages, one.tools, one.config) for one in asked]

    def leave(_: object) -> None:
        raise SystemExit("enough")

    futures[0].add_done_callback(leave)
    go.set()
    same([future.result(30) for future in futures], alone(asked))


def test_a_lock_that_fails_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """No future is left without an end."""
    searcher = Searcher(backend(context=8192))
    queue = SearchQueue(searcher)

    def broken(hold: object, limits: object) -> None:
        raise MemoryError("no lock")

    with monkeypatch.context() as patched:
        patched.setattr(searcher.engine.lock, "acquire", broken)
        one = request(1)
        futures = [queue.submit(one.messages, one.tools) for _ in range(3)]
        assert [type(future.exception(30)) for future in futures] == [MemoryError] * 3
    assert queue.search(one.messages, one.tools).calls


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupt_while_the_thread_starts_leaves_the_queue_at_work(
    monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    queue = SearchQueue(Searcher(backend(context=8192)))
    start = threading.Thread.start
    asked = requests(3)
    with monkeypatch.context() as patched:

        def interrupted(thread: threading.Thread) -> None:
            if after:
                start(thread)
            raise KeyboardInterrupt

        patched.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            queue.search(asked[0].messages, asked[0].tools, asked[0].config)
    futures = [queue.submit(one.messages, one.tools, one.config) for one in asked]
    same([future.result(30) for future in futures], alone(asked))
    assert len(queue) == 0
