"""The search that is greedy where the reward is sure and looks further where it is not."""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.eval_cases import item
from support.mock_backend import MockBackend, tokenize
from support.mock_models import Paths, RandomModel
from support.step_rewards import StateReward, TextReward, city_reward, sure
from support.weather import DEAD, RESPONSES, TOOLS, call, search, two_calls
from toolprm_lite import SearchConfig, Searcher, SearchResult
from toolprm_lite.errors import ConfigError, TrainingError
from toolprm_lite.reward.base import FEATURES, CandidateStep
from toolprm_lite.reward.head import FittedModel, Head, HeadCard, HeadWeights
from toolprm_lite.reward.head_file import load_head, save_head
from toolprm_lite.training.doubt import DoubtSettings, Measured, choose_doubt, fit_doubt, measure

NEARLY_ALWAYS = 1 - 1e-9


def counts(result: SearchResult) -> dict[str, Any]:
    """Those of the search: what of the prompt was cached depends on the question before."""
    stats = asdict(result.stats)
    return {
        key: stats[key] for key in stats if key not in ("ms", "prefill_tokens", "reused_tokens")
    }


def plain(result: SearchResult) -> dict[str, Any]:
    """All but the name of the strategy and the clock."""
    record = {**asdict(result), "stats": counts(result)}
    del record["strategy"]
    return record


def chance(steps: list[CandidateStep]) -> list[float]:
    """Below 1, and no two alike."""
    return [0.4 + 0.5 * zlib.crc32(s.response.encode()) / 2**32 for s in steps]


@pytest.mark.parametrize("constrain", ["off", "on"])
def test_without_doubt_it_is_greedy(constrain: str) -> None:
    def both(**settings: Any) -> None:
        greedy = search(strategy="greedy", constrain=constrain, **settings)
        found = search(strategy="doubt", doubt=0.0, constrain=constrain, **settings)
        assert plain(found) == plain(greedy)
        assert found.stats.drawn_tokens == found.stats.decode_tokens

    both()
    both(reward=city_reward("Rome"))
    both(reward=StateReward())
    both(reward=chance, aggregate="mean")
    both(tool_choice="weather")
    for seed in range(5):
        both(backend=RandomModel([*RESPONSES, *DEAD.values()], seed), max_tokens=60)
    for limits in ({"max_tokens": n} for n in range(1, 30)):
        both(**limits)
    for responses in ({text: 1.0} for text in DEAD.values()):
        both(responses=responses, max_tokens=100)
    both(responses={call("A" + "long" * 200): 1.0}, max_step_tokens=20)
    both(responses={"I can not help with that, " * 20: 1.0}, max_text_tokens=30)


@pytest.mark.parametrize("constrain", ["off", "on"])
@pytest.mark.parametrize("reward", ["policy", chance, city_reward("Rome")])
def test_always_in_doubt_it_is_step_beam(reward: Any, constrain: str) -> None:
    for seed in range(5):
        sizes = {"beams": 2, "expand": 4, "seed": seed, "trace": True, "constrain": constrain}
        wide = search(reward=reward, **sizes)
        assert plain(search(reward=reward, strategy="doubt", doubt=1.0, **sizes)) == plain(wide)


