"""Problems, responses and answers of a small evaluation."""

from __future__ import annotations

import json
from typing import Any

from toolprm_lite import SearchConfig
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tools import parse_tools

TOOLS = [
    {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    }
]


def call(city: str, **more: Any) -> str:
    return json.dumps([{"name": "weather", "arguments": {"city": city, **more}}])


RESPONSES = {
    call("Paris"): 0.35,
    call("Rome"): 0.25,
    '[{"name": "weather", "arguments": {"days": 3, "city": "Oslo"}}]': 0.1,
    call("Oslo", days=3): 0.1,
    "[]": 0.1,
    call("Parma", days=1): 0.1,
}
PARIS = [{"name": "weather", "arguments": {"city": "Paris"}}]
SETTINGS = {"model": "mock", "seed": 0, "rewards": {"toolprm": "aa"}}
BASE = SearchConfig(constrain="off", temperature=1.0)


def item(identity: str = "p", category: str = "a", right: Any = PARIS, **more: Any) -> Problem:
    messages = [{"role": "user", "content": "Weather?"}]
    return Problem(identity, category, messages, parse_tools(TOOLS), right, **more)


def answer(identity: str, right: bool | None, category: str = "a", **more: Any) -> dict[str, Any]:
    ms = {"total": 9.0, "prefill": 1.0, "decode": 5.0, "core": 1.0, "reward": 0.5}
    stats = {"decode_tokens": 10, "forced_tokens": 5, "drawn_tokens": 40, "ms": ms}
    record = {
        "id": identity, "category": category, "calls": PARIS, "complete": True, "right": right,
        "any_right": bool(right), "score": 0.5, "stats": stats, **more,
    }  # fmt: skip
    return record
