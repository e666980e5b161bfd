"""Supervision sets as the arrays that heads are fitted to and judged by.

Several sets become one, if they are of one model. Reading their files is
`toolprm_lite.supervision.dataset`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from toolprm_lite.errors import TrainingError
from toolprm_lite.reward.head import FittedModel
from toolprm_lite.tasks.joining import SOURCE as JOINED
from toolprm_lite.tasks.joining import part_ids
from toolprm_lite.tasks.problem import SPLITS, Split

_MODEL = ("architecture", "width", "layers", "vocabulary", "adapter")


class StepArrays(Protocol):
    """What is used of a set's arrays; see `toolprm_lite.supervision.dataset.StepArrays`."""

    @property
    def hidden(self) -> npt.NDArray[np.float32]: ...
    @property
    def kinds(self) -> npt.NDArray[np.int8]: ...
    @property
    def features(self) -> npt.NDArray[np.float32]: ...
    @property
    def local(self) -> npt.NDArray[np.bool_]: ...
    @property
    def viable(self) -> npt.NDArray[np.bool_]: ...
    @property
    def problem(self) -> npt.NDArray[np.int32]: ...
    @property
    def split(self) -> npt.NDArray[np.int8]: ...
    @property
    def previous(self) -> npt.NDArray[np.int64]: ...


class Set(Protocol):
    """What is used of a supervision set; its tables are pyarrow's."""

    @property
    def manifest(self) -> dict[str, Any]: ...
    @property
    def problems(self) -> list[dict[str, Any]]: ...
    @property
    def steps(self) -> Any: ...
    @property
    def trajectories(self) -> Any: ...
    def arrays(self, layers: Sequence[int], pooled: bool) -> StepArrays: ...