@pytest.mark.parametrize("constrain", ["off", "on"])
@pytest.mark.parametrize("expand", [1, 4, 16])
def test_what_it_looks_at_is_what_step_beam_looks_at(expand: int, constrain: str) -> None:
    # With one beam, and scores that fall with every step, each round is widened: the candidates and
    # the tokens are the same, only the order is another.
    responses = [*RESPONSES, *DEAD.values()]
    widened = 0
    for seed in range(24 if expand == 1 else 12):
        settings = {
            "reward": chance, "aggregate": "prod", "beams": 1, "expand": expand, "seed": seed,
            "way_floor": 1.0, "constrain": constrain, "max_tokens": 60,
        }  # fmt: skip
        backend = Paths(dict.fromkeys(responses, 1.0))
        backend.logits = RandomModel(responses, seed).logits  # type: ignore[method-assign]
        wide = search(backend=RandomModel(responses, seed), **settings)
        found = search(strategy="doubt", doubt=NEARLY_ALWAYS, backend=backend, **settings)
        assert (found.text, found.score, found.steps) == (wide.text, wide.score, wide.steps)
        assert found.alternatives == wide.alternatives
        for count in ("decode_tokens", "forced_tokens", "rounds"):
            assert getattr(found.stats, count) == getattr(wide.stats, count), count
        assert len(backend.paths) == len(set(backend.paths)), "decoded twice"
        assert found.stats.widened <= found.stats.rounds
        widened += found.stats.widened
        assert found.stats.drawn_tokens >= found.stats.decode_tokens
    assert widened > 5


def test_where_it_is_sure_it_costs_what_greedy_costs() -> None:
    text = call("Rome", unit="C", days=3)
    others = {call(f"{a}ome", unit=b, days=c): 0.02 for a in "ABC" for b in "CF" for c in (1, 2)}
    for reward in (sure, StateReward()):
        backend = Paths({text: 0.76, **others})
        greedy = search({text: 0.76, **others}, reward, strategy="greedy")
        found = search(reward=reward, strategy="doubt", backend=backend, expand=16, temperature=3.0)
        assert found.text == greedy.text == text
        assert counts(found) == counts(greedy)
        assert found.alternatives == []
        assert len(backend.held) > 20
        # What branched off holds sequences until its round is decided, and no longer.
        assert max(backend.held) <= 2 * 16 + 1
        assert backend.held[-1] == 1
        assert set(backend.rows) == {1}


@pytest.mark.parametrize("constrain", ["off", "on"])
@pytest.mark.parametrize("states", [False, True])
def test_a_doubtful_step_is_corrected(constrain: str, states: bool) -> None:
    class Rome(StateReward):
        def score(self, batch: Any) -> np.ndarray:
            super().score(batch)
            return np.array(city_reward("Rome")(batch.candidates()), np.float32)

    def ask(backend: MockBackend | None = None, **settings: Any) -> SearchResult:
        reward = Rome() if states else city_reward("Rome")
        # With this seed a round follows the doubtful one.
        settings = {
            "tool_choice": "weather", "constrain": constrain, "expand": 16, "seed": 1, **settings,
        }  # fmt: skip
        return search(reward=reward, aggregate="min", backend=backend, **settings)

    assert ask(strategy="greedy").calls[0]["arguments"]["city"] == "Paris"
    backend = Paths(RESPONSES)
    found = ask(backend, strategy="doubt", trace=True)
    wide = ask(strategy="step-beam")
    assert found.calls[0]["arguments"]["city"] == wide.calls[0]["arguments"]["city"] == "Rome"
    assert found.score == wide.score
    assert found.stats.widened == 1
    assert found.stats.decode_tokens < wide.stats.decode_tokens
    assert len(backend.paths) == len(set(backend.paths))
    assert found.stats.decode_tokens + found.stats.forced_tokens == len(backend.paths)
    assert found.trace is not None
    greedy = [c for c in found.trace if "Paris" in c.text and c.fate != "merged"]
    assert greedy
    # The other beams score far less, so it continues alone.
    assert backend.rows[-1] == 1
    assert found.stats.reward_calls == found.stats.rounds + found.stats.widened


