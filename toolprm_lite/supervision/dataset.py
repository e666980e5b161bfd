"""A supervision set on disk: a folder with a manifest, problems, and shards of labelled steps.

    manifest.json                 the model, the layers, the features, the settings
    problems.jsonl                the problems as they were shown to the model, in order
    shard-00000.safetensors       hidden states, float16
    shard-00000.trajectories.parquet
    shard-00000.parquet           the steps, written last: a shard is there when this file is

Knows files and tables, nothing of models and labels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from toolprm_lite.errors import DatasetError
from toolprm_lite.files import replace_file
from toolprm_lite.reward.base import STEP_KINDS
from toolprm_lite.store import Shards, changes, remove_partials, write_settings
from toolprm_lite.tasks.problem import SPLITS

Float32Array = npt.NDArray[np.float32]

FORMAT = 1
_STEPS, _TRAJECTORY_FILE, _STATES = ".parquet", ".trajectories.parquet", ".safetensors"

_MANIFEST = {
    "model": dict,
    "call_format": str,
    "prompt": str,
    "layers": list,
    "features": list,
    "pooled": bool,
    "settings": dict,
}
_MODEL = {"name", "architecture", "width", "layers", "vocabulary", "adapter"}

_TRAJECTORIES: list[tuple[str, pa.DataType]] = [
    ("problem", pa.string()),
    ("constrained", pa.bool_()),
    ("step", pa.int32()),  # its last step, or -1
    ("draws", pa.int32()),
    ("greedy", pa.bool_()),
    ("complete", pa.bool_()),
    ("right", pa.bool_()),
    ("fate", pa.string()),
    ("tokens", pa.int32()),
    ("text", pa.string()),
]
TRAJECTORIES = pa.schema(_TRAJECTORIES)


def steps_schema(features: int) -> pa.Schema:
    """The columns of a shard's steps."""
    columns: list[tuple[str, pa.DataType]] = [
        ("problem", pa.string()),
        ("constrained", pa.bool_()),
        ("step", pa.int32()),  # within the problem's rollout
        ("previous", pa.int32()),  # the step decided before it, or -1
        ("kind", pa.string()),
        ("call", pa.int32()),
        ("function", pa.string()),
        ("argument", pa.string()),
        ("value", pa.string()),  # JSON as the model wrote it
        ("boundary", pa.int32()),  # bytes of the response
        ("tokens", pa.int32()),  # of the response
        ("draws", pa.int32()),
        ("greedy", pa.bool_()),
        ("goes_on", pa.bool_()),  # its token includes the comma after it
        ("local", pa.bool_()),
        ("viable", pa.bool_()),
        ("features", pa.list_(pa.float32(), features)),
        ("row", pa.int32()),  # of the shard's states
    ]
    return pa.schema(columns)


@dataclass(frozen=True, slots=True)
class StepArrays:
    """The steps of a set as training reads them; all arrays have one entry a step.

    `hidden` float32 [steps, d], `kinds` int8, `features` float32 [steps, F], `local` and `viable`
    bool, `problem` int32 (index into the problems), `split` int8 (index into `SPLITS`), `draws`
    int32, `constrained` and `greedy` bool, `previous` int64 (index of a step, or -1).
    """

    hidden: Float32Array
    kinds: npt.NDArray[np.int8]
    features: Float32Array
    local: npt.NDArray[np.bool_]
    viable: npt.NDArray[np.bool_]
    problem: npt.NDArray[np.int32]
    split: npt.NDArray[np.int8]
    draws: npt.NDArray[np.int32]
    constrained: npt.NDArray[np.bool_]
    previous: npt.NDArray[np.int64]
    greedy: npt.NDArray[np.bool_]


