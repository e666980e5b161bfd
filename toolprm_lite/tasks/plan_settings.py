"""How a plan is made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from toolprm_lite.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """How a plan is made.

    `mask_share` and `refusal_share` are shares of the problems; `multi_share` that of the problems
    with several calls which are kept; `joined_share` that of the single questions with one call
    which are asked together with others of their side; `fractions` those of train, validation and
    test; `max_tools` the most tools offered (more only where the answers need them); `group` the
    most problems that share tools and mask. Raises `ConfigError`.
    """

    seed: int = 0
    mask_share: float = 0.5
    refusal_share: float = 0.1
    multi_share: float = 1.0
    joined_share: float = 0.0
    max_tools: int = 6
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    group: int = 6

    def __post_init__(self) -> None:
        for name in ("mask_share", "refusal_share", "multi_share", "joined_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        for name in ("max_tools", "group"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if (
            len(self.fractions) != 3
            or min(self.fractions) < 0
            or not math.isclose(sum(self.fractions), 1, abs_tol=1e-6)
        ):
            raise ConfigError(f"fractions are {self.fractions}; give three shares that add up to 1")
