"""Ways on: how a response can go on after a call, and declining, are candidates, drawn or not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from support.mock_backend import EOG, MockBackend
from toolprm_lite import SearchConfig, Searcher, SearchResult, _core
from toolprm_lite.formats import FORMATS, get_format, write_json
from toolprm_lite.formats.hermes import Hermes
from toolprm_lite.reward.base import CandidateStep

TOOLS = [
    {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city"],
        },
    },
]
FORMS = pytest.mark.parametrize("form", ["json-list", "hermes"])
CONSTRAIN = pytest.mark.parametrize("constrain", ["off", "on"])


def call(city: str, **more: str) -> dict[str, Any]:
    return {"name": "weather", "arguments": {"city": city, **more}}


def calls_wanted(steps: list[CandidateStep]) -> list[float]:
    """The more calls, the better."""
    return [0.3 + 0.2 * min(step.response.count('"name"'), 3) for step in steps]


def calls_unwanted(steps: list[CandidateStep]) -> list[float]:
    return [0.9 - 0.2 * min(step.response.count('"name"'), 3) for step in steps]


def no_unit(steps: list[CandidateStep]) -> list[float]:
    return [0.1 if "unit" in step.response else 0.9 for step in steps]


def search(
    responses: dict[str, float], reward: object, form: str, constrain: str, **settings: Any
) -> SearchResult:
    """With one draw a beam, at temperature 0: only the likeliest token is drawn."""
    config = SearchConfig(
        call_format=form, constrain=constrain, strategy="step-beam", beams=2, expand=1,
        temperature=0.0, aggregate="last", **settings,
    )  # fmt: skip
    with Searcher(MockBackend(responses)) as searcher:
        return searcher.search("Weather in Rome?", TOOLS, config, reward=reward)


@CONSTRAIN
@FORMS
@pytest.mark.parametrize(
    ("rare", "way_floor", "found"),
    [(0.02, 0.001, True), (0.02, 1.0, False), (0.0001, 0.001, False), (0.0001, 0.00001, True)],
)
def test_another_call(
    form: str, constrain: str, rare: float, way_floor: float, found: bool
) -> None:
    write = get_format(form).write
    one, two = write([call("Rome")]), write([call("Rome"), call("Paris")])
    result = search({one: 1 - rare, two: rare}, calls_wanted, form, constrain, way_floor=way_floor)
    assert result.complete
    assert len(result.calls) == (2 if found else 1)


@CONSTRAIN
@FORMS
@pytest.mark.parametrize(("way_floor", "found"), [(0.001, True), (1.0, False)])
def test_the_end_of_the_response(form: str, constrain: str, way_floor: float, found: bool) -> None:
    write = get_format(form).write
    one, two = write([call("Rome")]), write([call("Rome"), call("Paris")])
    result = search({two: 0.98, one: 0.02}, calls_unwanted, form, constrain, way_floor=way_floor)
    assert result.complete
    assert len(result.calls) == (1 if found else 2)


@CONSTRAIN
@FORMS
@pytest.mark.parametrize(("way_floor", "found"), [(0.001, True), (1.0, False)])
def test_the_end_of_the_call(form: str, constrain: str, way_floor: float, found: bool) -> None:
    write = get_format(form).write
    likely, other = write([call("Rome", unit="C")]), write([call("Rome")])
    result = search({likely: 0.98, other: 0.02}, no_unit, form, constrain, way_floor=way_floor)
    assert result.calls == [call("Rome") if found else call("Rome", unit="C")]


@CONSTRAIN
@pytest.mark.parametrize(
    ("form", "declining"), [("json-list", "[]"), ("hermes", ""), ("hermes", "No tool fits.")]
)
@pytest.mark.parametrize(("way_floor", "found"), [(0.001, True), (1.0, False)])
def test_declining(
    form: str, declining: str, constrain: str, way_floor: float, found: bool
) -> None:
    one = get_format(form).write([call("Rome")])
    result = search(
        {one: 0.98, declining: 0.02}, calls_unwanted, form, constrain, way_floor=way_floor
    )
    assert result.complete
    assert len(result.calls) == (0 if found else 1)
    assert result.text == (declining if found else one)


@CONSTRAIN
def test_declining_is_no_way_where_a_call_is_required(constrain: str) -> None:
    one = get_format("hermes").write([call("Rome")])
    result = search(
        {one: 0.9, "": 0.05, "No.": 0.05}, calls_unwanted, "hermes", constrain,
        tool_choice="required", trace=True,
    )  # fmt: skip
    assert result.calls == [call("Rome")]
    assert {entry.fate for entry in result.trace} == {"kept"}


def test_text_after_a_call_ends_the_response_too() -> None:
    """The likeliest of the ends is looked at, and no way begins within the text."""
    write = get_format("hermes").write
    one, two = write([call("Rome")]), write([call("Rome"), call("Paris")])
    result = search(
        {two: 0.9, f"{one} Done, then.": 0.06, one: 0.04}, calls_unwanted, "hermes", "off"
    )
    assert result.calls == [call("Rome")]
    assert result.tokens[-1] == EOG


def test_calls_without_white_space_between_them() -> None:
    hermes = get_format("hermes")
    one = hermes.write([call("Rome")])
    both = one + hermes.write([call("Paris")])
    result = search({one: 0.98, both: 0.02}, calls_wanted, "hermes", "off")
    assert [each["arguments"]["city"] for each in result.calls] == ["Rome", "Paris"]


class Marked(Hermes):
    """A marker of several tokens before each call, and none after it, as in Mistral's formats."""

    name = "marked"

    def core(self) -> _core.CallFormat:
        return _core.CallFormat(open_marker="[CALL]")

    def write(self, calls: Sequence[Mapping[str, Any]]) -> str:
        return "".join("[CALL]" + write_json(call) for call in calls)


def test_a_marker_of_several_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first token is the way, and is followed."""
    monkeypatch.setitem(FORMATS, "marked", Marked())
    one, two = (Marked().write([call("Rome"), call("Paris")][:n]) for n in (1, 2))
    found = search({one: 0.98, two: 0.02}, calls_wanted, "marked", "off")
    assert len(found.calls) == 2
    found = search({two: 0.98, one: 0.02}, calls_unwanted, "marked", "off")
    assert len(found.calls) == 1
    found = search({one: 0.98, "No.": 0.02}, calls_unwanted, "marked", "off")
    assert found.text == "No."


def test_json_in_the_text_is_no_way() -> None:
    one = get_format("hermes").write([call("Rome")])
    text = "I can't: {} and []" + json.dumps(["a"])
    result = search({one: 0.02, text: 0.98}, calls_wanted, "hermes", "off")
    assert result.calls == []
