"""Requests with one tool each, and a mock model that answers each of them differently."""

from __future__ import annotations

import json
from typing import Any

from support.mock_backend import MockBackend
from toolprm_lite import SearchConfig, SearchRequest

CITIES = ("Paris", "Parma", "Rome", "Riga", "Oslo", "Lima", "Quito", "Kyoto")


def tool(number: int) -> dict[str, Any]:
    return {
        "name": f"tool_{number}",
        "description": f"What number {number} is for",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "number"}},
            "required": ["city"],
        },
    }


def responses(number: int) -> dict[str, float]:
    """Different ones for each tool, of different lengths and probabilities."""
    found = {"[]": 0.05}
    for place in range(4):
        city = CITIES[(number + 3 * place) % len(CITIES)] + "x" * (number % 3)
        arguments: dict[str, object] = {"city": city}
        if (number + place) % 2:
            arguments["days"] = number + place
        text = json.dumps([{"name": f"tool_{number}", "arguments": arguments}])
        found[text] = 0.95 * (4 - place) / 10
    return found


def backend(count: int = 32, **more: Any) -> MockBackend:
    return MockBackend(
        {"[]": 1.0}, by_prompt={f"tool_{n} is": responses(n) for n in range(count)}, **more
    )


def request(number: int, config: SearchConfig | None = None) -> SearchRequest:
    # What the mock looks for is in the question, so that no number is found in another.
    return SearchRequest(f"What would tool_{number} is say?", [tool(number)], config)
