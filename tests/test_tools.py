"""Tool definitions in, one form out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolprm_lite.errors import ToolsError
from toolprm_lite.schema import closed_schema
from toolprm_lite.tools import Tool, load_tools, parse_tools

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def parameter(schema: Any) -> Any:
    """How a parameter's schema is read."""
    definition = {"name": "f", "parameters": {"type": "object", "properties": {"p": schema}}}
    return Tool.from_dict(definition).parameters["properties"]["p"]


def read(parameters: Any) -> Any:
    return Tool.from_dict({"name": "f", "parameters": parameters}).parameters


@pytest.mark.parametrize(
    "definition",
    [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": CITY}},
        {"type": "function", "name": "f", "description": "d", "parameters": CITY, "strict": True},
        {"name": "f", "description": "d", "parameters": CITY},
        {"name": "f", "description": "d", "input_schema": CITY},
        {"name": "f", "description": "d", "inputSchema": CITY},
        {"name": "f", "description": "d", "parameters": {**CITY, "type": "dict"}},
        {"name": "f", "description": "d", "parameters": {"city": {"type": "str"}}},
        {"name": "f", "description": "d", "parameters": {"city": "string"}},
    ],
)
def test_every_form_is_one(definition: dict[str, Any]) -> None:
    before = copy.deepcopy(definition)
    tool = Tool.from_dict(definition)
    assert tool == Tool("f", "d", CITY)
    assert definition == before
    assert Tool.from_dict(tool.to_openai()) == tool


