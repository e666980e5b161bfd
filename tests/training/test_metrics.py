"""The figures, against their definitions written out as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolprm_lite.errors import TrainingError
from toolprm_lite.evaluation.intervals import bootstrap
from toolprm_lite.reward.chains import chain_scores
from toolprm_lite.training import metrics

_SCORES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5000001, 0.9, 1.0])
_ROWS = st.lists(st.tuples(_SCORES, st.booleans(), st.integers(0, 3)), max_size=24)


def _columns(rows: list[tuple[float, bool, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores, labels, groups = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(scores, float), np.array(labels, bool), np.array(groups, int)


@given(_ROWS)
def test_grouped_auc_counts_pairs(rows: list[tuple[float, bool, int]]) -> None:
    found = []
    for group in {group for _, _, group in rows}:
        right = [score for score, label, at in rows if label and at == group]
        wrong = [score for score, label, at in rows if not label and at == group]
        pairs = [(a > b) + 0.5 * (a == b) for a in right for b in wrong]
        if pairs:
            found.append(sum(pairs) / len(pairs))
    value = metrics.grouped_auc(*_columns(rows))
    if found:
        assert value == pytest.approx(sum(found) / len(found))
    else:
        assert math.isnan(value)


@given(_ROWS)
def test_auc_is_that_of_one_group(rows: list[tuple[float, bool, int]]) -> None:
    scores, labels, _ = _columns(rows)
    one = metrics.grouped_auc(scores, labels, np.full(len(scores), 7))
    assert metrics.auc(scores, labels) == pytest.approx(one, nan_ok=True)


@given(_ROWS)
def test_ece_is_the_weighted_distance(rows: list[tuple[float, bool, int]]) -> None:
    scores, labels, _ = _columns(rows)
    total = 0.0
    for place in range(15):
        inside = [(score, label) for score, label, _ in rows if place == min(int(score * 15), 14)]
        if inside:
            total += abs(sum(score for score, _ in inside) - sum(label for _, label in inside))
    expected = total / len(rows) if rows else math.nan
    assert metrics.ece(scores, labels) == pytest.approx(expected, nan_ok=True)
    bins = metrics.reliability(scores, labels)
    assert bins.count.sum() == len(rows)


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        (metrics.bce, -(math.log(0.8) + math.log(0.4) + math.log(0.5)) / 3),
        (metrics.accuracy, 1 / 3),
        (metrics.brier, (0.04 + 0.36 + 0.25) / 3),
    ],
)
def test_step_figures(figure: object, expected: float) -> None:
    probabilities, labels = np.array([0.8, 0.6, 0.5]), np.array([True, False, False])
    assert figure(probabilities, labels) == pytest.approx(expected)  # type: ignore[operator]
    assert math.isnan(figure(probabilities[:0], labels[:0]))  # type: ignore[operator]


def test_a_certain_error_costs_much_but_not_everything() -> None:
    assert 15 < metrics.bce(np.array([1.0]), np.array([False])) < 20


@given(st.data(), st.sampled_from(["last", "min", "prod", "mean"]))
def test_chain_scores(data: st.DataObject, aggregate: str) -> None:
    count = data.draw(st.integers(0, 12))
    previous = [data.draw(st.integers(-1, at - 1)) for at in range(count)]
    order = data.draw(st.permutations(range(count)))  # a step may precede its previous one
    rewards = np.array([data.draw(_SCORES) for _ in range(count)], float)
    place = {step: at for at, step in enumerate(order)}
    moved = np.array([-1 if previous[step] < 0 else place[previous[step]] for step in order], int)
    found = chain_scores(rewards, moved, aggregate)  # type: ignore[arg-type]
    for at in range(count):
        chain = [rewards[at]]
        step = moved[at]
        while step >= 0:
            chain.append(rewards[step])
            step = moved[step]
        expected = {
            "last": chain[0],
            "min": min(chain),
            "prod": math.prod(chain),
            "mean": sum(chain) / len(chain),
        }[aggregate]
        assert found[at] == pytest.approx(expected)


@pytest.mark.parametrize("previous", [[1, 0], [0], [5, -1], [-2]])
def test_chains_that_are_none(previous: list[int]) -> None:
    with pytest.raises(TrainingError, match="collect the set again"):
        chain_scores(np.ones(len(previous)), np.array(previous), "min")


_TRAJECTORY = st.tuples(
    _SCORES, st.booleans(), st.booleans(), st.integers(0, 3), st.booleans(), st.integers(0, 3)
)


@given(st.lists(_TRAJECTORY, max_size=16))
def test_choose(rows: list[tuple[float, bool, bool, int, bool, int]]) -> None:
    columns = [np.array(column) for column in zip(*rows, strict=True)] or [np.zeros(0, int)] * 6
    scores, right, complete, draws, greedy, groups = columns
    found = metrics.choose(
        scores, right.astype(bool), complete.astype(bool), draws, greedy.astype(bool), groups
    )
    assert found.group.tolist() == sorted({row[5] for row in rows})
    for place, group in enumerate(found.group.tolist()):
        ours = [row for row in rows if row[5] == group]
        whole = [row for row in ours if row[2]]
        best = max(whole, key=lambda row: row[0], default=None)
        most = max(whole, key=lambda row: row[3], default=None)
        drawn = sum(row[3] for row in ours)
        drawn_right = sum(row[3] for row in whole if row[1])
        assert found.picked[place] == (best is not None and best[1])
        assert found.voted[place] == (most is not None and most[1])
        assert found.oracle[place] == any(row[1] for row in whole)
        assert found.greedy[place] == any(row[1] and row[4] for row in whole)
        assert found.mixed[place] == (len({row[1] for row in whole}) == 2)
        assert found.random[place] == pytest.approx(drawn_right / drawn if drawn else 0)


def test_bootstrap_draws_whole_problems() -> None:
    values = np.repeat([0.0, 1.0], 50)
    apart = bootstrap(values, np.arange(100))
    together = bootstrap(values, np.repeat(np.arange(4), 25))
    assert 0.35 < apart[0] < 0.45 < 0.55 < apart[1] < 0.65
    assert together == (0, 1)
    assert apart == bootstrap(values, np.arange(100))
    assert all(math.isnan(end) for end in bootstrap(values[:0], np.arange(0)))
