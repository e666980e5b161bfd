"""Tools as short signatures, in place of JSON Schemas: about half the tokens of a prompt.

    get_forecast(city: string, days?: integer, unit?: "C" | "F"): Weather of a city
      city: such as Oslo
      days: from 1 to 7

A parameter that a signature can't say is written as its JSON Schema. Knows nothing of prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from toolprm_lite.tools import Tool

_MOST_DEPTH = 6  # of objects inside objects; deeper ones are written as JSON
_TYPES = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})
# What a signature says, by itself or in the line of a parameter.
_SAID = frozenset(
    (
        "type", "enum", "const", "properties", "required", "additionalProperties", "items",
        "anyOf", "oneOf", "title", "description", "default", "examples", "nullable",
    )
)  # fmt: skip


def signature(tool: Tool) -> str:
    """The signature of a tool, with a line for each parameter that needs one."""
    lines = [f"{tool.name}({_parameters(tool.parameters)})"]
    if tool.description.strip():
        lines[0] += f": {_one_line(tool.description)}"
    lines += [f"  {path}: {note}" for path, note in _notes(tool.parameters, "")]
    return "\n".join(lines)


def _parameters(schema: Mapping[str, Any], depth: int = 0) -> str:
    required = set(schema.get("required", ()))
    return ", ".join(
        f"{_name(name)}{'' if name in required else '?'}: {_type(part, depth)}"
        for name, part in schema.get("properties", {}).items()
    )


def _type(schema: Any, depth: int = 0) -> str:
    """A value's type, as TypeScript writes it; the JSON Schema where that can't say it."""
    if not isinstance(schema, Mapping):
        return "any" if schema is True or schema == {} else _json(schema)
    if depth > _MOST_DEPTH or not _sayable(schema):
        return _json({key: part for key, part in schema.items() if key != "description"})
    if "const" in schema:
        return _json(schema["const"])
    if "enum" in schema:
        return " | ".join(dict.fromkeys(map(_json, schema["enum"])))
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(dict.fromkeys(_type(part, depth + 1) for part in schema[key]))
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return " | ".join(_plain_type(kind, schema, depth) for kind in kinds) or "any"


def _plain_type(kind: str, schema: Mapping[str, Any], depth: int) -> str:
    if kind == "array":
        inner = _type(schema["items"], depth + 1) if "items" in schema else "any"
        return f"({inner})[]" if " | " in inner else f"{inner}[]"
    if kind == "object" and schema.get("properties"):
        return f"{{{_parameters(schema, depth + 1)}}}"
    return kind


def _sayable(schema: Mapping[str, Any]) -> bool:
    """Whether `_type`, and a note, say all of this schema but for what is inside it."""
    unions = sum(key in schema for key in ("const", "enum", "anyOf", "oneOf"))
    if unions > 1 or any(key not in _SAID and key not in _LIMITS for key in schema):
        return False
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return all(kind in _TYPES for kind in kinds) and isinstance(
        schema.get("additionalProperties", False), bool
    )


_LIMITS = {
    "minimum": "at least {}", "maximum": "at most {}", "exclusiveMinimum": "above {}",
    "exclusiveMaximum": "below {}", "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters", "maxLength": "at most {} characters",
    "minItems": "at least {} items", "maxItems": "at most {} items",
    "pattern": "matches {}", "format": "format {}",
}  # fmt: skip


def _notes(schema: Any, path: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """(path, text) of each parameter, also of those in objects and lists, that has a description,
    limits or a default."""
    if not isinstance(schema, Mapping) or depth > _MOST_DEPTH:
        return
    for name, part in schema.get("properties", {}).items():
        if not isinstance(part, Mapping):
            continue
        inner = f"{path}.{_name(name)}" if path else _name(name)
        said = _note(part)
        if said:
            yield inner, said
        if _sayable(part):
            yield from _notes(part, inner, depth + 1)
            items = part.get("items")
            if isinstance(items, Mapping):
                said = _note(items)
                if said:
                    yield f"{inner}[]", said
                yield from _notes(items, f"{inner}[]", depth + 1)


def _note(schema: Mapping[str, Any]) -> str:
    description = schema.get("description", "")
    parts: Sequence[str] = [
        wording.format(schema[key] if isinstance(schema[key], str) else _json(schema[key]))
        for key, wording in _LIMITS.items()
        if key in schema
    ]
    if "default" in schema:
        parts = [*parts, f"default {_json(schema['default'])}"]
    text = _one_line(description) if isinstance(description, str) else ""
    limits = ", ".join(parts)
    return f"{text} ({limits})" if text and limits else text or limits


def _name(name: str) -> str:
    return name if name.isidentifier() else _json(name)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
