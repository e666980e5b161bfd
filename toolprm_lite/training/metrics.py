"""Metrics of rewards: of single steps, of whole trajectories, and of the choice that they make.

Plain numpy on arrays; knows neither files nor heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]
Float64Array = npt.NDArray[np.float64]

BINS = 15


# Steps: `probabilities` and `labels` have shape [steps]


def bce(probabilities: Floats, labels: Bools) -> float:
    """Mean binary cross-entropy, in nats; NaN of no steps, as all of these."""
    p = np.clip(np.asarray(probabilities, np.float64), 1e-7, 1 - 1e-7)
    return _mean(-np.log(np.where(labels, p, 1 - p)))


def accuracy(probabilities: Floats, labels: Bools) -> float:
    """Share of steps on the right side of 0.5."""
    return _mean((np.asarray(probabilities) >= 0.5) == labels)


def brier(probabilities: Floats, labels: Bools) -> float:
    """Mean squared distance from the labels."""
    return _mean((np.asarray(probabilities, np.float64) - labels) ** 2)


@dataclass(frozen=True, slots=True)
class Bins:
    """Steps by their probability, in bins of equal width: `count` int64, the mean `probability`
    and the `share` of right ones float64, all [bins]; NaN where a bin is empty."""

    count: npt.NDArray[np.int64]
    probability: Float64Array
    share: Float64Array


def reliability(probabilities: Floats, labels: Bools, bins: int = BINS) -> Bins:
    """The reliability diagram's data."""
    p = np.asarray(probabilities, np.float64)
    place = np.minimum((p * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    filled = np.where(count > 0, count, np.nan)
    return Bins(
        count,
        np.bincount(place, weights=p, minlength=bins) / filled,
        np.bincount(place, weights=labels, minlength=bins) / filled,
    )


def ece(probabilities: Floats, labels: Bools, bins: int = BINS) -> float:
    """Expected calibration error: the bins' distances from the diagonal, weighted by count."""
    if len(probabilities) == 0:
        return float("nan")
    found = reliability(probabilities, labels, bins)
    distance = np.nan_to_num(np.abs(found.probability - found.share))
    return float((found.count * distance).sum() / found.count.sum())


def auc(scores: Floats, labels: Bools) -> float:
    """Probability that a right step scores above a wrong one, ties half; NaN without both."""
    return grouped_auc(scores, labels, np.zeros(len(scores), np.int64))


def grouped_auc(scores: Floats, labels: Bools, groups: Ints) -> float:
    """Mean over groups of the AUC among a group's own steps. Groups without both labels have
    none, and each other group weighs the same, however many pairs it has."""
    if len(scores) == 0:
        return float("nan")
    _, group = np.unique(groups, return_inverse=True)
    order = np.lexsort((scores, group))
    group, ranked, right = group[order], np.asarray(scores)[order], np.asarray(labels)[order]
    new_group = np.r_[True, group[1:] != group[:-1]]
    new_run = new_group | np.r_[True, ranked[1:] != ranked[:-1]]
    group_start = np.flatnonzero(new_group)[group]
    run = np.cumsum(new_run) - 1
    run_start = np.flatnonzero(new_run)
    run_end = np.r_[run_start[1:], len(run)]
    ranks = 0.5 * (run_start[run] + run_end[run] + 1) - group_start  # mid-ranks from 1
    positive = np.bincount(group, weights=right)
    negative = np.bincount(group) - positive
    above = np.bincount(group, weights=ranks * right) - positive * (positive + 1) / 2
    both = (positive > 0) & (negative > 0)
    return _mean(above[both] / (positive * negative)[both])


def _mean(values: npt.NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else float("nan")


# Choosing among a problem's trajectories


@dataclass(frozen=True, slots=True)
class Choice:
    """What choosing by score gives, for each group of trajectories, all float64 [groups].

    `picked` is 1 where the best-scored complete trajectory is right, `greedy` where the greedy
    one is, `voted` where the most drawn one is, `oracle` where any is; `random` is the share of
    draws that are right. `mixed` marks the groups whose complete trajectories are right and
    wrong, where the choice matters. `group` holds the groups' numbers.
    """

    group: npt.NDArray[np.int64]
    mixed: Bools
    picked: Float64Array
    greedy: Float64Array
    voted: Float64Array
    random: Float64Array
    oracle: Float64Array


def choose(
    scores: Floats, right: Bools, complete: Bools, draws: Ints, greedy: Bools, groups: Ints
) -> Choice:
    """Choose in each group; ties go to the first. All arrays have shape [trajectories]."""
    numbers, group = np.unique(groups, return_inverse=True)
    count = len(numbers)
    right = np.asarray(right) & complete

    def any_in(flags: Bools) -> Bools:
        return np.bincount(group, weights=flags, minlength=count) > 0

    def best_by(values: Floats) -> Float64Array:
        ranked = np.where(complete, np.asarray(values, np.float64), -np.inf)
        order = np.lexsort((np.arange(len(group)), -ranked, group))
        firsts = order[np.r_[True, group[order][1:] != group[order][:-1]]] if len(order) else order
        return right[firsts].astype(np.float64)

    drawn = np.bincount(group, weights=draws, minlength=count)
    drawn_right = np.bincount(group, weights=np.where(right, draws, 0), minlength=count)
    return Choice(
        group=numbers.astype(np.int64),
        mixed=any_in(right) & any_in(np.asarray(complete) & ~right),
        picked=best_by(scores),
        greedy=any_in(np.asarray(greedy) & right).astype(np.float64),
        voted=best_by(draws.astype(np.float64)),
        random=drawn_right / np.maximum(drawn, 1),
        oracle=any_in(right).astype(np.float64),
    )
