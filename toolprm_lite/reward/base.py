"""What a reward is: for each step, the probability that it is right."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from toolprm_lite._core import Grounding
from toolprm_lite.errors import ToolprmError
from toolprm_lite.reward.aggregate import Aggregate
from toolprm_lite.tools import Tool

Float32Array = npt.NDArray[np.float32]

# The policy's log-probability of the step's sampled tokens: sum, least, mean, the entropy at the
# first of them; sum and least over the response so far. In nats, zeros where nothing was sampled.
CERTAINTY = (
    "logprob_sum",
    "logprob_min",
    "logprob_mean",
    "entropy_first",
    "logprob_total",
    "logprob_total_min",
)

# All columns of a grounded reward's features. Versions add some at the end; heads read by name.
FEATURES = (*CERTAINTY, *Grounding.names())

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

    `kinds` int8 [steps] indexes `STEP_KINDS`. `features` float32 [steps, features]: the policy's
    certainty, columns as in `CERTAINTY`, and for a grounded reward what the step shares with the
    conversation and the tools, as in `FEATURES`; `columns` are their names. `hidden` float32
    [steps, layers * width]: the states at the boundary token, layers side by side, for a pooled
    reward followed by their means over the step's tokens; None when the reward names no layer.
    `candidates()` builds the steps as a person would read them, for rewards that want text.
    """

    kinds: npt.NDArray[np.int8]
    features: Float32Array
    hidden: Float32Array | None
    candidates: Callable[[], list[CandidateStep]]
    columns: tuple[str, ...] = FEATURES


@runtime_checkable
class Reward(Protocol):
    """A reward model. `layers` are the hidden states it reads, `pooled` whether over all of the
    step's tokens too, `grounded` whether it reads the grounding features; `calibrated` says whether
    its rewards are probabilities that a caller may show."""

    name: str
    layers: tuple[int, ...]
    pooled: bool
    grounded: bool
    calibrated: bool
    aggregate: Aggregate

    def score(self, batch: StepBatch) -> Float32Array:
        """Rewards in 0 .. 1, float32 [steps]."""
        ...


@runtime_checkable
class RequestReward(Reward, Protocol):
    """A reward that reads the request. The searcher calls `for_request` once a search, with the
    messages as `parse_messages` gives them, and scores steps by what that returns. It may do so for
    another request before the first one's search has ended."""

    def for_request(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]
    ) -> Reward: ...


_ROUNDING = 1e-5  # by which a sum of probabilities may pass 1


def checked_rewards(reward: Reward, batch: StepBatch) -> Float32Array:
    """The rewards of a batch, float32 [steps], all within 0 .. 1.

    Raises `ToolprmError`, which names the reward and the step, for any others.
    """
    rewards = as_rewards(reward, reward.score(batch), len(batch.kinds))
    wrong = np.flatnonzero(~((rewards >= -_ROUNDING) & (rewards <= 1 + _ROUNDING)))
    if len(wrong):
        step = batch.candidates()[wrong[0]]
        text = step.text if len(step.text) <= 60 else step.text[:60] + "..."
        raise ToolprmError(
            f"{_named(reward)} gave {rewards[wrong[0]]} for the step {step.kind} {text!r}; a "
            "reward must be a number in 0 .. 1"
        )
    return rewards.clip(0, 1)


def as_rewards(reward: Reward, given: object, steps: int) -> Float32Array:
    """What a reward gave as float32 [steps]. Raises `ToolprmError`, which names the reward."""
    wanted = "it must give one number in 0 .. 1 for each"
    try:
        with np.errstate(over="ignore"):
            rewards = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise ToolprmError(
            f"{_named(reward)} gave no list of numbers for {steps} steps; {wanted}"
        ) from None
    if rewards.shape != (steps,):
        raise ToolprmError(
            f"{_named(reward)} gave values of shape {rewards.shape} for {steps} steps; {wanted}"
        )
    return rewards


def _named(reward: Reward) -> str:
    kind = type(reward).__name__
    return f"reward {reward.name}" if kind == "FunctionReward" else f"reward {reward.name} ({kind})"


RewardFunction: TypeAlias = Callable[[Sequence[CandidateStep]], Sequence[float]]
RewardChoice: TypeAlias = str | os.PathLike[str] | Reward | RewardFunction
"""What a caller may give as a reward; see `Searcher.search`."""
