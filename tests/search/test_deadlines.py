"""Deadlines, budgets and cancels, on a clock that moves by one second a model step."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import numpy as np
import pytest

from support.clock import Clock
from support.mock_backend import MockBackend, tokenize
from support.mock_models import RandomModel
from support.step_rewards import States
from support.weather import DEAD, QUESTION, RESPONSES, TOOLS, call, plain, settings
from toolprm_lite import SearchConfig, Searcher, SearchResult
from toolprm_lite.errors import ConfigError
from toolprm_lite.reward.base import CandidateStep, RewardFunction, StepBatch
from toolprm_lite.search.config import STRATEGIES


def opened(
    clock: Clock, responses: dict[str, float] = RESPONSES, backend: MockBackend | None = None
) -> Searcher:
    backend = backend or MockBackend(responses)
    backend.on_step = clock.step
    searcher = Searcher(backend)
    # Deadlines are for the answer here, so the prompt is in the cache.
    searcher.search(QUESTION, TOOLS, SearchConfig(strategy="greedy", max_tokens=1))
    clock.steps.clear()
    return searcher


def check(result: SearchResult, responses: list[str]) -> None:
    """Valid, or incomplete with names for what is missing."""
    if result.complete:
        assert result.missing == []
        assert result.text in responses
        assert result.calls == json.loads(result.text)
        return
    assert any(text.startswith(result.text) for text in responses), result.text
    assert result.missing[-1] == "the end of the list"
    assert result.probability is None
    names = [step for step in result.steps if step.kind == "FUNC_NAME"]
    if not names:
        assert result.missing == ["what to call", "the end of the list"]
        return
    assert len(result.calls) == sum(step.kind == "FUNC_FINISH" for step in result.steps)
    is_open = len(names) > len(result.calls)
    assert ("the end of the call" in result.missing) == is_open
    cities = [s for s in result.steps if s.argument == "city" and s.call == names[-1].call]
    wants_city = is_open and names[-1].function == "weather" and not cities
    assert ("city" in result.missing) == wants_city


@pytest.mark.parametrize("reward", ["policy", States()])
@pytest.mark.parametrize("constrain", ["off", "on"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_deadline_after_every_number_of_steps(
    clock: Clock, strategy: str, constrain: str, reward: object
) -> None:
    config = settings(strategy, constrain=constrain)
    searcher = opened(clock)
    usual = searcher.search(QUESTION, TOOLS, config, reward=reward)
    total = len(clock.steps)
    assert (usual.stopped, usual.missing, usual.complete) == (None, [], True)
    assert total > 5
    ended = False
    for steps in range(1, total + 3):
        clock.steps.clear()
        started = clock.now
        timed = settings(strategy, constrain=constrain, deadline_ms=1e3 * steps - 500)
        result = searcher.search(QUESTION, TOOLS, timed, reward=reward)
        assert len(clock.steps) == min(steps, total)
        assert clock.now - started - (steps - 0.5) < 1.0
        assert result.stopped == ("deadline" if steps < total else None)
        assert result.stats.steps == len(clock.steps) - 1  # the first is the prompt's
        check(result, list(RESPONSES))
        # What has ended is not lost.
        assert any(a.complete for a in [result, *result.alternatives]) >= ended
        ended = any(a.complete for a in [result, *result.alternatives])
        if steps >= total:
            assert plain(result) == plain(usual)
    again = searcher.search(QUESTION, TOOLS, config, reward=reward)
    assert plain(again) == plain(usual)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_any_model_may_be_cut_off_anywhere(clock: Clock, strategy: str) -> None:
    responses = [*RESPONSES, *DEAD.values(), json.dumps(json.loads(call("Rome")) * 2)]
    for seed in range(6):
        model = RandomModel(responses, seed, max_sequences=5 if seed % 2 else 64)
        searcher = opened(clock, backend=model)
        usual = searcher.search(QUESTION, TOOLS, settings(strategy, max_tokens=40))
        for steps in range(1, len(clock.steps) + 1, 3):
            for limit in ({"deadline_ms": 1e3 * steps - 500}, {"max_decode_tokens": 2 * steps}):
                config = settings(strategy, max_tokens=40, trace=True, **limit)
                result = searcher.search(QUESTION, TOOLS, config)
                assert result.complete == (not result.missing)
                assert len(result.calls) == sum(s.kind == "FUNC_FINISH" for s in result.steps)
        again = searcher.search(QUESTION, TOOLS, settings(strategy, max_tokens=40))
        assert plain(again) == plain(usual)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_budget_of_tokens_is_kept(clock: Clock, strategy: str) -> None:
    searcher = opened(clock)
    usual = searcher.search(QUESTION, TOOLS, settings(strategy))
    needed = usual.stats.decode_tokens
    seen = set()
    for budget in range(1, needed + 2):
        config = settings(strategy, max_decode_tokens=budget)
        result = searcher.search(QUESTION, TOOLS, config)
        assert result.stats.decode_tokens <= budget
        assert result.stats.kv_cells <= usual.stats.kv_cells
        assert result.stopped == (None if budget >= needed else "max_decode_tokens")
        check(result, list(RESPONSES))
        seen.add(result.stats.decode_tokens)
    assert max(seen) == needed
    assert plain(result) == plain(usual)


def test_forced_tokens_are_not_in_the_budget(clock: Clock) -> None:
    searcher = opened(clock, {call("Rome"): 1.0})
    config = settings("greedy", constrain="on", tool_choice="weather")
    usual = searcher.search(QUESTION, TOOLS, config)
    assert usual.stats.forced_tokens > usual.stats.decode_tokens
    enough = settings(
        "greedy", constrain="on", tool_choice="weather",
        max_decode_tokens=usual.stats.decode_tokens,
    )  # fmt: skip
    assert plain(searcher.search(QUESTION, TOOLS, enough)) == plain(usual)


def test_what_has_ended_unjudged_may_win(clock: Clock) -> None:
    searcher = opened(clock, {call("Rome"): 1.0})
    usual = searcher.search(QUESTION, TOOLS, settings("greedy"), reward=States())
    total = len(clock.steps)
    assert usual.probability == 0.125
    early = settings("greedy", deadline_ms=1e3 * total - 1500)
    result = searcher.search(QUESTION, TOOLS, early, reward=States())
    # The last token was drawn, but is not decoded: no state, so no reward.
    assert (result.complete, result.stopped, result.calls) == (True, "deadline", usual.calls)
    assert result.probability is None
    *judged, last = result.steps
    assert (last.kind, last.probability) == ("TOTAL_FINISH", None)
    assert last.reward == pytest.approx(np.exp(last.logprob))
    assert judged[0] == usual.steps[0]
    assert result.confidence is not None
    assert result.confidence[0].name == 0.75
    assert result.confidence[0].probability is None
    assert 0 < result.score <= 1


def test_candidates_of_a_round_cut_off_take_part(clock: Clock) -> None:
    """Rome is at its boundary when the other city is still being written."""
    responses = {call("A" + "b" * 40, days=3): 0.6, call("Rome", days=3): 0.4}
    before = '[{"name": "weather", "arguments": {"city": "Rome", '

    def judge(steps: list[CandidateStep]) -> list[float]:
        return [0.95 if s.value == "Rome" else 0.9 for s in steps]

    searcher = opened(clock, responses)
    steps = len(tokenize(before)) + 5
    config = settings("step-beam", beams=2, max_step_tokens=100, deadline_ms=1e3 * steps - 500)
    result = searcher.search(QUESTION, TOOLS, config, reward=judge)
    assert result.stopped == "deadline"
    assert not result.complete
    assert [s.value for s in result.steps if s.kind == "ARG_VALUE"] == ["Rome"]
    assert result.missing == ["the end of the call", "the end of the list"]


def test_to_decline_does_not_win_by_being_short(clock: Clock) -> None:
    """It takes one token; the calls are still being written."""

    def judge(worth: float) -> RewardFunction:
        return lambda steps: [worth if s.response == "[]" else 0.9 for s in steps]

    responses = {call("Rome"): 0.9, "[]": 0.1}
    cut = settings("step-beam", deadline_ms=2500)
    for worth, complete in ((0.05, False), (0.2, True)):
        searcher = opened(clock, responses)
        result = searcher.search(QUESTION, TOOLS, cut, reward=judge(worth))
        assert (result.complete, result.stopped) == (complete, "deadline")
        assert [a.complete for a in result.alternatives] == [not complete]
    # The policy's own probability says little of a response so short; how many drew it does.
    for weight, complete in ((0.03, False), (0.9, True)):
        searcher = opened(clock, {call("Rome"): 1 - weight, "[]": weight})
        for strategy in ("step-beam", "best-of-n"):
            config = replace(cut, strategy=strategy, samples=64)
            result = searcher.search(QUESTION, TOOLS, config)
            assert (result.complete, result.stopped) == (complete, "deadline"), strategy
            assert any(a.complete for a in [result, *result.alternatives])


def test_what_is_not_judged_yet_does_not_make_way_for_the_worst(clock: Clock) -> None:
    class Modest(States):
        def score(self, batch: StepBatch) -> np.ndarray:
            responses = [step.response for step in batch.candidates()]
            return np.array([0.05 if r == "[]" else 0.9 for r in responses], np.float32)

    searcher = opened(clock)
    searcher.search(QUESTION, TOOLS, settings("step-beam"), reward=Modest())
    for steps in range(1, len(clock.steps) + 1):
        config = settings("step-beam", deadline_ms=1e3 * steps - 500)
        result = searcher.search(QUESTION, TOOLS, config, reward=Modest())
        assert not result.complete or result.calls, steps


def test_a_beam_with_no_way_on_is_no_answer(clock: Clock) -> None:
    """The clock's response breaks off in nonsense; the other beam is still being written."""
    dead_end = '[{"name": "clock", "arguments": {"x'
    responses = {dead_end: 0.7, call("R" + "o" * 60): 0.3}

    def judge(steps: list[CandidateStep]) -> list[float]:
        return [0.9 if s.function == "clock" else 0.5 for s in steps]

    searcher = opened(clock, responses)
    config = settings("step-beam", beams=2, max_step_tokens=100, deadline_ms=39_500)
    result = searcher.search(QUESTION, TOOLS, config, reward=judge)
    assert result.stopped == "deadline"
    assert [step.function for step in result.steps] == ["weather"]
    assert result.missing == ["city", "the end of the call", "the end of the list"]


