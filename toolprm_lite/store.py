"""Results on disk, by key, with the settings that they depend on: what evaluations, searches of a
file and collections have in common.

A store is valid at every moment. A result is written whole or not at all, a run that was stopped
continues there, and results of other settings are never mixed: `changes` names what differs.
`files.locked` keeps other runs out. Knows nothing of what a result is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from toolprm_lite.files import append, replace_file

Record = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)


# Settings


class Change(NamedTuple):
    """A setting that was `before` when the results were made, and is `now`; parts of parts have
    dots in their names."""

    name: str
    before: Any
    now: Any


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """What differs between two settings, read back from JSON, in the order of `now`."""
    return list(_changes(before, now, ""))


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> Iterator[Change]:
    for name in dict.fromkeys([*now, *before]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _changes(old, new, f"{prefix}{name}.")
        elif old != new:
            yield Change(prefix + name, old, new)


def describe(found: Iterable[Change]) -> str:
    """Changes as a message lists them."""
    return "; ".join(
        f"{name} was {json.dumps(before)}, is {json.dumps(now)}" for name, before, now in found
    )


def as_json(settings: Mapping[str, Any]) -> Record:
    """Settings in JSON's own types, as they are when they are read back."""
    record: Record = json.loads(json.dumps(settings))
    return record


def read_settings(path: Path) -> Record | None:
    """The settings of a store, None where there are none. Raises `OSError`, and `ValueError` for
    what is no JSON object."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def write_settings(
    path: Path, settings: Mapping[str, Any], *, indent: int = 1, ensure_ascii: bool = True
) -> None:
    """Write the settings whole or not at all. Raises `OSError`."""
    text = json.dumps(settings, ensure_ascii=ensure_ascii, indent=indent)
    replace_file(path, f"{text}\n".encode())


def remove_partials(folder: Path) -> None:
    """Remove what a run that was killed had half written."""
    for leftover in folder.glob("*.partial"):
        leftover.unlink(missing_ok=True)


# Results that are a line each


class BrokenLine(ValueError):
    """A line, `number` from 1, that is no result."""

    def __init__(self, number: int) -> None:
        super().__init__(f"line {number} is no result")
        self.number = number


class KeyedLines(Generic[Key]):
    """A file of JSON lines, a result each; of two with one key the later counts. It is made when
    the first result is added.

    `key` gives a record's key and raises `ValueError`, `TypeError`, `KeyError` or `AttributeError`
    for what is no result; None is a result that is to be made again, whose line goes with the next
    `repair`. Reading changes nothing. Raises `BrokenLine`, and `OSError`.
    """

    def __init__(
        self,
        path: Path,
        key: Callable[[Any], Key | None],
    ) -> None:
        self.path = path
        self._key = key
        self.records: dict[Key, Record] = {}
        try:
            self._data = path.read_bytes()
        except FileNotFoundError:
            self._data = b""
        *lines, self.rest = self._data.split(b"\n")
        """What follows the last whole line: one that an interrupt has cut off."""
        self._kept: list[bytes] = []
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                found = key(record)
                if found is not None:
                    self.records[found] = record
                    self._kept.append(line + b"\n")
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                raise BrokenLine(number) from None

    def repair(self) -> None:
        """Leave only whole lines, of results that are kept. Raises `OSError`."""
        whole = b"".join(self._kept)
        if whole != self._data:
            replace_file(self.path, whole)
        self._data, self._kept, self.rest = b"", [], b""

    def add(self, record: Record, line: bytes) -> None:
        """Append a result, `line` in JSON. Raises `OSError`; then nothing of the line is left."""
        with self.path.open("ab", buffering=0) as file:
            append(file, line)
        found = self._key(record)
        if found is not None:
            self.records[found] = record


# Results that are a group of files each


class Shards:
    """A folder of shards by number, a group of files each.

    The last file of a group is written last: a shard is there when this file is.
    """

    def __init__(self, folder: Path, last: str) -> None:
        self.folder = folder
        self._last = last

    def path(self, shard: int, suffix: str) -> Path:
        """Where a file of a shard is, there or not."""
        return self.folder / f"shard-{shard:05d}{suffix}"

    def has(self, shard: int) -> bool:
        """Whether the shard is there."""
        return self.path(shard, self._last).exists()

    def write(self, shard: int, files: Mapping[str, bytes]) -> None:
        """Write a shard's files, by suffix. Raises `OSError`; then the shard is not there."""
        for suffix, data in sorted(files.items(), key=lambda file: file[0] == self._last):
            replace_file(self.path(shard, suffix), data)
