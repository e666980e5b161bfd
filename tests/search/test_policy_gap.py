"""The policy's evidence in the score: how far a response is behind the greedy one."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from support.heads import random_head
from support.mock_backend import MockBackend, tokenize
from support.mock_models import RandomModel
from support.step_rewards import sure
from support.weather import DEAD, QUESTION, RESPONSES, TOOLS, call, plain, search
from toolprm_lite import SearchConfig, Searcher
from toolprm_lite._core import SearchOptions, Segmenter, StepSearch, Vocabulary
from toolprm_lite.errors import ConfigError
from toolprm_lite.evaluation.pool import Pool
from toolprm_lite.reward.aggregate import LEAST_GAP
from toolprm_lite.reward.base import CandidateStep, Float32Array, StepBatch
from toolprm_lite.reward.chains import gap_weights
from toolprm_lite.reward.head import Head
from toolprm_lite.reward.policy import PolicyReward
from toolprm_lite.reward.states import StateReader

# The core, on distributions written by hand

WORDS = [b'[{"name": "', b"f", b"g", b'"', b', "arguments": {}}', b"]", b"[]", b', {"name": "']
START, F, G, QUOTE, REST, CLOSE, DECLINE, MORE = range(len(WORDS))
# What follows each token, and the beginning. After the quote REST is forced.
NEXT: dict[int | None, Mapping[int, float]] = {
    None: {START: 0.9, DECLINE: 0.06},
    START: {F: 0.5, G: 0.4},
    F: {QUOTE: 1.0},
    G: {QUOTE: 1.0},
    REST: {MORE: 0.02, CLOSE: 0.7},
    MORE: {G: 0.6, F: 0.3},
}


def row(choices: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tokens = sorted(choices, key=lambda token: -choices[token])
    logprobs = np.log([choices[token] for token in tokens]).astype(np.float32)
    return np.array([tokens], np.int32), logprobs[None], np.zeros(1, np.float32)


def behind(tokens: list[int]) -> float:
    """The gap of a response of the hand-made model."""
    total = 0.0
    for before, token in itertools.pairwise([None, *tokens]):
        if token != REST:
            choices = NEXT[before]
            total += math.log(choices[token]) - math.log(max(choices.values()))
    return total


def run_core(policy_gap: float, **settings: Any) -> list[tuple[list[int], float, int]]:
    """Tokens, score and draws of each answer, with a reward of 1 for every step."""
    options = SearchOptions()
    changes = {
        "beams": 8, "root_draws": 16, "beam_draws": 4, "aggregate": "last", "temperature": 1.0,
        "top_k": 8, "way_floor": math.log(0.001), "policy_gap": policy_gap, **settings,
    }  # fmt: skip
    for name, value in changes.items():
        setattr(options, name, value)
    search = StepSearch(
        segmenter=Segmenter('[{"name": "f"}, {"name": "g"}]', max_calls=2),
        vocabulary=Vocabulary([*WORDS, b""], [len(WORDS)]),
        grounding=None, options=options, sequences=64, cells=4096, prompt_tokens=1,
    )  # fmt: skip
    lasts: dict[int, int] = {}
    search.start(*row(NEXT[None]))
    while not search.done:
        while fresh := search.take_new():
            for branch, _, token in fresh:
                lasts[branch] = token
                if token == QUOTE:
                    search.set_forced(branch, [REST])
                    lasts[branch] = REST
        batch = search.next_batch()
        if batch is None:
            search.keep(np.ones(len(search.pending()), np.float32))
            continue
        rows = [row(NEXT[lasts[branch]]) for branch in batch.branches]
        width = max((len(tokens[0]) for tokens, _, _ in rows), default=0)
        padded = np.full((len(rows), width), -1, np.int32)
        logprobs = np.full((len(rows), width), -np.inf, np.float32)
        for place, (tokens, values, _) in enumerate(rows):
            padded[place, : tokens.shape[1]], logprobs[place, : values.shape[1]] = tokens, values
        search.observe(padded, logprobs, np.zeros(len(rows), np.float32), None)
    return [(found.tokens, found.score, found.draws) for found in search.answers()]


def check_scores(answers: list[tuple[list[int], float, int]], policy_gap: float) -> None:
    for tokens, score, _ in answers:
        if max(tokens.count(F), tokens.count(G)) < 2:  # a repeated call is charged, too
            expected = math.exp(policy_gap * max(behind(tokens), -math.log(16)))
            assert score == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("policy_gap", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_every_sampled_token_counts_and_no_forced_one(policy_gap: float, seed: int) -> None:
    answers = run_core(policy_gap, seed=seed)
    check_scores(answers, policy_gap)
    scores = {tuple(tokens): score for tokens, score, _ in answers}
    assert len(scores) > 3
    greedy = (START, F, QUOTE, REST, CLOSE)
    assert scores[greedy] == 1.0
    assert max(scores.values()) == 1.0
    assert (scores[greedy] > scores[DECLINE,]) == (policy_gap > 0)


def test_undrawn_ways_count_too() -> None:
    answers = run_core(1.0, temperature=0.0)  # only the most likely token is drawn
    check_scores(answers, 1.0)
    undrawn = [(tokens, score) for tokens, score, draws in answers if draws == 0]
    assert undrawn == [([DECLINE], pytest.approx(0.06 / 0.9, rel=1e-6))]
    assert any(MORE in tokens for tokens, _, _ in answers)  # not drawn, but what follows it


def test_a_token_16_times_less_likely_says_no_more() -> None:
    assert gap_weights(1.0, np.array([0.0, -1.0, LEAST_GAP, -50.0])) == pytest.approx(
        [1, math.exp(-1), 1 / 16, 1 / 16]
    )
    assert (gap_weights(0.0, np.array([0.0, -9.0, -np.inf])) == 1).all()


# Searches


def chance(steps: list[CandidateStep]) -> list[float]:
    """Below 1, and no two alike."""
    return [0.4 + 0.5 * zlib.crc32(s.response.encode()) / 2**32 for s in steps]


def gap_of(backend: MockBackend, text: str) -> float:
    """Without a constraint."""
    path: tuple[int, ...] = ()
    total = 0.0
    for token in tokenize(text):
        logits = backend.logits(path)
        total += float(logits[token] - logits.max())
        path = (*path, token)
    return total


@pytest.mark.parametrize("aggregate", ["min", "prod", "mean", "last"])
@pytest.mark.parametrize("policy_gap", [0.3, 1.0, 3.0])
def test_the_answer_is_the_best_of_all_responses(aggregate: Any, policy_gap: float) -> None:
    # `min` and `prod` end early, once nothing open can win; here each response is scored to its
    # end. The beams are so many that none is lost.
    random = np.random.default_rng(0)
    ends_early = 0
    for trial in range(25):
        weights = random.dirichlet(np.full(len(RESPONSES), 0.7))
        responses = {t: float(max(w, 0.02)) for t, w in zip(RESPONSES, weights, strict=True)}
        backend = MockBackend(responses)
        salt = str(trial)

        def judge(steps: list[CandidateStep], salt: str = salt) -> list[float]:
            return [
                0.4 + 0.6 * zlib.crc32((salt + s.kind + s.response).encode()) / 2**32 for s in steps
            ]

        settings = {
            "aggregate": aggregate, "beams": 16, "expand": 64, "temperature": 1.5,
            "policy_gap": policy_gap,
        }  # fmt: skip
        rewards = {text: rewards_of(responses, judge, text) for text in responses}
        expected = {
            text: combine(aggregate, rewards[text])
            * math.exp(policy_gap * max(gap_of(backend, text), -math.log(16)))
            for text in responses
        }
        found = search(responses, judge, **settings)
        best = max(expected, key=lambda text: expected[text])
        assert found.text == best
        assert found.score == pytest.approx(expected[best], rel=1e-5)
        ends_early += any(not other.complete for other in found.alternatives)
    assert (ends_early > 0) == (aggregate in ("min", "prod"))


def rewards_of(responses: dict[str, float], judge: Any, text: str) -> list[float]:
    """Of each step of a response, from a search that knows no other."""
    return [step.reward for step in search({text: 1.0}, judge, strategy="greedy").steps]


def combine(aggregate: str, rewards: list[float]) -> float:
    match aggregate:
        case "min":
            return min(rewards)
        case "prod":
            return math.prod(rewards)
        case "mean":
            return sum(rewards) / len(rewards)
    return rewards[-1]


class UnprunedPolicy:
    """The policy's probability, as a reward that the core does not know to fall with each token."""

    name = "policy"
    layers: tuple[int, ...] = ()
    pooled = False
    grounded = False
    calibrated = False
    aggregate = "prod"

    def score(self, batch: StepBatch) -> Float32Array:
        return PolicyReward().score(batch)


