"""A run's folder: settings, a line for each problem, strategy and seed, and the summary.

    settings.json          what answers depend on
    answers/NAME.jsonl     a strategy's answers, in the order they were found
    summary.json, summary.md

The folder is valid at every moment: an answer is one whole line, and what an interrupt leaves of a
line is cut off. A later run continues there, and may add problems, strategies and seeds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from toolprm_lite.errors import ConfigError, DatasetError
from toolprm_lite.store import (
    BrokenLine,
    KeyedLines,
    Record,
    as_json,
    changes,
    describe,
    read_settings,
    remove_partials,
    write_settings,
)
from toolprm_lite.tasks.problem import Problem

_FORMAT = 2  # 1: draws did not depend on the prompt


class Column(NamedTuple):
    """What is run on each problem: a strategy with a seed, None if it draws nothing."""

    strategy: str
    seed: int | None = None


class RunFolder:
    """Answers on disk, by strategy, seed and problem.

    `settings` is what all answers depend on, in JSON's types; "rewards" in it are by name, and a
    later run may add some. "seeds" is how many follow from the first, "seed"; a later run may ask
    more. Raises `ConfigError` when the folder holds answers of other settings,
    `DatasetError` when it holds something else.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self._answers: dict[str, KeyedLines[tuple[int | None, str]]] = {}
        current = as_json({"format": _FORMAT, **settings})
        path = folder / "settings.json"
        before = _read_settings(path)
        if before is not None:
            current = _merged(before, current, folder)
        elif folder.exists() and any(folder.iterdir()):
            raise DatasetError(f"{folder}: not an evaluation's folder; give another --output")
        self.settings = current
        folder.mkdir(parents=True, exist_ok=True)
        # Written first: a later run recognises the folder by this file.
        write_settings(path, current)
        (folder / "answers").mkdir(exist_ok=True)
        remove_partials(folder / "answers")

    def answers(self, column: Column) -> dict[str, Record]:
        """A column's answers by problem."""
        records = self._lines(column.strategy).records
        return {id: record for (seed, id), record in records.items() if seed == column.seed}

    def add(self, answers: Mapping[Column, Record]) -> None:
        """Append one problem's answers, by column; the seed is written into the record."""
        for column, record in answers.items():
            if column.seed is not None:
                record = {**record, "seed": column.seed}
            line = json.dumps(record, ensure_ascii=True, allow_nan=False)
            self._lines(column.strategy).add(record, f"{line}\n".encode())

    def known(self, columns: Iterable[Column], identity: str) -> list[Column]:
        """The columns that have an answer to this problem; an answer that is an error is computed
        again."""
        return [
            column
            for column in columns
            if "error"
            not in self._lines(column.strategy).records.get(
                (column.seed, identity), {"error": "not asked"}
            )
        ]

    def fill(
        self,
        problems: Sequence[Problem],
        columns: Sequence[Column],
        ask: Callable[[Problem, Sequence[Column]], Mapping[Column, Record]],
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        """Compute the missing answers; `ask` takes a problem and the columns to skip."""
        for problem in problems:
            known = self.known(columns, problem.id)
            if len(known) < len(columns):
                self.add(ask(problem, known))
                advance()

    def _lines(self, strategy: str) -> KeyedLines[tuple[int | None, str]]:
        lines = self._answers.get(strategy)
        if lines is None:
            path = self.folder / "answers" / f"{slug(strategy)}.jsonl"
            try:
                lines = KeyedLines(path, _key)
            except BrokenLine as broken:
                raise DatasetError(
                    f"{path}, line {broken.number}: not an answer; take the line out, or give "
                    "another --output"
                ) from None
            lines.repair()
            self._answers[strategy] = lines
        return lines


def _key(record: Record) -> tuple[int | None, str]:
    return record.get("seed"), record["id"]


def slug(strategy: str) -> str:
    """A strategy's name as a file's."""
    return re.sub(r"[^A-Za-z0-9._+]+", "-", strategy).strip("-")


def _read_settings(path: Path) -> Record | None:
    try:
        settings = read_settings(path)
        if settings is None:
            return None
        if settings["format"] == 1:
            raise ConfigError(
                f"{path.parent} holds answers of an earlier version, whose draws did not depend on "
                "the prompt; give another --output"
            )
        if settings["format"] != _FORMAT or not isinstance(settings["rewards"], dict):
            raise ValueError(settings)
    except (OSError, ValueError, KeyError, TypeError):
        raise DatasetError(
            f"{path}: not the settings of an evaluation of this version; give another --output"
        ) from None
    return settings


def _merged(before: Record, now: Record, folder: Path) -> Record:
    """The settings of both runs, of which the later may ask more seeds and have more rewards."""
    rewards = {**now["rewards"], **before["rewards"]}
    grown = {"rewards": rewards, "seeds": max(now.get("seeds", 1), before.get("seeds", 1))}
    found = describe(changes({**before, **grown}, {**now, **grown}))
    others = "; ".join(
        f"the reward {name} is another one"
        for name, identity in now["rewards"].items()
        if rewards[name] != identity
    )
    if found or others:
        raise ConfigError(
            f"{folder} holds answers of other settings ({'; '.join(filter(None, (found, others)))})"
            "; give another --output, or the settings it has"
        )
    return {**before, **grown}
