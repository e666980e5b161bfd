"""The validator of finished arguments: JSON Schema draft 2020-12, by jsonschema-rs.

The core decides early what is cheap (types, names, enums, bounds, lengths) and asks this judge
about values whose schema says more. Formats are asserted, as the token masks assert them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Protocol

from toolprm_lite.schema import Schema, UnusableSchema, closed_schema, moved_references

_KEPT = 4096  # verdicts

# With these, a part that accepts less may let the whole accept more.
_NOT_MONOTONE = ('"oneOf"', '"not"', '"if"', '"contains"', '"dependentSchemas"')
_OF_ARGUMENTS = ("properties", "patternProperties", "additionalProperties", "propertyNames")


class _Validator(Protocol):
    def is_valid(self, instance: Any) -> bool: ...


class ArgumentJudge:
    """Judges the arguments of functions, in the form in which the core asks.

    `schemas` has for each function the schemas, draft 2020-12, that its arguments must all fit;
    `close` adds their closed forms (`closed_schema`).
    """

    def __init__(self, schemas: Sequence[Sequence[Schema]], *, close: bool = False) -> None:
        self._schemas = schemas
        self._close = close
        self._texts: dict[int, list[str]] = {}  # by function, once it is asked about
        self._verdicts: dict[tuple[int, bool, bytes], bool] = {}

    @classmethod
    def of(cls, parameters: Iterable[Schema]) -> ArgumentJudge:
        """A judge by tools' parameters as they are given, and by their closed form
        (`closed_schema`): models must not invent parameters."""
        return cls([[schema] for schema in parameters], close=True)

    def __call__(self, function: int, whole: bool, arguments: bytes) -> bool:
        """Whether `arguments`, a JSON object in UTF-8, fit the function of that index.

        `whole`: they are all its arguments; else one of them, which is judged alone.
        """
        key = function, whole, arguments
        verdict = self._verdicts.get(key)
        if verdict is None:
            value = json.loads(arguments)
            validators = (_validator(schema, whole) for schema in self._schemas_of(function))
            verdict = all(validator.is_valid(value) for validator in validators)
            if len(self._verdicts) >= _KEPT:
                self._verdicts.clear()
            self._verdicts[key] = verdict
        return verdict

    def _schemas_of(self, function: int) -> list[str]:
        """What the arguments of a function must fit, as JSON. Most functions are never judged."""
        if function not in self._texts:
            schemas = self._schemas[function]
            if self._close:
                schemas = [form for schema in schemas for form in _both_forms(schema)]
            self._texts[function] = [json.dumps(schema) for schema in schemas]
        return self._texts[function]


def _both_forms(schema: Schema) -> list[Schema]:
    closed = closed_schema(schema)
    text = json.dumps(schema)
    needed = closed != schema and any(keyword in text for keyword in _NOT_MONOTONE)
    return [closed, schema] if needed else [closed]


@lru_cache(maxsize=1024)
def _validator(schema: str, whole: bool) -> _Validator:
    """A validator of a function's arguments, or of a single one; `schema` is JSON."""
    read: Schema = json.loads(schema)
    return make_validator(read if whole else _of_one_argument(read))


def _of_one_argument(schema: Schema) -> Schema:
    """What the parameters' schema requires of an object with one argument only."""
    root = "#/$defs/parameters"
    kept = {key: schema[key] for key in _OF_ARGUMENTS if key in schema}
    return {**moved_references(kept, root), "$defs": {"parameters": moved_references(schema, root)}}


def make_validator(schema: Schema) -> _Validator:
    """A validator of `schema`. Raises `UnusableSchema` for what is no schema."""
    import jsonschema_rs  # 90 ms, and most tools need no judge

    try:
        return jsonschema_rs.Draft202012Validator(schema, validate_formats=True, offline=True)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        where = ""
        if isinstance(error, jsonschema_rs.ValidationError):
            where = "/".join(str(part) for part in error.instance_path)
        message = str(error).splitlines()[0][:200]
        raise UnusableSchema(
            f"its schema is not one of draft 2020-12: {f'{where}: ' if where else ''}{message}; "
            "correct it"
        ) from None
