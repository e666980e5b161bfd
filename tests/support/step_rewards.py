"""Rewards with known values."""

from __future__ import annotations

import zlib
from typing import ClassVar

import numpy as np

from support.mock_backend import WIDTH
from toolprm_lite.reward.base import CandidateStep, StepBatch


def equal_rewards(steps: list[CandidateStep]) -> list[float]:
    """Responses of one score are ranked by their draws."""
    return [1.0] * len(steps)


def city_reward(city: str):
    def score(steps: list[CandidateStep]) -> list[float]:
        return [0.1 if s.argument == "city" and s.value != city else 0.9 for s in steps]

    return score


def sure(steps: list[CandidateStep]) -> list[float]:
    return [0.9] * len(steps)


class KindReward:
    """A calibrated reward that depends on the kind, and on the city."""

    name = "kinds"
    layers = ()
    pooled = False
    grounded = False
    calibrated = True
    aggregate = "last"
    rewards: ClassVar[dict[str, float]] = {
        "FUNC_NAME": 0.75, "ARG_VALUE": 0.5, "PARAM_FINISH": 0.125, "FUNC_FINISH": 0.375,
        "TOTAL_FINISH": 0.25,
    }  # fmt: skip

    def score(self, batch: StepBatch) -> np.ndarray:
        steps = batch.candidates()
        return np.array(
            [0.625 if s.value == "Oslo" else self.rewards[s.kind] for s in steps], np.float32
        )


class StateReward:
    """Records what it is given."""

    name = "states"
    layers = (2,)
    pooled = False
    grounded = False
    calibrated = True
    aggregate = "last"

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, np.ndarray]] = []

    def score(self, batch: StepBatch) -> np.ndarray:
        assert batch.hidden is not None
        assert batch.hidden.shape == (len(batch.kinds), WIDTH)
        for state, step in zip(batch.hidden, batch.candidates(), strict=True):
            self.seen.append((step.kind, step.response, state))
        return np.full(len(batch.kinds), 0.5, np.float32)


class TextReward(StateReward):
    """Rewards each text differently: equal scores are ranked in the order of arrival."""

    def score(self, batch: StepBatch) -> np.ndarray:
        texts = [zlib.crc32(step.response.encode()) for step in batch.candidates()]
        return np.array([0.5 + text / 2**34 for text in texts], np.float32)


class States(KindReward):
    """Reads hidden states, so that a step waits for its boundary token to be decoded."""

    name = "states"
    layers = (2,)

    def score(self, batch: StepBatch) -> np.ndarray:
        assert batch.hidden is not None
        assert np.isfinite(batch.hidden).all()
        return super().score(batch)
