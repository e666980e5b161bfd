"""Schemas that are too much, that allow nothing, and references."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import Any

import jsonschema_rs
import pytest

from toolprm_lite import _core
from toolprm_lite.errors import SchemaWarning, ToolsError
from toolprm_lite.judge import ArgumentJudge
from toolprm_lite.schema import MAX_NESTING, closed_schema, resolve, why_empty
from toolprm_lite.tools import Tool, parse_tools


def chain(length: int, link: Any) -> dict[str, Any]:
    """Definitions that each lead to the next one, by `link` of a reference."""
    names = [f"d{number}" for number in range(length)]
    definitions: dict[str, Any] = {
        name: link({"$ref": f"#/$defs/{after}"}) for name, after in itertools.pairwise(names)
    }
    definitions[names[-1]] = {"type": "string"}
    return {
        "type": "object",
        "properties": {"p": {"$ref": "#/$defs/d0"}},
        "$defs": definitions,
    }


LINKS = {
    "references": lambda ref: ref,
    "items": lambda ref: {"type": "array", "items": ref},
    "properties": lambda ref: {"type": "object", "properties": {"next": ref}},
    "choices": lambda ref: {"anyOf": [ref, {"type": "null"}]},
    "everything": lambda ref: {"allOf": [ref], "description": "x"},
}


def read(parameters: Any) -> Tool:
    (tool,) = parse_tools([{"name": "f", "parameters": parameters}])
    return tool


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("length", [3000, 20_000])
def test_a_long_chain_of_references_is_refused_by_name(link: str, length: int) -> None:
    with pytest.raises(ToolsError, match=r"tool 1 \('f'\): its schema, references followed, nests"):
        read(chain(length, LINKS[link]))


@pytest.mark.parametrize("link", LINKS)
def test_the_core_bounds_chains_by_itself(link: str) -> None:
    """In a process of its own: it was a segmentation fault."""
    script = (
        "import json, sys; from toolprm_lite import _core\n"
        "try: _core.Segmenter(sys.stdin.read())\n"
        "except ValueError as error: print(error)\n"
    )
    tools = json.dumps([{"name": "f", "parameters": chain(8000, LINKS[link])}])
    done = subprocess.run(
        [sys.executable, "-c", script], input=tools, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("f: ")


@pytest.mark.parametrize("link", LINKS)
def test_chains_within_the_limit_are_read_and_compiled(link: str) -> None:
    tool = read(chain(MAX_NESTING // 4, LINKS[link]))
    _core.Segmenter(json.dumps([{"name": "f", "parameters": closed_schema(tool.parameters)}]))


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/a"},
        {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}, {"type": "string"}]},
        {"allOf": [{"oneOf": [{"$ref": "#/$defs/b"}]}]},
        {"not": {"$ref": "#/$defs/a"}},
        {"if": {"type": "string"}, "then": {"$ref": "#/$defs/a"}},
        {"dependentSchemas": {"x": {"$ref": "#/$defs/a"}}},
    ],
)
def test_a_circle_for_the_same_value_is_refused(schema: Any) -> None:
    definitions = {"a": schema, "b": {"$ref": "#/$defs/a"}}
    parameters = {"type": "object", "properties": {"p": schema}, "$defs": definitions}
    with pytest.raises(ToolsError, match=r"'f'.*leads back to itself"):
        read(parameters)


def test_recursion_through_parts_of_a_value_is_fine() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#/$defs/t"}, "n": {"type": "null"}}}
    parameters = {
        "type": "object",
        "properties": {"t": {"$ref": "#/$defs/t"}, "all": {"$ref": "#"}},
        "$defs": {"t": {"anyOf": [tree, {"type": "array", "items": {"$ref": "#/$defs/t"}}]}},
    }
    assert read(parameters).parameters == parameters


def test_exponentially_many_alternatives_are_refused() -> None:
    doubled = lambda ref: {"anyOf": [ref, ref, {"type": "string", "maxLength": 1}]}  # noqa: E731
    with pytest.raises(ToolsError, match="has more than 100000 parts"):
        read(chain(60, doubled))
    with pytest.raises(ToolsError, match="has more than 100000 parts"):
        read(chain(60, lambda ref: {"oneOf": [{"items": ref}, {"items": ref}]}))


def test_alternatives_are_judged_in_bounded_time() -> None:
    """Sixteen alternatives at each of thirty levels, and a value that fits none of them."""
    branch = {"type": "array", "items": {"$ref": "#/$defs/t"}}
    alternatives = [{**branch, "minItems": n % 2, "maxItems": 9 + n} for n in range(16)]
    parameters = {
        "type": "object",
        "properties": {"p": {"$ref": "#/$defs/t"}},
        "$defs": {"t": {"anyOf": [*alternatives, {"const": 1}]}},
    }
    script = (
        "import json, sys; from toolprm_lite import _core\n"
        "from toolprm_lite.judge import ArgumentJudge; from toolprm_lite.tools import parse_tools\n"
        "tools = parse_tools(json.load(sys.stdin))\n"
        "core = json.dumps([tool.to_dict() for tool in tools])\n"
        "judge = ArgumentJudge.of(tool.parameters for tool in tools)\n"
        "for leaf in ('1', '2'):\n"
        "    segmenter = _core.Segmenter(core, judge=judge)\n"
        "    value = '[' * 28 + leaf + ']' * 28\n"
        '    segmenter.feed(f\'[{{"name": "f", "arguments": {{"p": {value}}}}}]\'.encode())\n'
        "    print(segmenter.finished)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps([{"name": "f", "parameters": parameters}]),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum 5 is above maximum 3"),
        (
            {"type": "number", "exclusiveMinimum": 2, "maximum": 2},
            "exclusiveMinimum 2 and maximum 2 leave no value",
        ),
        (False, "its schema is false"),
        ({"type": "string", "enum": []}, "its enum is empty"),
        ({"type": "string", "minLength": 4, "maxLength": 1}, "minLength 4 is above"),
        ({"type": "array", "minItems": 4, "maxItems": 1}, "minItems 4 is above"),
        ({"anyOf": [False, {"enum": []}]}, "none of its anyOf fits"),
        ({"allOf": [{"type": "string"}, False]}, "its schema is false"),
        ({"type": "object", "properties": {"x": False}, "required": ["x"]}, "'x' is required"),
    ],
)
def test_a_required_parameter_that_nothing_fits_is_named(schema: Any, reason: str) -> None:
    parameters = {"type": "object", "properties": {"p": schema}, "required": ["p"]}
    with pytest.raises(
        ToolsError, match=rf"'f'\): 'p' is required, but no value fits it: .*{reason}"
    ):
        read(parameters)
    del parameters["required"]  # then it is never given
    tool = read(parameters)
    closed = closed_schema(tool.parameters)
    segmenter = _core.Segmenter(
        json.dumps([{"name": "f", "parameters": closed}]), judge=ArgumentJudge.of([closed])
    )
    segmenter.feed(b'[{"name": "f", "arguments": {}}]')
    assert segmenter.finished


def test_a_required_name_that_is_not_allowed_is_named() -> None:
    parameters = {
        "type": "object",
        "properties": {"a": {}},
        "required": ["b"],
        "additionalProperties": False,
    }
    with pytest.raises(ToolsError, match="'b' is required, but is not among its properties"):
        read(parameters)


def test_what_may_still_fit_is_not_called_empty() -> None:
    for schema in (
        {"minimum": 5, "maximum": 3},  # strings fit
        {"type": ["string", "integer"], "minimum": 5, "maximum": 3},
        {"minLength": 3, "maxLength": 1},
        {"type": "integer", "minimum": 3, "maximum": 3},
        {"oneOf": [False, {"type": "string"}]},
    ):
        assert why_empty(schema) is None


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        ("#", "root"),
        ("#/$defs/a b", 1),
        ("#/$defs/a%20b", 1),
        ("#/$defs/x~1y", 2),
        ("#/$defs/t~0u", 3),
        ("#/$defs/t~01u", 4),
        ("#/anyOf/1", 5),
    ],
)
def test_references(reference: str, target: Any) -> None:
    """The core and Python lead to the same place."""
    consts = {"a b": 1, "x/y": 2, "t~u": 3, "t~1u": 4}
    root: dict[str, Any] = {
        "title": "root",
        "type": "object",
        "$defs": {name: {"const": value} for name, value in consts.items()},
        "anyOf": [{"type": "object"}, {"const": 5}],
        "properties": {"p": {"$ref": reference}},
    }
    found = resolve(root, reference)
    assert found.get("const", found.get("title")) == target
    read(root)
    if target != "root":
        root.pop("anyOf" if target != 5 else "title")
        core = json.dumps([{"name": "f", "parameters": {**root, "additionalProperties": False}}])
        for value in range(1, 6):
            segmenter = _core.Segmenter(core)
            segmenter.feed(b'[{"name": "f", "arguments": {"p": %d}' % value)
            assert segmenter.dead == (value != target)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"p": {"type": "integer", "minimum": 10**400}}, "minimum is beyond the numbers of JSON"),
        ({"p": {"type": "integer", "maximum": -(10**400)}}, "maximum is beyond"),
        ({"p": {"type": "integer", "default": 10**5000}}, "has thousands of digits"),
        ({"p": {"type": "string", "pattern": "("}}, "properties/p/pattern"),
        ({"p": {"$ref": "#/$defs/nowhere"}}, "points at nothing"),
        ({"p": {"$ref": "https://example.org/a.json"}}, "not a reference into the schema"),
        ({"p": {"$ref": "#/properties/q/enum", "type": "string"}}, "points at nothing"),
    ],
)
def test_schemas_that_cannot_be_used_are_named(parameters: Any, message: str) -> None:
    with pytest.raises(ToolsError, match=message) as error:
        read({"type": "object", "properties": parameters})
    assert str(error.value).startswith("tool 1 ('f'): ")
    assert "\n" not in str(error.value)


def test_older_drafts_are_read_as_the_newest() -> None:
    old = {
        "type": "object",
        "properties": {
            "pair": {"type": "array", "items": [{"type": "string"}, {}], "additionalItems": False},
            "card": {},
            "size": {"type": "string", "minLength": 2.0},
        },
        "dependencies": {"card": ["size"], "pair": {"required": ["card"]}},
    }
    tool = read(old)
    validator = jsonschema_rs.Draft202012Validator(tool.parameters)
    before = jsonschema_rs.Draft7Validator(old)
    for value in (
        {"pair": ["a", 1], "card": 1, "size": "ab"},
        {"pair": ["a", 1, 2], "card": 1, "size": "ab"},
        {"pair": [1, 1], "card": 1, "size": "ab"},
        {"pair": ["a"]},
        {"card": 1},
        {"card": 1, "size": "ab"},
        {"size": "a"},
    ):
        assert validator.is_valid(value) == before.is_valid(value), value


def test_unknown_keywords_are_named_once() -> None:
    parameters = {
        "type": "object",
        "properties": {
            "when": {"type": "string", "formatt": "date", "x-order": 1, "title": "When"},
            "formatt": {"type": "string"},
        },
        "$dynamicRef": "#a",
    }
    with pytest.warns(
        SchemaWarning, match=r"'f'\): '\$dynamicRef', 'formatt' in its schema"
    ) as seen:
        read(parameters)
    assert len(seen) == 1


def test_thousands_of_choices_and_parameters(recwarn: pytest.WarningsRecorder) -> None:
    """An enum of 70,000 strings, and an object of 20,000 properties."""
    values = [f"value {number}" for number in range(70_000)]
    tool = read(
        {
            "type": "object",
            "properties": {
                "p": {"type": "string", "enum": values},
                "q": {"type": "object", "properties": {value: {} for value in values[:20_000]}},
            },
        }
    )
    core = json.dumps([{"name": "f", "parameters": closed_schema(tool.parameters)}])
    whole = _core.Segmenter(core)
    for value, fits in (("value 0", True), ("value 69999", True), ("value 70000", False)):
        segmenter = whole.copy()
        segmenter.feed(b'[{"name": "f", "arguments": {"p": "%s"' % value.encode())
        assert segmenter.dead != fits
    whole.feed(b'[{"name": "f", "arguments": {"q": {"value 19999": 1}}}]')
    assert whole.finished


def test_many_levels_of_objects() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(25):
        schema = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    core = json.dumps([{"name": "f", "parameters": closed_schema(read(schema).parameters)}])
    segmenter = _core.Segmenter(core)
    value = '{"x": ' * 25 + '"s"' + "}" * 25
    segmenter.feed(f'[{{"name": "f", "arguments": {value}}}]'.encode())
    assert segmenter.finished
