"""The greedy answer and what must score better to take its place."""

from __future__ import annotations

import json
import math
import zlib
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from support.clock import Clock
from support.heads import random_head
from support.made_problems import problems
from support.mock_backend import MockBackend
from support.mock_models import RandomModel
from support.step_rewards import States, city_reward
from support.weather import DEAD, QUESTION, RESPONSES, TOOLS, call, plain, search, two_calls
from toolprm_lite import Margin, SearchConfig, Searcher, SearchResult
from toolprm_lite.errors import ConfigError
from toolprm_lite.evaluation.pool import Pool
from toolprm_lite.reward.base import CandidateStep
from toolprm_lite.reward.head import Head
from toolprm_lite.reward.margin import DEVIATIONS, deviations
from toolprm_lite.reward.states import StateReader
from toolprm_lite.search.events import CallFinished, StepDecided
from toolprm_lite.search.trace import TraceNode

SEARCHING = ("step-beam", "doubt", "best-of-n")
NEVER = Margin(*[math.inf] * 5)
KNOWN = problems()


def every(margin: float) -> Margin:
    return Margin(*[margin] * 5)


def judge(steps: list[CandidateStep]) -> list[float]:
    """Depends on the whole response."""
    return [0.2 + 0.8 * (zlib.crc32(f"{s.kind} {s.response}".encode()) % 1000) / 999 for s in steps]


def as_set(calls: list[dict[str, Any]]) -> Counter[str]:
    return Counter(json.dumps(call, sort_keys=True) for call in calls)


def made_searcher(**settings: Any) -> Searcher:
    answers = {problem.question: problem.responses for problem in KNOWN}
    ordered = dict(sorted(answers.items(), key=lambda item: -len(item[0])))
    return Searcher(MockBackend({"[]": 1.0}, by_prompt=ordered, context=1 << 14, **settings))


# Kinds

G = {"name": "f", "arguments": {"a": 1, "b": "x"}}


@pytest.mark.parametrize(
    ("calls", "greedy", "expected"),
    [
        ([G], [G], ()),
        ([], [], ()),
        ([], [G], ("declines",)),
        ([G], [], ("adds_call",)),
        ([{"name": "f", "arguments": {"a": 1}}], [G], ("omits",)),
        ([{"name": "f", "arguments": {"a": 2}}], [G], ("omits", "value")),
        ([{"name": "f", "arguments": {"a": 1, "b": "y"}}], [G], ("value",)),
        ([{"name": "f", "arguments": {"a": 1, "b": "x", "c": 0}}], [G], ("value",)),
        ([{"name": "f", "arguments": {"b": "x", "a": 1.0}}], [G], ()),
        ([{"name": "f", "arguments": {"a": True, "b": "x"}}], [G], ("value",)),
        ([{"name": "g", "arguments": {}}], [G], ("name",)),
        ([G, G], [G], ("adds_call",)),
        ([G], [G, G], ("name",)),
        ([G], [{"name": "g", "arguments": {}}, G], ("name",)),
        ([{"name": "g", "arguments": {}}, G], [G, {"name": "g", "arguments": {}}], ()),
        ([{"name": "g", "arguments": {}}, {"name": "g", "arguments": {}}], [G],
         ("adds_call", "name")),
        ([{"name": "f", "arguments": {"a": 1}}, G], [G], ("adds_call",)),
        ([{"name": "f", "arguments": {"a": 1}}] * 2, [G], ("omits", "adds_call")),
    ],
)  # fmt: skip
def test_how_a_response_deviates(calls: Any, greedy: Any, expected: tuple[str, ...]) -> None:
    assert deviations(calls, greedy) == expected
    # The order in which calls are written does not matter where each function has one.
    assert set(deviations(calls[::-1], greedy)) == set(expected)


def test_of_several_kinds_the_largest_margin_counts() -> None:
    margin = Margin(omits=1.0, value=0.1)
    assert margin.largest == 1.0
    assert margin.met(math.exp(0.2), 1.0, ("value",))
    assert not margin.met(math.exp(0.2), 1.0, ("omits", "value"))
    assert margin.met(math.exp(1.001), 1.0, ("omits", "value"))
    assert margin.met(1.0, 1.0, ("name",))
    assert not margin.met(0.999, 1.0, ("name",))
    assert margin.met(0.0, 1.0, ())
    assert Margin(1e9).met(1e-300, 0.0, ("declines",))
    for score in (0.0, 1.0):
        assert not NEVER.met(score, 0.0, ("value",))


