"""Rewards that need no training: the policy's own probability, and a caller's function."""

from __future__ import annotations

import numpy as np

from toolprm_lite.reward.aggregate import Aggregate
from toolprm_lite.reward.base import Float32Array, RewardFunction, StepBatch, as_rewards


class PolicyReward:
    """The probability the policy gave to what it wrote for the step: exp of the log-probability's
    sum, so the product over a response is the response's own probability."""

    name = "policy"
    layers: tuple[int, ...] = ()
    pooled = False
    grounded = False
    calibrated = False
    aggregate: Aggregate = "prod"

    def score(self, batch: StepBatch) -> Float32Array:
        return np.exp(batch.features[:, 0], dtype=np.float32)


class FunctionReward:
    """A caller's function from steps to rewards in 0 .. 1."""

    layers: tuple[int, ...] = ()
    pooled = False
    grounded = False
    calibrated = False
    aggregate: Aggregate = "prod"

    def __init__(self, function: RewardFunction) -> None:
        self.name = getattr(function, "__name__", type(function).__name__)
        self._function = function

    def score(self, batch: StepBatch) -> Float32Array:
        candidates = batch.candidates()
        given = self._function(candidates)
        return as_rewards(self, given, len(candidates))
