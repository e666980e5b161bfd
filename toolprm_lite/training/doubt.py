"""Chooses the threshold of doubt, and writes it on a head's card.

This needs searches: what a widened round finds is not in a recorded set, whose draws are few where
the greedy response does not go.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toolprm_lite.errors import TrainingError
from toolprm_lite.evaluation.evaluate import Watch, answer_all, unwatched
from toolprm_lite.evaluation.runs import RunFolder
from toolprm_lite.evaluation.strategies import Comparison, Strategy
from toolprm_lite.files import locked
from toolprm_lite.reward.head import Head
from toolprm_lite.reward.head_file import load_head, save_head
from toolprm_lite.search.config import SearchConfig
from toolprm_lite.search.searcher import Searcher
from toolprm_lite.tasks.problem import Problem

Record = Mapping[str, Any]

THRESHOLDS = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtSettings:
    """How the threshold is chosen.

    Attributes:
        problems: how many validation problems are searched, at most; 0 chooses none.
        thresholds: those that are tried, in addition to greedy (0) and the full search (1).
        search: what all searches have in common, and the sizes N and M of the full one.
    """

    problems: int = 60
    thresholds: tuple[float, ...] = THRESHOLDS
    search: SearchConfig = field(default_factory=SearchConfig)

    def strategies(self, reward: str) -> dict[float, Strategy]:
        """The strategy of each threshold."""
        size = f"{reward}@{self.search.beams}x{self.search.expand}"
        names = {0.0: "greedy", 1.0: f"step-beam:{size}"}
        names |= {threshold: f"doubt:{size}/{threshold:g}" for threshold in self.thresholds}
        return {threshold: Strategy.parse(name) for threshold, name in sorted(names.items())}


@dataclass(frozen=True, slots=True)
class Measured:
    """What searches with one threshold gave, on problems that are the same for all.

    `right` bool and `tokens`, those decoded, int64: both [problems].
    """

    doubt: float
    right: npt.NDArray[np.bool_]
    tokens: npt.NDArray[np.int64]


def choose_doubt(measured: Sequence[Measured]) -> Measured:
    """Of the thresholds that are as good as the best, the one that decodes least.

    As good is one that is right on fewer problems by no more than the standard error: the root of
    the number of problems on which only one of the two is right (McNemar 1947). Ties go to the
    lower threshold. Raises `TrainingError` when nothing was measured, or not on the same problems.
    """
    sizes = {len(each.right) for each in measured} | {len(each.tokens) for each in measured}
    if len(sizes) != 1 or sizes == {0}:
        raise TrainingError("give each threshold's searches of the same problems, at least one")
    ordered = sorted(measured, key=lambda each: each.doubt)
    best = max(ordered, key=lambda each: each.right.mean())

    def as_good(each: Measured) -> bool:
        won, lost = (
            int(only.sum()) for only in (best.right & ~each.right, each.right & ~best.right)
        )
        return won - lost <= math.sqrt(won + lost)

    return min(filter(as_good, ordered), key=lambda each: each.tokens.mean())


def measure(answers: Mapping[float, Mapping[str, Record]]) -> list[Measured]:
    """What the answers of each threshold, by problem, have measured: over the problems that all
    thresholds have answered without an error."""
    asked = {
        threshold: {id: record for id, record in found.items() if "stats" in record}
        for threshold, found in sorted(answers.items())
    }
    shared = [
        id for id in next(iter(asked.values()), {}) if all(id in found for found in asked.values())
    ]
    return [
        Measured(
            threshold,
            np.array([bool(found[id]["right"]) for id in shared], np.bool_),
            np.array([_decoded(found[id]["stats"]) for id in shared], np.int64),
        )
        for threshold, found in asked.items()
    ]


def fit_doubt(
    searcher: Searcher,
    problems: Sequence[Problem],
    head: Path,
    folder: Path,
    settings: DoubtSettings,
    *,
    depends: Mapping[str, Any] | None = None,
    watch: Watch = unwatched,
) -> list[Measured]:
    """Search the problems with every threshold, and write the choice on the head's card.

    `folder` keeps the answers, so that a stopped choice continues there; `depends` is
    what they depend on in addition to the search. Returns what was measured; where no problem could
    be searched nothing is chosen. Raises as `evaluate` does.
    """
    judge = load_head(head)
    strategies = settings.strategies(judge.name)
    comparison = Comparison(
        searcher, list(strategies.values()), {judge.name: judge}, settings.search
    )
    recorded = {**settings.search.to_json(), **(depends or {}), "rewards": {}}
    with locked(folder, folder=True, nested=True):
        run = RunFolder(folder, recorded)
        answers = answer_all(run, problems, comparison, watch)
    names = {problem.id for problem in problems}
    measured = measure(
        {
            doubt: {id: found for id, found in answers[str(each)][0].items() if id in names}
            for doubt, each in strategies.items()
        }
    )
    if len(measured[0].right):
        card = replace(judge.card, doubt=choose_doubt(measured).doubt)
        save_head(head, Head(card, judge.weights, judge.source))
    return measured


def _decoded(stats: Mapping[str, int]) -> int:
    return stats["decode_tokens"] + stats["forced_tokens"]
