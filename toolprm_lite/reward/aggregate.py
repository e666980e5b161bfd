"""How a response's step rewards become its score."""

from __future__ import annotations

from typing import Literal, get_args

Aggregate = Literal["last", "min", "prod", "mean"]
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)
