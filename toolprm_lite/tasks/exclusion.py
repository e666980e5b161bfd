"""A list of records that are to be left out: a file of ids, such as those that overlap with a test
set. Knows nothing of what a record holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from toolprm_lite.errors import ProblemError


@dataclass(slots=True)
class _Entry:
    line: int
    text: str
    file: str | None  # one of the problem files; None: any
    ids: tuple[str, ...]
    records: int = 0


@dataclass(slots=True)
class Exclusions:
    """The entries of a file, and how many records each has matched so far."""

    path: Path
    entries: list[_Entry] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path, problems: Sequence[Path | str]) -> Exclusions:
        """A record's id on each line, optionally after the name of its file; further words, blank
        lines and lines that begin with # are ignored.

        A first word is a file's name if the path of one of `problems` ends with it. Raises
        `ProblemError` where the file can't be read.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ProblemError(
                f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8"
            ) from None
        except OSError as error:
            raise ProblemError(
                f"{path}: {error.strerror or error}; give --exclude a file of ids"
            ) from None
        found = cls(path)
        for number, line in enumerate(text.splitlines(), 1):
            rest = line.strip()
            if not rest or rest.startswith("#"):
                continue
            first, *others = rest.split(maxsplit=1)
            file = None
            if others and any(_ends_with(str(problem), first) for problem in problems):
                file, rest = first, others[0]
            # An id may have spaces in it: then nothing may follow.
            ids = (rest.split(maxsplit=1)[0], rest)
            found.entries.append(_Entry(number, line.strip(), file, ids))
        return found

    def line(self, file: Path | str, identity: str) -> int | None:
        """The line that excludes this record, None where there is none."""
        matching = [
            entry
            for entry in self.entries
            if identity in entry.ids and (entry.file is None or _ends_with(str(file), entry.file))
        ]
        for entry in matching:
            entry.records += 1
        return matching[0].line if matching else None

    @property
    def unmatched(self) -> list[str]:
        """The lines that no record has matched."""
        return [f"line {entry.line}: {entry.text}" for entry in self.entries if not entry.records]


def _ends_with(path: str, name: str) -> bool:
    parts = Path(name).parts
    return bool(parts) and Path(path).parts[-len(parts) :] == parts
