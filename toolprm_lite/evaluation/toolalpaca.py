"""ToolAlpaca as Hammer scores it: micro F1 over functions, and over arguments.

Figures compare with Hammer's (MadeAgents/Hammer, evaluation/evaluate.py), oddities included: a
function counts as right each time that it is called; of a call's arguments those count that the
first answer of its name has, compared as Python text; a call without arguments whose answer has
none adds one right argument and none to either total.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Counts:
    """Right ones, those predicted, those of the answers."""

    right: int = 0
    predicted: int = 0
    gold: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def f1(self) -> float:
        """2PR / (P + R), 0 where nothing is right."""
        return 2 * self.right / (self.predicted + self.gold) if self.right else 0.0


def count(
    calls: Sequence[Mapping[str, Any]] | None, answers: Sequence[Mapping[str, Any]]
) -> tuple[Counts, Counts]:
    """The counts of functions and of arguments in one response; None is one that did not end."""
    gold = sum(len(_written(answer)) for answer in answers)
    if calls is None:
        return Counts(0, 1, len(answers)), Counts(0, 0, gold)
    names = {answer["name"] for answer in answers}
    right = sum(call["name"] in names for call in calls)
    matched = 0
    for call in calls:
        for answer in answers:
            if answer["name"] == call["name"] and (found := _equal(call, answer)):
                matched += found
                break
    predicted = sum(len(_written(call)) for call in calls)
    return Counts(right, len(calls), len(answers)), Counts(matched, predicted, gold)


def _written(call: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in call["arguments"].items() if value != ""}


def _equal(call: Mapping[str, Any], answer: Mapping[str, Any]) -> int:
    if not answer["arguments"] and not _written(call):
        return 1
    written = _written(call)
    return sum(written.get(name) == value for name, value in _written(answer).items())
