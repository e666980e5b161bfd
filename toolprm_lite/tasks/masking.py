"""Function masking: names become random strings, so that a reward must come from descriptions.

The same name becomes the same string everywhere in a problem; what the user says, and what the
tools are described as, stays. Knows nothing of plans or files.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from toolprm_lite.errors import ProblemError
from toolprm_lite.prompt import Message
from toolprm_lite.schema import Schema, applied_schemas, map_subschemas, pointer_keys
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tools import Tool

_LETTERS = string.ascii_lowercase
_SIGNS = string.ascii_lowercase + string.digits
_LENGTHS = (5, 8)
_TRIES = 100


def mask(problem: Problem, seed: int, key: str | None = None) -> Problem:
    """The problem with random strings (5 to 8 letters and digits) for its names.

    Names are those of functions, of their parameters and of properties of objects inside them.
    They change in tools, answers, structured `tool_calls`, and where they are in double quotes
    in the text of assistant and tool messages. Depends on the seed, `key` (the problem's id if not
    given) and the names: problems masked with one key and the same tools share their strings.
    Raises `ProblemError` if no free strings are found.
    """
    names = _names(problem)
    texts = [message["content"] for message in problem.messages]
    texts += [json.dumps(tool.to_dict(), ensure_ascii=False) for tool in problem.tools]
    texts.append(json.dumps(problem.answers, ensure_ascii=False))
    masks = _masks(names, f"{seed}:{problem.id if key is None else key}", "\n".join(texts))
    if masks is None:
        raise ProblemError(
            f"problem {problem.id}: no {len(names)} unique random names were found; "
            "use another seed, or don't mask it"
        )
    schemas = {tool.name: tool.parameters for tool in problem.tools}
    tools = [
        Tool(masks[tool.name], tool.description, _mask_root(tool.parameters, masks, tool.name))
        for tool in problem.tools
    ]
    answers = [_mask_call(call, schemas, masks) for call in problem.answers]
    messages = [_mask_message(message, schemas, masks) for message in problem.messages]
    return replace(problem, messages=messages, tools=tools, answers=answers)


def _names(problem: Problem) -> list[str]:
    """All names, in an order that depends on the tools alone, then on the calls of the history."""
    names: dict[str, None] = {}
    for tool in problem.tools:
        names[tool.name] = None
        names.update(dict.fromkeys(_property_names(tool.parameters)))
    for message in problem.messages:
        for call in message.get("tool_calls", ()):
            names.update(dict.fromkeys([call["name"], *call["arguments"]]))
        if message["role"] == "tool" and message.get("name"):
            names[message["name"]] = None
    return list(names)


def _property_names(schema: Any) -> Iterator[str]:
    if not isinstance(schema, dict):
        return
    found: list[str] = list(schema.get("properties", ()))

    def visit(_: str, part: Any) -> Any:
        found.extend(_property_names(part))
        return part

    map_subschemas(schema, visit)
    yield from found


def _masks(names: Sequence[str], seed: str, text: str) -> dict[str, str] | None:
    """A free string for each name. Each has its own random numbers: no mask depends on another."""
    masks: dict[str, str] = {}
    taken = set(names)
    for name in names:
        rng = random.Random(f"{seed}:{name}")
        for _ in range(_TRIES):
            length = rng.randint(*_LENGTHS)
            signs = [rng.choice(_LETTERS), *rng.choices(_SIGNS, k=length - 1)]
            candidate = "".join(signs)
            # With a digit it is no word; one that is in a text already would be taken for the name.
            if not candidate.isalpha() and candidate not in taken and candidate not in text:
                break
        else:
            return None
        masks[name] = candidate
        taken.add(candidate)
    return masks


# Schemas


def _mask_root(schema: Schema, masks: dict[str, str], name: str) -> Schema:
    masked: Schema = _mask_schema(schema, masks, name)
    return masked


def _mask_schema(schema: Any, masks: dict[str, str], name: str | None = None) -> Any:
    return _mask_part(schema, masks, name, schema)


def _mask_part(schema: Any, masks: dict[str, str], name: str | None, root: Any) -> Any:
    """`schema` masked; `name` is that of the property or function it describes."""
    if not isinstance(schema, dict):
        return schema
    result = map_subschemas(schema, lambda _, part: _mask_part(part, masks, None, root))
    for key in ("default", "const"):
        if key in schema:
            result[key] = _mask_value(schema[key], [schema], masks, root)
    for key in ("enum", "examples"):
        if isinstance(schema.get(key), list):
            result[key] = [_mask_value(value, [schema], masks, root) for value in schema[key]]
    if isinstance(schema.get("properties"), dict):
        result["properties"] = {
            masks[key]: _mask_part(part, masks, key, root)
            for key, part in schema["properties"].items()
        }
    if isinstance(schema.get("required"), list):
        result["required"] = [masks.get(key, key) for key in schema["required"]]
    if isinstance(schema.get("dependentRequired"), dict):
        result["dependentRequired"] = {
            masks.get(key, key): [masks.get(other, other) for other in others]
            for key, others in schema["dependentRequired"].items()
        }
    if isinstance(result.get("dependentSchemas"), dict):
        result["dependentSchemas"] = {
            masks.get(key, key): part for key, part in result["dependentSchemas"].items()
        }
    if isinstance(schema.get("$ref"), str):
        result["$ref"] = _mask_reference(schema["$ref"], masks)
    title = schema.get("title")
    if name is not None and isinstance(title, str) and _plain(title) == _plain(name):
        del result["title"]  # pydantic titles a field with its name
    return result


def _plain(name: str) -> str:
    return "".join(sign for sign in name.lower() if sign.isalnum())


def _mask_reference(reference: str, masks: dict[str, str]) -> str:
    if not reference.startswith("#/"):
        return reference
    parts = pointer_keys(reference)
    for place in range(1, len(parts)):
        # "properties" is a keyword here only where it isn't itself a name.
        if parts[place - 1] == "properties" and (place < 2 or parts[place - 2] != "properties"):
            parts[place] = masks.get(parts[place], parts[place])
    return "#/" + "/".join(part.replace("~", "~0").replace("/", "~1") for part in parts)


def _mask_value(value: Any, schemas: Sequence[Any], masks: dict[str, str], root: Any) -> Any:
    """A value with the declared property names in it masked."""
    if not isinstance(value, (dict, list)):
        return value
    views = applied_schemas(schemas, root)
    if isinstance(value, list):
        items: list[Any] = [view["items"] for view in views if "items" in view]
        places: list[list[Any]] = [view.get("prefixItems", []) for view in views]
        return [
            _mask_value(part, [*items, *(p[place] for p in places if place < len(p))], masks, root)
            for place, part in enumerate(value)
        ]
    result: dict[str, Any] = {}
    for key, part in value.items():
        declared = [view["properties"][key] for view in views if key in view.get("properties", {})]
        others = [view["additionalProperties"] for view in views if "additionalProperties" in view]
        name = masks[key] if declared else key
        result[name] = _mask_value(part, declared or others, masks, root)
    return result


# Calls and messages


def _mask_call(
    call: dict[str, Any], schemas: dict[str, Schema], masks: dict[str, str]
) -> dict[str, Any]:
    schema = schemas.get(call["name"], {})
    arguments = _mask_value(call["arguments"], [schema], masks, schema)
    # A call of the history may be to a tool that is not offered now; its names were given masks.
    known = call["name"] in schemas
    return {
        "name": masks[call["name"]],
        "arguments": arguments
        if known
        else {masks.get(key, key): value for key, value in arguments.items()},
    }


def _mask_message(message: Message, schemas: dict[str, Schema], masks: dict[str, str]) -> Message:
    if message["role"] not in ("assistant", "tool"):
        return message
    masked = {**message, "content": _mask_text(message["content"], masks)}
    if "tool_calls" in message:
        masked["tool_calls"] = [
            {**call, **_mask_call(call, schemas, masks)} for call in message["tool_calls"]
        ]
    if message.get("name") in masks:
        masked["name"] = masks[message["name"]]
    return masked


def _mask_text(text: str, masks: dict[str, str]) -> str:
    if '"' not in text or not masks:
        return text
    choices = "|".join(re.escape(name) for name in sorted(masks, key=len, reverse=True))
    return re.sub(rf'(\\?")({choices})(\\?")', lambda hit: hit[1] + masks[hit[2]] + hit[3], text)