def test_the_prompt_is_prefilled_in_parts(clock: Clock) -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    backend = searcher.engine.backend
    backend.on_step = clock.step
    usual = Searcher(MockBackend(RESPONSES)).search(QUESTION, TOOLS, settings("greedy"))
    prompt = usual.stats.prompt_tokens
    assert prompt > 300
    for steps in (1, 2, 4):
        backend.clear()
        clock.steps.clear()
        timed = settings("greedy", deadline_ms=1e3 * steps - 500)
        cut = searcher.search(QUESTION, TOOLS, timed)
        assert clock.steps == [64] * steps
        assert (cut.calls, cut.complete, cut.stopped) == ([], False, "deadline")
        assert cut.missing == ["what to call", "the end of the list"]
        assert cut.stats.prefill_tokens == 64 * steps
        whole = searcher.search(QUESTION, TOOLS, settings("greedy"))
        assert (whole.stats.reused_tokens, whole.stats.prefill_tokens) == (
            64 * steps, prompt - 64 * steps,
        )  # fmt: skip
        assert plain(whole) == plain(usual)


def test_steps_are_small_where_there_is_a_deadline(clock: Clock) -> None:
    searcher = Searcher(MockBackend(RESPONSES, max_sequences=200))
    searcher.engine.backend.on_step = clock.step
    wide = {call(f"{chr(65 + n % 26)}{n}"): 0.01 for n in range(100)}
    searcher.engine.backend.next.update(MockBackend(wide).next)
    untimed = settings("best-of-n", samples=400, temperature=3.0)
    usual = searcher.search(QUESTION, TOOLS, untimed)
    assert max(clock.steps[1:]) > 64
    clock.steps.clear()
    timed = settings("best-of-n", samples=400, temperature=3.0, deadline_ms=1e9)
    assert plain(searcher.search(QUESTION, TOOLS, timed))["calls"] == usual.calls
    assert max(clock.steps) == 64