def test_margins_are_read() -> None:
    assert Margin.parse("0.5") == every(0.5)
    assert Margin.parse("inf") == NEVER
    assert Margin.parse("declines=1, value=.3") == Margin(declines=1.0, value=0.3)
    for text in ("", "x", "declines", "nothing=1", "value=1,value=2", "value=", "1,2", "value=-1",
                 "nan"):  # fmt: skip
        with pytest.raises(ConfigError, match="margin"):
            Margin.parse(text)
    for margin in (Margin(), NEVER, Margin(0.5, math.inf)):
        assert Margin.from_json(json.loads(json.dumps(margin.to_json(), allow_nan=False))) == margin
    with pytest.raises(ConfigError, match=r"margin is 0\.5"):
        SearchConfig(margin=0.5)  # type: ignore[arg-type]


# Nothing and everything


@pytest.mark.parametrize("strategy", SEARCHING)
def test_zeros_are_no_margin(strategy: Any) -> None:
    for seed in range(4):
        settings = {"strategy": strategy, "seed": seed, "max_tokens": 60, "reward": judge}
        responses = [*RESPONSES, *DEAD.values()]
        usual = search(backend=RandomModel(responses, seed), **settings, trace=True)
        zero = search(backend=RandomModel(responses, seed), **settings, trace=True, margin=Margin())
        assert plain(usual) == plain(zero)


@pytest.mark.parametrize(
    ("reward", "aggregate"),
    [("policy", "prod"), (judge, "prod"), (judge, "min"), (judge, "mean"), (judge, "last")],
)
@pytest.mark.parametrize("strategy", SEARCHING)
def test_an_infinite_margin_is_greedy(strategy: Any, aggregate: Any, reward: Any) -> None:
    searcher = made_searcher()
    config = SearchConfig(
        strategy=strategy, aggregate=aggregate, beams=2, expand=4, samples=6, max_tokens=96,
        constrain="off" if aggregate == "min" else "auto",
    )  # fmt: skip
    kept = complete = 0
    for problem in KNOWN[:12]:
        greedy = searcher.search(
            problem.question, problem.tools, replace(config, strategy="greedy"), reward=reward
        )
        usual = searcher.search(problem.question, problem.tools, config, reward=reward)
        found = searcher.search(
            problem.question, problem.tools, replace(config, margin=NEVER), reward=reward
        )
        if not greedy.complete:  # no margin
            assert (found.calls, found.score) == (usual.calls, usual.score)
            continue
        complete += 1
        assert as_set(found.calls) == as_set(greedy.calls)
        assert found.complete
        differs = bool(deviations(usual.calls, greedy.calls)) or not usual.complete
        assert found.kept_greedy == differs
        if differs:
            kept += 1
            assert found.score == greedy.score
            assert found.text == greedy.text
            if usual.complete:
                listed = [(a.calls, a.score) for a in found.alternatives]
                assert (usual.calls, usual.score) in listed
    assert complete > 6
    assert kept > 0 or reward == "policy"