@pytest.mark.parametrize(
    ("written", "schema"),
    [
        ("dict", {"type": "object"}),
        ("float", {"type": "number"}),
        ("tuple", {"type": "array"}),
        ("String", {"type": "string"}),
        ("HashMap", {"type": "object"}),
        ("ArrayList", {"type": "array"}),
        ("Bigint", {"type": "integer"}),
        ("Boolean", {"type": "boolean"}),
        ("any", {}),
        ("np.ndarray", {}),
        ("List[int]", {"type": "array", "items": {"type": "integer"}}),
        ("List[Dict[str, Any]]", {"type": "array", "items": {"type": "object"}}),
        ("Dict[str, float]", {"type": "object", "additionalProperties": {"type": "number"}}),
        ("Union[int, str]", {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        ("int | str", {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        ("Optional[str]", {"type": "string"}),
        ("str, optional", {"type": "string"}),
        ("Optional[List[str]], optional", {"type": "array", "items": {"type": "string"}}),
        ("Set[str]", {"type": "array", "items": {"type": "string"}}),
        ("string[]", {"type": "array", "items": {"type": "string"}}),
        ("array of strings", {"type": "array", "items": {"type": "string"}}),
        ("Map<String, Integer>", {"type": "object", "additionalProperties": {"type": "integer"}}),
        ("Literal['a', 'b']", {"enum": ["a", "b"]}),
        (
            "Tuple[float, float]",
            {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
        ),
        (
            "Tuple[int, str]",
            {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "items": False,
                "minItems": 2,
                "maxItems": 2,
            },
        ),
        ("Tuple[int, ...]", {"type": "array", "items": {"type": "integer"}}),
        (["string", "none"], {"type": ["string", "null"]}),
    ],
)
def test_types(written: Any, schema: dict[str, Any]) -> None:
    assert parameter({"type": written}) == schema


@pytest.mark.parametrize(
    ("raw", "schema"),
    [
        # normalised at every depth
        (
            {"type": "tuple", "items": {"type": "dict", "properties": {"x": {"type": "float"}}}},
            {
                "type": "array",
                "items": {"type": "object", "properties": {"x": {"type": "number"}}},
            },
        ),
        ({"anyOf": [{"type": "str"}, {"type": "int"}]}, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),  # noqa: E501
        ({"type": "dict", "additionalProperties": {"type": "float"}}, {"type": "object", "additionalProperties": {"type": "number"}}),  # noqa: E501
        ({"type": "list", "items": "int"}, {"type": "array", "items": {"type": "integer"}}),
        ({"type": "list", "items": [{"type": "int"}]}, {"type": "array", "prefixItems": [{"type": "integer"}]}),  # noqa: E501
        # properties named like keywords
        (
            {"type": "dict", "properties": {"type": {"type": "str"}, "properties": {"type": "int"}, "enum": {"type": "str"}, "required": {"type": "bool"}}},  # noqa: E501
            {"type": "object", "properties": {"type": {"type": "string"}, "properties": {"type": "integer"}, "enum": {"type": "string"}, "required": {"type": "boolean"}}},  # noqa: E501
        ),
        # enums and defaults that don't fit
        ({"type": "integer", "enum": [1, "two", 3]}, {"type": "integer", "enum": [1, 3]}),
        ({"type": "string", "enum": [1, 2]}, {"enum": [1, 2]}),
        ({"type": "string", "enum": []}, {"type": "string", "enum": []}),
        (
            {"type": "array", "items": {"type": "string"}, "enum": ["a", "b"]},
            {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}},
        ),
        ({"type": "integer", "default": "10"}, {"type": "integer", "default": 10}),
        ({"type": "integer", "default": ""}, {"type": "integer"}),
        ({"type": "bool", "default": "True"}, {"type": "boolean", "default": True}),
        ({"type": "string", "default": "10"}, {"type": "string", "default": "10"}),
        # other dialects
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        ({"type": "string", "optional": True, "x-order": 1}, {"type": "string"}),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True}, {"type": "number", "exclusiveMinimum": 0}),  # noqa: E501
        ({"type": "number", "minimum": "0"}, {"type": "number"}),
        ({"properties": {"a": {}}}, {"properties": {"a": {}}, "type": "object"}),
    ],
)  # fmt: skip
def test_schemas(raw: dict[str, Any], schema: dict[str, Any]) -> None:
    assert parameter(raw) == schema


@pytest.mark.parametrize(
    ("parameters", "required"),
    [
        ({"a": {"type": "str"}, "b": {"type": "int", "default": 3}}, ["a"]),
        ({"a": {"type": "str, optional"}, "b": {"type": "Optional[int]"}}, []),
        ({"a": {"type": "str", "default": None}}, []),
        ({"type": {"type": "str"}, "properties": {"type": "int"}}, ["type", "properties"]),
        (
            {"type": "dict", "properties": {"a": {"type": "str"}}, "required": ["a", "zz"]},
            ["a", "zz"],
        ),
        ({"type": "dict", "properties": {"a": {"type": "str", "required": True}}}, ["a"]),
    ],
)
def test_required(parameters: dict[str, Any], required: list[str]) -> None:
    assert read(parameters).get("required") == required


def test_references_survive() -> None:
    tree = {
        "type": "dict",
        "properties": {"root": {"$ref": "#/$defs/node"}},
        "$defs": {"node": {"type": "dict", "properties": {"next": {"$ref": "#/$defs/node"}}}},
    }
    schema = read(tree)
    jsonschema.validate({"root": {"next": {"next": {}}}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"root": {"next": 3}}, schema)


@pytest.mark.parametrize("parameters", [None, {}, {"type": "object"}, {"properties": {}}])
def test_no_parameters(parameters: Any) -> None:
    schema = read(parameters)
    assert schema == {"type": "object", "properties": {}}
    assert closed_schema(schema)["additionalProperties"] is False


@pytest.mark.parametrize(
    ("schema", "accepted", "refused"),
    [
        (CITY, {"city": "x"}, {"city": "x", "zip": 1}),
        ({**CITY, "additionalProperties": True}, {"city": "x", "zip": 1}, {"zip": 1}),
        (
            {"type": "object", "properties": {"a": CITY}},
            {"a": {"city": "x"}},
            {"a": {"city": "x", "zip": 1}},
        ),
        (
            {"type": "object", "properties": {"a": {"type": "object"}}},
            {"a": {"anything": 1}},
            {"b": 1},
        ),
        (
            {"type": "object", "properties": {"a": {"type": "array", "items": CITY}}},
            {"a": [{"city": "x"}]},
            {"a": [{"city": "x", "zip": 1}]},
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"allOf": [CITY, {"properties": {"zip": {"type": "string"}}}]}},
            },
            {"a": {"city": "x", "zip": "1"}},
            {"a": {"zip": "1"}},
        ),
        (
            {
                "type": "object",
                "properties": {"a": {}, "b": {}},
                "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
            },
            {"b": 1},
            {"c": 1},
        ),
    ],
)
def test_closed_schema(schema: dict[str, Any], accepted: Any, refused: Any) -> None:
    before = copy.deepcopy(schema)
    closed = closed_schema(schema)
    assert schema == before
    assert closed_schema(closed) == closed
    jsonschema.validate(accepted, closed)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(refused, closed)


