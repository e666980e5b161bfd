"""`toolprm-lite demo`: six built-in requests, answered with their traces."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import click

from toolprm_lite.cli.options import (
    all_of,
    model_options,
    open_searcher,
    search_config,
    size_options,
)
from toolprm_lite.cli.output import print_text

_EPILOG = """\b
Example:
  toolprm-lite demo
  toolprm-lite demo --model model.gguf --no-trace
"""


@click.command(epilog=_EPILOG)
@model_options
@all_of([size_options])
@click.option(
    "--trace/--no-trace",
    default=True,
    show_default=True,
    help="Show the steps that were kept and dropped.",
)
def demo(trace: bool, **values: Any) -> None:
    """Answer six built-in requests: one call, two, none, an enum, a number, a date."""
    from toolprm_lite.cli.demo_requests import REQUESTS, TOOLS
    from toolprm_lite.cli.render import show
    from toolprm_lite.tasks.matching import responses_equal
    from toolprm_lite.tools import parse_tools

    config = replace(search_config(values), trace=trace)
    tools = parse_tools(TOOLS)
    right = 0
    started = time.perf_counter()
    with open_searcher(values) as searcher:
        for number, request in enumerate(REQUESTS, 1):
            print_text(f"{number} of {len(REQUESTS)}, {request.shows}: {request.question}")
            result = searcher.search(request.question, tools, config)
            show(result, "auto")
            if responses_equal(result.calls, request.answer, tools):
                right += 1
            else:
                expected = searcher.call_format().write(request.answer)
                print_text(f"not as expected, which is {expected}")
            print_text("")
    seconds = time.perf_counter() - started
    print_text(f"{right} of {len(REQUESTS)} as expected, in {seconds:.0f} s with the model's start")