@pytest.mark.parametrize("aggregate", ["prod", "min", "last"])
@pytest.mark.parametrize("strategy", SEARCHING)
def test_the_companion_changes_nothing_else(strategy: Any, aggregate: Any) -> None:
    # The answer is that of the search without a margin, or the greedy one where that is not much
    # worse; what else is found is the same.
    companions = 0
    for seed in range(14):
        settings = {
            "strategy": strategy, "seed": seed, "max_tokens": 60, "reward": judge,
            "beams": 1 + seed % 3, "expand": 4, "samples": 6, "aggregate": aggregate, "trace": True,
            "constrain": "on" if seed % 2 else "off",
        }  # fmt: skip
        responses = [
            *RESPONSES,
            *DEAD.values(),
            two_calls(("clock", {}), ("weather", {"city": "X"})),
        ]
        usual = search(backend=RandomModel(responses, seed), **settings)
        found = search(backend=RandomModel(responses, seed), **settings, margin=every(0.3))
        if not usual.complete:
            continue
        listed = [(a.calls, a.score, a.complete) for a in found.alternatives]
        if found.kept_greedy:
            assert math.log(found.score) > math.log(usual.score) - 0.3
            assert (usual.calls, usual.score, True) in listed
            companions += 1
            continue
        assert (found.calls, found.score, found.text) == (usual.calls, usual.score, usual.text)
        before = [(a.calls, a.score, a.complete) for a in usual.alternatives]
        extra = [each for each in listed if each not in before]
        assert len(extra) <= 1
        open_main = [each for each in before if each not in listed]
        assert len(open_main) <= 1
        companions += bool(extra)
    if strategy != "doubt" and aggregate == "last":
        assert companions > 0


# How much better


def pair_reward(good: str, share: float):
    """1 for the steps of `good`, and `share` at the end of any other response."""

    def score(steps: list[CandidateStep]) -> list[float]:
        return [share if s.kind == "TOTAL_FINISH" and s.response != good else 1.0 for s in steps]

    return score


DEVIATING = {
    "declines": "[]",
    "omits": call("Rome"),
    "adds_call": two_calls(("weather", {"city": "Rome", "unit": "C"}), ("clock", {})),
    "name": '[{"name": "clock", "arguments": {}}]',
    "value": call("Oslo", unit="C"),
}


@pytest.mark.parametrize("strategy", SEARCHING)
@pytest.mark.parametrize("kind", DEVIATIONS)
def test_each_kind_has_its_margin(kind: str, strategy: Any) -> None:
    greedy, other = call("Rome", unit="C"), DEVIATING[kind]
    responses = {greedy: 0.6, other: 0.4}
    settings = {
        "reward": pair_reward(other, math.exp(-1)), "aggregate": "last", "strategy": strategy,
        "expand": 16, "samples": 16, "beams": 3,
    }  # fmt: skip
    usual = search(responses, **settings)
    if strategy == "doubt" and usual.text == greedy:
        pytest.skip("doubt goes back one step")
    assert usual.text == other
    for margin, text in ((0.9, other), (1.1, greedy), (math.inf, greedy)):
        found = search(responses, **settings, margin=replace(Margin(), **{kind: margin}))
        assert found.text == text, margin
        assert found.kept_greedy == (text == greedy)
        assert found.complete
        if found.kept_greedy:
            assert found.score == pytest.approx(math.exp(-1), rel=1e-6)
            assert json.loads(other) in [a.calls for a in found.alternatives]
    for another in set(DEVIATIONS) - {kind}:
        assert search(responses, **settings, margin=Margin(**{another: 5.0})).text == other


@pytest.mark.parametrize("aggregate", ["prod", "min"])
def test_a_companion_that_can_not_win_is_not_decoded_to_its_end(aggregate: Any) -> None:
    def rewards(steps: list[CandidateStep]) -> list[float]:
        return [0.1 if s.argument == "city" and s.value != "Rome" else 0.99 for s in steps]

    responses = {call("Paris", unit="C", days=3): 0.6, call("Rome", unit="C"): 0.4}
    settings = {"reward": rewards, "aggregate": aggregate, "expand": 32, "beams": 1}
    usual = search(responses, **settings)
    assert "Rome" in usual.text
    near = search(responses, **settings, margin=every(1.0))
    far = search(responses, **settings, margin=every(5.0))
    assert near.text == usual.text
    assert not near.kept_greedy
    assert far.kept_greedy
    assert "Paris" in far.text
    assert usual.stats.decode_tokens < near.stats.decode_tokens < far.stats.decode_tokens


