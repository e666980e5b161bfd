"""Right calls checked against their tools' schemas: values written as another type are
corrected."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from toolprm_lite.schema import Schema, closed_schema, resolve
from toolprm_lite.tasks.problem import Call
from toolprm_lite.tasks.records import loads
from toolprm_lite.tasks.rejected import Refuse
from toolprm_lite.tools import Tool


class _Checker:
    """jsonschema's validator of one tool, with what repairs need."""

    def __init__(self, parameters: Schema) -> None:
        from jsonschema import Draft202012Validator

        self.schema = closed_schema(parameters)
        self.validator: Any = Draft202012Validator(self.schema)

    def valid(self, value: Any, schema: Any) -> bool:
        return bool(self.validator.evolve(schema=schema).is_valid(value))

    def error(self, value: Any) -> Any:
        from jsonschema.exceptions import best_match

        return best_match(self.validator.iter_errors(value))

    def resolve(self, schema: Any) -> Any:
        """The schema that local references lead to."""
        for _ in range(16):
            if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
                return schema
            schema = resolve(self.schema, schema["$ref"])
        return schema


@lru_cache(maxsize=4096)
def _checker(parameters: str) -> _Checker:
    return _Checker(json.loads(parameters))


def checked_call(call: Call, where: str, tools: Sequence[Tool], repairs: list[str]) -> Call:
    """The call, with values of another type corrected. Raises `Refuse` for what stays invalid."""
    name = call["name"]
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None:
        raise Refuse(
            "function",
            f"{where} calls {name!r}, which is no tool",
            "add the tool, or correct the name",
        )
    try:
        checker = _checker(json.dumps(tool.parameters))
        arguments = call["arguments"]
        if not checker.valid(arguments, checker.schema):
            arguments = _repaired(arguments, checker, f"{where} ({name})", repairs)
        error = checker.error(arguments)
    except RecursionError:
        raise Refuse(
            "tools", f"the schema of {name!r} refers to itself without end", "fix it"
        ) from None
    except Exception as broken:  # a pattern that is no expression, a reference to nothing
        raise Refuse(
            "tools",
            f"the schema of {name!r} can't be checked: {type(broken).__name__}: {broken}",
            "correct the schema",
        ) from None
    if error is None:
        return {"name": name, "arguments": arguments}
    declared = checker.schema.get("properties", {})
    given = ", ".join(map(repr, declared)) or "none"
    if error.validator == "additionalProperties" and not error.absolute_path:
        extra = next((key for key in arguments if key not in declared), "?")
        raise Refuse(
            "argument",
            f"{where} gives {name} the argument {extra!r}, which its schema doesn't have",
            f"use its parameters ({given})",
        )
    if error.validator == "required" and not error.absolute_path:
        missing = next((key for key in error.validator_value if key not in arguments), "?")
        raise Refuse(
            "required",
            f"{where} leaves out {missing!r}, which {name} requires",
            "add it, or make it optional",
        )
    place = "/".join(map(str, error.absolute_path)) or "its arguments"
    message = error.message if len(error.message) <= 200 else f"{error.message[:200]}…"
    raise Refuse(
        "value", f"{where}: {place} of {name}: {message}", "correct the value or the schema"
    )


def _repaired(
    arguments: dict[str, Any], checker: _Checker, where: str, repairs: list[str]
) -> dict[str, Any]:
    schema = checker.schema
    if "properties" not in schema:
        schema = checker.resolve(schema)
        schema = schema if isinstance(schema, dict) else {}
    declared = schema.get("properties", {})
    required = schema.get("required", [])
    others = schema.get("additionalProperties", True)
    result: dict[str, Any] = {}
    for name, value in arguments.items():
        part = declared.get(name, others)
        if checker.valid(value, part):
            result[name] = value
            continue
        corrected = _coerced(value, part, checker)
        if corrected is not _NONE_FITS:
            result[name] = corrected
            repairs.append(f"{where}: {name}: {_short(value)} became {_short(corrected)}")
        elif value in ("", None) and name not in required:
            repairs.append(f"{where}: {name}: {_short(value)} dropped")
        else:
            result[name] = value
    return result


_NONE_FITS: Any = object()


def _coerced(value: Any, schema: Any, checker: _Checker) -> Any:
    """`value` in the type of the schema, if it is that value written otherwise, or `_NONE_FITS`."""
    if checker.valid(value, schema):
        return value
    schema = checker.resolve(schema)
    if not isinstance(schema, dict):
        return _NONE_FITS
    for branch in [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        corrected = _coerced(value, branch, checker)
        if corrected is not _NONE_FITS and checker.valid(corrected, schema):
            return corrected
    for candidate in _writings(value, schema, checker):
        if checker.valid(candidate, schema):
            return candidate
    return _NONE_FITS


def _writings(value: Any, schema: Schema, checker: _Checker) -> Iterator[Any]:
    """What `value` may have been meant to be, likeliest first."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if isinstance(value, dict) and isinstance(schema.get("properties"), dict):
        required = schema.get("required", [])
        inner: dict[str, Any] = {}
        for name, part in value.items():
            declared = schema["properties"].get(name, schema.get("additionalProperties", True))
            corrected = _coerced(part, declared, checker)
            if corrected is _NONE_FITS and part in ("", None) and name not in required:
                continue
            inner[name] = part if corrected is _NONE_FITS else corrected
        yield inner
    if isinstance(value, list) and "items" in schema:
        items = [_coerced(part, schema["items"], checker) for part in value]
        if _NONE_FITS not in items:
            yield items
    if isinstance(value, str):
        read = _read_value(value.strip())
        if isinstance(read, (list, dict)):
            read = _coerced(read, schema, checker)
        if read is not _NONE_FITS:
            yield read
    elif isinstance(value, (bool, int, float)) and ("string" in kinds or not kinds):
        yield json.dumps(value)
    written = isinstance(value, str) and value.lstrip().startswith(("[", "{"))
    if "array" in kinds and not isinstance(value, list) and value not in ("", None) and not written:
        item = _coerced(value, schema.get("items", True), checker)
        if item is not _NONE_FITS:
            yield [item]


def _read_value(text: str) -> Any:
    """The JSON (or Python) value that `text` writes, or `_NONE_FITS`."""
    try:
        return loads(text.lower() if text in ("True", "False") else text)
    except RecursionError:
        return _NONE_FITS
    except ValueError:
        if not text.startswith(("[", "{")):
            return _NONE_FITS
    try:
        return json.loads(json.dumps(ast.literal_eval(text), allow_nan=False))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _NONE_FITS


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}…"