class SetWriter:
    """Writes a set, shard by shard; each is there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards = Shards(folder, last=_STEPS)

    def begin(self, manifest: Mapping[str, Any], problems: Sequence[Mapping[str, Any]]) -> bool:
        """Start the set, or continue it if it was started with the same manifest and problems.

        Returns whether it was there. Raises `DatasetError` when another set is in the folder.
        """
        lines = "".join(json.dumps(problem, ensure_ascii=False) + "\n" for problem in problems)
        there = (self.folder / "manifest.json").exists()
        if there:
            self._check_same(manifest, lines)
        elif self.folder.exists() and not all(map(_begun, self.folder.iterdir())):
            raise DatasetError(
                f"{self.folder}: not empty, and not a supervision set; give another --output"
            )
        remove_partials(self.folder)
        if not there:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(self.folder / "problems.jsonl", lines.encode())
            self._note(manifest)
        return there

    def _check_same(self, manifest: Mapping[str, Any], lines: str) -> None:
        known = _read_manifest(self.folder)
        different = changes(known, {**manifest, "complete": known.get("complete")})
        if different:
            differences = ", ".join(
                f"{name} {before!r} where {now!r} is asked for"
                for name, before, now in different[:3]
            )
            raise DatasetError(
                f"{self.folder}: holds a set made with {differences}; give the same settings, or "
                "another --output"
            )
        try:
            same = (self.folder / "problems.jsonl").read_bytes() == lines.encode()
        except FileNotFoundError:
            same = False
        if not same:
            raise DatasetError(
                f"{self.folder}: holds a set of other problems; give the same files, or "
                "another --output"
            )

    def has(self, shard: int) -> bool:
        """Whether the shard is there."""
        return self._shards.has(shard)

    def counts(self, shard: int) -> tuple[int, int]:
        """Steps of a shard that is there, and greedy constrained responses that are right.

        Raises `DatasetError` when its files can't be read.
        """
        steps = _read_table(self._shards.path(shard, _STEPS), ["row"])
        flags = _read_table(
            self._shards.path(shard, _TRAJECTORY_FILE), ["constrained", "greedy", "right"]
        )
        right = np.ones(len(flags), bool)
        for name in flags.column_names:
            right &= flags[name].to_numpy()
        return len(steps), int(right.sum())

    def write(
        self,
        shard: int,
        steps: Mapping[str, Sequence[Any]],
        trajectories: Mapping[str, Sequence[Any]],
        states: Mapping[str, npt.NDArray[np.float16]],
        features: Float32Array,
    ) -> None:
        """Write a shard. `steps` has all columns but `features`, which is float32 [steps, F]."""
        count, width = features.shape
        schema = steps_schema(width)
        flat = pa.array(np.ascontiguousarray(features).reshape(-1), pa.float32())
        columns = dict(steps) | {"features": pa.FixedSizeListArray.from_arrays(flat, width)}
        table = pa.table(
            {
                field.name: column
                if isinstance(column := columns[field.name], pa.Array)
                else pa.array(column, field.type)
                for field in schema
            },
            schema,
        )
        assert len(table) == count
        files = {
            _STATES: save(dict(states)),
            _TRAJECTORY_FILE: _parquet(pa.table(dict(trajectories), TRAJECTORIES)),
            _STEPS: _parquet(table),
        }
        self._shards.write(shard, files)

    def finish(self) -> None:
        """Mark the set complete."""
        self._note({**_read_manifest(self.folder), "complete": True})

    def _note(self, manifest: Mapping[str, Any]) -> None:
        write_settings(self.folder / "manifest.json", manifest, indent=2, ensure_ascii=False)


class SupervisionSet:
    """A set, complete or as far as it has come."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = _read_manifest(folder)
        if self.manifest.get("format") != FORMAT:
            raise DatasetError(
                f"{folder}: its format is {self.manifest.get('format')!r}, not {FORMAT}; "
                "collect it again with this version"
            )
        stems = sorted(
            path.name[: -len(".parquet")]
            for path in folder.glob("shard-*.parquet")
            if not path.name.endswith(".trajectories.parquet")
        )
        if not stems:
            raise DatasetError(f"{folder}: has no shard yet; run toolprm-lite collect first")
        self._stems = stems

    @cached_property
    def problems(self) -> list[dict[str, Any]]:
        """The problems in order of collection; those of shards still to come included."""
        path = self.folder / "problems.jsonl"
        try:
            with path.open(encoding="utf-8") as file:
                return [json.loads(line) for line in file]
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path}: {error}; collect the set again") from None

    @cached_property
    def steps(self) -> pa.Table:
        """All steps, with the column `shard` (int32, index into the set's shards) added."""
        tables = []
        for number, stem in enumerate(self._stems):
            table = _read_table(self.folder / f"{stem}.parquet")
            shard = pa.array(np.full(len(table), number, np.int32))
            tables.append(table.append_column("shard", shard))
        return pa.concat_tables(tables)

    @cached_property
    def trajectories(self) -> pa.Table:
        """All trajectories."""
        return pa.concat_tables(
            [_read_table(self.folder / f"{stem}.trajectories.parquet") for stem in self._stems]
        )

    def state_names(self, layers: Sequence[int], pooled: bool) -> list[str]:
        """Names of these layers' states. Raises `DatasetError` if they were not stored."""
        stored = self.manifest["layers"]
        for layer in layers:
            if layer not in stored:
                raise DatasetError(
                    f"{self.folder}: has no states of layer {layer}, only of "
                    f"{', '.join(map(str, stored))}"
                )
        names = [f"boundary.{layer}" for layer in layers]
        if pooled:
            names += [f"pooled.{layer}" for layer in layers]
        return names

    def states(self, names: Sequence[str]) -> Float32Array:
        """States of all steps side by side, float32 [steps, len(names) * width]."""
        width = int(self.manifest["model"]["width"])
        rows = self.steps["row"].to_numpy()
        shards = self.steps["shard"].to_numpy()
        result: Float32Array = np.empty((len(rows), len(names) * width), np.float32)
        for number, stem in enumerate(self._stems):
            here = np.flatnonzero(shards == number)
            path = self.folder / f"{stem}.safetensors"
            try:
                with safe_open(path, "numpy") as file:
                    for place, name in enumerate(names):
                        tensor = file.get_tensor(name)
                        result[here, place * width : (place + 1) * width] = tensor[rows[here]]
            except (OSError, SafetensorError, IndexError, ValueError) as error:
                raise DatasetError(
                    f"{path}: {error}; delete the shard's files and collect again"
                ) from None
        return result

    def arrays(self, layers: Sequence[int], pooled: bool) -> StepArrays:
        """The steps as training reads them, with the states of these layers."""
        steps = self.steps
        numbers = {problem["id"]: number for number, problem in enumerate(self.problems)}
        splits = np.array([SPLITS.index(problem["split"]) for problem in self.problems], np.int8)
        problem = np.array([numbers[str(name)] for name in steps["problem"].to_pylist()], np.int32)
        constrained = steps["constrained"].to_numpy()
        index = steps["step"].to_numpy()
        # A rollout's steps are together, in order: its first row is where `step` is 0.
        first = np.arange(len(index)) - index
        previous = steps["previous"].to_numpy()
        width = steps.schema.field("features").type.list_size
        vectors: Any = steps["features"].combine_chunks()
        features = vectors.flatten().to_numpy().reshape(-1, width)
        kinds = {name: number for number, name in enumerate(STEP_KINDS)}
        return StepArrays(
            hidden=self.states(self.state_names(layers, pooled)),
            kinds=np.array([kinds[str(name)] for name in steps["kind"].to_pylist()], np.int8),
            features=np.ascontiguousarray(features, np.float32),
            local=steps["local"].to_numpy(),
            viable=steps["viable"].to_numpy(),
            problem=problem,
            split=splits[problem],
            draws=steps["draws"].to_numpy(),
            constrained=constrained,
            previous=np.where(previous < 0, -1, first + previous),
            greedy=steps["greedy"].to_numpy(),
        )


