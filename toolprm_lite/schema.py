"""JSON Schema, draft 2020-12, as tools use it: what its keywords contain, where references lead,
and which schemas are too much for a validator or allow nothing.

Knows nothing of tools' forms, of models or of calls.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

Schema = dict[str, Any]

# Keywords whose value is one subschema, a list of them, or a map to them.
ONE = (
    "additionalProperties", "items", "not", "if", "then", "else", "contains", "propertyNames",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
MANY = ("anyOf", "oneOf", "allOf", "prefixItems")
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
# Of these, the ones that apply to the value itself, not to a part of it.
_IN_PLACE = frozenset(("not", "if", "then", "else", "anyOf", "oneOf", "allOf", "dependentSchemas"))
_DEFINITIONS = frozenset(("$defs", "definitions"))

MAX_NESTING = 1000  # levels of schemas, references followed; the core and llguidance recurse
MAX_PARTS = 100_000  # schemas that a validator may visit for one value


_ALTERNATIVES = ("anyOf", "oneOf", "allOf")


class UnusableSchema(ValueError):
    """Why a schema can't be used, as a message."""


def map_subschemas(schema: Schema, function: Callable[[str, Any], Any]) -> Schema:
    """A copy of `schema` with `function(keyword, subschema)` in place of each direct subschema."""
    result = dict(schema)
    for key in ONE:
        if isinstance(schema.get(key), (dict, bool)):
            result[key] = function(key, schema[key])
    for key in MANY:
        if isinstance(schema.get(key), list):
            result[key] = [function(key, part) for part in schema[key]]
    for key in NAMED:
        if isinstance(schema.get(key), dict):
            result[key] = {name: function(key, part) for name, part in schema[key].items()}
    return result


