"""A run's folder: settings, a line for each problem, strategy and seed, and the summary.

    settings.json          what answers depend on
    answers/NAME.jsonl     a strategy's answers, in the order they were found
    summary.json, summary.md

The folder is valid at every moment: an answer is one whole line, and what an interrupt leaves of a
line is cut off. A later run goes on from there, and may add problems, strategies and seeds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from toolprm_lite.errors import ConfigError, DatasetError
from toolprm_lite.evaluation.items import Item
from toolprm_lite.files import append, replace_file

Record = dict[str, Any]

_FORMAT = 2  # 1: draws did not depend on the prompt


class Column(NamedTuple):
    """What is asked about each problem: a strategy with a seed, None where it draws nothing."""

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
        self._answers: dict[str, dict[int | None, dict[str, Record]]] = {}
        current: Record = json.loads(json.dumps({"format": _FORMAT, **settings}))
        path = folder / "settings.json"
        if path.exists():
            current = _merged(_read_settings(path), current, folder)
        elif folder.exists() and any(folder.iterdir()):
            raise DatasetError(f"{folder}: not an evaluation's folder; give another --output")
        self.settings = current
        folder.mkdir(parents=True, exist_ok=True)
        # First of all: by this file a run that was stopped knows the folder as its own.
        replace_file(path, f"{json.dumps(current, indent=1)}\n".encode())
        (folder / "answers").mkdir(exist_ok=True)
        for leftover in (folder / "answers").glob("*.partial"):
            leftover.unlink()

    def answers(self, column: Column) -> dict[str, Record]:
        """A column's answers by problem."""
        strategy, seed = column
        if strategy not in self._answers:
            self._answers[strategy] = self._read(strategy)
        return self._answers[strategy].setdefault(seed, {})

    def add(self, answers: Mapping[Column, Record]) -> None:
        """Append one problem's answers, by column; the seed is written into the record."""
        for column, record in answers.items():
            known = self.answers(column)
            if column.seed is not None:
                record = {**record, "seed": column.seed}
            line = json.dumps(record, ensure_ascii=True, allow_nan=False)
            with self._path(column.strategy).open("ab", buffering=0) as file:
                append(file, f"{line}\n".encode())
            known[record["id"]] = record

    def known(self, columns: Iterable[Column], identity: str) -> list[Column]:
        """The columns that have an answer to this problem; an error is asked again."""
        return [
            column
            for column in columns
            if (record := self.answers(column).get(identity)) is not None and "error" not in record
        ]

    def fill(
        self,
        items: Sequence[Item],
        columns: Sequence[Column],
        ask: Callable[[Item, Sequence[Column]], Mapping[Column, Record]],
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        """Ask what is not answered yet; `ask` takes a problem and the columns not to ask."""
        for item in items:
            known = self.known(columns, item.id)
            if len(known) < len(columns):
                self.add(ask(item, known))
                advance()

    def _path(self, strategy: str) -> Path:
        return self.folder / "answers" / f"{slug(strategy)}.jsonl"

    def _read(self, strategy: str) -> dict[int | None, dict[str, Record]]:
        path = self._path(strategy)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return {}
        whole, _, rest = data.rpartition(b"\n")
        if rest:  # a line that was being written when the run broke off
            replace_file(path, whole + b"\n" if whole else b"")
        records: dict[int | None, dict[str, Record]] = {}
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = json.loads(line)
                records.setdefault(record.get("seed"), {})[record["id"]] = record
            except (ValueError, TypeError, KeyError, AttributeError):
                raise DatasetError(
                    f"{path}, line {number}: not an answer; take the line out, or give another "
                    "--output"
                ) from None
        return records


def slug(strategy: str) -> str:
    """A strategy's name as a file's."""
    return re.sub(r"[^A-Za-z0-9._+]+", "-", strategy).strip("-")


def _read_settings(path: Path) -> Record:
    try:
        settings = dict(json.loads(path.read_bytes()))
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
    rewards = {**now["rewards"], **before["rewards"]}
    seeds = max(now.get("seeds", 1), before.get("seeds", 1))
    changed = [
        f"{key} was {json.dumps(before.get(key))}, is {json.dumps(now.get(key))}"
        for key in dict.fromkeys([*now, *before])
        if key not in ("rewards", "seeds") and before.get(key) != now.get(key)
    ]
    changed += [
        f"the reward {name} is another one"
        for name, identity in now["rewards"].items()
        if rewards[name] != identity
    ]
    if changed:
        raise ConfigError(
            f"{folder} holds answers of other settings ({'; '.join(changed)}); give another "
            "--output, or the settings it has"
        )
    return {**before, "rewards": rewards, "seeds": seeds}
