"""From what the core decided to what a person or a program reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from toolprm_lite._core import Step as CoreStep
from toolprm_lite.search.result import Call


def step_text(step: CoreStep, response: bytes) -> str:
    """What the model wrote for the step; for ARG_VALUE the name with the value."""
    begin = step.key_begin if step.kind == "ARG_VALUE" else step.begin
    return response[begin : step.end].decode("utf-8", "replace")


def step_value(step: CoreStep, response: bytes) -> Any:
    """The decoded value of an ARG_VALUE, else None."""
    if step.kind != "ARG_VALUE":
        return None
    return json.loads(response[step.begin : step.end], parse_int=_integer)


def _integer(digits: str) -> int | float:
    # Python refuses to read longer integers (sys.get_int_max_str_digits).
    return int(digits) if len(digits) <= 4000 else float(digits)


def closed_calls(steps: Iterable[CoreStep], response: bytes) -> list[Call]:
    """The calls that are closed, in the order written."""
    calls: list[Call] = []
    arguments: dict[str, Any] = {}
    for step in steps:
        if step.kind == "FUNC_NAME":
            arguments = {}
        elif step.kind == "ARG_VALUE":
            assert step.argument is not None
            arguments[step.argument] = step_value(step, response)
        elif step.kind == "FUNC_FINISH":
            calls.append({"name": step.function, "arguments": arguments})
    return calls
