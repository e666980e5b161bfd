"""Chooses the threshold of doubt.

It takes searches: what a second look finds is not in a recorded set, whose draws are few where the
greedy response does not go. `benchmarks/choose_doubt.py` reads them from a run of `eval`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolprm_lite.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Measured:
    """What searches with one threshold gave, on problems that are the same for all.

    `right` bool and `tokens`, those decoded, int64: both [problems].
    """

    doubt: float
    right: npt.NDArray[np.bool_]
    tokens: npt.NDArray[np.int64]


def choose_doubt(measured: Sequence[Measured]) -> Measured:
    """Of the thresholds that are as good as the best, the one that decodes least.

    As good is one that is right on fewer problems by no more than the standard error: the root of
    the number of problems on which only one of the two is right (McNemar 1947). Ties go to the
    lower threshold. Raises `TrainingError` when nothing was measured, or not on the same problems.
    """
    sizes = {len(each.right) for each in measured} | {len(each.tokens) for each in measured}
    if len(sizes) != 1 or sizes == {0}:
        raise TrainingError("give each threshold's searches of the same problems, at least one")
    ordered = sorted(measured, key=lambda each: each.doubt)
    best = max(ordered, key=lambda each: each.right.mean())

    def as_good(each: Measured) -> bool:
        won, lost = (
            int(only.sum()) for only in (best.right & ~each.right, each.right & ~best.right)
        )
        return won - lost <= math.sqrt(won + lost)

    return min(filter(as_good, ordered), key=lambda each: each.tokens.mean())
