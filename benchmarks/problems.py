"""Problems for the benchmarks: a file of them, a supervision set, or BFCL's unpacked wheel."""

from __future__ import annotations

from pathlib import Path

from toolprm_lite.tasks.bfcl import read_bfcl
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tasks.sources import read_problems, read_set


def load(path: Path, limit: int) -> list[Problem]:
    """The first `limit`: of a set the test problems, of BFCL the one-call bring-up ones, two simple
    to one multiple."""
    if path.is_file():
        return read_problems(path)[0][:limit]
    if (path / "problems.jsonl").is_file():
        return read_set(path, "test")[:limit]
    items = [item for item in read_bfcl(path, ["simple_python", "multiple"]) if item.bring_up]
    simple = [item for item in items if item.category.startswith("simple")]
    multiple = [item for item in items if item.category.startswith("multiple")]
    third = limit // 3
    return [*simple[: limit - third], *multiple[:third]]
