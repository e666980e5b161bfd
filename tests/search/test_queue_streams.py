"""Streams by way of a queue: they share model steps, and nobody waits for their readers."""

from __future__ import annotations

import pytest

from support.mock_backend import MockBackend
from support.weather import QUESTION, RESPONSES, TOOLS
from toolprm_lite import SearchConfig, Searcher, SearchQueue, SearchResult, TraceNode
from toolprm_lite.errors import QueueFull

CONFIG = SearchConfig(strategy="step-beam", beams=2, expand=4, constrain="off", seed=3)


def opened(**options: int) -> tuple[SearchQueue, MockBackend]:
    model = MockBackend(RESPONSES, context=8192)
    return SearchQueue(Searcher(model), **options), model


def test_events_are_those_of_a_stream_alone() -> None:
    queue, _ = opened()
    *events, result = queue.stream(QUESTION, TOOLS, CONFIG)
    *expected, alone = Searcher(MockBackend(RESPONSES)).stream(QUESTION, TOOLS, CONFIG)
    assert isinstance(result, SearchResult)
    assert isinstance(alone, SearchResult)
    assert events == expected
    assert any(isinstance(event, TraceNode) for event in events)
    assert result.calls == alone.calls


def test_streams_share_model_steps() -> None:
    queue, model = opened()
    streams = [queue.stream(QUESTION, TOOLS, CONFIG) for _ in range(4)]
    results = [list(stream)[-1] for stream in streams]
    assert len({str(result.calls) for result in results}) == 1
    steps = [result.stats.steps for result in results]
    assert model.steps < sum(steps)


def test_a_stream_that_nobody_reads_keeps_nobody_waiting() -> None:
    queue, _ = opened()
    stream = queue.stream(QUESTION, TOOLS, CONFIG)
    other = queue.search(QUESTION, TOOLS, CONFIG)
    assert other.complete
    *_, result = stream
    assert result.calls == other.calls


def test_closing_a_stream_cancels_its_search() -> None:
    queue, _ = opened()
    stream = queue.stream(QUESTION, TOOLS, CONFIG)
    next(stream)
    stream.close()
    assert queue.search(QUESTION, TOOLS, CONFIG).complete
    assert len(queue) == 0


def test_a_full_queue_refuses_a_stream() -> None:
    queue, model = opened(length=1)
    asked = []

    def ask(tokens: int) -> None:
        if not asked:
            asked.append(tokens)
            with pytest.raises(QueueFull):
                queue.stream(QUESTION, TOOLS, CONFIG)

    model.on_step = ask
    assert queue.search(QUESTION, TOOLS, CONFIG).complete
    assert asked


def test_errors_come_with_the_result() -> None:
    queue, _ = opened()

    def broken(steps: object) -> list[float]:
        raise ZeroDivisionError("no reward")

    stream = queue.stream(QUESTION, TOOLS, CONFIG, reward=broken)
    with pytest.raises(ZeroDivisionError, match="no reward"):
        list(stream)
    assert queue.search(QUESTION, TOOLS, CONFIG).complete
