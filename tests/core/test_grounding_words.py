"""The features that read words: values in another form, omitted parameters, fitting tools, calls
that were made before. Examples."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from toolprm_lite import _core
from toolprm_lite.grounded import load_words, make_grounding, past_calls
from toolprm_lite.prompt import parse_messages
from toolprm_lite.tools import parse_tools

Tool = dict[str, Any]
NAMES = _core.Grounding.names()
WORDS = load_words()
HISTORY = Sequence[tuple[str, "str | bytes"]]


def steps_of(calls: list[dict[str, Any]], tools: list[Tool]) -> list[_core.Step]:
    segmenter = _core.Segmenter(json.dumps([{"name": tool["name"]} for tool in tools]))
    steps = segmenter.feed(json.dumps(calls, ensure_ascii=False).encode())
    assert not segmenter.dead, segmenter.death
    return steps


def judge(
    calls: list[dict[str, Any]],
    user: str | bytes,
    tools: list[Tool],
    history: HISTORY = (),
    words: _core.Words | None = WORDS,
) -> list[dict[str, float]]:
    """The features of each step, by name."""
    steps = steps_of(calls, tools)
    conversation: list[tuple[str, str | bytes]] = [("system", "Be brief."), ("user", user)]
    grounding = _core.Grounding(json.dumps(tools), conversation, words=words, history=history)
    rows = [grounding.features(steps[: i + 1]) for i in range(len(steps))]
    return [dict(zip(NAMES, row.tolist(), strict=True)) for row in rows]


def given(value: Any, user: str | bytes, words: _core.Words | None = WORDS) -> dict[str, float]:
    call = {"name": "f", "arguments": {"x": value}}
    return judge([call], user, [{"name": "f"}], words=words)[1]


@pytest.mark.parametrize(
    ("value", "user", "expected"),
    [
        # Dates
        ("2023-03-25", "on March 25th, 2023", True),
        ("2023-03-25", "on March 25", True),
        ("2023-03-26", "on March 25", False),
        ("2023-03-25", "the 25th of March", True),
        ("2023-03-25", "the twenty-fifth of March", True),
        ("2024-03-25", "March 25, 2023", False),
        ("03/25/2023", "March 25 2023", True),
        ("25.3.2023", "March 25 2023", True),
        ("5/5/2023", "May 5 2023", True),
        ("March 25", "2023-03-25", True),
        ("May 5th", "5 May", True),
        ("2023-03", "in March", True),
        ("2023-04", "in March", False),
        (3, "in March", True),
        ("2023-13-45", "x", False),
        # Weekdays and relative days
        ("2023-03-25", "this Saturday", True),
        ("2023-03-26", "this Saturday", False),
        ("2024-02-29", "on Thursday", True),
        ("Saturday", "2023-03-25", True),
        ("Sunday", "2023-03-25", False),
        ("2023-04-01", "on 2023-03-25", False),  # another Saturday
        ("2023-03-26", "today is 2023-03-25, see you tomorrow", True),
        ("2023-03-27", "today is 2023-03-25, see you tomorrow", False),
        # Times
        ("18:00", "at 6 pm", True),
        ("18:00", "at 6", True),
        ("18:00", "for 6 p.m.", True),
        ("06:00", "at 6 pm", False),
        ("18:30", "at half past six", True),
        ("18:00", "at half past six", False),
        ("6:30 PM", "at half past six in the evening", True),
        ("06:30", "half past six in the evening", False),
        ("18:00:00", "six o'clock", True),
        ("17:45", "quarter to six", True),
        ("12:00", "at noon", True),
        ("half past six", "18:30", True),
        (18, "at 6 pm", True),
        ("2023-03-25T18:00:00Z", "Saturday at 6pm", True),
        ("2023-03-25T18:00:00+02:00", "Saturday at 7pm", False),
        ("99:99", "at 9", False),
        # Numbers
        (3, "three", True),
        ("3", "three people", True),
        ("two", "2", True),
        (25, "twenty-five", True),
        (225, "two hundred and twenty five", True),
        (2500000, "2.5 million", True),
        (2.5, "two and a half hours", True),
        (21, "the twenty-first", True),
        (12, "a dozen eggs", True),
        (7, "three people", False),
        (23, "two or three", False),
        ("50%", "fifty percent", True),
        (0.5, "50 percent", True),
        (2, "a double espresso", True),
        # Durations
        ("00:25:00", "for twenty-five minutes", True),
        ("00:25:00", "for twenty-five hours", False),
        ("01:30:00", "for one and a half hours", True),
        ("01:30:00", "for one hour and thirty minutes", True),
        ("00:00:45", "forty-five seconds", True),
        ("90 minutes", "an hour and a half, 1.5 hours", True),
        ("10 minutes", "10 or 15 minutes", True),
        ("10 minutes", "10 people", False),
        # Words and units
        ("dogs", "a dog", True),
        ("city", "many cities", True),
        ("10 km", "ten kilometers", True),
        ("10 kilometers", "10km", True),
        ("10 miles", "10km", False),
        ("new york hotels", "a hotel in New York", True),
        ("Moulin Rouge", "a table", False),
        ("the", "x", False),
        ("", "x", False),
        (["dogs", 3], "three dogs", True),
        (["dogs", 4], "three dogs", False),
        (True, "true", False),
    ],
)
def test_values_in_another_form(value: Any, user: str, expected: bool) -> None:
    features = given(value, user)
    assert features["value_given"] == features["value_given_in_last_message"] == expected
    if expected:
        assert features["value_words_given"] == 1


def test_what_is_found_is_given() -> None:
    for value, user in (("York", "newyork"), ("+", "a + b"), ("the", "the"), (5, "5"), ("a", "a")):
        features = given(value, user)
        assert features["value_found"] == features["value_given"] == 1
        assert features["value_words_given"] == 1


def test_the_share_that_is_given() -> None:
    assert given("Paris on March 25th", "Paris")["value_words_given"] == 0.5  # a date is one word
    assert given([1, 2, 3], "one, two")["value_words_given"] == pytest.approx(2 / 3)


def test_a_language_without_lists_knows_digits() -> None:
    assert load_words("xx") is None
    for value, user, expected in (
        ("2023-03-25", "25/03/2023", 1),
        ("2023-03-25", "am 25.3.2023", 1),
        ("18:00", "um 18:00:00", 1),
        ("Hunde", "meine Hunde", 1),
        (3, "three", 1),  # known to every language, as before
        (25, "twenty-five", 0),
        ("2023-03-25", "March 25", 0),
        ("dogs", "a dog", 0),
    ):
        assert given(value, user, words=None)["value_given"] == expected, (value, user)


WEATHER: Tool = {
    "name": "get_forecast",
    "description": "Gets the weather forecast of a city.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Name of the city"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
            "wind_speed": {"type": "boolean", "description": "Whether gusts are reported, too"},
            "hours": {"type": "integer", "description": "How far ahead to look"},
        },
        "required": ["city"],
    },
}


def last_of(arguments: dict[str, Any], user: str, kind: int = -2) -> dict[str, float]:
    return judge([{"name": "get_forecast", "arguments": arguments}], user, [WEATHER])[kind]


@pytest.mark.parametrize("kind", [-3, -2, -1])  # the ends of the arguments, the call, the response
def test_omitted_parameters(kind: int) -> None:
    row = last_of({"city": "Rome"}, "Forecast for Rome", kind)
    assert row["omitted_mentioned"] == row["omitted_choices_in_last_message"] == 0
    assert row["omitted_name_in_last_message"] == row["omitted_description_in_last_message"] == 0

    row = last_of({"city": "Rome"}, "Rome in Fahrenheit, and the speed of the wind", kind)
    assert row["omitted_mentioned"] == pytest.approx(math.log1p(2))
    assert row["omitted_choices_in_last_message"] == pytest.approx(math.log1p(1))
    assert row["omitted_name_in_last_message"] == 1
    row = last_of({"city": "Rome", "unit": "fahrenheit"}, "Rome in Fahrenheit", kind)
    assert row["omitted_mentioned"] == row["omitted_choices_in_last_message"] == 0

    assert last_of({"city": "Rome"}, "Rome in Celsius", kind)["omitted_mentioned"] == 0  # default
    row = last_of({"city": "Rome"}, "Rome. Report gusts!", kind)
    assert row["omitted_description_in_last_message"] == 1
    assert row["omitted_mentioned"] == pytest.approx(math.log1p(1))


def test_omitted_parameters_are_those_of_the_call() -> None:
    calls = [
        {"name": "get_forecast", "arguments": {"city": "Rome", "hours": 5}},
        {"name": "get_forecast", "arguments": {"city": "Oslo"}},
    ]
    rows = judge(calls, "Rome and Oslo, five hours", [WEATHER])
    ends = [row["omitted_mentioned"] for row in rows if row["required_given_share"] == 1]
    assert [end > 0 for end in ends] == [False, False, True, True, True]


def test_choices_that_a_schema_hides() -> None:
    tool = {
        "name": "f",
        "parameters": {
            "properties": {
                "a": {"$ref": "#/$defs/size"},
                "b": {"anyOf": [{"type": "null"}, {"const": 40}]},
                "c": {"type": "array", "items": {"enum": ["dark mode", "s"]}},
                "d": {"enum": ["to", "on", ""]},
            },
            "$defs": {"size": {"enum": ["very_large", "tiny"]}},
        },
    }
    call = {"name": "f", "arguments": {}}
    for user, count in (
        ("a very large one", 1),
        ("a very big one", 0),
        ("forty of them in dark modes", 2),
        ("go on to s", 0),  # stop words and single letters name nothing
    ):
        row = judge([call], user, [tool])[-2]
        assert row["omitted_choices_in_last_message"] == pytest.approx(math.log1p(count)), user


TOOLS: list[Tool] = [
    WEATHER,
    {"name": "bookTable", "description": "Books a table in a restaurant."},
    {"name": "x1y2", "description": "Plays songs."},
]


def test_how_well_tools_fit() -> None:
    calls: list[dict[str, Any]] = [{"name": tool["name"], "arguments": {}} for tool in TOOLS]
    rows = judge(calls, "Could you book me a restaurant table, and play a song?", TOOLS)
    names = [row for row in rows if row["tools"]]
    fits = [row["tool_fit"] for row in names]
    # The message is about book, restaurant, table, play and song; two of these in two words.
    assert fits == pytest.approx([0, 3 / math.sqrt(3 * 5), 2 / math.sqrt(3 * 5)])
    assert [row["tool_fit_rank"] for row in names] == [1, 0, 0.5]
    assert [row["other_tool_fit"] for row in names] == pytest.approx([fits[1], fits[2], 0])
    assert rows[-1]["other_tool_fit"] == 0  # all are called


def test_the_fit_of_declining() -> None:
    fitting = judge([], "Is there a forecast for the city of Rome?", TOOLS)[-1]
    foreign = judge([], "Tell me a joke", TOOLS)[-1]
    assert fitting["declined"] == foreign["declined"] == 1
    assert fitting["other_tool_fit"] > 0.5
    assert foreign["other_tool_fit"] == 0


def test_calls_of_the_history() -> None:
    history = [("get_forecast", '{"city": "Rome", "unit": "celsius"}'), ("gone", "{}")]
    same = {"name": "get_forecast", "arguments": {"city": "\u0052ome"}}  # celsius is the default
    other = {"name": "get_forecast", "arguments": {"city": "Oslo"}}
    foreign = {"name": "bookTable", "arguments": {}}
    for calls, function, call in (
        ([same], [1, 0, 1, 1, 1], [0, 0, 1, 1, 1]),
        ([other], [1, 0, 1, 1, 1], [0] * 5),
        ([foreign], [0] * 4, [0] * 4),
        ([other, same], [1, 0, 1, 1, 1, 0, 1, 1, 1], [0] * 6 + [1, 1, 1]),
        ([], [0], [0]),
    ):
        rows = judge(calls, "Rome", TOOLS, history)
        assert [row["function_in_history"] for row in rows] == function
        assert [row["call_in_history"] for row in rows] == call


def test_history_that_is_no_call() -> None:
    history = [("get_forecast", "{"), ("get_forecast", "[1]"), ("", ""), ("bookTable", b"\xff")]
    rows = judge([{"name": "bookTable", "arguments": {}}], "x", TOOLS, history)
    assert all(np.isfinite(list(row.values())).all() for row in rows)


def test_the_calls_of_a_conversation() -> None:
    call = {"name": "f", "arguments": {"a": [1]}}
    text = json.dumps(call)
    messages = parse_messages(
        [
            {"role": "user", "content": text},
            {"role": "assistant", "tool_calls": [{"function": call}, {"function": call}]},
            {"role": "assistant", "content": text},
            {"role": "assistant", "content": f"[{text}, {text}]"},
            {"role": "assistant", "content": f"Sure. <tool_call>\n{text}\n</tool_call>"},
            {"role": "assistant", "content": '{"name": 1}'},
            {"role": "assistant", "content": "[" * 100_000},
            {"role": "assistant", "content": "{no json"},
            {"role": "assistant", "content": '{"name": "g"}'},
            {"role": "user", "content": "again"},
        ]
    )
    assert list(past_calls(messages)) == [("f", '{"a": [1]}')] * 6 + [("g", "{}")]
    grounding = make_grounding(messages, parse_tools([{"name": "f"}]))
    steps = steps_of([call], [{"name": "f"}])
    row = dict(zip(NAMES, grounding.features(steps[:3]).tolist(), strict=True))
    assert row["call_in_history"] == 1


def test_bytes_that_are_no_text() -> None:
    junk = bytes(range(256)) * 4 + b"\xe2\x80 March \xc3 25 half past \xe2 one million million"
    tools = [{**WEATHER, "description": "\udcff"[:0] + "a" * 5000}]
    rows = judge([{"name": "get_forecast", "arguments": {"city": "March 25"}}], junk, tools)
    assert all(np.isfinite(list(row.values())).all() for row in rows)


@pytest.mark.parametrize(
    "text",
    [
        "zero " * 500, "one million " * 500, "hundred and " * 500, "half past " * 500,
        "at 6 " * 500, "25 of the " * 500, "march " * 500, "1:2:3/4-5.6," * 500, "a.m. p.m. " * 500,
        "9" * 5000, "1,234,567,890.5% k " * 300, "quarter to noon tomorrow " * 300,
    ],
)  # fmt: skip
def test_odd_texts_end(text: str) -> None:
    for value, user in ((text, text), (text[:-2], "x"), ("x", text)):
        assert all(0 <= number < 100 for number in given(value, user).values())


def test_huge_input_is_cheap() -> None:
    properties = {
        f"parameter {n}": {"enum": [f"choice {k}" for k in range(300)], "description": "d " * 50}
        for n in range(300)
    }
    tool = {"name": "f", "parameters": {"properties": properties}}
    user = "march 25 at half past six, twenty five choices of parameter 7 " * 2000
    value = "at twenty-five past six " * 20_000
    begin = time.perf_counter()
    rows = judge([{"name": "f", "arguments": {"x": value}}] * 3, user, [tool])
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert time.perf_counter() - begin < 10


@pytest.mark.parametrize(
    "lists",
    ["", "[]", '{"stop": {}}', '{"stop": [1]}', '{"months": {"x": 13}}', '{"numbers": {"x": "1"}}',
     '{"units": {"x": {}}, "clock_words": []}'],
)  # fmt: skip
def test_unusable_lists_are_refused(lists: str) -> None:
    with pytest.raises(ValueError, match="word lists"):
        _core.Words(lists)
    assert given(3, "3", words=_core.Words("{}"))["value_given"] == 1
