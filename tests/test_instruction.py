"""How tools are explained: as schemas or signatures, with worked examples or in short."""

from __future__ import annotations

import json
from typing import Any

import pytest

from toolprm_lite.errors import ConfigError
from toolprm_lite.formats import HERMES, JSON_LIST
from toolprm_lite.instruction import PromptStyle, explain, list_tools
from toolprm_lite.signatures import signature
from toolprm_lite.tools import parse_tools

OBJECT: dict[str, Any] = {"type": "object"}


def signed(parameters: dict[str, Any], description: str = "", name: str = "f") -> str:
    definition = {"name": name, "description": description, "parameters": parameters}
    return signature(parse_tools([definition])[0])


def properties(**parts: Any) -> dict[str, Any]:
    return {"type": "object", "properties": parts}


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"type": "string"}, "string"),
        ({"type": ["string", "null"]}, "string | null"),
        ({}, "any"),
        ({"enum": ["a", 1, None]}, '"a" | 1 | null'),
        ({"const": True}, "true"),
        ({"type": "array", "items": {"type": "integer"}}, "integer[]"),
        ({"type": "array", "items": {"enum": [1, 2]}}, "(1 | 2)[]"),
        ({"type": "array"}, "any[]"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "string | integer"),
        ({"type": "object"}, "object"),
        (
            {"properties": {"a": {"type": "string"}, "b c": {}}, "required": ["a"], **OBJECT},
            '{a: string, "b c"?: any}',
        ),
    ],
)  # fmt: skip
def test_types(part: dict[str, Any], text: str) -> None:
    assert signed(properties(x=part)) == f"f(x?: {text})"


@pytest.mark.parametrize(
    "part",
    [
        {"not": {"type": "string"}},
        {"allOf": [{"type": "string"}]},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
    ],
)
def test_what_no_signature_says_is_written_as_its_schema(part: dict[str, Any]) -> None:
    text = signed(properties(x={**part, "description": "d"}))
    first, second = text.splitlines()
    assert json.loads(first.removeprefix("f(x?: ").removesuffix(")")) == part
    assert second == "  x: d"


def test_parameters_have_a_line_where_there_is_something_to_say() -> None:
    text = signed(
        {
            "type": "object",
            "properties": {
                "days": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 7,
                    "description": "How\n many",
                },
                "plain": {"type": "string"},
                "place": properties(city={"type": "string", "description": "Its name"}),
                "tags": {
                    "type": "array",
                    "items": properties(id={"type": "string", "default": "a"}),
                },
            },
            "required": ["days"],
        },
        "Does it.\nWell.",
    )
    assert text.splitlines() == [
        "f(days: integer, plain?: string, place?: {city?: string}, tags?: {id?: string}[]): "
        "Does it. Well.",
        "  days: How many (at least 1, at most 7)",
        "  place.city: Its name",
        '  tags[].id: default "a"',
    ]


def test_references_are_written_out() -> None:
    """As in the schemas that pydantic makes."""
    mode = {"enum": ["eco", "turbo"], "type": "string", "title": "Mode", "description": "How fast"}
    schema = {
        **properties(
            mode={"$ref": "#/$defs/Mode"},
            level={"anyOf": [{"type": "integer", "maximum": 5}, {"type": "null"}], "default": None},
        ),
        "$defs": {"Mode": mode},
    }
    assert signed(schema).splitlines() == [
        'f(mode?: "eco" | "turbo", level?: integer | null)',
        "  mode: How fast",
        "  level: default null",
        "  level: at most 5",
    ]


@pytest.mark.parametrize(
    "schema",
    [
        {**properties(a={"$ref": "#"})},
        {**properties(a={"type": "string"}), "anyOf": [{"required": ["a"]}]},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object", "patternProperties": {"^a": {"type": "integer"}}},
        properties(**{f"p{n}": {"type": "string"} for n in range(1001)}),
    ],
)
def test_tools_that_no_signature_says_are_written_as_json(schema: dict[str, Any]) -> None:
    written = json.loads(signed(schema))
    assert written["name"] == "f"
    assert written["parameters"].items() >= schema.items()


def test_deep_objects_are_written_as_schemas_from_a_depth_on() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(10):
        deep = properties(a=deep)
    text = signed(deep)
    assert text.startswith("f(a?: {a?: ")
    assert '{"type": "object", "properties":' in text


def test_names_and_limits_stay_in_their_line() -> None:
    schema = properties(**{"a\n  b": {"type": "string", "pattern": "x\ny"}})
    assert signed(schema).splitlines() == ['f("a\\n  b"?: string)', '  "a\\n  b": matches "x\\ny"']
    assert json.loads(signed({"type": "object"}, name="f\n  x: ignore"))["name"] == "f\n  x: ignore"


@pytest.mark.parametrize(
    "name", ["schemas", "signatures", "signatures-short", "schemas-short", "schemas+1"]
)
def test_a_style_is_named(name: str) -> None:
    assert PromptStyle.parse(name).name == name


@pytest.mark.parametrize("name", ["", "auto", "json", "schemas+4", "schemas-short+1", "SCHEMAS"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"signatures-short, schemas\+2"):
        PromptStyle.parse(name)


def test_worked_examples_come_first_and_parse_in_the_format() -> None:
    tools = list_tools(parse_tools([{"name": "f", "parameters": OBJECT}]), PromptStyle())
    text = explain("\n".join(tools), JSON_LIST, PromptStyle(examples=3))
    before, _, after = text.partition("You answer requests")
    answers = [line.removeprefix("Answer: ") for line in before.splitlines() if "Answer: " in line]
    assert [len(json.loads(answer)) for answer in answers] == [1, 2, 0]
    assert '"name": "f"' in after
    assert explain("", HERMES, PromptStyle(examples=3)).count("<tool_call>") == 4


def test_the_short_wording_is_short() -> None:
    full = explain("tools", JSON_LIST, PromptStyle("signatures"))
    short = explain("tools", JSON_LIST, PromptStyle("signatures", "short"))
    assert len(short) < len(full) / 2
    assert "answer []" in short
    assert "Call at least one" in explain(
        "", JSON_LIST, PromptStyle("signatures", "short"), tool_choice="required"
    )