@pytest.mark.parametrize("aggregate", ["prod", "min"])
@pytest.mark.parametrize("margin", [0.2, 0.7, 2.0])
def test_ending_early_changes_no_answer(aggregate: Any, margin: float) -> None:
    # The companion's end is decided here from whole searches: without a margin and greedy.
    kept = 0
    searcher = made_searcher()
    config = SearchConfig(
        strategy="step-beam", beams=1, expand=4, max_tokens=96, aggregate=aggregate
    )
    for problem, seed in ((problem, seed) for problem in KNOWN[:12] for seed in (0, 1)):
        seeded = replace(config, seed=seed)
        ask = {"messages": problem.question, "tools": problem.tools, "reward": judge}
        greedy = searcher.search(config=replace(seeded, strategy="greedy"), **ask)
        usual = searcher.search(config=seeded, **ask)
        found = searcher.search(config=replace(seeded, margin=every(margin)), **ask)
        stays = greedy.complete and (
            not usual.complete
            or (
                bool(deviations(usual.calls, greedy.calls))
                and math.log(usual.score) - math.log(greedy.score) < margin
            )
        )
        expected = greedy if stays else usual
        assert (found.calls, found.score) == (expected.calls, expected.score)
        assert found.kept_greedy == stays
        kept += stays
    assert kept > 0


# An incomplete greedy path


@pytest.mark.parametrize("strategy", SEARCHING)
def test_a_greedy_path_that_dies_is_no_margin(strategy: Any) -> None:
    for dead in DEAD.values():
        responses = {dead: 0.6, call("Rome"): 0.4}
        settings = {"strategy": strategy, "expand": 16, "samples": 32, "reward": judge, "beams": 1}
        usual = search(responses, **settings)
        found = search(responses, **settings, margin=NEVER)
        assert (found.text, found.score) == (usual.text, usual.score)
        assert not found.kept_greedy


@pytest.mark.parametrize("strategy", SEARCHING)
def test_a_greedy_path_that_is_too_long_is_no_margin(strategy: Any) -> None:
    responses = {call("R" + "o" * 60): 0.6, call("Rome"): 0.4}
    for limit in ({"max_step_tokens": 30}, {"max_tokens": 40}):
        settings = {"strategy": strategy, "expand": 16, "reward": judge, **limit}
        found = search(responses, **settings, margin=NEVER)
        assert found.text == call("Rome")
        assert not found.kept_greedy


def test_where_all_else_dies_greedy_is_the_answer() -> None:
    # One beam, that of the dead response: it scores better until it dies.
    responses = {call("Rome"): 0.6, DEAD["wrong enum"]: 0.4}
    settings = {
        "reward": city_reward("X"), "aggregate": "min", "beams": 1, "expand": 32, "way_floor": 1.0,
    }  # fmt: skip
    usual = search(responses, **settings)
    assert not usual.complete
    found = search(responses, **settings, margin=NEVER, trace=True)
    assert found.text == call("Rome")
    assert found.complete
    assert found.kept_greedy
    assert [a.complete for a in found.alternatives] == [False]
    # Where greedy dies too, the answer is what it was.
    responses = {DEAD["wrong type"]: 0.6, DEAD["wrong enum"]: 0.4}
    lost = search(responses, **settings, margin=NEVER)
    without = search(responses, **settings)
    assert (lost.text, lost.complete, lost.kept_greedy) == (without.text, False, False)


@pytest.mark.parametrize("reward", ["policy", States(), judge])
@pytest.mark.parametrize("strategy", SEARCHING)
def test_stops(strategy: Any, reward: Any) -> None:
    # Cut off anywhere, the answer is one that the search without a margin gives, or the greedy
    # one, whole.
    greedy = search(strategy="greedy", reward=reward)
    kept = 0
    for seed in range(3):
        settings = {
            "strategy": strategy, "reward": reward, "expand": 8, "samples": 8, "seed": seed,
            "beams": 1 + seed, "margin": NEVER, "trace": True,
        }  # fmt: skip
        whole = search(**settings)
        assert whole.calls == greedy.calls
        for budget in range(1, whole.stats.decode_tokens):
            found = search(**settings, max_decode_tokens=budget)
            assert found.stats.decode_tokens <= budget
            assert found.stopped == "max_decode_tokens"
            kept += found.kept_greedy
            if found.kept_greedy:
                assert found.calls == greedy.calls
                assert found.complete
            finished = [a for a in [found, *found.alternatives] if a.complete]
            if any(a.calls == greedy.calls for a in finished) and found.complete:
                assert found.calls == greedy.calls
    assert kept >= 0


# Room


