"""Events during a search, and searches with an event loop."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import aclosing

import pytest

from support.clock import Clock
from support.mock_backend import MockBackend
from support.mock_models import RandomModel
from support.step_rewards import KindReward
from support.weather import DEAD, QUESTION, RESPONSES, TOOLS, call, plain, settings, two_calls
from toolprm_lite import SearchConfig, Searcher, SearchResult
from toolprm_lite.errors import ConfigError, ToolprmError
from toolprm_lite.reward.base import CandidateStep
from toolprm_lite.search.config import STRATEGIES
from toolprm_lite.search.events import CallFinished, Event, StepDecided
from toolprm_lite.search.trace import TraceNode

TWO = {
    two_calls(("weather", {"city": "Rome"}), ("clock", {})): 0.5,
    two_calls(("weather", {"city": "Rome"}), ("weather", {"city": "Oslo"})): 0.4,
    two_calls(("weather", {"city": "Rome"}), ("weather", {"city": "Riga", "days": 3})): 0.1,
}


def likes_two(steps: list[CandidateStep]) -> list[float]:
    """No response of less than two calls is any good."""
    short = [s.kind == "TOTAL_FINISH" and s.response.count('"name"') < 2 for s in steps]
    return [0.01 if s else 0.9 for s in short]


def events_of(searcher: Searcher, config: SearchConfig, **more: object) -> list[Event]:
    return list(searcher.stream(QUESTION, TOOLS, config, **more))


@pytest.mark.parametrize("reward", ["policy", KindReward()])
@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_stream_ends_with_the_result_of_search(
    strategy: str, trace: bool, reward: object
) -> None:
    for responses in (RESPONSES, TWO):
        config = settings(strategy, seed=5, trace=trace)
        usual = Searcher(MockBackend(responses)).search(QUESTION, TOOLS, config, reward=reward)
        *events, result = events_of(Searcher(MockBackend(responses)), config, reward=reward)
        assert isinstance(result, SearchResult)
        assert plain(result) == plain(usual)
        assert not any(isinstance(event, SearchResult) for event in events)
        rounds = [event.round for event in events if not isinstance(event, CallFinished)]
        assert rounds == sorted(rounds)
        assert rounds[-1] == usual.stats.rounds
        decided = [event.step for event in events if isinstance(event, StepDecided)]
        assert all(step in decided for step in result.steps)
        nodes = [event for event in events if isinstance(event, TraceNode)]
        assert nodes
        assert result.trace == (nodes if trace else None)


def kept_nodes(events: list[Event]) -> list[TraceNode]:
    return [event for event in events if isinstance(event, TraceNode) and event.fate == "kept"]


def kinds(node: TraceNode) -> list[str]:
    return [step.kind for step in node.steps]


def test_one_beam_is_reported_while_it_is_written() -> None:
    *events, result = events_of(Searcher(MockBackend(TWO)), settings("greedy"))
    assert isinstance(result, SearchResult)
    assert "".join(node.text for node in kept_nodes(events)) == result.text
    assert [e.step for e in events if isinstance(e, StepDecided)] == result.steps
    finished = [(n, e) for n, e in enumerate(events) if isinstance(e, CallFinished)]
    assert [event.call for _, event in finished] == result.calls
    assert [event.index for _, event in finished] == [0, 1]
    # Each after the step that closed it, and the first before the second was begun.
    at = finished[0][0]
    closed = events[at - 1]
    assert isinstance(closed, TraceNode)
    assert "FUNC_FINISH" in kinds(closed)
    names = [n for n, e in enumerate(events) if isinstance(e, StepDecided) and e.step.call == 1]
    assert at < min(names)


def test_a_step_is_reported_before_the_beam_that_decided_it() -> None:
    events = events_of(Searcher(MockBackend(RESPONSES)), settings("step-beam"))
    waiting: list[str] = []
    for event in events:
        if isinstance(event, StepDecided):
            waiting.append(event.step.kind)
        elif isinstance(event, TraceNode):
            assert waiting == (kinds(event) if event.fate == "kept" else [])
            waiting = []
    assert "outscored" in {event.fate for event in events if isinstance(event, TraceNode)}


def test_a_call_of_all_beams_is_reported_before_the_end() -> None:
    config = settings("step-beam", beams=2)
    *events, result = events_of(Searcher(MockBackend(TWO)), config, reward=likes_two)
    assert isinstance(result, SearchResult)
    places = {e.index: n for n, e in enumerate(events) if isinstance(e, CallFinished)}
    assert 0 in places
    assert kept_nodes(events[: places[0]])[-1].round < result.stats.rounds
    assert len(result.calls) == 2


def test_a_response_that_declines_holds_a_call_back() -> None:
    responses = {call("Rome"): 0.6, "[]": 0.4}
    *events, result = events_of(Searcher(MockBackend(responses)), settings("step-beam", beams=2))
    assert isinstance(result, SearchResult)
    assert result.calls
    assert [] in [other.calls for other in result.alternatives]
    assert not any(isinstance(event, CallFinished) for event in events)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_finished_call_never_changes(clock: Clock, strategy: str) -> None:
    # One that declines would hold back every call.
    texts = [text for text in [*RESPONSES, *TWO, *TWO, *DEAD.values()] if text != "[]"]
    promised = 0
    for seed in range(12):
        backend = RandomModel(texts, seed)
        backend.on_step = clock.step
        searcher = Searcher(backend)
        config = settings(strategy, max_tokens=70, beams=1 + seed % 3, seed=seed)
        events_of(searcher, config)
        total = len(clock.steps)
        for steps in [*range(2, total, 4), total + 1]:
            limited = settings(
                strategy, max_tokens=70, beams=1 + seed % 3, seed=seed,
                deadline_ms=1e3 * steps - 500,
            )  # fmt: skip
            *events, result = events_of(searcher, limited)
            assert isinstance(result, SearchResult)
            calls = [event for event in events if isinstance(event, CallFinished)]
            assert [event.index for event in calls] == list(range(len(calls)))
            assert [event.call for event in calls] == result.calls[: len(calls)]
            promised += len(calls)
        clock.steps.clear()
    assert promised > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_stream_may_be_stopped(clock: Clock, strategy: str) -> None:
    backend = MockBackend(RESPONSES)
    backend.on_step = clock.step
    searcher = Searcher(backend)
    *_, result = events_of(searcher, settings(strategy, deadline_ms=1e3 * 30))
    assert isinstance(result, SearchResult)
    assert result.stopped == "deadline"
    cancel = threading.Event()
    stream = searcher.stream(QUESTION, TOOLS, settings("step-beam"), cancel=cancel)
    next(stream)
    cancel.set()
    *_, result = stream
    assert isinstance(result, SearchResult)
    assert result.stopped == "cancelled"


def test_closing_a_stream_frees_the_model() -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    usual = searcher.search(QUESTION, TOOLS, settings("step-beam"))
    steps = searcher.engine.backend.steps
    stream = searcher.stream(QUESTION, TOOLS, settings("step-beam"))
    next(stream)
    for forbidden in (
        lambda: searcher.search(QUESTION, TOOLS),
        lambda: next(searcher.stream(QUESTION, TOOLS)),
        searcher.forget,
        searcher.close,
    ):
        with pytest.raises(ToolprmError, match="stream"):
            forbidden()
    stream.close()
    assert searcher.engine.backend.steps < 2 * steps
    assert plain(searcher.search(QUESTION, TOOLS, settings("step-beam"))) == plain(usual)
    # A stream that is not read holds nothing.
    unread = searcher.stream(QUESTION, TOOLS)
    assert plain(searcher.search(QUESTION, TOOLS, settings("step-beam"))) == plain(usual)
    del unread
    with pytest.raises(ConfigError, match="tool_choice"):
        events_of(searcher, settings("greedy", tool_choice="nobody"))
    assert searcher.search(QUESTION, TOOLS, settings("greedy")).complete


def test_other_threads_wait_for_a_stream() -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    found: list[SearchResult] = []
    stream = searcher.stream(QUESTION, TOOLS, settings("step-beam"))
    next(stream)
    thread = threading.Thread(
        target=lambda: found.append(searcher.search(QUESTION, TOOLS, settings("greedy")))
    )
    thread.start()
    thread.join(0.05)
    assert found == []
    *_, result = stream
    thread.join(30)
    assert [type(result), *map(type, found)] == [SearchResult, SearchResult]


# asyncio


def test_asearch_and_astream_give_what_search_gives() -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    config = settings("step-beam", seed=2)
    usual = searcher.search(QUESTION, TOOLS, config)
    events = events_of(searcher, config)

    async def ask() -> tuple[SearchResult, list[Event]]:
        one = await searcher.asearch(QUESTION, TOOLS, config)
        return one, [event async for event in searcher.astream(QUESTION, TOOLS, config)]

    one, others = asyncio.run(ask())
    assert plain(one) == plain(usual)
    assert others[:-1] == events[:-1]
    assert plain(others[-1]) == plain(usual)
    with pytest.raises(ConfigError, match="tool_choice"):
        asyncio.run(searcher.asearch(QUESTION, TOOLS, settings("greedy", tool_choice="nobody")))


def test_the_event_loop_runs_during_a_search() -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    waits: list[threading.Event] = []

    async def ask() -> SearchResult:
        loop = asyncio.get_running_loop()

        def step(tokens: int) -> None:
            turn = threading.Event()
            loop.call_soon_threadsafe(turn.set)
            assert turn.wait(30), "the event loop is blocked"
            waits.append(turn)

        searcher.engine.backend.on_step = step
        return await searcher.asearch(QUESTION, TOOLS, settings("step-beam"))

    result = asyncio.run(ask())
    assert result.complete
    assert len(waits) == result.stats.steps + 1


@pytest.mark.parametrize("way", ["search", "stream", "aclose"])
def test_cancelling_a_task_cancels_the_search(way: str) -> None:
    searcher = Searcher(MockBackend({call("A" + "long" * 200): 1.0}))
    config = SearchConfig(
        strategy="step-beam", constrain="off", max_step_tokens=5000, max_tokens=5000
    )
    step_beam = settings("step-beam")
    steps = 0

    async def ask() -> None:
        nonlocal steps
        loop = asyncio.get_running_loop()
        begun, done = asyncio.Event(), False

        def step(tokens: int) -> None:
            nonlocal steps
            assert not done
            steps += 1
            time.sleep(0.001)
            if steps == 20:
                loop.call_soon_threadsafe(begun.set)

        async def read() -> None:
            async with aclosing(searcher.astream(QUESTION, TOOLS, config)) as events:
                async for _ in events:
                    if way == "aclose":
                        return

        searcher.engine.backend.on_step = step
        if way == "aclose":
            await read()
        else:
            asked = read() if way == "stream" else searcher.asearch(QUESTION, TOOLS, config)
            task = asyncio.create_task(asked)
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        done = True
        # The model is free at once.
        assert not searcher.engine.lock.locked()
        await asyncio.sleep(0.01)

    asyncio.run(ask())
    assert steps < 500
    searcher.engine.backend.on_step = lambda tokens: None
    assert searcher.search(QUESTION, TOOLS, step_beam).calls == []


def test_many_tasks_wait_in_time() -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    stream = searcher.stream(QUESTION, TOOLS, settings("step-beam"))
    reader = threading.Thread(target=next, args=(stream,))  # this one would wait for itself
    reader.start()
    reader.join(30)

    async def ask() -> list[SearchResult]:
        config = settings("greedy", deadline_ms=50)
        return await asyncio.gather(*(searcher.asearch(QUESTION, TOOLS, config) for _ in range(60)))

    results = asyncio.run(ask())
    assert [result.stopped for result in results] == ["deadline"] * 60
    stream.close()
    assert json.loads(searcher.search(QUESTION, TOOLS, settings("greedy")).text)