@pytest.mark.parametrize("aggregate", ["min", "prod"])
def test_pruning_changes_no_answer(aggregate: Any) -> None:
    fewer = 0
    for seed, beams in itertools.product(range(12), (1, 2)):
        settings = {
            "aggregate": aggregate, "beams": beams, "expand": 8, "seed": seed, "policy_gap": 0.7,
            "max_tokens": 60,
        }  # fmt: skip
        pruned = search(backend=RandomModel(list(RESPONSES), seed), reward="policy", **settings)
        whole = search(
            backend=RandomModel(list(RESPONSES), seed), reward=UnprunedPolicy(), **settings
        )
        assert (pruned.text, pruned.score) == (whole.text, whole.score)
        fewer += pruned.stats.decode_tokens < whole.stats.decode_tokens
    assert fewer > 3


@pytest.mark.parametrize("strategy", ["step-beam", "doubt", "best-of-n", "greedy"])
def test_zero_is_the_default_and_greedy_has_no_gap(strategy: Any) -> None:
    for seed in range(3):
        settings = {"strategy": strategy, "seed": seed, "max_tokens": 60, "reward": chance}
        responses = [*RESPONSES, *DEAD.values()]
        usual = search(backend=RandomModel(responses, seed), **settings)
        zero = search(backend=RandomModel(responses, seed), policy_gap=0.0, **settings)
        assert plain(usual) == plain(zero)
        if strategy == "greedy":
            other = search(backend=RandomModel(responses, seed), policy_gap=2.0, **settings)
            assert plain(usual) == plain(other)


