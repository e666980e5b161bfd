"""A call format takes one file: this one's class is all that a list behind a marker needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from support.mock_backend import MockBackend, tokenize
from toolprm_lite import SearchConfig, Searcher, SearchResult, _core
from toolprm_lite.constraint import Vocabulary
from toolprm_lite.formats import FORMATS, JSON_LIST, Allowed, CallFormat, detect_format
from toolprm_lite.formats.json_calls import list_schema, literal, other_text, write_list
from toolprm_lite.prompt import render_prompt
from toolprm_lite.reward.base import CandidateStep
from toolprm_lite.special_texts import SpecialTexts
from toolprm_lite.tools import parse_tools

MARKER = "<|tool_call|>"


class MarkedList(CallFormat):
    """As Granite 3 writes calls: <|tool_call|>[{"name": ..., "arguments": ...}]; text declines."""

    name = "marked-list"
    answer = "a marked JSON list of function calls"
    declining = "a short text"

    def core(self) -> _core.CallFormat:
        return _core.CallFormat(open_marker=MARKER)

    def write(self, calls: Sequence[Mapping[str, Any]]) -> str:
        return MARKER + write_list(calls) if calls else ""

    def grammar(self, allowed: Allowed, special_tokens: Mapping[str, int]) -> str:
        lines = []
        if allowed.max_calls == 0:
            lines.append('start: TEXT | ""')
        else:
            schema = list_schema(replace(allowed, required=True))
            lines.append("start: calls" + ("" if allowed.required else ' | TEXT | ""'))
            lines.append(f"calls: {literal(MARKER, special_tokens)} list")
            lines.append(f"list: %json {json.dumps(schema)}")
        if not allowed.required:
            lines.append(other_text(MARKER))
        return "\n".join(lines) + "\n"

    def taught_by(self, chat_template: str) -> bool:
        return MARKER in chat_template and "tools" in chat_template


TOOLS = parse_tools(
    [
        {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
                "required": ["city"],
            },
        },
        {"name": "clock", "parameters": {"type": "object", "properties": {}}},
    ]
)
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }} Answer <|tool_call|>[...]{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
)
ROME = {"name": "weather", "arguments": {"city": "Rome"}}
PARIS = {"name": "weather", "arguments": {"city": "Paris", "unit": "C"}}
FORM = MarkedList()
CONSTRAIN = pytest.mark.parametrize("constrain", ["off", "on"])


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format is among the known ones."""
    monkeypatch.setitem(FORMATS, FORM.name, FORM)


def search(responses: dict[str, float], reward: object = "auto", **settings: Any) -> SearchResult:
    backend = MockBackend(responses)
    backend.info = replace(backend.info, chat_template=TEMPLATE)
    config = SearchConfig(strategy="step-beam", beams=2, expand=1, temperature=0.0, **settings)
    with Searcher(backend) as searcher:
        assert searcher.call_format(config.call_format) is FORM
        tools = [tool.to_dict() for tool in TOOLS]
        return searcher.search("Weather in Rome?", tools, config, reward=reward)


def more_calls(steps: list[CandidateStep]) -> list[float]:
    return [0.3 + 0.2 * min(step.response.count('"name"'), 3) for step in steps]


def fewer_calls(steps: list[CandidateStep]) -> list[float]:
    return [1 - score for score in more_calls(steps)]


def test_it_is_detected() -> None:
    assert detect_format(TEMPLATE) is FORM
    assert detect_format("{{ tools }}") is JSON_LIST


def test_it_is_prompted() -> None:
    question = [{"role": "user", "content": "Weather in Rome?"}]

    def prompt(chat_template: str | None) -> str:
        pieces = render_prompt(
            question, TOOLS, format=FORM, chat_template=chat_template, special=SpecialTexts()
        )
        return "".join(pieces)

    assert '"weather"' in prompt(TEMPLATE)
    assert "JSON Schema" not in prompt(TEMPLATE)  # the template explains the tools
    example = {"name": "function_name", "arguments": {"parameter_name": "value"}}
    assert FORM.write([example]) in prompt(None)
    assert "a marked JSON list of function calls only" in prompt(None)
    assert "If no function fits the request, answer a short text." in prompt(None)


@pytest.mark.parametrize(
    ("text", "choice", "possible"),
    [
        (FORM.write([ROME]), "auto", True),
        (FORM.write([ROME, PARIS]), "auto", True),
        (FORM.write([ROME]), "clock", False),
        (FORM.write([ROME]), "none", False),
        (JSON_LIST.write([ROME]), "auto", False),
        (MARKER + "[]", "auto", False),
        ("No tool fits.", "auto", True),
        ("", "auto", True),
        ("No tool fits.", "required", False),
    ],
)
def test_it_is_masked(text: str, choice: str, possible: bool) -> None:
    backend = MockBackend({})
    constraint = Vocabulary.of(backend).constraint(TOOLS, FORM, tool_choice=choice)
    matcher, forced = constraint.start()
    tokens = [*tokenize(text), *backend.info.eog_tokens]
    accepted = tokens[: len(forced)] == forced and all(
        matcher.consume_token(token) for token in tokens[len(forced) :]
    )
    assert accepted == possible


def test_it_is_segmented() -> None:
    schemas = [{"name": tool.name, "parameters": tool.parameters} for tool in TOOLS]
    segmenter = _core.Segmenter(json.dumps(schemas), FORM.core())
    steps = segmenter.feed(FORM.write([ROME, PARIS]).encode())
    assert [step.kind for step in steps].count("FUNC_FINISH") == 2
    assert [step.value for step in steps if step.argument == "city"] == [b'"Rome"', b'"Paris"']
    assert segmenter.finished


@CONSTRAIN
@pytest.mark.parametrize("form", ["auto", "marked-list"])
def test_it_is_searched(form: str, constrain: str) -> None:
    result = search(
        {FORM.write([ROME]): 0.6, FORM.write([PARIS]): 0.4}, call_format=form, constrain=constrain
    )
    assert result.complete
    assert result.calls == [ROME]
    assert [step.kind for step in result.steps] == [
        "FUNC_NAME", "ARG_VALUE", "PARAM_FINISH", "FUNC_FINISH", "TOTAL_FINISH",
    ]  # fmt: skip


@CONSTRAIN
@pytest.mark.parametrize(
    ("likely", "rare", "reward"),
    [
        ([ROME], [ROME, PARIS], more_calls),
        ([ROME, PARIS], [ROME], fewer_calls),
        ([ROME], [], fewer_calls),
    ],
    ids=["another call", "the end", "declining"],
)
def test_its_ways_on_are_candidates(
    likely: list[Any], rare: list[Any], reward: object, constrain: str
) -> None:
    responses = {FORM.write(likely): 0.98, FORM.write(rare): 0.02}
    result = search(responses, reward, constrain=constrain, aggregate="last")
    assert result.calls == rare
    assert (
        search(responses, reward, constrain=constrain, aggregate="last", way_floor=1.0).calls
        == likely
    )
