"""What a reward is: for each step, the probability that it is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from toolprm_lite.search.config import Aggregate

Float32Array = npt.NDArray[np.float32]

STEP_KINDS = ("FUNC_NAME", "ARG_VALUE", "PARAM_FINISH", "FUNC_FINISH", "TOTAL_FINISH")


@dataclass(frozen=True, slots=True)
class CandidateStep:
    """A step that waits for its reward, and the response up to its boundary."""

    kind: str
    call: int | None
    function: str | None
    argument: str | None
    value: Any
    text: str
    response: str


@dataclass(frozen=True, slots=True)
class StepBatch:
    """The steps of one round that wait for their rewards.

    `kinds` int8 [steps] indexes `STEP_KINDS`. `certainty` float32 [steps, 4]: the policy's
    log-probability over the step's sampled tokens as sum, minimum and mean, and the entropy at the
    first of them, in nats; zeros where nothing was sampled. `hidden` float32 [steps, width]: the
    state at the boundary token, or None when the reward names no layer. `candidates()` builds
    the steps as a person would read them, for rewards that want text.
    """

    kinds: npt.NDArray[np.int8]
    certainty: Float32Array
    hidden: Float32Array | None
    candidates: Callable[[], list[CandidateStep]]


@runtime_checkable
class Reward(Protocol):
    """A reward model. `layer` is the hidden state it reads, or None; `calibrated` says whether its
    rewards are probabilities that a caller may show."""

    name: str
    layer: int | None
    calibrated: bool
    aggregate: Aggregate

    def score(self, batch: StepBatch) -> Float32Array:
        """Rewards in 0 .. 1, float32 [steps]."""
        ...


RewardFunction = Callable[[Sequence[CandidateStep]], Sequence[float]]
