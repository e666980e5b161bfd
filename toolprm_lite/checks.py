"""Checks of values that come from callers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real

from toolprm_lite.errors import ConfigError


def check_integer(name: str, value: object, least: int, most: int) -> None:
    """Raise `ConfigError` if `value` is no integer of `least` .. `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"{name} is {_shown(value)}; it must be an integer {least} .. {most}")


def check_number(
    name: str, value: object, least: float, most: float, above: bool = False, rest: str = ""
) -> None:
    """Raise `ConfigError` if `value` is no finite number of `least` .. `most`; with `above` it must
    not be `least` itself. `rest` ends the message."""
    try:
        right = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        right = False
    if not right:
        raise ConfigError(f"{name} is {_shown(value)}; it must be a finite number{rest}")
    number = float(value)  # type: ignore[arg-type]
    if not least <= number <= most or (above and number == least):
        allowed = f"above {least:g} and at most {most:g}" if above else f"{least:g} .. {most:g}"
        raise ConfigError(f"{name} is {value!r}; it must be {allowed}{rest}")


def deeper_than(value: object, levels: int) -> bool:
    """Whether lists and objects are nested deeper. Python's own JSON fails at about 1000."""
    level = [value]
    for _ in range(levels):
        level = [
            part
            for parent in level
            if isinstance(parent, (Mapping, list, tuple))
            for part in (parent.values() if isinstance(parent, Mapping) else parent)
        ]
        if not level:
            return False
    return True


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "an integer of thousands of digits"
    return text if len(text) <= 100 else f"{text[:99]}…"
