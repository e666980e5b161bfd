"""Results on disk, by key, with the settings that they depend on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolprm_lite import store
from toolprm_lite.files import locked
from toolprm_lite.store import BrokenLine, Change, KeyedLines, Shards, changes, describe


def key(record: dict[str, Any]) -> str | None:
    return None if record.get("error") else record["id"]


def line(record: dict[str, Any]) -> bytes:
    return f"{json.dumps(record)}\n".encode()


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, [("a", 1, 2)]),
        ({"a": 1}, {}, [("a", 1, None)]),
        ({}, {"a": [1]}, [("a", None, [1])]),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, [("a.c", 2, 3)]),
        ({"a": {"b": 1}}, {"a": 1}, [("a", {"b": 1}, 1)]),
        ({"z": 1, "a": 1}, {"a": 2, "z": 2}, [("a", 1, 2), ("z", 1, 2)]),
    ],
)
def test_changes_between_settings(before: Any, now: Any, found: list[Any]) -> None:
    assert changes(before, now) == [Change(*each) for each in found]


def test_changes_as_a_message() -> None:
    assert describe([Change("a.b", "x", None), Change("c", 1, 2)]) == (
        'a.b was "x", is null; c was 1, is 2'
    )


def test_settings_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    assert store.read_settings(path) is None
    store.write_settings(path, {"name": "é", "sizes": (1, 2)})
    assert path.read_text(encoding="ascii").endswith("}\n")
    assert store.read_settings(path) == store.as_json({"name": "é", "sizes": (1, 2)})
    path.write_text("[]")
    with pytest.raises(ValueError, match="not an object"):
        store.read_settings(path)


def test_lines_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = KeyedLines(path, key)
    assert not path.exists()
    for record in ({"id": "a", "n": 1}, {"id": "b", "n": 1}, {"id": "a", "n": 2}):
        lines.add(record, line(record))
    again = KeyedLines(path, key)
    assert again.records == lines.records == {"a": {"id": "a", "n": 2}, "b": {"id": "b", "n": 1}}
    assert again.rest == b""


def test_what_was_cut_off_or_failed_goes_with_the_repair(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    good, bad = line({"id": "a"}), line({"id": "b", "error": "no room"})
    path.write_bytes(good + bad + b'{"id": "c"')
    before = path.read_bytes()
    lines = KeyedLines(path, key)
    assert lines.rest == b'{"id": "c"'
    assert path.read_bytes() == before
    lines.repair()
    assert path.read_bytes() == good
    lines.add({"id": "d"}, line({"id": "d"}))
    lines.repair()
    assert list(KeyedLines(path, key).records) == ["a", "d"]


@pytest.mark.parametrize("broken", [b"nonsense", b"[1]", b"1", b"{}", b"", b'{"id": []}', b"\xff"])
def test_lines_that_are_no_results(broken: bytes, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(line({"id": "a"}) + broken + b"\n")
    with pytest.raises(BrokenLine) as error:
        KeyedLines(path, key)
    assert error.value.number == 2


def test_a_shard_is_there_when_its_last_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = Shards(tmp_path, last=".end")
    files = {".end": b"3", ".one": b"1", ".two": b"2"}
    real = store.replace_file

    def stopped(path: Path, data: bytes) -> None:
        if path.suffix == ".end":
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(store, "replace_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        shards.write(7, files)
    assert not shards.has(7)
    monkeypatch.undo()
    shards.write(7, files)
    assert shards.has(7)
    assert not shards.has(8)
    assert {path.name for path in tmp_path.iterdir()} == {f"shard-00007{name}" for name in files}


def test_a_lock_may_be_held_already_where_that_is_said(tmp_path: Path) -> None:
    place = tmp_path / "folder"
    with locked(place, folder=True):
        with locked(place, folder=True, nested=True):
            (place / "result").touch()
        with pytest.raises(Exception, match="another run"), locked(place, folder=True):
            pass
    with locked(place, folder=True):
        pass
