"""The reward models of the paper, by the kinds of step that each judges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from toolprm_lite.reward.base import STEP_KINDS

Rival = Literal["toolprm", "c-prm", "orm"]

RIVALS: tuple[Rival, ...] = get_args(Rival)

RIVAL_KINDS: Mapping[Rival, tuple[str, ...]] = {
    "toolprm": STEP_KINDS,
    "c-prm": tuple(kind for kind in STEP_KINDS if kind != "ARG_VALUE"),
    "orm": ("TOTAL_FINISH",),
}
"""The kinds that each reward model of the paper judges."""
