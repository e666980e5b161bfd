"""Files of JSON records: JSON lines, or one JSON list. Knows nothing of what a record holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolprm_lite.errors import ProblemError
from toolprm_lite.files import MOST_PROBLEMS, read_text


def read_records(path: Path) -> list[tuple[int, Any]]:
    """The records of a file, numbered from 1. Raises `ProblemError`, which names file and line."""
    try:
        text = read_text(path, MOST_PROBLEMS)
    except FileNotFoundError:
        raise ProblemError(f"{path}: no such file; give the path of a file of problems") from None
    except UnicodeDecodeError as error:
        raise ProblemError(
            f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise ProblemError(f"{path}: can't be read: {error.strerror or error}") from None
    if not text.strip():
        raise ProblemError(f"{path}: the file is empty; write one problem a line into it")
    try:
        return _parsed(text)
    except RecursionError:
        raise ProblemError(f"{path}: the JSON is nested too deep; flatten it") from None
    except _Broken as broken:
        raise ProblemError(f"{path}: not JSON: {broken}; fix it there") from None


class _Broken(Exception):
    """Says what is wrong with a file's JSON, and where."""

    def __init__(self, error: ValueError, line: int) -> None:
        if isinstance(error, json.JSONDecodeError):
            super().__init__(f"{error.msg} at line {line}, column {error.colno}")
        else:
            super().__init__(f"{error} at line {line}")


def _parsed(text: str) -> list[tuple[int, Any]]:
    """The records of JSON lines, or of one JSON list or object, numbered from 1."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    records: list[tuple[int, Any]] = []
    broken = None
    for number, line in lines:
        try:
            records.append((number, loads(line)))
        except ValueError as error:
            broken = broken or _Broken(error, number)
    if broken is None and (len(records) > 1 or not isinstance(records[0][1], list)):
        return records
    try:
        value = loads(text)
    except ValueError as error:
        # Other lines are records of their own: JSON lines, and one of them broken.
        by_lines = text.lstrip().startswith("{") and any(isinstance(r, dict) for _, r in records)
        if by_lines and broken is not None:
            raise broken from None
        raise _Broken(error, getattr(error, "lineno", lines[0][0])) from None
    return list(enumerate(value if isinstance(value, list) else [value], 1))


def loads(text: str) -> Any:
    """Strict JSON: NaN and Infinity are refused. Raises `ValueError`."""
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