def direct_subschemas(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """(keyword, subschema) for each direct subschema that is an object."""
    for key in ONE:
        if isinstance(schema.get(key), dict):
            yield key, schema[key]
    for key in MANY:
        for part in schema.get(key, ()):
            if isinstance(part, dict):
                yield key, part
    for key in NAMED:
        for part in schema.get(key, {}).values():
            if isinstance(part, dict):
                yield key, part


def pointer_keys(reference: str) -> list[str]:
    """The keys of a reference "#/..." (RFC 6901), unescaped."""
    parts = unquote(reference[1:]).split("/")[1:]
    return [part.replace("~1", "/").replace("~0", "~") for part in parts]


def resolve(root: Any, reference: str) -> Any:
    """What a reference into `root`, "#/..." (RFC 6901), points at. Raises `UnusableSchema`."""
    if not reference.startswith("#"):
        raise UnusableSchema(f"its $ref {reference!r} is not a reference into the schema")
    target = root
    for key in pointer_keys(reference):
        if isinstance(target, dict) and key in target:
            target = target[key]
        elif isinstance(target, list) and key.isdecimal() and int(key) < len(target):
            target = target[int(key)]
        else:
            raise UnusableSchema(f"its $ref {reference!r} points at nothing")
    if not isinstance(target, (dict, bool)) or reference[1:2] not in ("", "/"):
        raise UnusableSchema(f"its $ref {reference!r} does not point at a schema")
    return target


def applied_schemas(schemas: Sequence[Any], root: Any) -> list[Schema]:
    """The schemas that apply to one value: references and alternatives followed."""
    views: list[Schema] = []
    waiting = list(schemas)
    seen: set[int] = set()
    while waiting:
        schema = waiting.pop()
        if not isinstance(schema, dict) or id(schema) in seen:
            continue
        seen.add(id(schema))
        views.append(schema)
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            waiting.append(resolve(root, reference))
        waiting += [part for key in _ALTERNATIVES for part in schema.get(key, ())]
        waiting += [schema[key] for key in ("if", "then", "else") if key in schema]
        if isinstance(schema.get("dependentSchemas"), dict):
            waiting += schema["dependentSchemas"].values()
    return views


def moved_references(schema: Any, root: str) -> Any:
    """A copy whose references into the whole schema point below `root`, where it will be put."""
    if not isinstance(schema, dict):
        return schema
    result = map_subschemas(schema, lambda _, part: moved_references(part, root))
    reference = result.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        result["$ref"] = root + reference[1:]
    return result


def closed_schema(parameters: Schema) -> Schema:
    """The schema with every object that declares properties closed to others.

    An explicit `additionalProperties` or `patternProperties` is respected; nested objects that
    declare nothing stay open. Models must not invent parameters that a schema merely doesn't
    forbid. Returns a new schema.
    """
    has_all_of = '"allOf"' in json.dumps(parameters)

    def close(schema: Any, root: bool = False, branch: bool = False) -> Any:
        if not isinstance(schema, dict):
            return schema
        branches = [part for key in ("anyOf", "oneOf", "allOf") for part in schema.get(key, ())]
        conditional = [schema[key] for key in ("then", "else") if key in schema]
        conditional += schema.get("dependentSchemas", {}).values()
        declares = bool(schema.get("properties"))
        # A closed branch would forbid what its parent or its siblings under allOf declare.
        shared = declares or "allOf" in schema
        split = shared and any(
            isinstance(part, dict) and ("properties" in part or "$ref" in part)
            for part in [*branches, *conditional]
        )

        def inner(key: str, part: Any) -> Any:
            if key in ("anyOf", "oneOf", "allOf"):
                return close(part, branch=shared)
            if key in ("$defs", "definitions"):
                return close(part, branch=has_all_of)
            if key in ("not", "if", "then", "else", "dependentSchemas"):
                return part
            return close(part)

        result = map_subschemas(schema, inner)
        if (
            (declares or (root and not branches and "$ref" not in schema))
            and not branch
            and not split
            and not ("$ref" in schema and declares)
            and "additionalProperties" not in schema
            and "patternProperties" not in schema
        ):
            result.setdefault("type", "object")
            result["additionalProperties"] = False
            # A name that is required must be allowed, described or not.
            described = result.get("properties", {})
            others: Schema = {
                name: {} for name in schema.get("required", ()) if name not in described
            }
            if others:
                result["properties"] = {**described, **others}
        return result

    result: Schema = close(parameters, root=True)
    return result


# Limits


def check_size(root: Schema) -> None:
    """Refuse a schema that validators and compilers would follow without end, too deep, or along
    too many paths. Iterative: any schema may be given. Raises `UnusableSchema`."""
    parts, children, in_place = _graph(root)
    _refuse_empty_circles(parts, in_place)
    components = _components(children)
    number = {part: index for index, members in enumerate(components) for part in members}
    # Components come after all that they lead to.
    depth: list[int] = []
    paths: list[int] = []
    for index, members in enumerate(components):
        below = [number[child] for part in members for child in children[part]]
        outside = [other for other in below if other != index]
        depth.append(len(members) + max((depth[other] for other in outside), default=0))
        paths.append(min(len(members) + sum(paths[other] for other in outside), MAX_PARTS + 1))
    if depth[number[0]] > MAX_NESTING:
        raise UnusableSchema(
            f"its schema, references followed, nests up to {depth[number[0]]} levels deep, more "
            f"than {MAX_NESTING}; flatten it"
        )
    if paths[number[0]] > MAX_PARTS:
        raise UnusableSchema(
            f"its schema, references followed, has more than {MAX_PARTS} parts; simplify it"
        )


def _graph(root: Schema) -> tuple[list[Schema], list[list[int]], list[list[tuple[int, str]]]]:
    """The schemas that `root` leads to; for each its children, and those of them that speak of the
    same value, with the reference that leads there."""
    parts: list[Schema] = [root]
    places = {id(root): 0}
    children: list[list[int]] = []
    in_place: list[list[tuple[int, str]]] = []

    def place(part: Schema) -> int:
        if id(part) not in places:
            places[id(part)] = len(parts)
            parts.append(part)
        return places[id(part)]

    while len(children) < len(parts):
        schema = parts[len(children)]
        below: list[int] = []
        same: list[tuple[int, str]] = []
        reference = schema.get("$ref")
        if isinstance(reference, str):
            target = resolve(root, reference)
            if isinstance(target, dict):
                below.append(place(target))
                same.append((below[-1], reference))
        for key, part in direct_subschemas(schema):
            if key in _DEFINITIONS:
                continue
            below.append(place(part))
            if key in _IN_PLACE:
                same.append((below[-1], ""))
        children.append(below)
        in_place.append(same)
    return parts, children, in_place


def _refuse_empty_circles(parts: list[Schema], in_place: list[list[tuple[int, str]]]) -> None:
    """A schema that leads back to itself for the same value constrains nothing, and has no end."""
    state = [0] * len(parts)  # 0 new, 1 on the path, 2 done
    for start in range(len(parts)):
        path = [(start, iter(in_place[start]))] if not state[start] else []
        state[start] = state[start] or 1
        while path:
            part, rest = path[-1]
            child, reference = next(rest, (-1, ""))
            if child < 0:
                state[part] = 2
                path.pop()
            elif state[child] == 1:
                raise UnusableSchema(
                    f"its $ref {reference!r} leads back to itself for the same value; break the "
                    "circle"
                )
            elif state[child] == 0:
                state[child] = 1
                path.append((child, iter(in_place[child])))


def _components(children: list[list[int]]) -> list[list[int]]:
    """Strongly connected components, each after those that it leads to (Tarjan 1972, iterative)."""
    order: dict[int, int] = {}
    low: list[int] = [0] * len(children)
    stack: list[int] = []
    on_stack = [False] * len(children)
    found: list[list[int]] = []
    for start in range(len(children)):
        if start in order:
            continue
        path = [(start, iter(children[start]))]
        order[start] = low[start] = len(order)
        stack.append(start)
        on_stack[start] = True
        while path:
            part, rest = path[-1]
            child = next(rest, -1)
            if child >= 0:
                if child not in order:
                    order[child] = low[child] = len(order)
                    stack.append(child)
                    on_stack[child] = True
                    path.append((child, iter(children[child])))
                elif on_stack[child]:
                    low[part] = min(low[part], order[child])
                continue
            path.pop()
            if path:
                low[path[-1][0]] = min(low[path[-1][0]], low[part])
            if low[part] == order[part]:
                members: list[int] = []
                while not members or members[-1] != part:
                    members.append(stack.pop())
                    on_stack[members[-1]] = False
                found.append(members)
    return found


# Schemas that allow nothing


def why_empty(schema: Any) -> str | None:
    """Why no value fits `schema`, where that can be seen in it; references are not followed."""
    if isinstance(schema, bool):
        return None if schema else "its schema is false"
    if not isinstance(schema, dict):
        return None
    if schema.get("enum") == []:
        return "its enum is empty"
    kinds = schema.get("type")
    types = {kinds} if isinstance(kinds, str) else set(kinds or ())
    reasons = {
        frozenset(("number", "integer")): _why_no_number(schema),
        frozenset(("string",)): _crossed(schema, "minLength", "maxLength"),
        frozenset(("array",)): _crossed(schema, "minItems", "maxItems"),
        frozenset(("object",)): _why_no_object(schema),
    }
    for own, reason in reasons.items():
        if reason is not None and types and types <= own:
            return reason
    for part in schema.get("allOf", ()):
        if (reason := why_empty(part)) is not None:
            return reason
    for key in ("anyOf", "oneOf"):
        if schema.get(key) and all(why_empty(part) is not None for part in schema[key]):
            return f"none of its {key} fits: {why_empty(schema[key][0])}"
    return None


def _crossed(schema: Schema, low: str, high: str) -> str | None:
    if low in schema and high in schema and schema[low] > schema[high]:
        return f"{low} {schema[low]} is above {high} {schema[high]}"
    return None


def _why_no_number(schema: Schema) -> str | None:
    for low in ("minimum", "exclusiveMinimum"):
        for high in ("maximum", "exclusiveMaximum"):
            reason = _crossed(schema, low, high)
            if reason is None and low in schema and high in schema:
                exclusive = low != "minimum" or high != "maximum"
                if exclusive and schema[low] == schema[high]:
                    reason = f"{low} {schema[low]} and {high} {schema[high]} leave no value"
            if reason is not None:
                return reason
    return None


def _why_no_object(schema: Schema) -> str | None:
    reason = _crossed(schema, "minProperties", "maxProperties")
    if reason is not None:
        return reason
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name in properties:
            inner = why_empty(properties[name])
            if inner is not None:
                return f"{name!r} is required, but no value fits it: {inner}"
        elif schema.get("additionalProperties") is False and "patternProperties" not in schema:
            return f"{name!r} is required, but is not among its properties"
    return None
