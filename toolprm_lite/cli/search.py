"""`toolprm-lite search`: one question, or a file of problems."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from toolprm_lite.cli.options import (
    check_reward,
    model_options,
    open_searcher,
    search_config,
    search_options,
)

_EXAMPLE = """\b
Example:
  toolprm-lite search --tools examples/weather.json "Get the forecast for Rome."
"""


@click.command(epilog=_EXAMPLE)
@click.argument("query", required=False)
@click.option(
    "--tools",
    "tools_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="JSON file of the tools that may be called.",
)
@click.option("--messages", metavar="FILE", help="JSON file of a conversation to answer.")
@click.option(
    "--input",
    metavar="PROBLEMS.jsonl",
    help="Answer many: a line each, with messages or query, and perhaps id and tools.",
)
@click.option(
    "--output",
    metavar="RESULTS.jsonl",
    show_default="stdout",
    help="Where the answers to --input go. A run that was stopped goes on from there.",
)
@model_options
@search_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.option("--trace", is_flag=True, help="Show the steps that were kept and dropped.")
def search(
    query: str | None,
    tools_path: Path | None,
    messages: str | None,
    input: str | None,
    output: str | None,
    reward: str,
    as_json: bool,
    **values: Any,
) -> None:
    """Find the function calls that answer QUERY ("-" reads it from stdin)."""
    if sum(source is not None for source in (query, messages, input)) != 1:
        raise click.UsageError("Give exactly one of QUERY, --messages and --input.")
    if output is not None and input is None:
        raise click.UsageError("--output is for the answers to --input.")
    if tools_path is None and query is not None:
        raise click.UsageError("Give --tools, a JSON file of the tools that may be called.")
    config = search_config(values)
    check_reward(reward)

    from toolprm_lite.tools import load_tools

    tools = None if tools_path is None else load_tools(tools_path)
    from toolprm_lite.cli import problems

    if input is not None:
        problems.run(input, output, tools, config, reward, values)
        return
    if messages is not None:
        problem = problems.read_problem(messages, tools)
    else:
        assert query is not None
        problem = problems.parse_problem(
            {"query": problems.read_text("-") if query == "-" else query}, tools
        )
    with _waiting(values["verbose"]), open_searcher(values) as searcher:
        result = searcher.search(problem.messages, problem.tools, config, reward=reward)
    if as_json:
        click.echo(problems.json_line(result.to_dict()), nl=False)
        return
    from toolprm_lite.cli.render import show

    show(result, reward)


@contextmanager
def _waiting(verbose: bool) -> Iterator[None]:
    """A sign of life on a terminal."""
    if verbose or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status("searching"):
        yield
