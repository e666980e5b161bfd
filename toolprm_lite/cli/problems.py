"""`--input` and `--output` of `search`: a file of questions, and the progress of answering it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from toolprm_lite.cli import say_traceback
from toolprm_lite.cli.options import open_searcher
from toolprm_lite.cli.output import print_message, write
from toolprm_lite.cli.progress import progress
from toolprm_lite.errors import ProblemError
from toolprm_lite.files import MOST_DEFINITIONS, MOST_PROBLEMS, read_bounded
from toolprm_lite.search.config import SearchConfig
from toolprm_lite.search_file import Report, SearchFileSettings, search_file
from toolprm_lite.tasks import requests
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tools import Tool

_LONG = 5  # problems; fewer need no progress bar


def run(
    source: str,
    output: str | None,
    tools: list[Tool] | None,
    config: SearchConfig,
    reward: str,
    model: Mapping[str, Any],
) -> None:
    """Answer the problems of `source`. Ends with exit code 1 if some failed, 130 by Ctrl-C.

    `tools` are for the problems that carry none. `model` is as `open_searcher` takes it.
    """
    path = None if output in (None, "-") else Path(str(output))
    lines = requests.split_lines(_read_bytes(source, MOST_PROBLEMS), source)
    settings = SearchFileSettings(
        source="stdin" if source == "-" else Path(source).name,
        tools=None if tools is None else tuple(tools),
        config=config,
        reward=reward,
        model=model["model"],
        adapter=model["adapter"],
    )
    started = time.perf_counter()

    @contextmanager
    def watch(todo: int) -> Iterator[Report]:
        visible = sys.stderr.isatty() and (path is not None or not sys.stdout.isatty())
        with progress(todo, visible and todo >= _LONG) as (advance, note):
            written = 0

            def report(error: Exception | None, message: str) -> None:
                nonlocal written
                written += 1
                if error is not None:
                    note(f"Error: {message}")
                    if model["verbose"]:
                        say_traceback(error)
                advance()

            try:
                yield report
            except KeyboardInterrupt:
                how = "; the same command continues there" if path is not None else ""
                note(f"stopped after {written} of {todo}{how}")
                raise click.exceptions.Exit(130) from None

    found = search_file(
        lines, write if path is None else path, settings, lambda: open_searcher(model), watch
    )
    if path is not None:
        before = f", {found.before} there already" if found.before else ""
        seconds = time.perf_counter() - started
        counts = f"{found.answered} answered, {found.failed} failed{before}"
        print_message(f"{path}: {counts} · {seconds:.1f} s")
    if found.failed:
        raise click.exceptions.Exit(1)


def read_problem(source: str, tools: list[Tool] | None) -> Problem:
    """Read a JSON file: a list of messages, or an object with a question. Raises `ProblemError` or
    `ToolsError`."""
    return requests.read_problem(read_text(source), _name(source), tools)


def read_text(source: str) -> str:
    """The text of a file, or of stdin for "-". Raises `ProblemError`."""
    try:
        return _read_bytes(source, MOST_DEFINITIONS).decode("utf-8-sig").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ProblemError(
            f"{_name(source)}: not UTF-8 text (byte {error.start}); save it so"
        ) from None


def _read_bytes(source: str, most: int) -> bytes:
    name = _name(source)
    try:
        if source != "-":
            return read_bounded(Path(source), most)
        if sys.stdin is None:
            raise ProblemError("stdin: it is closed; write the text to it, or name a file")
        return read_bounded(sys.stdin.buffer, most)
    except FileNotFoundError:
        raise ProblemError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:  # a path with a null byte
        reason = getattr(error, "strerror", None) or error
        raise ProblemError(f"{name}: can't be read: {reason}") from None


def _name(source: str) -> str:
    return "stdin" if source == "-" else source
