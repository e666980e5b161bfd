"""Six requests to an assistant at home, with their right answers: what `toolprm-lite demo` asks.

One call, two calls, none, a value of a list, a number and a date. Knows nothing of searches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_ROOM = {"type": "string", "enum": ["kitchen", "living room", "bedroom", "bathroom"]}

TOOLS: list[dict[str, Any]] = [
    {
        "name": "get_forecast",
        "description": "Weather forecast of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city"],
        },
    },
    {
        "name": "switch_light",
        "description": "Turn the light of a room on or off",
        "parameters": {
            "type": "object",
            "properties": {"room": _ROOM, "state": {"type": "string", "enum": ["on", "off"]}},
            "required": ["room", "state"],
        },
    },
    {
        "name": "set_timer",
        "description": "Start a timer",
        "parameters": {
            "type": "object",
            "properties": {"minutes": {"type": "number"}},
            "required": ["minutes"],
        },
    },
    {
        "name": "create_event",
        "description": "Put an event into the calendar",
        "parameters": {
            "type": "object",
            "properties": {
                "title": {"type": "string"},
                "date": {"type": "string", "description": "As YYYY-MM-DD"},
                "time": {"type": "string", "description": "As HH:MM, if there is one"},
            },
            "required": ["title", "date"],
        },
    },
]


@dataclass(frozen=True, slots=True)
class Request:
    """A question, what it shows, and the calls that are right."""

    shows: str
    question: str
    answer: list[dict[str, Any]]


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


REQUESTS = [
    Request("one call", "What is the weather in Lisbon?", [_call("get_forecast", city="Lisbon")]),
    Request(
        "a value of a list",
        "Turn on the light in the bedroom.",
        [_call("switch_light", room="bedroom", state="on")],
    ),
    Request("a number", "Set a timer for 25 minutes.", [_call("set_timer", minutes=25)]),
    Request(
        "a date",
        "Put the parents' evening into my calendar on 2027-03-04.",
        [_call("create_event", title="parents' evening", date="2027-03-04")],
    ),
    Request(
        "two calls",
        "Turn off the light in the kitchen and set a timer for 10 minutes.",
        [_call("switch_light", room="kitchen", state="off"), _call("set_timer", minutes=10)],
    ),
    Request("no call", "Who painted the Mona Lisa?", []),
]
