"""Intervals of a mean over problems, by drawing problems again with replacement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

_ROUNDS = 2000


def interval(
    groups: Sequence[Float64Array], *, weighted: bool, rounds: int = _ROUNDS
) -> list[float]:
    """95% of the means when each group's problems are drawn again with replacement.

    `groups` have one value a problem, the mean over its seeds: float64 [problems]. `weighted`
    gives every group the same weight, else every problem has it. A problem is drawn with all its
    seeds, which contains the variance of the seeds as well: the draws of two problems are
    independent, so the variance of a problem's mean is that between problems plus that between
    seeds over their number. To draw seeds again within each problem would count the latter twice
    (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).
    """
    random = np.random.default_rng(0)
    total = sum(map(len, groups))
    means = np.zeros(rounds)
    for group in groups:
        size = len(group)
        drawn = random.multinomial(size, np.full(size, 1 / size), size=rounds)
        means += drawn @ group / (size * len(groups) if weighted else total)
    return [float(bound) for bound in np.quantile(means, (0.025, 0.975))]


def bootstrap(
    values: npt.NDArray[np.floating[Any]],
    clusters: npt.NDArray[np.integer[Any]],
    *,
    rounds: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of the mean of `values` when whole clusters (problems) are drawn again."""
    if len(values) == 0:
        return float("nan"), float("nan")
    _, cluster = np.unique(clusters, return_inverse=True)
    sums = np.bincount(cluster, weights=values)
    counts = np.bincount(cluster)
    size = len(sums)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(size, np.full(size, 1 / size), size=rounds)
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