def test_a_close_beam_stays() -> None:
    def late(steps: list[CandidateStep]) -> list[float]:
        return [
            0.9 if s.kind == "FUNC_NAME"
            else 0.6 if s.argument
            else 0.5 if "Rome" not in s.response
            else 0.1
            if s.kind == "TOTAL_FINISH"
            else 0.61
            for s in steps
        ]  # fmt: skip

    def name(steps: list[CandidateStep]) -> list[float]:
        rewards = late(steps)
        return [0.61 if s.value == "Rome" else r for s, r in zip(steps, rewards, strict=True)]

    # The end of the call and of the response are two tokens.
    responses = {f"{call(city)[:-1]} ]": p for city, p in {"Paris": 0.6, "Rome": 0.4}.items()}
    settings = {"reward": name, "aggregate": "last", "expand": 16, "tool_choice": "weather"}
    both = search(responses, strategy="doubt", doubt=0.8, **settings)
    assert both.calls[0]["arguments"]["city"] == "Paris"
    assert both.stats.rows_max > 1
    (other,) = both.alternatives
    assert other.calls[0]["arguments"]["city"] == "Rome"


def test_equal_candidates_are_one() -> None:
    # The greedy step and a draw write the same city.
    one, other = call("Oslo"), call("Oslo").replace("Oslo", "Os\\u006co")
    doubtful = {"aggregate": "min", "expand": 32, "trace": True, "strategy": "doubt"}
    backend = Paths({one: 0.6, other: 0.4})
    result = search(reward=city_reward("Rome"), backend=backend, **doubtful)
    assert result.calls == [{"name": "weather", "arguments": {"city": "Oslo"}}]
    assert result.stats.widened == 1
    assert [entry.fate for entry in result.trace or []].count("merged") == 1
    assert result.alternatives == []
    assert len(backend.paths) == len(set(backend.paths))


@pytest.mark.parametrize("constrain", ["off", "on"])
def test_the_end_may_be_doubtful(constrain: str) -> None:
    one, both = call("Rome"), two_calls(*(("weather", {"city": c}) for c in ("Rome", "Oslo")))

    def more(steps: list[CandidateStep]) -> list[float]:
        return [
            0.1 if s.kind == "TOTAL_FINISH" and "Oslo" not in s.response else 0.9 for s in steps
        ]

    settings = {"reward": more, "aggregate": "min", "constrain": constrain, "temperature": 0.0}
    responses = {one: 0.8, both: 0.2}
    assert search(responses, strategy="greedy", **settings).text == one
    # Nothing else is drawn at this temperature: the other way on is a candidate by itself.
    found = search(responses, strategy="doubt", expand=1, **settings)
    assert len(found.calls) == 2
    assert found.stats.widened == 1
    # What has ended is not lost, whatever comes of the rest.
    assert [len(a.calls) for a in found.alternatives] == [1]


def test_declining_may_be_the_answer() -> None:
    def modest(steps: list[CandidateStep]) -> list[float]:
        return [0.9 if s.response == "[]" else 0.2 for s in steps]

    found = search({call("Rome"): 0.9, "[]": 0.1}, modest, strategy="doubt", temperature=0.0)
    assert (found.text, found.stats.widened) == ("[]", 1)


@pytest.mark.parametrize("constrain", ["off", "on"])
@pytest.mark.parametrize("reward", ["policy", chance, "states"])
def test_a_small_cache_costs_time_and_not_answers(reward: Any, constrain: str) -> None:
    def ask(**settings: Any) -> SearchResult:
        return search(
            reward=TextReward() if reward == "states" else reward, strategy="doubt", doubt=0.9,
            constrain=constrain, beams=3, expand=8, seed=3, **settings,
        )  # fmt: skip

    wide = ask()
    assert wide.stats.widened > 0
    for sequences, room, refuse in itertools.product([1, 2, 5, 64], [70, 4000], [0.0, 0.3]):
        context = wide.stats.prompt_tokens + room
        backend = MockBackend(RESPONSES, context=context, max_sequences=sequences, refuse=refuse)
        narrow = ask(backend=backend)
        assert narrow.complete
        assert backend.cells_max <= context
        if room > 100:
            assert narrow.text == wide.text
            assert [a.calls for a in narrow.alternatives] == [a.calls for a in wide.alternatives]
            assert narrow.stats.widened == wide.stats.widened


