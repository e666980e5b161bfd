"""The policy's evidence in a score: how far a response's tokens are behind the most likely ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

LEAST_GAP = -math.log(16)
"""A gap counts no further than this."""


def gap_weights(policy_gap: float, gaps: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """What the scores of responses with these gaps (nats, at most 0) are multiplied by: the core's
    `gap_weight`. `policy_gap` as in `SearchConfig`."""
    return np.exp(policy_gap * np.maximum(np.asarray(gaps, np.float64), LEAST_GAP))
