"""A decided step as a caller reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Call = dict[str, Any]  # {"name": str, "arguments": dict}


@dataclass(frozen=True, slots=True)
class Step:
    """One decided step of the answer.

    `call` counts from 0 (None for TOTAL_FINISH). `text` is what the model wrote for it. `value` is
    the decoded JSON value of an ARG_VALUE. `reward` is what the search judged the step by;
    `logprob` the policy's own log-probability of the step's sampled tokens, in nats. `probability`
    is the reward where it is a calibrated probability that the step is right: None without a
    calibrated reward, for kinds that it does not judge, and for the last steps of a response whose
    search was stopped before they could be judged; the `reward` of these is the policy's
    probability.
    """

    call: int | None
    kind: str
    function: str | None
    argument: str | None
    value: Any
    text: str
    reward: float
    logprob: float
    probability: float | None = None
