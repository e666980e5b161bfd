"""Names become random strings, and nothing else changes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from toolprm_lite.errors import ProblemError
from toolprm_lite.prompt import parse_messages
from toolprm_lite.schema import closed_schema
from toolprm_lite.tasks import masking
from toolprm_lite.tasks.masking import mask
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tools import parse_tools

BOOK = {
    "name": "book_trip",
    "description": 'Books a trip; see book_trip\'s "city".',
    "parameters": {
        "type": "object",
        "title": "Book Trip",
        "properties": {
            "city": {"type": "string", "title": "City", "description": 'The "city" to go to.'},
            "guests": {"type": "array", "items": {"$ref": "#/$defs/guest"}},
            "payer": {"anyOf": [{"$ref": "#/$defs/guest"}, {"type": "null"}]},
            "extras": {"type": "object", "additionalProperties": {"type": "string"}},
            "seat": {
                "type": "object",
                "properties": {"row": {"type": "integer"}, "window": {"type": "boolean"}},
                "required": ["row"],
                "default": {"row": 3},
            },
            "back": {"$ref": "#/properties/seat"},
        },
        "required": ["city"],
        "$defs": {
            "guest": {
                "type": "object",
                "properties": {"full_name": {"type": "string"}, "child": {"type": "boolean"}},
                "required": ["full_name"],
            }
        },
    },
}
CANCEL = {
    "name": "cancel_trip",
    "description": "",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
ARGUMENTS: dict[str, Any] = {
    "city": "city",
    "guests": [{"full_name": "Ann"}, {"full_name": "Bob", "child": True}],
    "payer": {"full_name": "Ann"},
    "extras": {"city": "wifi"},
    "seat": {"row": 3},
    "back": {"row": 5, "window": False},
}


def problem(identity: str = "a") -> Problem:
    call = {"function": {"name": "cancel_trip", "arguments": {"city": "Rome"}}, "id": "1"}
    old = {"function": {"name": "gone", "arguments": {"why": "x"}}, "id": "2"}
    messages = [
        {"role": "user", "content": 'Call "book_trip" for the "city" of Bonn.'},
        {
            "role": "assistant",
            "content": 'Calling "cancel_trip" {"city": 1}.',
            "tool_calls": [call],
        },
        {"role": "tool", "name": "cancel_trip", "content": '{"city": "Rome", "cities": 2}'},
        {"role": "assistant", "content": '{\\"city\\": 1} city', "tool_calls": [old]},
        {"role": "user", "content": "Go on."},
    ]
    answers = [{"name": "book_trip", "arguments": ARGUMENTS}]
    return Problem(identity, "own", parse_messages(messages), parse_tools([BOOK, CANCEL]), answers)


def renamed(masked: Problem) -> dict[str, str]:
    """The names of `problem()`, and what they became."""
    book, cancel = masked.tools
    properties = book.parameters["properties"]
    top = dict(zip(BOOK["parameters"]["properties"], properties, strict=True))  # type: ignore[index]
    guest = list(book.parameters["$defs"]["guest"]["properties"])
    seat = list(properties[top["seat"]]["properties"])
    inner = dict(zip(["full_name", "child", "row", "window"], guest + seat, strict=True))
    return {"book_trip": book.name, "cancel_trip": cancel.name} | top | inner


def test_everything_is_renamed_alike() -> None:
    before, after = problem(), mask(problem(), 1)
    names = renamed(after)
    assert len(set(names.values())) == len(names) == 12
    assert all(re.fullmatch(r"[a-z][a-z0-9]{4,7}", name) for name in names.values())
    assert list(after.tools[1].parameters["properties"]) == [names["city"]]
    schema = after.tools[0].parameters
    assert schema["required"] == [names["city"]]
    assert schema["properties"][names["back"]] == {"$ref": f"#/properties/{names['seat']}"}
    assert schema["properties"][names["seat"]]["default"] == {names["row"]: 3}
    assert schema["$defs"]["guest"]["required"] == [names["full_name"]]
    assert "title" not in schema["properties"][names["city"]]
    assert "title" not in schema
    assert after.answers == [
        {
            "name": names["book_trip"],
            "arguments": {
                names["city"]: "city",
                names["guests"]: [
                    {names["full_name"]: "Ann"},
                    {names["full_name"]: "Bob", names["child"]: True},
                ],
                names["payer"]: {names["full_name"]: "Ann"},
                names["extras"]: {"city": "wifi"},
                names["seat"]: {names["row"]: 3},
                names["back"]: {names["row"]: 5, names["window"]: False},
            },
        }
    ]
    assert [tool.description for tool in after.tools] == [t.description for t in before.tools]
    assert schema["properties"][names["city"]]["description"] == 'The "city" to go to.'
    valid = Draft202012Validator(closed_schema(schema))
    assert valid.is_valid(after.answers[0]["arguments"])


def test_messages() -> None:
    before, after = problem(), mask(problem(), 1)
    names = renamed(after)
    user, call, result, old, last = after.messages
    assert (user, last) == (before.messages[0], before.messages[4])
    cancel, city = names["cancel_trip"], names["city"]
    assert call["content"] == f'Calling "{cancel}" {{"{city}": 1}}.'
    assert call["tool_calls"] == [{"name": cancel, "arguments": {city: "Rome"}, "id": "1"}]
    assert result["name"] == cancel
    assert result["content"] == f'{{"{city}": "Rome", "cities": 2}}'
    assert old["content"] == f'{{\\"{city}\\": 1}} city'
    assert old["tool_calls"][0]["name"] not in ("gone", *names.values())
    assert list(old["tool_calls"][0]["arguments"]) != ["why"]
    assert parse_messages(after.messages) == after.messages


def test_the_problem_is_not_changed() -> None:
    given = problem()
    mask(given, 1)
    assert given == problem()


def test_deterministic_by_seed_and_id() -> None:
    assert mask(problem(), 1) == mask(problem(), 1)
    assert mask(problem(), 1).tools != mask(problem(), 2).tools
    assert mask(problem("a"), 1).tools != mask(problem("b"), 1).tools


def test_a_shared_key_gives_shared_names() -> None:
    other = replace(problem("b"), messages=parse_messages("Hello"), answers=[])
    assert mask(problem("a"), 1, key="k").tools == mask(other, 1, key="k").tools


def test_a_parameter_named_properties() -> None:
    schema = {
        "type": "object",
        "properties": {
            "properties": {"type": "object", "properties": {"type": {"type": "string"}}},
            "twin": {"$ref": "#/properties/properties/properties/type"},
        },
    }
    tools = parse_tools([{"name": "f", "parameters": schema}])
    answers = [{"name": "f", "arguments": {"properties": {"type": "x"}, "twin": "y"}}]
    masked = mask(Problem("a", "own", parse_messages("Q"), tools, answers), 0)
    check = Draft202012Validator(closed_schema(masked.tools[0].parameters))
    assert check.is_valid(masked.answers[0]["arguments"])
    assert not check.is_valid({list(masked.answers[0]["arguments"])[1]: 5})
    assert set(masked.answers[0]["arguments"]) == set(masked.tools[0].parameters["properties"])


def test_recursive_schema() -> None:
    schema = {
        "type": "object",
        "properties": {"value": {"type": "integer"}, "next": {"$ref": "#"}},
        "required": ["value"],
    }
    tools = parse_tools([{"name": "f", "parameters": schema}])
    answers = [{"name": "f", "arguments": {"value": 1, "next": {"value": 2}}}]
    masked = mask(Problem("a", "own", parse_messages("Q"), tools, answers), 0)
    check = Draft202012Validator(masked.tools[0].parameters)
    assert check.is_valid(masked.answers[0]["arguments"])
    assert '"value"' not in json.dumps(masked.answers)


def test_no_free_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_LETTERS", "a")
    monkeypatch.setattr(masking, "_SIGNS", "1")
    monkeypatch.setattr(masking, "_LENGTHS", (5, 6))
    with pytest.raises(ProblemError, match="problem a: no 14 unique"):
        mask(problem(), 1)


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=8, unique=True))
def test_any_names(names: list[str]) -> None:
    function, *parameters = names
    schema = {"type": "object", "properties": {name: {"type": "integer"} for name in parameters}}
    tool = masking.Tool(function, "", schema)
    arguments = dict.fromkeys(parameters, 1)
    answers = [{"name": function, "arguments": arguments}]
    given_problem = Problem("a", "own", parse_messages("Q"), [tool], answers)
    masked = mask(given_problem, 0)
    found = [masked.tools[0].name, *masked.tools[0].parameters["properties"]]
    assert len(set(found)) == len(names)
    assert not set(found) & set(names)
    assert masked.answers == [{"name": found[0], "arguments": dict.fromkeys(found[1:], 1)}]
