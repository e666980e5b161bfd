"""Which answers a conversation supports."""

from __future__ import annotations

from typing import Any

import pytest

from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tasks.quality import unsupported
from toolprm_lite.tools import parse_tools

TOOLS = parse_tools(
    [
        {
            "name": "book",
            "description": "Book a table",
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {"type": "string"},
                    "people": {"type": "integer", "default": 2},
                    "kind": {"type": "string", "enum": ["inside", "outside"]},
                    "vegan": {"type": "boolean"},
                    "guests": {"type": "array", "items": {"type": "string"}},
                    "day": {"type": "string"},
                    "courses": {"type": "array", "items": {"enum": ["soup", "main", "sweet"]}},
                },
            },
        }
    ]
)


def asked(*answers: dict[str, Any], said: str = "A table at Chez Nous for 4, with Ann") -> Problem:
    calls = [{"name": "book", "arguments": arguments} for arguments in answers]
    return Problem("p", "made", [{"role": "user", "content": said}], TOOLS, calls)


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ({}, None),
        ({"place": "Chez Nous"}, None),
        ({"place": "chez nous"}, None),
        ({"place": "Chez Maxim"}, None),  # half of its words
        ({"place": "Moulin Rouge"}, "place"),
        ({"place": "Moulin Rouge Grand Hotel Nous"}, "place"),  # a fifth
        ({"people": 4}, None),
        ({"people": 2}, None),  # the default
        ({"people": 7}, "people"),
        ({"kind": "outside"}, None),  # the schema lists it
        ({"vegan": True}, None),
        ({"guests": ["Ann"]}, None),
        ({"guests": ["Bob", "Carl", "Dora", "Emil"]}, "guests"),
        ({"place": "Chez Nous", "people": 9}, "people"),
    ],
)
def test_supported_values(arguments: dict[str, Any], missing: str | None) -> None:
    assert unsupported(asked(arguments)) == (missing and f"book: {missing}")


@pytest.mark.parametrize(
    ("said", "arguments", "supported"),
    [
        ("for twenty-five on March 3rd", {"people": 25, "day": "2024-03-03"}, True),
        ("for twenty-five on March 3rd", {"people": 26}, False),
        ("on March 3rd", {"day": "2024-03-04"}, False),
        ("at half past six", {"day": "18:30:00"}, True),
        ("the tables by the windows", {"place": "Window table"}, True),
        ("for two hours", {"day": "02:00:00"}, True),
        ("a soup", {"courses": ["soup"]}, True),
        ("a soup", {"courses": ["main", "sweet"]}, True),  # the schema lists them
    ],
)
def test_values_that_are_said_in_another_form(
    said: str, arguments: dict[str, Any], supported: bool
) -> None:
    assert (unsupported(asked(arguments, said=said)) is None) == supported


def test_all_calls_are_looked_at() -> None:
    assert unsupported(asked({"people": 4}, {"place": "Moulin Rouge"})) == "book: place"
    assert unsupported(asked()) is None


def test_earlier_messages_count() -> None:
    problem = asked({"place": "Moulin Rouge"})
    problem.messages.insert(0, {"role": "user", "content": "I like the Moulin Rouge"})
    assert unsupported(problem) is None
