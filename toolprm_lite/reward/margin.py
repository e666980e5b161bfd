"""How much better than the greedy answer another one must score to take its place."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from toolprm_lite.checks import check_number
from toolprm_lite.errors import ConfigError

Deviation = Literal["declines", "omits", "adds_call", "name", "value"]
DEVIATIONS: tuple[Deviation, ...] = get_args(Deviation)
"""How a response may differ from the greedy one; see `deviations`."""

Calls = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Margin:
    """For each kind of deviation, how much the logarithm of the best score must be above that of
    the greedy answer's, in nats, 0 or more; `math.inf` never leaves the greedy answer.

    Attributes:
        declines: it has no call, and the greedy answer has one.
        omits: it leaves out an argument of a greedy call.
        adds_call: it has more calls.
        name: it calls another function somewhere, or less often.
        value: it has another value somewhere, or an argument more.

    Of several kinds the largest margin counts. Zeros are no margin. Raises `ConfigError`.
    """

    declines: float = 0.0
    omits: float = 0.0
    adds_call: float = 0.0
    name: float = 0.0
    value: float = 0.0

    def __post_init__(self) -> None:
        for kind in DEVIATIONS:
            value = getattr(self, kind)
            if value != math.inf:
                check_number(f"margin {kind}", value, 0, 1e9, rest=", or infinite")

    @classmethod
    def parse(cls, text: str) -> Margin:
        """Read one number for all kinds ("0.5", "inf"), or some kinds with theirs
        ("declines=1,value=0.3"). Raises `ConfigError`."""
        parts = [part.partition("=") for part in text.split(",")]
        try:
            if len(parts) == 1 and not parts[0][1]:
                return cls(*[float(text)] * len(DEVIATIONS))
            given = {kind.strip(): float(number) for kind, _, number in parts}
        except ValueError:
            given = {"": 0.0}
        if len(given) < len(parts) or not set(given) <= set(DEVIATIONS):
            raise ConfigError(
                f"margin is {text!r}; give one number, or kinds of {', '.join(DEVIATIONS)} as in "
                "declines=1,value=0.3"
            )
        return cls(**given)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Margin:
        """Read what `to_json` gives. Raises `ConfigError`."""
        if not set(data) <= set(DEVIATIONS):
            raise ConfigError(f"margin has {', '.join(sorted(set(data) - set(DEVIATIONS)))}")
        return cls(**{kind: math.inf if data[kind] is None else data[kind] for kind in data})

    def to_json(self) -> dict[str, float | None]:
        """By kind; what is infinite is None, as JSON has no such number."""
        return {kind: None if math.isinf(tau) else tau for kind, tau in asdict(self).items()}

    @property
    def largest(self) -> float:
        """Of all kinds; 0 is no margin."""
        return self.needed(DEVIATIONS)

    def needed(self, kinds: Iterable[Deviation]) -> float:
        """The largest margin of these kinds; of none -inf: it is the same answer."""
        needed: float = max((getattr(self, kind) for kind in kinds), default=-math.inf)
        return needed

    def met(self, score: float, greedy_score: float, kinds: Sequence[Deviation]) -> bool:
        """Whether a response of this score and with these deviations may take the place of the
        greedy one. Scores are 0 or more, not logarithms."""
        margin = self.needed(kinds)
        if margin == -math.inf:
            return True
        if math.isinf(margin) or score <= 0:
            return False
        return greedy_score <= 0 or math.log(score) - math.log(greedy_score) >= margin


NO_MARGIN = Margin()


def deviations(calls: Calls, greedy: Calls) -> tuple[Deviation, ...]:
    """How `calls` differ from the greedy ones, in the order of `DEVIATIONS`; nothing where they are
    the same in any order. Calls of one function are compared in the order written, after those that
    are equal."""
    if not calls:
        return ("declines",) if greedy else ()
    found: set[Deviation] = set()
    names, greedy_names = (Counter(call["name"] for call in each) for each in (calls, greedy))
    if len(calls) > len(greedy):
        found.add("adds_call")
    if greedy_names - names:
        found.add("name")
    for arguments, others in _pairs(calls, greedy):
        if others.keys() - arguments.keys():
            found.add("omits")
        if any(key not in others or others[key] != text for key, text in arguments.items()):
            found.add("value")
    return tuple(kind for kind in DEVIATIONS if kind in found)


def _pairs(calls: Calls, greedy: Calls) -> list[tuple[dict[str, str], dict[str, str]]]:
    """The arguments of calls of the same function, as text, where they are not the same."""
    pairs: list[tuple[dict[str, str], dict[str, str]]] = []
    for name in {call["name"] for call in calls}:
        ours, theirs = (
            [_arguments(call) for call in each if call["name"] == name] for each in (calls, greedy)
        )
        for arguments in list(ours):
            if arguments in theirs:
                ours.remove(arguments)
                theirs.remove(arguments)
        pairs += zip(ours, theirs, strict=False)
    return pairs


def _arguments(call: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: json.dumps(_plain(value), sort_keys=True) for key, value in call["arguments"].items()
    }


def _plain(value: Any) -> Any:
    """With 5.0 as 5, as the core compares them."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value
