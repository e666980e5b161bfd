"""One seed draws independently for every prompt, and repeats exactly for an equal one."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from typing import Any

import pytest

from support.mock_backend import MockBackend
from support.weather import RESPONSES, TOOLS, chi_square, plain
from toolprm_lite import SearchConfig, Searcher, SearchRequest, SearchResult
from toolprm_lite.search.config import STRATEGIES

QUESTIONS = [f"Question {number}: how is the weather?" for number in range(300)]


def ask(question: str, searcher: Searcher | None = None, **settings: Any) -> SearchResult:
    config = SearchConfig(**{"constrain": "off", "temperature": 1.0, **settings})
    return (searcher or Searcher(MockBackend(RESPONSES))).search(question, TOOLS, config)


def votes(result: SearchResult, draws: int) -> Counter[str]:
    counts = Counter({json.dumps(other.calls): other.draws for other in result.alternatives})
    counts[json.dumps(result.calls)] = draws - sum(counts.values())
    return counts


def test_draws_of_different_prompts_are_independent() -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    drawn = [
        json.dumps(ask(question, searcher, strategy="best-of-n", samples=1).calls)
        for question in QUESTIONS
    ]
    expected = {json.dumps(json.loads(text)): weight for text, weight in RESPONSES.items()}
    # Of 7 and 1 degrees of freedom: these are exceeded once in 10,000 times.
    assert chi_square(Counter(drawn), expected, len(drawn)) < 29.9
    likeliest = max(expected, key=expected.__getitem__)
    share = expected[likeliest]
    pairs = Counter(
        f"{first == likeliest}{second == likeliest}"
        for first, second in zip(drawn[::2], drawn[1::2], strict=True)
    )
    both = {"TrueTrue": share**2, "FalseFalse": (1 - share) ** 2}
    both["TrueFalse"] = both["FalseTrue"] = share * (1 - share)
    assert chi_square(pairs, both, len(drawn) // 2) < 21.2  # 3 degrees of freedom


def test_one_seed_gives_different_counts_for_different_prompts() -> None:
    counts = [votes(ask(q, strategy="best-of-n", samples=64), 64) for q in QUESTIONS[:8]]
    assert all(one != other for one, other in itertools.combinations(counts, 2))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_equal_prompt_repeats_with_any_cache_or_neighbour(strategy: str) -> None:
    settings = {"strategy": strategy, "samples": 8, "beams": 2, "expand": 4, "seed": 5}
    alone = {question: plain(ask(question, **settings)) for question in QUESTIONS[:6]}
    one = Searcher(MockBackend(RESPONSES))
    for question in [*alone, *reversed(alone)]:  # with what the last question left in the cache
        assert plain(ask(question, one, **settings)) == alone[question]
    config = SearchConfig(constrain="off", temperature=1.0, **settings)
    order = [*alone, *alone]
    random.Random(1).shuffle(order)
    shared = Searcher(MockBackend(RESPONSES, context=16384, max_sequences=1000))
    found = shared.search_many([SearchRequest(q, TOOLS, config) for q in order])
    assert [plain(result) for result in found] == [alone[question] for question in order]


def test_greedy_depends_on_no_seed() -> None:
    results = [ask(QUESTIONS[0], strategy="greedy", seed=seed) for seed in range(3)]
    assert len({result.text for result in results}) == 1
