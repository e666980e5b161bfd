"""`toolprm-lite search`: one question, or a file of problems."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from toolprm_lite.cli.options import (
    model_options,
    open_searcher,
    search_config,
    search_options,
)
from toolprm_lite.cli.output import console, write
from toolprm_lite.errors import ToolsError
from toolprm_lite.json_lines import json_line

if TYPE_CHECKING:
    from toolprm_lite.tools import Tool

_EPILOG = """\b
Example:
  toolprm-lite search --tools examples/weather.json "Get the forecast for Rome."

\b
Exit codes:
  0    answered; with --exit-code: with a complete call or several
  1    some of the problems of --input failed
  2    an error, which is one line on stderr
  3    with --exit-code: the answer is no call
  4    with --exit-code: the answer is incomplete, also by --deadline-ms
  130  stopped by Ctrl-C
"""
_NO_CALL, _INCOMPLETE = 3, 4


@click.command(epilog=_EPILOG)
@click.argument("query", required=False)
@click.option(
    "--tools",
    "tools_paths",
    multiple=True,
    metavar="FILE",
    help="JSON file of the tools that may be called; repeatable.",
)
@click.option("--messages", metavar="FILE", help="JSON file of a conversation to answer.")
@click.option(
    "--input",
    metavar="PROBLEMS.jsonl",
    help="Answer many: one JSON object a line with messages or query, optionally id and tools.",
)
@click.option(
    "--output",
    metavar="RESULTS.jsonl",
    show_default="stdout",
    help="Where the answers to --input go. A stopped run continues there.",
)
@model_options
@search_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.option(
    "--exit-code",
    is_flag=True,
    help=f"Exit with {_NO_CALL} where the answer is no call, {_INCOMPLETE} where it is incomplete.",
)
@click.option("--trace", is_flag=True, help="Show the steps that were kept and dropped.")
def search(
    query: str | None,
    tools_paths: tuple[str, ...],
    messages: str | None,
    input: str | None,
    output: str | None,
    reward: str,
    as_json: bool,
    exit_code: bool,
    **values: Any,
) -> None:
    """Find the function calls that answer QUERY ("-" reads it from stdin)."""
    if sum(source is not None for source in (query, messages, input)) != 1:
        raise click.UsageError("Give exactly one of QUERY, --messages and --input.")
    if output is not None and input is None:
        raise click.UsageError("--output is for the answers to --input.")
    if exit_code and input is not None:
        raise click.UsageError(
            "--exit-code is for one question; each answer to --input says so itself."
        )
    if not tools_paths and query is not None:
        raise click.UsageError("Give --tools, a JSON file of the tools that may be called.")
    config = search_config(values)

    tools = _load(tools_paths)
    from toolprm_lite.cli import problems
    from toolprm_lite.tasks.requests import parse_problem

    if input is not None:
        problems.run(input, output, tools, config, reward, values)
        return
    if messages is not None:
        problem = problems.read_problem(messages, tools)
    else:
        assert query is not None
        problem = parse_problem(
            {"query": problems.read_text("-") if query == "-" else query}, tools
        )
    with _waiting(values["verbose"]), open_searcher(values) as searcher:
        result = searcher.search(problem.messages, problem.tools, config, reward=reward)
    if as_json:
        write(json_line(result.to_dict()))
    else:
        from toolprm_lite.cli.render import show

        show(result, reward)
    if exit_code and not result.complete:
        raise click.exceptions.Exit(_INCOMPLETE)
    if exit_code and not result.calls:
        raise click.exceptions.Exit(_NO_CALL)


def _load(paths: Sequence[str]) -> list[Tool] | None:
    """The tools of all files. Raises `ToolsError`, also where two files have a name in common."""
    from toolprm_lite.tools import load_tools

    if not paths:
        return None
    tools: dict[str, tuple[Tool, str]] = {}
    for path in paths:
        for tool in load_tools(path):
            if tool.name in tools:
                raise ToolsError(
                    f"{path}: its tool {tool.name!r} has the name of one in "
                    f"{tools[tool.name][1]}; rename one, or leave out a file"
                )
            tools[tool.name] = tool, path
    return [tool for tool, _ in tools.values()]


@contextmanager
def _waiting(verbose: bool) -> Iterator[None]:
    """A progress sign on a terminal."""
    if verbose or not sys.stderr.isatty():
        yield
        return
    with console(stderr=True).status("searching"):
        yield
