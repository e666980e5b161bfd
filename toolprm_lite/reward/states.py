"""A reward that only requests hidden states, for code that reads a search's record."""

from __future__ import annotations

import numpy as np

from toolprm_lite.reward.aggregate import Aggregate
from toolprm_lite.reward.base import Float32Array, StepBatch


class StateReader:
    """A constant reward that requests the states of `layers`."""

    name = "none"
    pooled = True
    grounded = True
    calibrated = False
    aggregate: Aggregate = "prod"

    def __init__(self, layers: tuple[int, ...]) -> None:
        self.layers = layers

    def score(self, batch: StepBatch) -> Float32Array:
        return np.ones(len(batch.kinds), np.float32)
