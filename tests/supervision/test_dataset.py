"""Supervision sets on disk: what broke is named, and what is there is read as it was written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from support.synthetic_set import WIDTH, write_set
from toolprm_lite.errors import DatasetError
from toolprm_lite.supervision.dataset import SetWriter, open_set


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set") / "set", problems=5)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "set"))


def read_all(folder: Path) -> None:
    found = open_set(folder)
    found.arrays((1, 2), True)
    assert found.trajectories.num_rows
    SetWriter(folder).counts(0)


def test_a_whole_set_is_read(folder: Path) -> None:
    read_all(folder)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("name", ["parquet", "trajectories.parquet", "safetensors"])
def test_truncated_files(name: str, share: float, folder: Path) -> None:
    path = folder / f"shard-00000.{name}"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DatasetError, match="delete the shard's files and collect again") as caught:
        read_all(folder)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["trajectories.parquet", "safetensors"])
def test_missing_files(name: str, folder: Path) -> None:
    (folder / f"shard-00000.{name}").unlink()
    with pytest.raises(DatasetError, match=f"shard-00000.{name}.*delete the shard's files"):
        read_all(folder)


def test_files_of_something_else(folder: Path) -> None:
    shutil.copy(folder / "shard-00000.trajectories.parquet", folder / "shard-00000.parquet")
    with pytest.raises(DatasetError, match="its columns are not those of a shard"):
        read_all(folder)


def test_states_of_another_shard(folder: Path, tmp_path: Path) -> None:
    other = write_set(tmp_path / "other", problems=1)
    shutil.copy(other / "shard-00000.safetensors", folder / "shard-00000.safetensors")
    with pytest.raises(DatasetError, match=r"safetensors: .*delete the shard's files"):
        read_all(folder)


def manifest_of(folder: Path, **changes: Any) -> str:
    return json.dumps(json.loads((folder / "manifest.json").read_text()) | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (None, "no manifest.json; give a folder that toolprm-lite collect made"),
        ("{", "manifest.json: .*collect the set again"),
        ("[]", "not a manifest"),
        ("{}", "not a manifest"),
        ("\xff", "manifest.json: "),
        ({"model": {"name": "x"}}, "not a manifest"),
        ({"layers": None}, "not a manifest"),
        ({"format": 2}, "its format is 2, not 1; collect it again"),
    ],
)
def test_broken_manifests(changes: Any, message: str, folder: Path) -> None:
    path = folder / "manifest.json"
    text = manifest_of(folder, **changes) if isinstance(changes, dict) else changes
    if text is None:
        path.unlink()
    else:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(DatasetError, match=message):
        open_set(folder)


def test_sets_without_a_shard(folder: Path) -> None:
    for path in folder.glob("shard-*"):
        path.unlink()
    with pytest.raises(DatasetError, match="has no shard yet; run toolprm-lite collect first"):
        open_set(folder)


def test_broken_problems(folder: Path) -> None:
    (folder / "problems.jsonl").write_text("{\n")
    with pytest.raises(DatasetError, match=r"problems.jsonl: .*collect the set again"):
        _ = open_set(folder).problems


def test_layers_that_were_not_stored(folder: Path) -> None:
    with pytest.raises(DatasetError, match="no states of layer 7, only of 1, 2"):
        open_set(folder).arrays((1, 7), False)


def test_several_shards_are_one_set(folder: Path, tmp_path: Path) -> None:
    other = write_set(tmp_path / "other", problems=3, first=5, seed=3)
    first, second = (open_set(path).arrays((1, 2), True) for path in (folder, other))
    for path in other.glob("shard-*"):
        shutil.copy(path, folder / path.name.replace("00000", "00001"))
    with (folder / "problems.jsonl").open("a") as file:
        file.write((other / "problems.jsonl").read_text())
    both = open_set(folder).arrays((1, 2), True)
    first_steps = len(first.kinds)
    np.testing.assert_array_equal(both.hidden[:first_steps], first.hidden)
    np.testing.assert_array_equal(both.hidden[first_steps:], second.hidden)
    np.testing.assert_array_equal(
        both.previous[first_steps:],
        np.where(second.previous < 0, -1, second.previous + first_steps),
    )
    np.testing.assert_array_equal(both.problem[first_steps:], second.problem + 5)
    pooled = open_set(folder).states(["pooled.2"])
    np.testing.assert_array_equal(both.hidden[:, 3 * WIDTH :], pooled)


def test_a_start_that_was_cut_off(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "problems.jsonl").write_text("half")
    (folder / "manifest.json.77.partial").write_text("{")
    write_set(folder, problems=2)
    assert not list(folder.glob("*.partial"))
    assert len(open_set(folder).problems) == 2


def test_a_set_that_lost_its_problems(folder: Path) -> None:
    (folder / "problems.jsonl").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    with pytest.raises(DatasetError, match="holds a set of other problems"):
        SetWriter(folder).begin(manifest, [{"id": "x"}])
