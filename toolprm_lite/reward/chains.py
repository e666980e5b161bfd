"""From the rewards of steps to the scores of the chains that they end."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from toolprm_lite.errors import TrainingError
from toolprm_lite.reward.aggregate import LEAST_GAP, Aggregate

Float64Array = npt.NDArray[np.float64]


def chain_scores(
    rewards: npt.NDArray[np.floating[Any]],
    previous: npt.NDArray[np.integer[Any]],
    aggregate: Aggregate,
) -> Float64Array:
    """The aggregate over each step's chain (itself and the steps decided before it), [steps].

    `previous` indexes the same arrays, -1 = the first of its chain. Raises `TrainingError` when
    a chain runs in a circle or out of the arrays.
    """
    own = np.asarray(rewards, np.float64)
    total: Float64Array = np.array(own)
    if aggregate == "last":
        return total
    previous = np.asarray(previous, np.int64)
    if len(previous) and not (previous.min() >= -1 and previous.max() < len(previous)):
        raise TrainingError("a step's previous step is not in the set; collect the set again")
    length = np.ones(len(own))
    depth = np.zeros(len(own), np.int64)
    ahead = previous.copy()
    while (ahead >= 0).any():
        depth += ahead >= 0
        ahead = np.where(ahead >= 0, previous[ahead], -1)
        if depth.max() > len(own):
            raise TrainingError("steps follow each other in a circle; collect the set again")
    order = np.argsort(depth, kind="stable")
    levels = np.split(order, np.cumsum(np.bincount(depth))[:-1]) if len(own) else []
    for rows in levels[1:]:
        before = previous[rows]
        if aggregate == "min":
            total[rows] = np.minimum(total[before], own[rows])
        elif aggregate == "prod":
            total[rows] = total[before] * own[rows]
        else:
            total[rows] = total[before] + own[rows]
            length[rows] = length[before] + 1
    if aggregate == "mean":
        total /= length
    return total


def gap_weights(policy_gap: float, gaps: npt.NDArray[np.floating[Any]]) -> Float64Array:
    """What the scores of responses with these gaps (nats, at most 0) are multiplied by: the core's
    `gap_weight`. `policy_gap` as in `SearchConfig`."""
    return np.exp(policy_gap * np.maximum(np.asarray(gaps, np.float64), LEAST_GAP))
