"""The built-in requests: answerable, and shown with their traces."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.commands import run
from toolprm_lite.cli.demo_requests import REQUESTS, TOOLS
from toolprm_lite.judge import make_validator
from toolprm_lite.tools import parse_tools


def test_the_right_answers_fit_their_schemas() -> None:
    tools = {tool.name: tool for tool in parse_tools(TOOLS)}
    assert [len(request.answer) for request in REQUESTS] == [1, 1, 1, 1, 2, 0]
    for request in REQUESTS:
        for call in request.answer:
            assert make_validator(tools[call["name"]].parameters).is_valid(call["arguments"])


@pytest.mark.parametrize("trace", ["--trace", "--no-trace"])
def test_every_request_is_answered(trace: str, tiny_gguf: Path) -> None:
    result = run(
        "demo", "--model", tiny_gguf, "--threads", "1", "--doubt", "0", trace, "--context", "4096"
    )
    assert result.exit_code == 0, result.output
    shown = re.findall(r"^(\d) of 6, ([\w ]+): (.*)$", result.stdout, re.MULTILINE)
    assert [what for _, what, _ in shown] == [request.shows for request in REQUESTS]
    assert re.search(r"^\d of 6 as expected, in \d+ s", result.stdout, re.MULTILINE)
    assert ("not as expected, which is [" in result.stdout) == (
        "6 of 6 as expected" not in result.stdout
    )
    assert ("round 1" in result.stdout.lower()) == (trace == "--trace"), result.stdout