def test_seeds() -> None:
    def ask(seed: int, reward: Any) -> SearchResult:
        return search(reward=reward, strategy="doubt", doubt=0.7, seed=seed, expand=4)

    for seed in range(5):
        assert plain(ask(seed, chance)) == plain(ask(seed, chance))
    assert len({ask(seed, chance).stats.decode_tokens for seed in range(10)}) > 1
    # Where nothing is doubtful nothing depends on the draws.
    one, *others = (
        plain(search(reward=sure, strategy="doubt", aggregate="min", seed=seed))
        for seed in range(10)
    )
    assert all(other == one for other in others)


def test_what_runs_on_or_dies_is_a_doubt() -> None:
    endless = call("A" + "long" * 200)
    settings = {"max_step_tokens": 20, "expand": 32, "reward": sure}
    # The others go wrong a step before they die, and it goes back one step only.
    dead = ("not a tool", "no such parameter", "wrong type", "missing", "order")
    for bad in (endless, *(DEAD[why] for why in dead)):
        responses = {bad: 0.6, call("Rome"): 0.4}
        assert not search(responses, strategy="doubt", doubt=0.0, **settings).complete
        found = search(responses, strategy="doubt", doubt=0.1, **settings)
        assert found.calls == [{"name": "weather", "arguments": {"city": "Rome"}}], bad
        assert found.stats.widened == 1
    assert not search({DEAD["order"]: 1.0}, strategy="doubt").complete


def test_limits() -> None:
    for limit in range(1, 40):
        result = search(reward=chance, strategy="doubt", doubt=0.8, max_tokens=limit, expand=4)
        assert len(result.tokens) <= limit
        assert len(result.calls) <= 1


def test_the_policys_own_probability() -> None:
    # The score is the response's probability: a doubt is a step that more than 1 - T of it leaves.
    responses = {call("Paris"): 0.35, call("Parma"): 0.25, call("Rome"): 0.4}
    assert search(responses, strategy="greedy").score == pytest.approx(0.35, rel=1e-4)
    for doubt, widened in ((0.3, 0), (0.4, 1)):  # the city costs 0.65
        found = search(responses, strategy="doubt", doubt=doubt, expand=32)
        assert found.stats.widened == widened
        assert found.score == pytest.approx(0.4 if widened else 0.35, rel=1e-4)


def half(searcher: Searcher, doubt: float | None) -> Head:
    """Every probability is one half."""
    info = searcher.info
    model = FittedModel(
        info.name, info.architecture, info.width, info.layers, searcher.vocabulary_hash
    )
    card = HeadCard(
        name="half", model=model, call_format="json-list", layers=(2,), prompt="signatures",
        pooled=False, features=FEATURES, doubt=doubt,
    )  # fmt: skip
    inputs = card.hidden_width + len(FEATURES)
    shapes = [(inputs,), (1, inputs), (5, 1), (2, 5, 1), (2, 5), (2, 5, 2)]
    shift, *others = (np.zeros(shape, np.float32) for shape in shapes)
    return Head(card, HeadWeights(shift, np.ones(inputs, np.float32), *others))


@pytest.mark.parametrize(
    ("given", "card", "looks"),
    [
        (None, None, False),  # one half, at which losing one half is no doubt yet
        (None, 0.6, True),
        (None, 0.4, False),
        (0.6, None, True),
        (0.6, 0.4, True),
        (0.4, 0.6, False),
    ],
)
def test_whose_threshold_it_is(given: float | None, card: float | None, looks: bool) -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    config = SearchConfig(strategy="doubt", doubt=given, constrain="off", temperature=1.0)
    result = searcher.search("Weather in Rome?", TOOLS, config, reward=half(searcher, card))
    assert (result.stats.widened > 0) == looks
    others = replace(config, strategy="step-beam")
    assert searcher.search("Weather in Rome?", TOOLS, others).stats.widened == 0


@pytest.mark.parametrize("doubt", [-0.1, 1.5, float("nan")])
def test_a_threshold_out_of_range_is_named(doubt: float) -> None:
    with pytest.raises(ConfigError, match="doubt"):
        SearchConfig(doubt=doubt)


