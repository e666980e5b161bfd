"""Which answers a conversation supports: a value that no model could know teaches nothing.

Knows problems and grounding features, nothing of models.
"""

from __future__ import annotations

import json
from typing import Any

from toolprm_lite._core import Grounding, Segmenter
from toolprm_lite.formats import JSON_LIST
from toolprm_lite.grounded import make_grounding
from toolprm_lite.schema import closed_schema
from toolprm_lite.tasks.problem import Problem

_PLACES = {name: place for place, name in enumerate(Grounding.names())}
_LEAST_WORDS = 0.34  # of a value's words that the conversation must have


def unsupported(problem: Problem) -> str | None:
    """The first argument of the answers whose value the conversation does not give, or None.

    A value is supported when it, or a third of its words, is in the conversation, when the
    conversation says it in another form (dates, times, numbers in words, units), when the schema
    lists it, and when it is a boolean or the parameter's default.
    """
    schemas = [
        {"name": tool.name, "parameters": closed_schema(tool.parameters)} for tool in problem.tools
    ]
    grounding = make_grounding(problem.messages, problem.tools)
    segmenter = Segmenter(json.dumps(schemas), JSON_LIST.core())
    chain: list[Any] = []
    for step in segmenter.feed(JSON_LIST.write(problem.answers).encode()):
        chain.append(step)
        if step.kind != "ARG_VALUE":
            continue
        features = grounding.features(chain)

        def feature(name: str, values: Any = features) -> float:
            return float(values[_PLACES[name]])

        known = max(
            feature("value_found"),
            feature("value_given"),
            feature("value_is_default"),
            feature("value_is_boolean"),
            feature("parameter_listed"),
        )
        if known < 1 and _lists_items(schemas, step.function, step.argument):
            continue  # the answers are valid, so they are listed ones
        if known < 1 and feature("value_words_found") < _LEAST_WORDS:
            return f"{step.function}: {step.argument}"
    return None


def _lists_items(schemas: list[dict[str, Any]], function: str | None, argument: str | None) -> bool:
    """Whether the schema lists the values that an array may hold."""
    schema = next(one["parameters"] for one in schemas if one["name"] == function)
    property = schema.get("properties", {}).get(argument)
    items = property.get("items") if isinstance(property, dict) else None
    return isinstance(items, dict) and "enum" in items
