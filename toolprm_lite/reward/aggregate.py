"""How a response's step rewards become its score."""

from __future__ import annotations

from typing import Literal, get_args

Aggregate = Literal["last", "min", "prod", "mean"]
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)

MOST_POLICY_GAP = 100.0
"""The largest weight of the policy's gap in a score."""
