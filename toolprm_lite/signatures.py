"""Tools as short signatures, in place of JSON Schemas: about half the tokens of a prompt.

    get_forecast(city: string, days?: integer, unit?: "C" | "F"): Weather of a city
      city: such as Oslo
      days: from 1 to 7

References are written out. A parameter that a signature can't say is written as its JSON Schema,
and so is a whole tool whose parameters are no plain list of properties. Knows nothing of prompts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from toolprm_lite.schema import Schema, UnusableSchema, map_subschemas, resolve
from toolprm_lite.tools import Tool

_MOST_DEPTH = 6  # of objects inside objects, references included
_MOST_PARTS = 1000  # subschemas, after references have been written out
_PLAIN_NAME = re.compile(r"[\w.:/-]+")
_TYPES = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})
_UNIONS = ("anyOf", "oneOf")
_NOTHING = frozenset(("title", "description", "examples", "$schema", "$defs", "definitions"))
_LIMITS = {
    "minimum": "at least {}", "maximum": "at most {}", "exclusiveMinimum": "above {}",
    "exclusiveMaximum": "below {}", "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters", "maxLength": "at most {} characters",
    "minItems": "at least {} items", "maxItems": "at most {} items",
    "pattern": "matches {}", "format": "format {}", "default": "default {}",
}  # fmt: skip
# What a signature says, by itself or in the line of a parameter.
_SAID = frozenset(
    ("type", "enum", "const", "properties", "required", "additionalProperties", "items", "nullable")
).union(_UNIONS, _NOTHING, _LIMITS)
_ROOT = frozenset(("type", "properties", "required", "additionalProperties")) | _NOTHING


def signature(tool: Tool) -> str:
    """The signature of a tool, with a line for each parameter that needs one."""
    try:
        parameters = _Inliner(tool.parameters).inlined(tool.parameters)
    except UnusableSchema:
        return _json(tool.to_dict())
    if not (
        all(key in _ROOT for key in parameters)
        and isinstance(parameters.get("additionalProperties", False), bool)
        and _PLAIN_NAME.fullmatch(tool.name)
    ):
        return _json(tool.to_dict())
    lines = [f"{tool.name}({_parameters(parameters)})"]
    if tool.description.strip():
        lines[0] += f": {_one_line(tool.description)}"
    lines += [f"  {path}: {note}" for path, note in _notes(parameters, "")]
    return "\n".join(lines)


class _Inliner:
    """Writes the references into `root` out."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._parts = 0

    def inlined(self, schema: Any, depth: int = 0) -> Any:
        """A copy without references. Raises `UnusableSchema` where it would be too large."""
        self._parts += 1
        if self._parts > _MOST_PARTS or depth > 2 * _MOST_DEPTH:
            raise UnusableSchema("too large to be written out")
        if not isinstance(schema, dict):
            return schema
        reference = schema.get("$ref")
        if isinstance(reference, str):
            target = self.inlined(resolve(self._root, reference), depth + 1)
            rest = {key: part for key, part in schema.items() if key != "$ref"}
            if not isinstance(target, dict):
                return target
            schema = {**target, **rest}
        kept = {key: part for key, part in schema.items() if key not in ("$defs", "definitions")}
        return map_subschemas(kept, lambda _, part: self.inlined(part, depth + 1))


def _parameters(schema: Mapping[str, Any], depth: int = 0) -> str:
    required = set(schema.get("required", ()))
    return ", ".join(
        f"{_name(name)}{'' if name in required else '?'}: {_type(part, depth)}"
        for name, part in schema.get("properties", {}).items()
    )


def _type(schema: Any, depth: int = 0) -> str:
    """A value's type, as TypeScript writes it; the JSON Schema where that can't say it."""
    if not isinstance(schema, Mapping):
        return "any" if schema is True else _json(schema)
    if depth > _MOST_DEPTH or not _sayable(schema):
        return _json({key: part for key, part in schema.items() if key != "description"})
    if "const" in schema:
        return _json(schema["const"])
    if "enum" in schema:
        return " | ".join(dict.fromkeys(map(_json, schema["enum"])))
    for key in _UNIONS:
        if key in schema:
            return " | ".join(dict.fromkeys(_type(part, depth + 1) for part in schema[key]))
    return " | ".join(_plain_type(kind, schema, depth) for kind in _kinds(schema)) or "any"


def _plain_type(kind: str, schema: Mapping[str, Any], depth: int) -> str:
    if kind == "array":
        inner = _type(schema["items"], depth + 1) if "items" in schema else "any"
        return f"({inner})[]" if " | " in inner else f"{inner}[]"
    if kind == "object" and schema.get("properties"):
        return f"{{{_parameters(schema, depth + 1)}}}"
    return kind


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    kinds = schema.get("type", [])
    return [kinds] if isinstance(kinds, str) else kinds


def _sayable(schema: Mapping[str, Any]) -> bool:
    """Whether `_type`, and a note, say all of this schema but for what is inside it."""
    unions = sum(key in schema for key in ("const", "enum", *_UNIONS))
    return (
        unions <= 1
        and all(key in _SAID for key in schema)
        and all(kind in _TYPES for kind in _kinds(schema))
        and isinstance(schema.get("additionalProperties", False), bool)
    )


def _notes(schema: Any, path: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """(path, text) of each parameter that has a description, limits or a default; also of those in
    objects, lists and unions."""
    if not isinstance(schema, Mapping) or depth > _MOST_DEPTH or not (_sayable(schema) or not path):
        return
    for name, part in schema.get("properties", {}).items():
        yield from _note_of(part, f"{path}.{_name(name)}" if path else _name(name), depth)
    if "items" in schema:
        yield from _note_of(schema["items"], f"{path}[]", depth)
    for key in _UNIONS:
        for part in schema.get(key, ()):
            yield from _note_of(part, path, depth)


def _note_of(schema: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(schema, Mapping):
        said = _note(schema)
        if said:
            yield path, said
        yield from _notes(schema, path, depth + 1)


def _note(schema: Mapping[str, Any]) -> str:
    description = schema.get("description", "")
    text = _one_line(description) if isinstance(description, str) else ""
    if not _sayable(schema):  # its JSON has the limits
        return text
    limits = ", ".join(
        wording.format(_json(schema[key])) for key, wording in _LIMITS.items() if key in schema
    )
    return f"{text} ({limits})" if text and limits else text or limits


def _name(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else _json(name)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
