"""What of a schema a token mask can express. The rest the core and the judge decide.

A mask that allows too much costs dead candidates; one that can't be made costs all tools their
masks. So what the grammar compiler refuses is left out, as little as possible.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolprm_lite.schema import Schema, map_subschemas, moved_references

# In this order: what is refused most often and matters least comes first.
_EXPENDABLE = (
    "pattern", "format", "multipleOf", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties",
    "maxProperties", "patternProperties", "propertyNames", "not", "if", "then", "else",
    "dependentSchemas", "dependentRequired", "contains", "allOf", "oneOf", "anyOf", "enum",
)  # fmt: skip
_ROOT = "#/$defs/parameters"
MAX_CHOICES = 10_000  # entries of an enum; compiling more takes the compiler seconds


def without_long_enums(schema: Any) -> Any:
    """The schema without enums of more than `MAX_CHOICES` entries."""
    if not isinstance(schema, dict):
        return schema
    result = map_subschemas(schema, lambda _, part: without_long_enums(part))
    if len(result.get("enum", ())) > MAX_CHOICES:
        kinds = {type(value) for value in result.pop("enum")}
        if kinds == {str}:
            result["type"] = "string"
    return result


def loosened(parameters: Schema, compiles: Callable[[Schema], bool]) -> Schema:
    """`parameters` without what `compiles` refuses: keywords, or else whole subschemas.

    `compiles` says whether a mask can be made from a schema on its own.
    """

    def fits(schema: Schema) -> bool:
        moved = moved_references(schema, _ROOT)
        if moved == schema:
            return compiles(schema)
        return compiles({**moved, "$defs": {"parameters": moved_references(parameters, _ROOT)}})

    def fit(schema: Any) -> Any:
        if not isinstance(schema, dict) or fits(schema):
            return schema
        result = map_subschemas(schema, lambda _, part: fit(part))
        if fits(result):
            return result
        for keyword in _EXPENDABLE:
            shorter = {key: value for key, value in result.items() if key != keyword}
            if len(shorter) < len(result) and fits(shorter):
                return shorter
        for keyword in _EXPENDABLE:
            result.pop(keyword, None)
            if fits(result):
                return result
        return {}

    # What is referred to goes first: once for what refers to nothing, once for the rest.
    for _ in range(2):
        for key in ("$defs", "definitions"):
            if key in parameters:
                fitted = {name: fit(part) for name, part in parameters[key].items()}
                parameters = {**parameters, key: fitted}
    result: Schema = fit(parameters)
    return result
