"""Problems of one call, of several and of none, made by a seeded generator, with what a mock writes
for each. It uses nothing of the package, so that older versions can be asked, too."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CITIES = ("Oslo", "Paris", "Lima", "Cairo", "Rome", "Quito")
ITEMS = ("milk", "green tea", "bread", "olive oil", "rice")
ROOMS = ("kitchen", "bathroom", "living room")


def _tool(
    name: str, description: str, required: Sequence[str], **properties: Any
) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"name": name, "description": description, "parameters": schema}


TOOLS = [
    _tool(
        "get_weather", "The weather in a city", ["city"],
        city={"type": "string"}, days={"type": "integer", "minimum": 1, "maximum": 14},
        unit={"type": "string", "enum": ["celsius", "fahrenheit"]},
    ),
    _tool(
        "order_items", "Order groceries", ["items"],
        items={
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
                "required": ["name"],
            },
        },
        express={"type": "boolean"},
    ),
    _tool(
        "set_light", "Set the brightness of a room's light", ["room", "brightness"],
        room={"type": "string", "enum": list(ROOMS)},
        brightness={"type": "number", "minimum": 0, "maximum": 1},
    ),
    _tool("get_time", "The time now", []),
]  # fmt: skip


@dataclass
class Problem:
    question: str
    tools: list[dict[str, Any]]
    responses: dict[str, float]  # what the mock writes


def problems(count: int = 60) -> list[Problem]:
    """Problems of one call, of several and of none, each with the mock's answers to it."""
    rng = random.Random(7)
    return [_problem(rng) for _ in range(count)]


def _problem(rng: random.Random) -> Problem:
    asked = [_request(rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    question = " And ".join(text for text, _ in asked)
    calls = [call for _, call in asked]
    written = [calls, calls[:1], [*calls, calls[0]], []]
    for _ in range(4):
        written.append([_changed(rng, call) for call in calls])
    responses: dict[str, float] = {}
    for some in written:
        text = json.dumps(some)
        if rng.random() < 0.2:
            text = "Here is the call: " + text
        responses[text] = responses.get(text, 0) + rng.uniform(0.02, 0.4)
    broken = json.dumps(calls).replace('"arguments"', '"argument"')
    responses[broken] = responses.get(broken, 0) + 0.05
    total = sum(responses.values())
    tools = rng.sample(TOOLS, len(TOOLS)) if rng.random() < 0.5 else TOOLS
    return Problem(question, tools, {text: share / total for text, share in responses.items()})


def _request(rng: random.Random) -> tuple[str, dict[str, Any]]:
    kind = rng.randrange(4)
    if kind == 0:
        city, days = rng.choice(CITIES), rng.randint(1, 9)
        arguments: dict[str, Any] = {"city": city, "days": days}
        if rng.random() < 0.5:
            arguments["unit"] = "celsius"
        text = f"What will the weather in {city} be for the next {days} days?"
        return text, {"name": "get_weather", "arguments": arguments}
    if kind == 1:
        bought = [{"name": rng.choice(ITEMS), "count": rng.randint(1, 5)} for _ in range(2)]
        listed = " and ".join(f"{one['count']} {one['name']}" for one in bought)
        arguments = {"items": bought, "express": rng.random() < 0.5}
        return f"Order {listed}.", {"name": "order_items", "arguments": arguments}
    if kind == 2:
        room, level = rng.choice(ROOMS), rng.choice((0.25, 0.5, 1.0))
        arguments = {"room": room, "brightness": level}
        text = f"Set the light in the {room} to {level}."
        return text, {"name": "set_light", "arguments": arguments}
    return "What time is it?", {"name": "get_time", "arguments": {}}


def _changed(rng: random.Random, call: dict[str, Any]) -> dict[str, Any]:
    arguments = dict(call["arguments"])
    if "city" in arguments:
        arguments["city"] = rng.choice(CITIES)
    if "room" in arguments and rng.random() < 0.5:
        arguments["brightness"] = 0.75
    if "days" in arguments and rng.random() < 0.5:
        del arguments["days"]
    if "express" in arguments:
        arguments["express"] = not arguments["express"]
    if not arguments and rng.random() < 0.3:
        return {"name": "get_time", "arguments": {"zone": 1}}
    return {"name": call["name"], "arguments": arguments}
