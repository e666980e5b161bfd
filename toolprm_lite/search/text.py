"""From what the core decided to values and text for callers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from toolprm_lite._core import ScoredStep
from toolprm_lite._core import Step as CoreStep
from toolprm_lite.search.steps import Call, Step
from toolprm_lite.tools import Tool


def step_text(step: CoreStep) -> str:
    """What the model wrote for the step; for ARG_VALUE the name with the value."""
    return step.text.decode("utf-8", "replace")


def step_value(step: CoreStep) -> Any:
    """The decoded value of an ARG_VALUE, else None."""
    return None if step.value is None else json.loads(step.value)


def made_step(scored: ScoredStep, kinds: Sequence[str]) -> Step:
    """A decided step; `kinds` are those whose reward is a probability. A step without a reward, as
    the search was stopped before it, gets the policy's probability."""
    step, reward, logprob = scored.step, scored.reward, scored.logprob
    return Step(
        call=step.call,
        kind=step.kind,
        function=step.function,
        argument=step.argument,
        value=step_value(step),
        text=step_text(step),
        reward=math.exp(logprob) if reward is None else reward,
        logprob=logprob,
        probability=reward if step.kind in kinds else None,
    )


def missing_parts(steps: Sequence[Step], tools: Iterable[Tool]) -> list[str]:
    """What a response that was cut off after these steps lacks; see `SearchResult.missing`."""
    missing: list[str] = []
    name = next((step for step in reversed(steps) if step.kind == "FUNC_NAME"), None)
    if name is None:
        missing.append("what to call")
    else:
        kinds = {step.kind for step in steps if step.call == name.call}
        if not kinds & {"PARAM_FINISH", "FUNC_FINISH"}:
            decided = {step.argument for step in steps if step.call == name.call}
            tool = next(tool for tool in tools if tool.name == name.function)
            missing += [key for key in tool.parameters.get("required", ()) if key not in decided]
        if "FUNC_FINISH" not in kinds:
            missing.append("the end of the call")
    return [*missing, "the end of the list"]


def closed_calls(steps: Iterable[CoreStep]) -> list[Call]:
    """The calls that are closed, in the order written."""
    calls: list[Call] = []
    arguments: dict[str, Any] = {}
    for step in steps:
        if step.kind == "FUNC_NAME":
            arguments = {}
        elif step.kind == "ARG_VALUE":
            assert step.argument is not None
            arguments[step.argument] = step_value(step)
        elif step.kind == "FUNC_FINISH":
            calls.append({"name": step.function, "arguments": arguments})
    return calls