def test_a_deadline_that_has_passed_touches_nothing(clock: Clock) -> None:
    searcher = opened(clock)
    prompt = list(searcher.engine.backend.prompt)
    slow = searcher.reward

    def reward(*arguments: object) -> object:
        clock.now += 5.0
        return slow(*arguments)

    searcher.reward = reward
    result = searcher.search("Another question", TOOLS, settings("greedy", deadline_ms=100))
    assert (result.stopped, result.complete, result.calls) == ("deadline", False, [])
    assert clock.steps == []
    assert searcher.engine.backend.prompt == prompt


def test_cancel_before_and_in_the_middle(clock: Clock) -> None:
    searcher = opened(clock)
    cancel = threading.Event()
    cancel.set()
    result = searcher.search(QUESTION, TOOLS, settings("step-beam"), cancel=cancel)
    assert (result.stopped, result.complete, clock.steps) == ("cancelled", False, [])
    usual = searcher.search(QUESTION, TOOLS, settings("step-beam"))
    total = len(clock.steps)
    for at in range(1, total):
        cancel.clear()
        clock.steps.clear()
        clock.hook = lambda steps, at=at: cancel.set() if steps == at else None
        cut = searcher.search(QUESTION, TOOLS, settings("step-beam"), cancel=cancel)
        assert len(clock.steps) == at
        assert cut.stopped == "cancelled"
        check(cut, list(RESPONSES))
    clock.hook = lambda steps: None
    assert plain(searcher.search(QUESTION, TOOLS, settings("step-beam"))) == plain(usual)


