"""The search through its public face, on a model whose distribution is known exactly."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter

import numpy as np
import pytest

from support.mock_backend import EOG, MockBackend, state_of, tokenize
from support.step_rewards import KindReward, StateReward, city_reward, equal_rewards
from support.weather import DEAD, RESPONSES, TOOLS, call, chi_square, search, two_calls
from toolprm_lite import SearchConfig, Searcher, ToolprmError
from toolprm_lite.errors import ConfigError, HeadError, ProblemError
from toolprm_lite.reward.base import FEATURES, STEP_KINDS, CandidateStep
from toolprm_lite.reward.head import FittedModel, Head, HeadCard, HeadWeights
from toolprm_lite.search.config import STRATEGIES
from toolprm_lite.search.result import CallConfidence, Step, confidence


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_finds_the_likeliest_response(strategy: str) -> None:
    result = search(strategy=strategy, samples=64, beams=4, expand=16)
    assert result.complete
    assert result.calls == [{"name": "weather", "arguments": {"city": "Paris"}}]
    assert result.strategy == strategy
    assert [step.kind for step in result.steps] == [
        "FUNC_NAME", "ARG_VALUE", "PARAM_FINISH", "FUNC_FINISH", "TOTAL_FINISH",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shared_draws_have_the_distribution_of_independent_ones(seed: int) -> None:
    draws = 1000
    result = search(reward=equal_rewards, strategy="best-of-n", samples=draws, seed=seed)
    everything = [(result.calls, result.stats)] + [(a.calls, a) for a in result.alternatives]
    # The winner's own count is what the others leave of the draws.
    counts = Counter({json.dumps(calls): entry.draws for calls, entry in everything[1:]})
    counts[json.dumps(result.calls)] = draws - sum(counts.values())
    expected = {json.dumps(json.loads(text)): weight for text, weight in RESPONSES.items()}
    assert set(counts) <= set(expected)
    # 7 degrees of freedom: 29.9 is exceeded once in 10,000 times.
    assert chi_square(counts, expected, draws) < 29.9
    tree = {tuple(tokenize(text)[:n]) for text in RESPONSES for n in range(len(tokenize(text)))}
    assert result.stats.decode_tokens < len(tree) < result.stats.drawn_tokens


def test_temperature_and_top_p_shape_the_draws() -> None:
    two = {"[]": 0.7, '[{"name": "clock", "arguments": {}}]': 0.3}
    draws = 1024
    for temperature, top_p, share in [(1.0, 1.0, 0.7), (0.5, 1.0, 0.49 / 0.58), (1.0, 0.6, 1.0)]:
        result = search(
            two, equal_rewards, strategy="best-of-n", samples=draws, temperature=temperature,
            top_p=top_p,
        )  # fmt: skip
        others = sum(a.draws for a in result.alternatives)
        deviation = (draws * share * (1 - share)) ** 0.5
        assert abs(draws - others - draws * share) <= 4 * deviation


def test_a_reward_finds_what_greedy_misses() -> None:
    greedy = search(strategy="greedy")
    assert greedy.calls[0]["arguments"]["city"] == "Paris"
    wanted = {"reward": city_reward("Rome"), "tool_choice": "weather"}
    found = search(**wanted, beams=2, expand=16)
    assert found.calls[0]["arguments"]["city"] == "Rome"
    assert found.reward == "score"
    assert found.score > 0.5
    assert all(step.reward == pytest.approx(0.9) for step in found.steps)
    best = search(**wanted, strategy="best-of-n", samples=32)
    assert best.calls[0]["arguments"]["city"] == "Rome"


@pytest.mark.parametrize("constrain", ["off", "on"])
@pytest.mark.parametrize("strategy", ["step-beam", "best-of-n"])
def test_a_seed_gives_the_same_answer_whatever_the_batch(strategy: str, constrain: str) -> None:
    wide = search(strategy=strategy, constrain=constrain, seed=3, beams=4, expand=8)
    prompt = wide.stats.prompt_tokens
    for sequences, room, refuse in itertools.product([1, 2, 5, 64], [70, 4000], [0.0, 0.3]):
        context = prompt + room
        backend = MockBackend(RESPONSES, context=context, max_sequences=sequences, refuse=refuse)
        narrow = search(
            strategy=strategy, constrain=constrain, seed=3, beams=4, expand=8, backend=backend
        )
        assert narrow.complete
        if room > 100:
            assert narrow.text == wide.text
            assert [a.calls for a in narrow.alternatives] == [a.calls for a in wide.alternatives]
        assert backend.cells_max <= context


def test_small_noise_in_the_logits_changes_little() -> None:
    same = sum(
        search(seed=seed).text
        == search(seed=seed, backend=MockBackend(RESPONSES, jitter=1e-4)).text
        for seed in range(20)
    )
    assert same >= 19


def test_seeds_differ() -> None:
    settings = {"strategy": "best-of-n", "samples": 1}
    assert len({search(seed=seed, **settings).text for seed in range(30)}) > 2


def test_the_argmax_path_is_always_a_candidate() -> None:
    # A temperature that never draws the likeliest response by chance alone.
    responses = {call("Paris"): 0.1} | {call(f"{letter}ton"): 0.06 for letter in "ABCDEFGHIJKLMNO"}
    for seed in range(5):
        result = search(responses, expand=1, beams=1, temperature=100.0, seed=seed, trace=True)
        assert any(c.draws == 0 and "Paris" in c.text for c in result.trace), seed


def test_equal_responses_written_differently_are_one() -> None:
    one = '[{"name": "weather", "arguments": {"city": "Oslo", "days": 5}}]'
    two = '[{"name":"weather","arguments":{"days":5.0,"city":"Os\\u006co"}}]'
    responses = {one: 0.45, two: 0.25, "[]": 0.3}
    result = search(responses, equal_rewards, strategy="best-of-n", samples=256)
    assert result.calls[0]["arguments"] == {"city": "Oslo", "days": 5}
    assert [a.calls for a in result.alternatives] == [[]]


def test_variants_of_a_decision_leave_room_for_others() -> None:
    # "Paris" continues in three ways; Rome is less likely than each of them.
    result = search(
        {
            call("Paris"): 0.3,
            call("Paris", unit="C"): 0.3,
            call("Paris", days=3): 0.2,
            call("Rome"): 0.2,
        },
        beams=2, expand=64, trace=True,
    )  # fmt: skip
    cities = {c.text for c in result.trace if c.fate == "kept" and '"city"' in c.text}
    assert any("Rome" in text for text in cities)


def test_a_value_that_runs_on_is_given_up() -> None:
    endless = call("A" + "long" * 200)
    responses = {call("Paris"): 0.5, call("Rome"): 0.3, endless: 0.2}
    result = search(responses, beams=2, expand=64, max_tokens=1000, trace=True)
    assert result.calls[0]["arguments"]["city"] == "Paris"
    assert any(c.fate == "outscored" and "longlong" not in c.text for c in result.trace)
    assert result.stats.decode_tokens < 200
    # A reward of another kind may like it, so there it is followed to the limit of a step.
    like = city_reward("Rome")
    patient = search(
        responses, reward=like, beams=2, expand=64, max_tokens=1000, max_step_tokens=900
    )
    assert patient.stats.decode_tokens > 800
    limited = search(responses, reward=like, beams=2, expand=64, max_tokens=1000, trace=True)
    assert 100 < limited.stats.decode_tokens < 200
    assert any(c.fate == "unfinished" and "longlong" in c.text for c in limited.trace)


@pytest.mark.parametrize("text", DEAD.values(), ids=DEAD.keys())
def test_dead_candidates_never_win(text: str) -> None:
    mixed = search({text: 0.9, call("Rome"): 0.1}, beams=2, expand=128)
    assert mixed.calls == [{"name": "weather", "arguments": {"city": "Rome"}}]
    alone = search({text: 1.0})
    assert not alone.complete
    assert alone.calls == []
    masked = search({text: 1.0}, constrain="on", max_tokens=200)
    for made in masked.calls:
        assert made["name"] in ("weather", "clock")


def test_what_was_closed_survives_a_death() -> None:
    good = '{"name": "weather", "arguments": {"city": "Rome"}}'
    result = search({f'[{good}, {{"name": "nope"': 1.0})
    assert not result.complete
    assert result.calls == [{"name": "weather", "arguments": {"city": "Rome"}}]


def test_limits() -> None:
    short = search({call("Rome"): 1.0}, max_tokens=12)
    assert not short.complete
    assert len(short.tokens) <= 12
    prose = search({"I can not help with that, " * 20: 1.0}, max_text_tokens=30)
    assert prose.complete
    assert prose.calls == []
    assert len(prose.tokens) == 30
    assert search({"Sorry.": 1.0}).complete


def test_tool_choice_and_parallel() -> None:
    assert search(tool_choice="none").calls == []
    assert search({"[]": 0.9, call("Rome"): 0.1}, tool_choice="required", expand=32).calls
    clock = search(tool_choice="clock", expand=64)
    assert clock.calls == [{"name": "clock", "arguments": {}}]
    double = json.dumps(json.loads(call("Rome")) + json.loads(call("Oslo")))
    assert len(search({double: 1.0}).calls) == 2
    assert len(search({double: 0.9, call("Rome"): 0.1}, parallel=False, expand=64).calls) == 1
    for constrain in ("on", "off"):
        with pytest.raises(ConfigError, match="tool_choice"):
            search(tool_choice="nobody", constrain=constrain)


def repeated(city: str, count: int) -> str:
    return json.dumps(json.loads(call(city)) * count)


def test_the_number_of_calls_is_limited() -> None:
    many = json.dumps([json.loads(call(f"city {n}"))[0] for n in range(20)])
    few = json.dumps(json.loads(many)[:16])
    assert len(search({few: 1.0}).calls) == 16
    assert not search({many: 1.0}).complete
    assert len(search({many: 1.0}, constrain="on").calls) <= 16
    config = {"max_calls": 20, "max_tokens": 2000}
    assert len(search({many: 1.0}, **config).calls) == 20


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_call_again_and_again_is_no_answer(strategy: str) -> None:
    twice = search({repeated("Rome", 2): 1.0}, strategy=strategy, samples=4)
    assert twice.complete
    assert len(twice.calls) == 2
    runaway = search({repeated("Rome", 12): 1.0}, strategy=strategy, samples=4)
    assert not runaway.complete
    assert len(runaway.calls) <= 3


def test_a_repeated_call_is_paid_for() -> None:
    """A reward that likes everything leaves the choice to what the repetition costs."""
    responses = {repeated("Rome", 2): 0.3, repeated("Rome", 1): 0.7}
    result = search(responses, lambda steps: [0.9] * len(steps), aggregate="mean", expand=64)
    assert len(result.calls) == 1
    again = next(other for other in result.alternatives if len(other.calls) == 2)
    assert again.score == pytest.approx(0.9 * 0.3)
    # Escapes, white space and the order of arguments make no other call of it.
    first = {"name": "weather", "arguments": {"city": "Rome", "unit": "C"}}
    second = {"name": "weather", "arguments": {"unit": "C", "city": "Rome"}}
    responses = {json.dumps([first, second]): 0.3, json.dumps([first]): 0.7}
    result = search(responses, lambda steps: [0.9] * len(steps), aggregate="mean", expand=64)
    again = next(other for other in result.alternatives if len(other.calls) == 2)
    assert again.score == pytest.approx(0.9 * 0.3)


def test_forced_tokens_are_counted_apart() -> None:
    result = search({call("Rome"): 1.0}, constrain="on", tool_choice="weather", strategy="greedy")
    assert result.calls == [{"name": "weather", "arguments": {"city": "Rome"}}]
    assert result.stats.forced_tokens > 5
    assert result.stats.decode_tokens == result.stats.drawn_tokens
    total = result.stats.forced_tokens + result.stats.decode_tokens
    # The last token needs no decoding: nothing follows it.
    assert total == len(result.tokens) - 1
    name = result.steps[0]
    assert (name.kind, name.reward, name.logprob) == ("FUNC_NAME", 1.0, 0.0)


@pytest.mark.parametrize("strategy", ["step-beam", "greedy", "best-of-n"])
@pytest.mark.parametrize("sequences", [2, 64])
def test_rewards_see_the_state_of_the_boundary_token(strategy: str, sequences: int) -> None:
    reward = StateReward()
    backend = MockBackend(RESPONSES, max_sequences=sequences)
    result = search(reward=reward, strategy=strategy, backend=backend, expand=16)
    assert result.probability == 0.5
    assert backend.layers == (2,)
    for kind, response, state in reward.seen:
        paths = [tokenize(text) for text in RESPONSES]
        if kind == "TOTAL_FINISH" and not response.endswith("]"):
            continue
        candidates = {
            tuple(path[:n])
            for path in paths
            for n in range(len(path) + 1)
            if b"".join(backend.token_bytes[t] for t in path[:n]).startswith(response.encode())
            and len(b"".join(backend.token_bytes[t] for t in path[: n - 1])) < len(response)
        }
        assert any(np.array_equal(state, state_of(path)) for path in candidates), response
    assert {kind for kind, *_ in reward.seen} >= {"FUNC_NAME", "ARG_VALUE", "TOTAL_FINISH"}


@pytest.mark.parametrize("strategy", ["greedy", "step-beam", "best-of-n"])
def test_every_part_of_a_call_has_its_probability(strategy: str) -> None:
    text = two_calls(
        ("weather", {"city": "Oslo", "unit": "C"}), ("clock", {}), ("weather", {"city": "Rome"})
    )
    result = search({text: 1.0}, reward=KindReward(), strategy=strategy)
    assert result.confidence == [
        CallConfidence(0.125, 0.75, {"city": 0.625, "unit": 0.5}),
        CallConfidence(0.125, 0.75, {}),
        CallConfidence(0.125, 0.75, {"city": 0.5}),
    ]
    assert [list(c.arguments) for c in result.confidence] == [
        list(c["arguments"]) for c in result.calls
    ]
    assert result.probability == 0.125  # PARAM_FINISH
    assert [s.probability for s in result.steps] == [s.reward for s in result.steps]
    record = json.loads(json.dumps(result.to_dict()))
    assert record["confidence"][0] == {
        "probability": 0.125, "name": 0.75, "arguments": {"city": 0.625, "unit": 0.5},
    }  # fmt: skip


def test_a_declined_response_has_the_probability_of_the_whole() -> None:
    result = search({"[]": 1.0}, reward=KindReward())
    assert (result.calls, result.confidence, result.probability) == ([], [], 0.25)


def test_a_response_cut_off_has_confidence_in_its_closed_calls_only() -> None:
    text = two_calls(("clock", {}), ("weather", {"city": "Rome", "unit": "C"}))
    whole = len(tokenize(text))
    result = search({text: 1.0}, reward=KindReward(), strategy="greedy", max_tokens=whole - 5)
    assert not result.complete
    assert result.steps[-1].kind == "ARG_VALUE"
    assert result.confidence == [CallConfidence(0.125, 0.75, {})]
    assert len(result.calls) == 1
    assert result.probability is None


def test_confidence_in_odd_steps() -> None:
    """What the segmenter would not let through: an argument twice, a call without a name."""

    def step(index: int, kind: str, probability: float | None, argument: str | None = None) -> Step:
        return Step(index, kind, "f", argument, None, "", 1.0, 0.0, probability)

    found, whole = confidence(
        [
            step(0, "FUNC_NAME", 0.9),
            step(0, "ARG_VALUE", 0.8, "a"),
            step(0, "ARG_VALUE", None, "b"),
            step(0, "ARG_VALUE", 0.3, "a"),
            step(0, "FUNC_FINISH", 0.2),
            step(1, "FUNC_FINISH", 0.7),
            step(2, "FUNC_NAME", 0.6),
            step(2, "ARG_VALUE", 0.5, "a"),
        ]
    )
    assert found == [
        CallConfidence(0.2, 0.9, {"a": 0.3, "b": None}),
        CallConfidence(0.7, None, {}),
    ]
    assert whole is None


@pytest.mark.parametrize("reward", ["policy", city_reward("Rome")])
def test_only_calibrated_rewards_give_confidence(reward: object) -> None:
    result = search(reward=reward)
    assert result.confidence is None
    assert result.probability is None
    assert {step.probability for step in result.steps} == {None}
    assert result.to_dict()["confidence"] is None


@pytest.mark.parametrize(
    ("kinds", "known"),
    [
        (STEP_KINDS, (True, True, True, True)),
        (tuple(kind for kind in STEP_KINDS if kind != "ARG_VALUE"), (True, False, True, True)),
        (("TOTAL_FINISH",), (False, False, False, True)),
        (("FUNC_FINISH",), (False, False, True, False)),
    ],
)
def test_what_a_head_does_not_judge_has_no_probability(
    kinds: tuple[str, ...], known: tuple[bool, ...]
) -> None:
    searcher = Searcher(MockBackend({call("Rome"): 1.0}))
    info = searcher.info
    model = FittedModel(
        info.name, info.architecture, info.width, info.layers, searcher.vocabulary_hash
    )
    card = HeadCard(
        name="small", model=model, call_format="json-list", layers=(2,), prompt="signatures",
        pooled=False, features=FEATURES, kinds=kinds,
    )  # fmt: skip
    inputs = card.hidden_width + len(FEATURES)
    shapes = [(inputs,), (1, inputs), (5, 1), (2, 5, 1), (2, 5), (2, 5, 2)]
    shift, *others = (np.zeros(shape, np.float32) for shape in shapes)
    # All weights are 0, so that every probability is one half.
    head = Head(card, HeadWeights(shift, np.ones(inputs, np.float32), *others))
    config = SearchConfig(constrain="off", strategy="greedy")
    result = searcher.search("Weather in Rome?", TOOLS, config, reward=head)
    name, argument, whole, total = (0.5 if judged else None for judged in known)
    assert result.confidence == [CallConfidence(whole, name, {"city": argument})]
    assert result.probability == total
    assert {step.reward for step in result.steps if step.kind not in kinds} <= {1.0}


def test_policy_rewards_are_the_policys_probability() -> None:
    result = search(strategy="greedy")
    assert result.score == pytest.approx(0.40, rel=1e-4)
    assert np.prod([step.reward for step in result.steps]) == pytest.approx(0.40, rel=1e-4)
    assert sum(step.logprob for step in result.steps) == pytest.approx(np.log(0.40), rel=1e-4)


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [("last", 0.6), ("min", 0.5), ("prod", 0.9 * 0.5 * 0.8 * 0.7 * 0.6), ("mean", 0.7)],
)
def test_aggregates(aggregate: str, expected: float) -> None:
    rewards = {
        "FUNC_NAME": 0.9, "ARG_VALUE": 0.5, "PARAM_FINISH": 0.8, "FUNC_FINISH": 0.7,
        "TOTAL_FINISH": 0.6,
    }  # fmt: skip

    def reward(steps: list[CandidateStep]) -> list[float]:
        return [rewards[step.kind] for step in steps]

    result = search({call("Rome"): 1.0}, reward=reward, aggregate=aggregate)
    assert result.score == pytest.approx(expected, rel=1e-5)


def test_a_tagged_format_ends_with_the_model() -> None:
    one = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    both = f"{one}\n{one.replace('Rome', 'Oslo')}"
    for constrain in ("on", "off"):
        result = search(
            {both: 0.6, one: 0.3, "No.": 0.1},
            call_format="hermes", constrain=constrain, expand=32, strategy="greedy",
        )  # fmt: skip
        assert result.complete
        assert [c["arguments"]["city"] for c in result.calls] == ["Rome", "Oslo"]
        assert result.tokens[-1] == EOG


def test_the_second_question_reuses_the_prompt() -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    config = SearchConfig(strategy="step-beam", constrain="off")
    first = searcher.search("Weather in Rome?", TOOLS, config)
    second = searcher.search("Weather in Oslo?", TOOLS, config)
    assert first.stats.reused_tokens == 0
    assert second.stats.reused_tokens > 0.8 * second.stats.prompt_tokens


def test_threads_queue() -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    config = SearchConfig(strategy="step-beam", constrain="off", temperature=1.0)
    alone = [searcher.search(f"Q{n}", TOOLS, config).text for n in range(4)]
    found: dict[int, list[str]] = {}

    def ask(n: int) -> None:
        found[n] = [searcher.search(f"Q{n}", TOOLS, config).text for _ in range(5)]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[n] == [alone[n]] * 5 for n in range(4))


def test_result_forms() -> None:
    result = search()
    (made,) = result.tool_calls()
    assert made["function"]["name"] == "weather"
    assert json.loads(made["function"]["arguments"]) == {"city": "Paris"}
    record = json.loads(json.dumps(result.to_dict()))
    assert {"calls", "complete", "score", "probability", "steps", "alternatives", "model",
            "reward", "strategy", "stats"} <= set(record)  # fmt: skip
    assert record["probability"] is None
    assert set(record["stats"]["ms"]) == {"total", "prefill", "decode", "core", "reward"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"beams": 0}, "beams"),
        ({"expand": 0}, "expand"),
        ({"samples": 0}, "samples"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"decline_odds": 0.0}, "decline_odds"),
        ({"top_k": 0}, "top_k"),
        ({"strategy": "best"}, "strategy"),
        ({"constrain": "yes"}, "constrain"),
        ({"seed": -1}, "seed"),
        ({"aggregate": "max"}, "aggregate"),
        ({"call_format": "xml"}, "call_format"),
        ({"temperature": float("nan")}, "temperature is nan; it must be"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"way_floor": None}, "way_floor is None"),
        ({"doubt": "much"}, "doubt is 'much'"),
        ({"deadline_ms": float("inf")}, "deadline_ms is inf"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        SearchConfig(**settings)


def test_bad_rewards_are_named() -> None:
    with pytest.raises(ToolprmError, match="short"):
        search(reward=short)
    with pytest.raises(HeadError, match="no such head file"):
        search(reward="no such reward")
    with pytest.raises(ConfigError, match="reward is a int"):
        search(reward=5)
    for value, named in (
        (7.0, "gave 7.0"),
        (float("nan"), "gave nan"),
        ("x", "no list of numbers"),
    ):
        with pytest.raises(ToolprmError, match=named):
            search(reward=lambda steps, value=value: [value for _ in steps])


def test_a_reward_can_not_search_with_its_own_model() -> None:
    searcher = Searcher(MockBackend(RESPONSES))

    def asks(steps: list[CandidateStep]) -> list[float]:
        searcher.search("Weather?", TOOLS)
        return [1.0 for _ in steps]

    with pytest.raises(ToolprmError, match="nor can a reward search"):
        searcher.search("Weather?", TOOLS, reward=asks)
    assert searcher.search("Weather?", TOOLS).calls


def short(steps: list[CandidateStep]) -> list[float]:
    return [0.5] * (len(steps) - 1)


def test_an_empty_question_is_refused() -> None:
    with pytest.raises(ProblemError):
        Searcher(MockBackend(RESPONSES)).search("  ", TOOLS)


def unit_reward(steps: list[CandidateStep]) -> list[float]:
    return [0.1 if step.argument == "unit" else 0.9 for step in steps]


def call_reward(steps: list[CandidateStep]) -> list[float]:
    """The more calls, the better."""
    return [0.3 + 0.2 * min(step.response.count('"name"'), 3) for step in steps]


@pytest.mark.parametrize(
    ("rare", "way_floor", "found"),
    [(0.02, 0.001, True), (0.02, 1.0, False), (0.0001, 0.001, False), (0.0001, 0.00001, True)],
)
@pytest.mark.parametrize("more", ["end", "call"])
def test_every_way_on_is_a_candidate(rare: float, way_floor: float, found: bool, more: str) -> None:
    # Drawn is only the likeliest token; the end, or another call, must come by itself.
    if more == "end":
        likely, other, reward = call("Rome", unit="C"), call("Rome"), unit_reward
    else:
        likely = call("Rome")
        other, reward = f"{likely[:-1]}, {call('Paris')[1:]}", call_reward
    result = search(
        {likely: 1 - rare, other: rare}, reward, beams=2, expand=1, temperature=0.0,
        way_floor=way_floor, trace=True, aggregate="min" if more == "end" else "last",
    )  # fmt: skip
    assert result.complete
    assert (result.text == other) == found
    assert (result.text == likely) == (not found)
    if found:
        assert any(entry.draws == 0 and entry.fate == "kept" for entry in result.trace)


@pytest.mark.parametrize(("way_floor", "expected"), [(0.001, "[]"), (1.0, call("Rome"))])
def test_declining_is_a_candidate(way_floor: float, expected: str) -> None:
    def modest(steps: list[CandidateStep]) -> list[float]:
        return [0.9 if step.response == "[]" else 0.2 for step in steps]

    result = search(
        {call("Rome"): 0.995, "[]": 0.005}, modest, beams=1, expand=1, temperature=0.0,
        way_floor=way_floor,
    )  # fmt: skip
    assert result.text == expected


@pytest.mark.parametrize(
    ("way_floor", "expected"), [(0.001, call("Rome")), (1.0, call("Rome", unit="C"))]
)
def test_another_way_after_a_decision_takes_no_place(way_floor: float, expected: str) -> None:
    # The city looks best where more is promised; that nothing good follows shows a round later.
    def later(steps: list[CandidateStep]) -> list[float]:
        return [0.3 if "unit" in s.response else 0.9 if s.argument else 0.7 for s in steps]

    result = search(
        {call("Rome", unit="C"): 0.9, call("Rome"): 0.1}, later, beams=1, expand=1,
        temperature=0.0, way_floor=way_floor, aggregate="last", trace=True,
    )  # fmt: skip
    assert result.text == expected


def test_a_way_on_that_is_much_worse_does_not_come_along() -> None:
    def sure(steps: list[CandidateStep]) -> list[float]:
        return [0.9 if "unit" in s.response or s.argument else 0.05 for s in steps]

    result = search(
        {call("Rome", unit="C"): 0.9, call("Rome"): 0.1}, sure, beams=1, expand=1,
        temperature=0.0, aggregate="last", trace=True,
    )  # fmt: skip
    assert result.text == call("Rome", unit="C")
    assert {entry.fate for entry in result.trace} == {"kept", "outscored"}


@pytest.mark.parametrize(("way_floor", "expected"), [(0.001, "[]"), (1.0, call("Paris"))])
def test_the_best_response_that_has_ended_is_not_lost(way_floor: float, expected: str) -> None:
    def hopeful(steps: list[CandidateStep]) -> list[float]:
        return [
            0.2 if s.response == "[]" else 0.8 if s.kind == "FUNC_NAME" else 0.05 for s in steps
        ]

    result = search(
        {"[]": 0.4, call("Paris"): 0.6}, hopeful, beams=1, expand=64, way_floor=way_floor
    )
    assert result.text == expected


def test_a_way_on_is_not_taken_for_one_inside_of_a_value() -> None:
    tools = [{"name": "f", "parameters": {"type": "object", "properties": {
        "a": {"type": "array", "items": {"type": "integer"}}}}}]  # fmt: skip
    likely, other = (json.dumps([{"name": "f", "arguments": {"a": a}}]) for a in ([1, 2], [1]))
    config = SearchConfig(
        strategy="step-beam", constrain="off", beams=4, expand=1, temperature=0.0, way_floor=0.001
    )
    backend = MockBackend({likely: 0.9, other: 0.1})
    result = Searcher(backend).search("q", tools, config, reward=lambda steps: [0.5] * len(steps))
    assert result.calls == [{"name": "f", "arguments": {"a": [1, 2]}}]
    assert all(other.calls == result.calls for other in result.alternatives)


def test_a_number_beyond_the_largest_is_no_value() -> None:
    tools = [{"name": "f", "parameters": {"properties": {"n": {"type": "number"}}}}]
    huge = '[{"name": "f", "arguments": {"n": -1e999}}]'
    large = '[{"name": "f", "arguments": {"n": -1e300}}]'
    config = SearchConfig(beams=1, expand=8, constrain="off")
    result = Searcher(MockBackend({huge: 0.7, large: 0.3})).search("n?", tools, config)
    assert result.complete
    assert result.calls == [{"name": "f", "arguments": {"n": -1e300}}]
    alone = Searcher(MockBackend({huge: 1.0})).search("n?", tools, config)
    assert not alone.complete
