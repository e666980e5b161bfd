"""The commands, run within the test's process or as one of their own."""

from __future__ import annotations

import sys
from inspect import signature
from pathlib import Path

from click.testing import CliRunner, Result

from toolprm_lite.cli import main

# click 8.1 mixes stderr into stdout unless set otherwise; later versions never do.
SEPARATE = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
RUNNER = CliRunner(**SEPARATE)
COMMAND = [sys.executable, "-m", "toolprm_lite"]
QUICK = ["--threads", "1", "--max-tokens", "40", "--draws", "2", "--shard", "2", "--layers", "1",
         "--max-tools", "2"]  # fmt: skip


def run(*arguments: str | Path) -> Result:
    result = RUNNER.invoke(main, list(map(str, arguments)), prog_name="toolprm-lite")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def assert_error(result: Result, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert result.stderr.splitlines()[-1:] == errors
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in errors[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