def open_set(path: str | os.PathLike[str]) -> SupervisionSet:
    """Open a supervision set. Raises `DatasetError`."""
    return SupervisionSet(Path(path))


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    names = (
        columns
        or (TRAJECTORIES if path.name.endswith(".trajectories.parquet") else steps_schema(0)).names
    )
    try:
        table = pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: {error}; delete the shard's files and collect again") from None
    if table.column_names != names:
        raise DatasetError(
            f"{path}: its columns are not those of a shard; delete the shard's files and collect "
            "again"
        )
    return table


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(
            f"{folder}: not a supervision set: no manifest.json; give a folder that "
            "toolprm-lite collect made"
        ) from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: {error}; collect the set again") from None
    if isinstance(manifest, dict):
        manifest.setdefault("prompt", "schemas")  # sets from before these fields have none
        if isinstance(manifest.get("settings"), dict):
            manifest["settings"].setdefault("prompt", "schemas")
        if isinstance(manifest.get("model"), dict):
            manifest["model"].setdefault("adapter", "")
    if (
        not isinstance(manifest, dict)
        or "format" not in manifest
        or (
            manifest["format"] == FORMAT
            and not (
                all(isinstance(manifest.get(key), kind) for key, kind in _MANIFEST.items())
                and manifest["model"].keys() >= _MODEL
            )
        )
    ):
        raise DatasetError(f"{path}: not a manifest; collect the set again")
    return manifest


def _begun(path: Path) -> bool:
    """Whether a run that was stopped before its manifest was there may have left the file."""
    return path.name == "problems.jsonl" or path.suffix == ".partial"