BARE = {"name": "f", "parameters": CITY}


@pytest.mark.parametrize("wrapped", [BARE, [BARE], {"tools": [BARE]}, {"function": [BARE]}])
def test_parse_tools(wrapped: Any) -> None:
    assert parse_tools(wrapped) == [Tool("f", "", CITY)]


@pytest.mark.parametrize(
    ("definitions", "message"),
    [
        ([], "here: the list of tools is empty"),
        ("f", "here: tools must be a list of tool definitions, not a string"),
        ([BARE, 3], "here: tool 2: a tool must be an object"),
        ([{"parameters": {}}], "here: tool 1: the tool has no name"),
        ([{"name": 3}], "here: tool 1: the tool's name is a number"),
        ([{"name": " "}], "here: tool 1: the tool's name is empty"),
        ([BARE, {"name": "g"}, BARE], "here: tools 1 and 3 are both named 'f'"),
        ([{"name": "f", "parameters": []}], "here: tool 1 ('f'): its parameters are a list"),
        ([{"name": "f", "parameters": {"a": 1}}], "here: tool 1 ('f'): its parameters are not a"),
        ([{"name": "f", "parameters": {"type": "string"}}], "('f'): its parameters have type"),
    ],
)
def test_parse_errors(definitions: Any, message: str) -> None:
    with pytest.raises(ToolsError) as error:
        parse_tools(definitions, "here")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_deep_nesting() -> None:
    def nested(depth: int) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "string"}
        for _ in range(depth):
            schema = {"type": "array", "items": schema}
        return {"type": "object", "properties": {"a": schema}}

    assert read(nested(100)) == nested(100)
    with pytest.raises(ToolsError, match="nested too deep"):
        read(nested(5000))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (json.dumps([BARE, {"name": "g"}]), ["f", "g"]),
        (json.dumps({"tools": [BARE]}, indent=2), ["f"]),
        (json.dumps(BARE) + "\n\n" + json.dumps({"name": "g"}) + "\n", ["f", "g"]),
        ("\ufeff" + json.dumps(BARE), ["f"]),
    ],
)
def test_load_tools(tmp_path: Path, content: str, names: list[str]) -> None:
    path = tmp_path / "tools.json"
    path.write_text(content, encoding="utf-8")
    assert [tool.name for tool in load_tools(path)] == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b'[{"name": "f"},\n {"name" "g"}]', "at line 2, column 10"),
        (b'{"name": "f"}\n{"name": }\n', "at line 2, column 10"),
        (b"\xff\xfe{", "not UTF-8"),
        (b"3", "not a number"),
        (b'{"name": "f"}\n{"name": "f"}', "tools 1 and 2 are both named 'f'"),
    ],
)
def test_load_errors(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "tools.json"
    path.write_bytes(content)
    with pytest.raises(ToolsError) as error:
        load_tools(path)
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))


def test_load_missing(tmp_path: Path) -> None:
    with pytest.raises(ToolsError, match="no such file"):
        load_tools(tmp_path / "absent.json")
    with pytest.raises(ToolsError, match="can't be read"):
        load_tools(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("type", "properties", "items", "enum", "required", "anyOf", "$ref", "$defs"),
                    *(
                        "default",
                        "minimum",
                        "nullable",
                        "additionalProperties",
                        "optional",
                        "a",
                        "b",
                    ),
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(json_values)
def test_any_json_is_read_or_refused(parameters: Any) -> None:
    before = copy.deepcopy(parameters)
    try:
        tool = Tool.from_dict({"name": "f", "parameters": parameters})
    except ToolsError:
        return
    finally:
        assert parameters == before
    assert tool.parameters["type"] == "object"
    jsonschema.Draft202012Validator.check_schema(tool.parameters)
    assert Tool.from_dict(tool.to_dict()) == tool
    closed_schema(tool.parameters)


@pytest.mark.parametrize(
    "part", [{"name": "f\ud83d"}, {"description": "\udce9"}, {"parameters": {"title": "\ud83d"}}]
)
def test_half_of_a_surrogate_pair_in_a_tool_is_named(part: dict[str, Any]) -> None:
    with pytest.raises(ToolsError, match=r"tool 1 .*half of a surrogate pair"):
        parse_tools([{"name": "f", **part}])
