"""Records of problem files that are not used, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that is not used: where it is, why, and how to correct it.

    `line` is the line of a JSONL file, the place in a JSON list (from 1). `kind` groups reasons:
    "record", "id", "messages", "tools", "answers", "function", "argument", "required", "value",
    "excluded".
    """

    file: str
    line: int
    id: str | None
    kind: str
    reason: str
    fix: str

    def __str__(self) -> str:
        name = "" if self.id is None else f" ({self.id})"
        return f"{self.file}: line {self.line}{name}: {self.reason}; {self.fix}"


class Refuse(Exception):
    """Raised where a record is read; its place is added to make a `Rejected` of it."""

    def __init__(self, kind: str, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.fix = kind, reason, fix