def test_the_trace_has_what_was_looked_at() -> None:
    quiet = search(reward=sure, strategy="doubt", trace=True)
    assert [(c.fate, c.draws) for c in quiet.trace or []] == [("kept", 1)] * quiet.stats.rounds
    assert "".join(c.text for c in quiet.trace or []) == quiet.text
    json.dumps(quiet.to_dict(), allow_nan=False)
    assert tokenize(quiet.text) == [t for t in quiet.tokens if t < 256 + 16]


def measured(doubt: float, right: int, tokens: int, problems: int = 100) -> Measured:
    """`right` of the problems, the same ones as far as they go."""
    return Measured(doubt, np.arange(problems) < right, np.full(problems, tokens))


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        ([(0.0, 50, 10), (0.5, 70, 15), (1.0, 70, 40)], 0.5),
        ([(0.0, 50, 10), (0.5, 55, 15), (1.0, 70, 40)], 1.0),
        ([(0.0, 70, 10), (0.5, 70, 10), (1.0, 70, 40)], 0.0),
        # One problem more is no more than its standard error.
        ([(0.5, 69, 15), (1.0, 70, 40)], 0.5),
        ([(0.5, 68, 15), (1.0, 70, 40)], 1.0),
        ([(0.3, 0, 15)], 0.3),
    ],
)
def test_the_cheapest_threshold_that_is_as_good(
    rows: list[tuple[float, int, int]], chosen: float
) -> None:
    for order in itertools.permutations(rows):
        assert choose_doubt([measured(*row) for row in order]).doubt == chosen


def test_thresholds_are_compared_on_the_same_problems() -> None:
    one = measured(0.5, 3, 10)
    for others in ([], [one, measured(0.6, 3, 10, problems=7)], [measured(0.5, 0, 1, problems=0)]):
        with pytest.raises(TrainingError, match="same problems"):
            choose_doubt(others)


def test_thresholds_are_measured_on_what_all_have_answered() -> None:
    tokens = {0.0: 10, 0.4: 13, 0.6: 16, 1.0: 30}
    right = {0.0: 50, 0.4: 60, 0.6: 70, 1.0: 70}
    answers = {
        threshold: {
            str(number): {
                "right": number < right[threshold],
                "stats": {"decode_tokens": tokens[threshold] - 3, "forced_tokens": 3},
            }
            for number in range(100)
        }
        for threshold in tokens
    }
    answers[0.0]["too long"] = {"right": False, "error": "no room"}
    found = measure(answers)
    assert [each.doubt for each in found] == list(tokens)
    assert [each.right.sum() for each in found] == list(right.values())
    assert [each.tokens.tolist() for each in found] == [
        [number] * 100 for number in tokens.values()
    ]
    assert choose_doubt(found).doubt == 0.6
    assert [len(each.right) for each in measure({0.0: {}, 1.0: {}})] == [0, 0]


def test_a_head_gets_its_threshold(tmp_path: Path) -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    path = tmp_path / "mine.safetensors"
    save_head(path, half(searcher, None))
    settings = DoubtSettings(
        thresholds=(0.5,), search=SearchConfig(constrain="off", temperature=1.0)
    )
    problems = [item(f"p{number}") for number in range(3)]
    asked = []

    @contextmanager
    def watch(todo: int, answered: int) -> Iterator[Callable[[], None]]:
        asked.append((todo, answered))
        yield lambda: None

    def chosen() -> float | None:
        fit_doubt(searcher, problems, path, tmp_path / "doubt", settings, watch=watch)
        return load_head(path).card.doubt

    doubt = chosen()
    assert doubt in (0.0, 0.5, 1.0)
    assert chosen() == doubt
    assert asked == [(3, 0), (0, 3)]
    problems.clear()
    save_head(path, half(searcher, None))
    assert chosen() is None