def test_waiting_for_the_model_ends_in_time() -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    entered, go, cancel = threading.Event(), threading.Event(), threading.Event()

    def hold(tokens: int) -> None:
        entered.set()
        assert go.wait(30)

    searcher.engine.backend.on_step = hold
    found: dict[str, SearchResult] = {}

    def ask(name: str, **more: object) -> threading.Thread:
        deadline = more.pop("deadline_ms", None)
        config = settings("greedy", deadline_ms=deadline)

        def work() -> None:
            found[name] = searcher.search(QUESTION, TOOLS, config, **more)

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    first = ask("first")
    assert entered.wait(30)
    timed, cancelled = ask("timed", deadline_ms=30), ask("cancelled", cancel=cancel)
    timed.join(30)
    cancel.set()
    cancelled.join(30)
    assert sorted(found) == ["cancelled", "timed"]
    go.set()
    first.join(30)
    for name, stopped in (("timed", "deadline"), ("cancelled", "cancelled")):
        assert (found[name].stopped, found[name].calls) == (stopped, [])
        assert found[name].missing == ["what to call", "the end of the list"]
    assert (found["first"].stopped, found["first"].complete) == (None, True)


def test_what_a_limit_cuts_off_is_named_too(clock: Clock) -> None:
    searcher = opened(clock)
    name = len(tokenize('[{"name": "weather"'))
    result = searcher.search(QUESTION, TOOLS, settings("greedy", max_tokens=name + 3))
    assert (result.stopped, result.complete) == (None, False)
    assert result.missing == ["city", "the end of the call", "the end of the list"]


@pytest.mark.parametrize(
    "bad",
    [
        {"deadline_ms": 0}, {"deadline_ms": -5.0}, {"deadline_ms": float("nan")},
        {"deadline_ms": float("inf")}, {"max_decode_tokens": 0}, {"max_decode_tokens": 1.5},
        {"max_decode_tokens": True},
    ],
)  # fmt: skip
def test_limits_out_of_range_are_named(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        SearchConfig(**bad)