@dataclass(frozen=True, slots=True)
class Examples:
    """Steps to learn from, rows in the order of the sets.

    `hidden` float32 [steps, d], `kinds` int8, `features` float32 [steps, F], `labels` bool
    [steps, 2] in the order of `LABELS`, `problem` int64, `split` int8 (an index into `SPLITS`),
    `previous` int64 (a row, or -1).
    """

    hidden: npt.NDArray[np.float32]
    kinds: npt.NDArray[np.int8]
    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.bool_]
    problem: npt.NDArray[np.int64]
    split: npt.NDArray[np.int8]
    previous: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trajectories:
    """Whole responses, all arrays [trajectories].

    `problem` int64, `group` int64 (a problem as answered with or without a constraint in one
    set), `constrained` bool, `last` int64 (the row of its last step in `Examples`, or -1),
    `draws` int32, `greedy`, `complete`, `right` bool, `split` int8.
    """

    problem: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    constrained: npt.NDArray[np.bool_]
    last: npt.NDArray[np.int64]
    draws: npt.NDArray[np.int32]
    greedy: npt.NDArray[np.bool_]
    complete: npt.NDArray[np.bool_]
    right: npt.NDArray[np.bool_]
    split: npt.NDArray[np.int8]

    def take(self, rows: npt.NDArray[Any]) -> Trajectories:
        """Some of them, by index or flag."""
        return Trajectories(*(getattr(self, name)[rows] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class SourceProblems:
    """The problems of a source, bool [problems] each: `whole` are of it alone, `touched` also those
    joined with others, or with what may be its problem."""

    whole: npt.NDArray[np.bool_]
    touched: npt.NDArray[np.bool_]


class Supervision:
    """One or several supervision sets of one model.

    Raises `TrainingError` when there is none, when they are of different models, call formats or
    features, and when they put a problem into different splits.
    """

    def __init__(self, sets: Sequence[Set], names: Sequence[str]) -> None:
        if not sets:
            raise TrainingError("no supervision set; name the folders that were collected")
        self._sets = list(sets)
        self.names = list(names)
        first = sets[0].manifest
        model = first["model"]
        for other, name in zip(sets, names, strict=True):
            self._check_same(first, other.manifest, name)
        self.model = FittedModel(
            str(model["name"]),
            str(model["architecture"]),
            int(model["width"]),
            int(model["layers"]),
            str(model["vocabulary"]),
            str(model["adapter"]),
        )
        self.call_format: str = first["call_format"]
        self.prompt: str = first["prompt"]
        self.features: tuple[str, ...] = tuple(first["features"])
        self.layers: tuple[int, ...] = tuple(
            layer
            for layer in first["layers"]
            if all(layer in other.manifest["layers"] for other in sets)
        )
        self.pooled: bool = all(other.manifest["pooled"] for other in sets)
        self._problem_of: list[dict[str, int]] = []
        self._splits: list[int] = []
        self._number_problems()
        self._offsets = np.cumsum([0, *(other.steps.num_rows for other in sets)])
        self.steps = int(self._offsets[-1])
        if not self.steps:
            raise TrainingError(f"{', '.join(names)}: no steps in it; collect some first")

    def examples(self, layers: Sequence[int], pooled: bool) -> Examples:
        """The steps of all sets. Raises `TrainingError` for a layer that was not collected."""
        missing = [layer for layer in layers if layer not in self.layers]
        if missing or not layers:
            raise TrainingError(
                f"{', '.join(self.names)}: no states of layer {_list(missing)}; there are those of "
                f"{_list(self.layers)}"
            )
        if pooled and not self.pooled:
            raise TrainingError(f"{', '.join(self.names)}: no pooled states were collected")
        parts = [part.arrays(tuple(layers), pooled) for part in self._sets]
        numbers = [
            np.array([known[record["id"]] for record in part.problems] or [0], np.int64)
            for part, known in zip(self._sets, self._problem_of, strict=True)
        ]

        def join(name: str) -> npt.NDArray[Any]:
            arrays = [getattr(part, name) for part in parts]
            return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

        return Examples(
            hidden=join("hidden"),
            kinds=join("kinds"),
            features=join("features"),
            labels=np.stack([join("local"), join("viable")], axis=1),
            problem=np.concatenate(
                [number[part.problem] for number, part in zip(numbers, parts, strict=True)]
            ),
            split=join("split"),
            previous=np.concatenate(
                [
                    np.where(part.previous >= 0, part.previous + offset, -1)
                    for part, offset in zip(parts, self._offsets, strict=False)
                ]
            ),
        )

    def trajectories(self) -> Trajectories:
        """The whole responses of all sets. Raises `TrainingError` when a step is missing."""
        columns: dict[str, list[Any]] = {name: [] for name in Trajectories.__slots__}
        groups: dict[tuple[int, str, bool], int] = {}
        for place, part in enumerate(self._sets):
            rows = self._rows(part, int(self._offsets[place]))
            known = self._problem_of[place]
            for record in part.trajectories.to_pylist():
                problem, constrained = record["problem"], bool(record["constrained"])
                key = (problem, constrained, record["step"])
                if record["step"] >= 0 and key not in rows:
                    raise TrainingError(
                        f"{self.names[place]}: problem {problem}: a trajectory ends with step "
                        f"{record['step']}, which is missing; collect the set again"
                    )
                if problem not in known:
                    raise TrainingError(
                        f"{self.names[place]}: problem {problem} has trajectories and no line in "
                        "problems.jsonl; collect the set again"
                    )
                number = known[problem]
                columns["problem"].append(number)
                columns["group"].append(
                    groups.setdefault((place, problem, constrained), len(groups))
                )
                columns["constrained"].append(constrained)
                columns["last"].append(rows.get(key, -1))
                columns["split"].append(self._splits[number])
                for name in ("draws", "greedy", "complete", "right"):
                    columns[name].append(record[name])
        kinds: dict[str, type[np.generic]] = {
            "problem": np.int64,
            "group": np.int64,
            "last": np.int64,
            "draws": np.int32,
            "split": np.int8,
        }
        return Trajectories(
            **{
                name: np.array(values, dtype=kinds.get(name, np.bool_))
                for name, values in columns.items()
            }
        )

    def require(self, examples: Examples, split: Split) -> npt.NDArray[np.bool_]:
        """The rows of a split, bool [steps]. Raises `TrainingError` when there are none."""
        rows: npt.NDArray[np.bool_] = examples.split == SPLITS.index(split)
        if not rows.any():
            raise TrainingError(
                f"{', '.join(self.names)}: no problems of the {split} split; collect more of the "
                "plan"
            )
        return rows

    def groups(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Parts of the problems, bool [problems] each: by source, mask and number of calls."""
        ordered = self._records()
        source = np.array([str(record["source"]) for record in ordered])
        masked = np.array([bool(record["masked"]) for record in ordered])
        calls = np.array([len(record["answers"]) for record in ordered])
        return {
            **{f"source {name}": source == name for name in sorted(set(source.tolist()))},
            "masked": masked,
            "not masked": ~masked,
            "to decline": calls == 0,
            "one call": calls == 1,
            "several calls": calls > 1,
        }

    def sources(self) -> dict[str, SourceProblems]:
        """The problems of each source; that of a joined problem's parts counts, not its own.

        Sets from before a join named its parts' sources: those of the parts that a set also has
        alone are known by their ids. A join with an unknown part may be of any source.
        """
        records = self._records()
        alone = {
            str(record["id"]): str(record["source"])
            for record in records
            if record["source"] != JOINED
        }
        parts = [_sources_of(record, alone) for record in records]
        names = sorted({name for found in parts for name in found if name is not None})
        return {
            name: SourceProblems(
                np.array([found == {name} for found in parts]),
                np.array([not found.isdisjoint({name, None}) for found in parts]),
            )
            for name in names
        }

    def counts(self, examples: Examples) -> dict[str, Any]:
        """What a card says of the data: problems and steps for each split."""
        found: dict[str, Any] = {"sets": [Path(name).name for name in self.names]}
        for place, split in enumerate(SPLITS):
            rows = examples.split == place
            found[split] = {
                "problems": len(np.unique(examples.problem[rows])),
                "steps": int(rows.sum()),
            }
        return found

    def _records(self) -> list[dict[str, Any]]:
        """The records of the problems, in the order of their numbers."""
        records: dict[int, dict[str, Any]] = {}
        for part, known in zip(self._sets, self._problem_of, strict=True):
            for record in part.problems:
                records.setdefault(known[record["id"]], record)
        return [records[number] for number in range(len(records))]

    def _check_same(self, first: dict[str, Any], other: dict[str, Any], name: str) -> None:
        for key in _MODEL:
            if first["model"][key] != other["model"][key]:
                raise TrainingError(
                    f"{name} is of another model than {self.names[0]}: {key} is "
                    f"{other['model'][key]}, not {first['model'][key]}; name sets of one model"
                )
        for key in ("call_format", "prompt", "features"):
            if first[key] != other[key]:
                raise TrainingError(
                    f"{name} has another {key.replace('_', ' ')} than {self.names[0]}; name sets "
                    "that were collected in the same way"
                )

    def _number_problems(self) -> None:
        numbers: dict[str, int] = {}
        for part, name in zip(self._sets, self.names, strict=True):
            known: dict[str, int] = {}
            for line, record in enumerate(part.problems, 1):
                if "id" not in record:
                    raise TrainingError(
                        f"{name}: problems.jsonl, line {line}: no problem of a set; collect again"
                    )
                given = record.get("split")
                if given not in SPLITS:
                    raise TrainingError(
                        f"{name}: problem {record['id']}: split is {given!r}; it must be one of "
                        f"{_list(SPLITS)}"
                    )
                split = SPLITS.index(given)
                number = numbers.setdefault(record["id"], len(numbers))
                if number == len(self._splits):
                    self._splits.append(split)
                elif self._splits[number] != split:
                    raise TrainingError(
                        f"{name}: problem {record['id']} is in the {record['split']} split, and in "
                        f"{SPLITS[self._splits[number]]} in another set; collect them by one plan"
                    )
                known[record["id"]] = number
            self._problem_of.append(known)

    @staticmethod
    def _rows(part: Set, offset: int) -> dict[tuple[str, bool, int], int]:
        names = ("problem", "constrained", "step")
        columns = (part.steps.column(name).to_pylist() for name in names)
        return {key: row for row, key in enumerate(zip(*columns, strict=True), offset)}


def open_supervision(paths: Sequence[str | Path]) -> Supervision:
    """Open the folders of supervision sets. Raises `ToolprmError`."""
    try:
        from toolprm_lite.supervision.dataset import open_set
    except ImportError as error:
        raise TrainingError(
            f"supervision sets need {error.name}: pip install 'toolprm_lite[train]'"
        ) from error
    return Supervision([open_set(Path(path)) for path in paths], [str(path) for path in paths])


def _sources_of(record: dict[str, Any], alone: dict[str, str]) -> set[str | None]:
    """The sources of a problem's parts, None for an unknown one; `alone` are sources by id."""
    if record.get("parts"):
        return set(record["parts"])
    if record["source"] != JOINED:
        return {str(record["source"])}
    return {alone.get(part) for part in part_ids(str(record["id"]), alone)}


def _list(items: Sequence[object]) -> str:
    return ", ".join(map(str, items)) or "none"