def test_it_brings_back_what_the_policy_prefers() -> None:
    def slightly(steps: list[CandidateStep]) -> list[float]:
        return [0.90 if s.value == "Rome" else 0.85 for s in steps]

    settings = {"reward": slightly, "aggregate": "min", "expand": 16, "tool_choice": "weather"}
    for strategy in ("step-beam", "best-of-n"):
        assert "Paris" in search(strategy=strategy, policy_gap=1.0, **settings).text


def test_doubt_looks_at_the_reward_alone() -> None:
    # Once doubt has left the greedy path, a weight would be there in every round. No round is
    # widened for it: the reward of each step is the same.
    for seed in range(4):
        settings = {"strategy": "doubt", "reward": sure, "aggregate": "last", "doubt": 0.5}
        quiet = search(**settings, seed=seed, policy_gap=5.0)
        assert quiet.stats.widened == 0

    def first(steps: list[CandidateStep]) -> list[float]:
        return [0.2 if s.kind == "FUNC_NAME" and s.function == "weather" else 0.9 for s in steps]

    responses = {call("Rome"): 0.6, '[{"name": "clock", "arguments": {}}]': 0.4}
    settings = {
        "responses": responses, "reward": first, "aggregate": "min", "strategy": "doubt",
        "doubt": 0.7, "expand": 16, "way_floor": 1.0,
    }  # fmt: skip
    plain_result = search(**settings)
    weighed = search(**settings, policy_gap=1.0)
    assert plain_result.stats.widened == weighed.stats.widened == 1
    assert weighed.calls == plain_result.calls == [{"name": "clock", "arguments": {}}]
    assert weighed.score == pytest.approx(0.9 * 0.4 / 0.6, rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("card", [False, True])
def test_pools_choose_as_the_searches_do(seed: int, card: bool) -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    head = random_head(searcher, seed, False, "min")
    given = None if card else 0.8
    if card:
        head = Head(replace(head.card, policy_gap=0.8), head.weights)
    config = SearchConfig(
        constrain="off", temperature=1.0, samples=16, seed=seed, strategy="best-of-n",
        policy_gap=given,
    )  # fmt: skip
    messages = [{"role": "user", "content": QUESTION}]
    pool = Pool(searcher.record(messages, TOOLS, config, StateReader((1, 2, 3))), (1, 2, 3))
    scores = pool.scores(head, given)
    chosen = pool.best(scores)
    alone = searcher.search(QUESTION, TOOLS, config, reward=head)
    assert chosen is not None
    assert chosen.calls == alone.calls
    assert max(scores) == pytest.approx(alone.score, rel=1e-4)
    assert (scores < pool.scores(head, 0.0)).any()


@pytest.mark.parametrize("value", [-0.1, 101, math.inf, math.nan, "1", True])
def test_what_is_no_policy_gap(value: Any) -> None:
    with pytest.raises(ConfigError, match="policy_gap is"):
        SearchConfig(policy_gap=value)
