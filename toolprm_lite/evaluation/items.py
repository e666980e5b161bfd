"""Problems of an evaluation in one form, wherever they come from, with what judges the answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolprm_lite.errors import DatasetError, ProblemError
from toolprm_lite.evaluation.matching import CallLike, MatchRule, responses_equal
from toolprm_lite.prompt import Message

Judge = Callable[[Sequence[CallLike]], "bool | None"]


@dataclass(frozen=True, slots=True)
class Item:
    """One problem.

    `tools` are definitions as `Tool.from_dict` reads them. `judge` tells whether the calls of a
    complete response are right, None where only a checker from outside can. `answers` are the right
    calls under `rule`, None where there are none to compare with. `declines` says that no call is
    right. `source` is the record as its benchmark has it. What was looked at while building is
    `bring_up`, and reported apart.
    """

    id: str
    category: str
    messages: list[Message]
    tools: list[Mapping[str, Any]]
    judge: Judge
    answers: Sequence[CallLike] | None = None
    rule: MatchRule = "exact"
    source: Mapping[str, Any] = field(default_factory=dict)
    declines: bool = False
    bring_up: bool = False


def read_problems(path: Path) -> tuple[list[Item], list[str]]:
    """The problems of a file, by source, and what was left out and why.

    Raises `ProblemError` for a file that can't be read or has none.
    """
    from toolprm_lite.supervision.problems import load_problems

    problems, rejected = load_problems([path])
    if not problems:
        raise ProblemError(f"{path}: no problem can be used; {rejected[0]}")
    items = [
        _item(
            problem.id,
            problem.source,
            problem.messages,
            [tool.to_dict() for tool in problem.tools],
            problem.answers,
        )
        for problem in problems
    ]
    return items, [str(record) for record in rejected]


def read_set(folder: Path, split: str) -> list[Item]:
    """The problems of a supervision set's split, as it shows them: masked, with distractors.

    Raises `DatasetError` when the folder is no set, or has no problem of the split.
    """
    import json

    path = folder / "problems.jsonl"
    try:
        with path.open(encoding="utf-8") as file:
            records = [json.loads(line) for line in file]
        items = [
            _item(
                record["id"],
                "refusal" if record["refusal"] else record["source"],
                record["messages"],
                record["tools"],
                record["answers"],
            )
            for record in records
            if record["split"] == split
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: not the problems of a supervision set ({error}); name a folder that "
            "`toolprm-lite collect` wrote"
        ) from None
    if not items:
        raise DatasetError(f"{folder}: no {split} problem in it; give another --split")
    return items


def _item(
    identity: str,
    category: str,
    messages: list[Message],
    tools: list[Mapping[str, Any]],
    answers: list[dict[str, Any]],
) -> Item:
    def judge(calls: Sequence[CallLike]) -> bool:
        return responses_equal(calls, answers, tools)

    return Item(identity, category, messages, tools, judge, answers, declines=not answers)


def sample(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """`count` of the items, as many of each category as can be, in their order.

    Which ones depends on the seed and the ids alone.
    """
    by_category: dict[str, list[Item]] = {}
    for item in items:
        by_category.setdefault(item.category, []).append(item)
    drawn = {
        category: sorted(group, key=lambda item: _rank(item.id, seed))
        for category, group in by_category.items()
    }
    chosen: set[str] = set()
    place = 0
    while len(chosen) < count and any(place < len(group) for group in drawn.values()):
        for group in drawn.values():
            if place < len(group) and len(chosen) < count:
                chosen.add(group[place].id)
        place += 1
    return [item for item in items if item.id in chosen]


def _rank(identity: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{identity}".encode()).digest()
