"""Searches with two small tools: the request, responses of known weights, and what is compared."""

from __future__ import annotations

import json
from collections import Counter

from support.mock_backend import MockBackend
from toolprm_lite import SearchConfig, Searcher, SearchResult

TOOLS = [
    {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "days": {"type": "number"},
            },
            "required": ["city"],
        },
    },
    {"name": "clock", "description": "The time", "parameters": {"type": "object"}},
]
QUESTION = "Weather in Rome?"


def call(city: str, **more: object) -> str:
    return json.dumps([{"name": "weather", "arguments": {"city": city, **more}}])


def two_calls(*calls: tuple[str, dict[str, object]]) -> str:
    return json.dumps([{"name": name, "arguments": arguments} for name, arguments in calls])


RESPONSES = {
    call("Paris"): 0.40,
    call("Parma"): 0.20,
    call("Rome"): 0.10,
    call("Rome", unit="C"): 0.10,
    call("Paris", unit="F"): 0.08,
    call("Paris", unit="C"): 0.02,
    "[]": 0.06,
    '[{"name": "clock", "arguments": {}}]': 0.04,
}
DEAD = {
    "not a tool": '[{"name": "weathers", "arguments": {}}]',
    "no such parameter": '[{"name": "weather", "arguments": {"town": "X"}}]',
    "twice": '[{"name": "weather", "arguments": {"city": "X", "city": "Y"}}]',
    "wrong type": '[{"name": "weather", "arguments": {"city": 5}}]',
    "wrong enum": '[{"name": "weather", "arguments": {"city": "X", "unit": "K"}}]',
    "missing": '[{"name": "weather", "arguments": {}}]',
    "order": '[{"arguments": {"city": "X"}, "name": "weather"}]',
    "malformed": '[{"name": "weather" "arguments"',
}


def search(responses: dict[str, float] = RESPONSES, reward: object = "auto", **settings: object):
    backend = settings.pop("backend", None) or MockBackend(responses)
    defaults = {"strategy": "step-beam", "constrain": "off", "temperature": 1.0}
    searcher = Searcher(backend)
    config = SearchConfig(**{**defaults, **settings})
    return searcher.search(QUESTION, TOOLS, config, reward=reward)


def settings(strategy: str, **more: object) -> SearchConfig:
    chosen = {"constrain": "off", "temperature": 1.0, "expand": 8, "samples": 16, "beams": 3}
    return SearchConfig(strategy=strategy, **{**chosen, **more})


def plain(result: SearchResult) -> dict[str, object]:
    """All but the times and what depends on the prompt's cache."""
    record = result.to_dict()
    for count in ("ms", "prefill_tokens", "reused_tokens"):
        del record["stats"][count]
    return record


def chi_square(counts: Counter[str], expected: dict[str, float], draws: int) -> float:
    return sum((counts[t] - p * draws) ** 2 / (p * draws) for t, p in expected.items())
