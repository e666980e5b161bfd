"""How a response's step rewards become its score."""

from __future__ import annotations

import math
from typing import Literal, get_args

Aggregate = Literal["last", "min", "prod", "mean"]
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)

MOST_POLICY_GAP = 100.0
LEAST_GAP = -math.log(16)
"""A response's gap (see `SearchConfig.policy_gap`) counts no further than this; nats."""
