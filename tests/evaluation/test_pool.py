"""A recorded pool chooses what the searches choose that draw the same responses themselves."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from support.eval_cases import RESPONSES, TOOLS, call
from support.heads import random_head
from support.mock_backend import MockBackend
from toolprm_lite import SearchConfig, Searcher
from toolprm_lite.errors import HeadError
from toolprm_lite.evaluation.pool import Pool
from toolprm_lite.reward.states import StateReader


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("aggregate", ["last", "mean", "min"])
def test_a_pool_chooses_as_the_searches_do(seed: int, pooled: bool, aggregate: str) -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    head = random_head(searcher, seed, pooled, aggregate)
    config = SearchConfig(
        constrain="off", temperature=1.0, samples=16, seed=seed, strategy="best-of-n"
    )
    layers = (1, 2, 3)
    record = searcher.record(
        [{"role": "user", "content": "Weather?"}], TOOLS, config, StateReader(layers)
    )
    pool = Pool(record, layers)
    assert sum(response.draws for response in pool.responses) == 16
    assert pool.greedy is not None
    greedy = searcher.search("Weather?", TOOLS, SearchConfig(constrain="off", strategy="greedy"))
    assert pool.greedy.calls == greedy.calls
    chosen = pool.best(pool.scores(head))
    alone = searcher.search("Weather?", TOOLS, config, reward=head)
    assert chosen is not None
    assert chosen.calls == alone.calls
    assert max(pool.scores(head)) == pytest.approx(alone.score, rel=1e-4)
    assert record["stats"].drawn_tokens == alone.stats.drawn_tokens
    most = pool.majority()
    assert most is not None
    counts = {json.dumps(a.calls, sort_keys=True): a.draws for a in alone.alternatives}
    counts[json.dumps(alone.calls, sort_keys=True)] = 16 - sum(counts.values())
    # The greedy response is recorded, and is no candidate where nobody drew it.
    drawn = {json.dumps(r.calls, sort_keys=True): r.draws for r in pool.responses if r.draws}
    assert drawn == counts
    assert most.draws == max(counts.values())


@pytest.mark.parametrize("strategy", ["best-of-n", "step-beam"])
def test_odds_of_declining(strategy: Any) -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    head = random_head(searcher, 0, False, "min")

    def declines(odds: float | None) -> bool:
        config = SearchConfig(
            constrain="off", temperature=1.0, strategy=strategy, beams=4, expand=16,
            decline_odds=odds,
        )  # fmt: skip
        result = searcher.search("Weather?", TOOLS, config, reward=head)
        assert result.complete
        return not result.calls

    assert declines(1e9)
    assert not declines(1e-9)
    assert declines(None) == declines(1.0)


def test_equal_responses_are_one_and_votes_weigh() -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    config = SearchConfig(constrain="off", temperature=1.0, samples=256, strategy="best-of-n")
    record = searcher.record(
        [{"role": "user", "content": "Weather?"}], TOOLS, config, StateReader((1,))
    )
    pool = Pool(record, (1,))
    calls = [json.dumps(response.calls, sort_keys=True) for response in pool.responses]
    assert len(set(calls)) == len(calls) == 5
    scores = np.array([0.5 if "Rome" in text else 0.4 for text in calls])
    first, voted = pool.best(scores), pool.best(scores, weighted=True)
    assert first is not None
    assert voted is not None
    assert first.calls[0]["arguments"] == {"city": "Rome"}
    assert voted.calls[0]["arguments"] == {"city": "Paris"}


def test_layers_that_were_not_recorded() -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    config = SearchConfig(constrain="off", samples=4, strategy="best-of-n")
    record = searcher.record(
        [{"role": "user", "content": "Weather?"}], TOOLS, config, StateReader((1,))
    )
    head = random_head(searcher, 0, False, "min")
    with pytest.raises(HeadError, match=r"reads layers 3, 1, and 1 were recorded"):
        Pool(record, (1,)).scores(head)


def test_a_pool_without_a_complete_response() -> None:
    searcher = Searcher(MockBackend({call("Paris" * 30): 1.0}))
    config = SearchConfig(constrain="off", samples=4, strategy="best-of-n", max_tokens=20)
    record = searcher.record(
        [{"role": "user", "content": "Weather?"}], TOOLS, config, StateReader((1,))
    )
    pool = Pool(record, (1,))
    assert pool.responses == []
    assert pool.greedy is None
    assert pool.majority() is None
    assert pool.best(np.empty(0)) is None