@pytest.mark.parametrize("reward", [judge, States()])
@pytest.mark.parametrize("strategy", SEARCHING)
def test_a_full_cache_costs_time_and_no_companion(strategy: Any, reward: Any) -> None:
    kept = tight = 0
    for seed in range(5):
        settings = {
            "strategy": strategy, "reward": reward, "seed": seed, "max_tokens": 60, "beams": 2,
            "expand": 6, "samples": 8, "trace": True, "margin": NEVER, "aggregate": "last",
            "prompt": "schemas",
        }  # fmt: skip
        greedy = search(
            backend=RandomModel(list(RESPONSES), seed), strategy="greedy", prompt="schemas"
        )
        wide = search(backend=RandomModel(list(RESPONSES), seed), **settings)
        model = RandomModel(list(RESPONSES), seed)
        usual = search(backend=model, **{**settings, "margin": None})
        assert as_set(wide.calls) == as_set(greedy.calls)
        prompt = wide.stats.prompt_tokens
        most = wide.stats.kv_cells - prompt
        room = max(17, len(greedy.tokens) + 2)
        for limits in (
            {"context": prompt + max(room, most // 2)}, {"context": prompt + max(room, most // 3)},
            {"max_sequences": 2}, {"max_sequences": 3}, {"refuse": 0.3},
        ):  # fmt: skip
            first, second = (RandomModel(list(RESPONSES), seed, **limits) for _ in range(2))
            cut = search(backend=first, **{**settings, "margin": None})
            if cut.calls != usual.calls:
                continue  # so few cells that a beam was given up
            narrow = search(backend=second, **settings)
            assert (narrow.calls, narrow.kept_greedy) == (wide.calls, wide.kept_greedy)
            assert narrow.score == wide.score
            kept += narrow.kept_greedy
            tight += narrow.stats.decode_tokens > wide.stats.decode_tokens
    if strategy != "doubt":
        assert kept > 3
        assert tight > 0


def test_a_greedy_path_that_fits_in_no_cells_is_no_margin() -> None:
    short, long = call("Rome"), call("R" + "o" * 80)
    settings = {"expand": 16, "max_step_tokens": 100, "reward": judge, "beams": 1, "trace": True}
    whole = search({short: 0.4, long: 0.6}, **settings, margin=NEVER)
    assert whole.text == long
    backend = MockBackend({short: 0.4, long: 0.6}, context=whole.stats.prompt_tokens + 60)
    found = search(backend=backend, **settings, margin=NEVER)
    assert found.text == short
    assert not found.kept_greedy
    assert found.trace is not None
    assert any(n.fate == "unfinished" and "ooo" in n.text for n in found.trace)


# Many, streams, traces, pools


@pytest.mark.parametrize("strategy", SEARCHING)
@pytest.mark.parametrize("context", [1 << 14, 4200])
def test_many_at_once_are_as_alone(strategy: Any, context: int) -> None:
    answers = {problem.question: problem.responses for problem in KNOWN}
    ordered = dict(sorted(answers.items(), key=lambda item: -len(item[0])))
    searcher = Searcher(MockBackend({"[]": 1.0}, by_prompt=ordered, context=context))
    config = SearchConfig(
        strategy=strategy, beams=1, expand=4, samples=6, max_tokens=96, margin=every(0.5),
        aggregate="last",
    )  # fmt: skip
    some = KNOWN[:10]
    alone = [searcher.search(p.question, p.tools, config, reward=judge) for p in some]
    many = searcher.search_many([(p.question, p.tools) for p in some], config, reward=judge)
    for one, other in zip(alone, many, strict=True):
        assert (one.calls, one.score, one.kept_greedy) == (
            other.calls, other.score, other.kept_greedy,
        )  # fmt: skip
        assert [(a.calls, a.score) for a in one.alternatives] == [
            (a.calls, a.score) for a in other.alternatives
        ]
    assert any(one.kept_greedy for one in alone)


@pytest.mark.parametrize("strategy", SEARCHING)
@pytest.mark.parametrize("margin", [every(0.5), NEVER])
def test_streams_keep_their_promise(strategy: Any, margin: Margin) -> None:
    searcher = made_searcher()
    kept = 0
    for problem, seed in ((problem, seed) for problem in KNOWN[:8] for seed in (0, 1)):
        config = SearchConfig(
            strategy=strategy, beams=1 + seed, expand=4, samples=6, max_tokens=96, margin=margin,
            seed=seed, aggregate="min", trace=True,
        )  # fmt: skip
        *events, result = searcher.stream(problem.question, problem.tools, config, reward=judge)
        assert isinstance(result, SearchResult)
        kept += result.kept_greedy
        for event in events:
            if isinstance(event, CallFinished):
                assert result.calls[event.index] == event.call
        decided = [event.step for event in events if isinstance(event, StepDecided)]
        assert all(step in decided for step in result.steps)
        check_trace(result, [event for event in events if isinstance(event, TraceNode)])
    assert kept > 0 or strategy == "doubt"


def check_trace(result: SearchResult, streamed: list[TraceNode]) -> None:
    nodes = result.trace
    assert nodes is not None
    assert streamed == nodes
    by_id = {node.id: node for node in nodes}
    assert len(by_id) == len(nodes)
    for node in nodes:
        assert (node.parent is None) == (node.round == 1)
        if node.parent is not None:
            assert by_id[node.parent].fate == "kept"
            assert by_id[node.parent].round < node.round
    # The answer is one of the paths that were kept.
    texts = set()
    for node in nodes:
        if node.fate == "kept" and node.finished:
            path = [node]
            while path[-1].parent is not None:
                path.append(by_id[path[-1].parent])
            texts.add("".join(each.text for each in reversed(path)))
    if result.complete:
        assert result.text in texts


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("margin", [every(0.1), every(0.5), Margin(declines=math.inf), NEVER])
@pytest.mark.parametrize("card", [False, True])
def test_pools_choose_as_the_searches_do(seed: int, margin: Margin, card: bool) -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    head = random_head(searcher, seed, False, "min")
    given = None if card else margin
    if card:
        head = Head(replace(head.card, margin=margin), head.weights)
    config = SearchConfig(
        constrain="off", temperature=1.0, samples=12, seed=seed, strategy="best-of-n", margin=given
    )
    messages = [{"role": "user", "content": QUESTION}]
    pool = Pool(searcher.record(messages, TOOLS, config, StateReader((1, 2, 3))), (1, 2, 3))
    chosen = pool.best(pool.scores(head))
    kept = pool.kept_to_greedy(chosen, head, None, given)
    alone = searcher.search(QUESTION, TOOLS, config, reward=head)
    assert alone.kept_greedy == (kept is not None)
    if kept is not None:
        assert kept[0].calls == alone.calls
        assert kept[1] == pytest.approx(alone.score, rel=1e-4)
    else:
        assert chosen is not None
        assert chosen.calls == alone.calls


def test_a_deadline_while_the_companion_is_written(clock: Clock) -> None:
    def rewards(steps: list[CandidateStep]) -> list[float]:
        return [0.5 if s.argument == "city" and s.value != "Rome" else 0.99 for s in steps]

    backend = MockBackend({call("Paris", unit="C", days=3): 0.6, call("Rome"): 0.4})
    backend.on_step = clock.step
    searcher = Searcher(backend)
    config = SearchConfig(
        strategy="step-beam", constrain="off", aggregate="prod", expand=32, beams=1,
        temperature=1.0, margin=every(5.0),
    )  # fmt: skip
    found = searcher.search(QUESTION, TOOLS, config, reward=rewards)
    assert found.kept_greedy
    steps = len(clock.steps)
    clock.steps.clear()
    stopped = searcher.search(
        QUESTION, TOOLS, replace(config, deadline_ms=1e3 * (steps - 1) - 500), reward=rewards
    )
    assert stopped.stopped == "deadline"
    assert "Rome" in stopped.text
    assert stopped.complete
    assert not stopped.kept_greedy


def test_json_says_that_the_greedy_answer_was_kept() -> None:
    found = search(reward=judge, margin=NEVER, expand=16)
    assert found.to_dict()["kept_greedy"] == found.kept_greedy
    assert search(strategy="greedy", margin=NEVER).kept_greedy is False
    assert np.isfinite(found.score)
