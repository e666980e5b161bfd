"""Grounding features against examples, and against a plain-Python twin."""

from __future__ import annotations

import json
import math
import re
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolprm_lite import _core
from toolprm_lite.grounded import load_words

Tool = dict[str, Any]
NAMES = _core.Grounding.names()
WORDS = load_words()
OLD = NAMES[:37]  # what the twin knows
QUOTED = 80
MENTIONS = 64

# The twin. It works on UTF-8 as Latin-1, so that a character is a byte.

WORD = re.compile(r"[0-9A-Za-z\x80-\xff]+")
NUMBER = re.compile(
    r"(?<![a-z_0-9])([0-9]{1,3}(?:,[0-9]{3}(?![0-9]))+|[0-9]+)(\.[0-9]+)?"
)  # fmt: skip
TYPOGRAPHIC = [
    ("\xc2\xa0|\xe2\x80[\x80-\x8a\xaf]", " "),
    ("\xe2\x80[\x90-\x95]", "-"),
    ("\xe2\x80[\x98-\x9b]", "'"),
    ("\xe2\x80[\x9c-\x9f]", '"'),
]
SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
NAMED = {name: float(value) for value, name in enumerate(SMALL.split())} | {
    "thirty": 30.0, "forty": 40.0, "fifty": 50.0, "sixty": 60.0, "seventy": 70.0, "eighty": 80.0,
    "ninety": 90.0, "hundred": 100.0, "thousand": 1e3, "million": 1e6, "billion": 1e9, "half": 0.5,
    "dozen": 12.0, "once": 1.0, "twice": 2.0,
}  # fmt: skip
FUNCTION_WORDS = [
    "about", "also", "been", "each", "from", "have", "into", "must", "only", "such", "than", "that",
    "them", "then", "these", "they", "this", "those", "what", "when", "where", "which", "will",
    "with", "your",
]  # fmt: skip


def plain(text: str) -> str:
    for pattern, ascii_form in TYPOGRAPHIC:
        text = re.sub(pattern, ascii_form, text)
    return text


def fold(text: str) -> str:
    text = re.sub("[A-Z]", lambda match: match[0].lower(), plain(text))
    return re.sub("[ \t-\r]+", " ", text).strip(" ")


def words(text: str) -> list[str]:
    return WORD.findall(text)


def as_bytes(text: str) -> str:
    return text.encode().decode("latin-1")


def scaled(value: float, rest: str) -> float:
    if rest.startswith("%"):
        return value / 100
    word = re.match(r" ?([0-9A-Za-z\x80-\xff]*)", rest)
    assert word is not None
    if word[1] == "percent":
        return value / 100
    if word[0] == "k":
        return value * 1e3
    if word[1] in ("hundred", "thousand", "million", "billion", "dozen"):
        return value * NAMED[word[1]]
    return value


def digit_numbers(text: str) -> list[tuple[float, float]]:
    found = []
    for match in NUMBER.finditer(text):
        value = float(match[0].replace(",", ""))
        if re.search(r"(^|[ (\[,:=])-$", text[: match.start()]):
            value = -value
        found.append((value, scaled(value, text[match.end() :])))
    return found


class Text:
    def __init__(self, text: str) -> None:
        self.folded = fold(text)
        self.words = set(words(self.folded))
        self.numbers = {number for pair in digit_numbers(self.folded) for number in pair}
        for match in WORD.finditer(self.folded):
            if match[0] in NAMED:
                value = NAMED[match[0]]
                self.numbers |= {value, scaled(value, self.folded[match.end() :])}

    def match(self, leaf: str | float) -> int:
        """0: not there, 1: inside of words, 2: as a phrase."""
        if isinstance(leaf, float):
            return 2 * (leaf in self.numbers)
        if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", leaf) and float(leaf) in self.numbers:
            return 2
        inside = leaf in self.folded
        starts = (i for i in range(len(self.folded)) if self.folded.startswith(leaf, i))
        if any(self.border(i) and self.border(i + len(leaf)) for i in starts):
            return 2
        return int(inside)

    def border(self, at: int) -> bool:
        around = self.folded[max(at - 1, 0) : at + 1]
        return at in (0, len(self.folded)) or WORD.fullmatch(around) is None

    def has_word(self, word: str) -> bool:
        return word in self.words or (
            re.fullmatch("[0-9]+", word) is not None and float(word) in self.numbers
        )


def stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) >= len(ending) + 3:
            return word[: -len(ending)]
    return word


def name_words(name: str) -> list[str]:
    return words(fold(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)))


def leaves(value: Any) -> list[str | float]:
    if isinstance(value, str):
        folded = fold(as_bytes(value))
        return [folded] if folded else []
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return [float(value)]
        except OverflowError:
            return [math.inf if value > 0 else -math.inf]
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else []


def same(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


def mentions_of(message: str) -> list[str]:
    text = plain(message)
    found = []
    i = 0
    while i < len(text):
        rest = text[i:]
        match = re.match(r'"([^"\n]{0,80})"|`([^`\n]{0,80})`', rest)
        if match is None and not (i and WORD.fullmatch(text[i - 1])):
            match = re.match(
                r"'(?=[0-9A-Za-z\x80-\xff])([^\n]{0,80}?)'(?![0-9A-Za-z\x80-\xff])", rest
            )
        if match is not None:
            found.append(next(group for group in match.groups() if group is not None))
            i += match.end()
        else:
            i += 1
    for word in WORD.finditer(text):
        before = re.sub(r"""[ \t"'`(\[{*#>-]+$""", "", text[: word.start()])
        if (
            len(word[0]) > 1
            and "A" <= word[0][0] <= "Z"
            and not re.search(r"(^|[.!?:\n\r])$(?!\n)", before)
        ):
            found.append(word[0])
    return list(dict.fromkeys(filter(None, map(fold, found))))[:MENTIONS]


class Twin:
    def __init__(self, tools: list[Tool], conversation: list[tuple[str, str]]) -> None:
        conversation = [(role, as_bytes(text)) for role, text in conversation]
        last = next((text for role, text in reversed(conversation) if role == "user"), "")
        self.tools = {tool["name"]: tool for tool in tools}
        self.all = Text("".join(text + "\x1f" for _, text in conversation))
        self.last = Text(last)
        self.numbers = list(dict.fromkeys(digit_numbers(fold(last))))[:MENTIONS]
        self.mentions = mentions_of(last)
        stems = {stem(word) for word in words(fold(last))}
        self.shares = {}
        for tool in tools:
            content = {
                word
                for word in words(fold(as_bytes(tool.get("description", ""))))
                if len(word) >= 4 and word not in FUNCTION_WORDS
            }
            self.shares[tool["name"]] = [
                sum(stem(word) in stems for word in group) / len(group) if group else 0.0
                for group in (set(name_words(as_bytes(tool["name"]))), content)
            ]

    def features(self, chain: list[_core.Step], response: bytes) -> dict[str, float]:
        step = chain[-1]
        if step.kind == "FUNC_NAME":
            return self.name(chain)
        if step.kind == "ARG_VALUE":
            return self.value(chain, response)
        return self.finish(chain, response)

    def name(self, chain: list[_core.Step]) -> dict[str, float]:
        called = [str(step.function) for step in chain if step.kind == "FUNC_NAME"]
        name = called[-1]
        overlap = {key: np.float32(a) + np.float32(b) for key, (a, b) in self.shares.items()}
        better = sum(other > overlap[name] for other in overlap.values())
        return {
            "calls": math.log1p(len(called)),
            "name_words_in_last_message": self.shares[name][0],
            "description_words_in_last_message": self.shares[name][1],
            "tool_rank": better / max(1, len(self.tools) - 1),
            "tools": math.log1p(len(self.tools)),
            "times_called_before": math.log1p(called.count(name) - 1),
            "other_tools_unused": math.log1p(len(self.tools) - len(set(called))),
        }

    def schema(self, function: str | None) -> tuple[dict[str, Any], list[str]]:
        parameters = self.tools[str(function)].get("parameters", {})
        required = list(dict.fromkeys(parameters.get("required", [])))
        return {name: {} for name in required} | parameters.get("properties", {}), required

    def value(self, chain: list[_core.Step], response: bytes) -> dict[str, float]:
        step = chain[-1]
        raw = response[step.begin : step.end]
        value = json.loads(raw)
        properties, required = self.schema(step.function)
        schema = properties.get(str(step.argument))
        before = [
            json.loads(response[other.begin : other.end])
            for other in chain[:-1]
            if other.kind == "ARG_VALUE" and other.call == step.call
        ]
        length = len(value.encode()) if isinstance(value, str) else len(raw)
        empty = not value.strip(" \t\n\r\v\f") if isinstance(value, str) else not value
        result: dict[str, float] = {
            "value_length": math.log1p(length) / 5,
            "value_empty": empty,
            "value_repeated_in_call": any(same(value, other) for other in before),
            "arguments_before": len(before) / 8,
            "value_is_string": isinstance(value, str),
            "value_is_number": isinstance(value, (int, float)) and not isinstance(value, bool),
            "value_is_boolean": isinstance(value, bool),
            "value_is_array": isinstance(value, list),
            "value_is_object": isinstance(value, dict),
        }
        if schema is not None:
            result["parameter_required"] = step.argument in required
            result["parameter_listed"] = "enum" in schema or "const" in schema
            result["parameter_has_default"] = "default" in schema
            result["value_is_default"] = "default" in schema and same(schema["default"], value)
        parts = leaves(value)
        if not parts:
            return result
        result["value_found"] = all(self.all.match(part) for part in parts)
        result["value_found_in_last_message"] = all(self.last.match(part) for part in parts)
        result["value_found_as_phrase"] = all(self.all.match(part) == 2 for part in parts)
        if schema is not None:
            own = Text(as_bytes(schema.get("description", "")))
            result["value_in_parameter_description"] = all(own.match(p) == 2 for p in parts)
        whole = Text(as_bytes(self.tools[str(step.function)].get("description", "")))
        result["value_in_tool_description"] = all(whole.match(part) == 2 for part in parts)
        for key, where in (("", self.all), ("_in_last_message", self.last)):
            hits = [
                hit
                for part in parts
                for hit in (
                    [bool(where.match(part))]
                    if isinstance(part, float)
                    else [where.has_word(word) for word in words(part)]
                )
            ]
            found = result[f"value_found{key}"]
            result[f"value_words_found{key}"] = sum(hits) / len(hits) if hits else found
        return result

    def finish(self, chain: list[_core.Step], response: bytes) -> dict[str, float]:
        step = chain[-1]
        total = step.kind == "TOTAL_FINISH"
        calls = [other for other in chain if other.kind == "FUNC_NAME"]
        given = [other for other in chain if other.kind == "ARG_VALUE"]
        required = required_given = omitted = optional_given = 0
        for call in calls:
            if not total and call.call != step.call:
                continue
            properties, needed = self.schema(call.function)
            names = [other.argument for other in given if other.call == call.call]
            required += len(needed)
            required_given += sum(name in needed for name in names)
            optional_given += sum(name not in needed for name in names)
            omitted += sum(name not in names and name not in needed for name in properties)
        parts = [
            leaf
            for other in given
            for leaf in leaves(json.loads(response[other.begin : other.end]))
        ]
        texts = [part for part in parts if isinstance(part, str)]
        numbers = {part for part in parts if isinstance(part, float)}
        numbers |= {number for text in texts for pair in digit_numbers(text) for number in pair}
        numbers_used = sum(bool(numbers & set(pair)) for pair in self.numbers)
        mentions_used = sum(any(m in text for text in texts) for m in self.mentions)
        return {
            "required_given_share": required_given / required if required else 1,
            "optional_omitted": math.log1p(omitted),
            "optional_given": math.log1p(optional_given),
            "numbers_used_share": numbers_used / len(self.numbers) if self.numbers else 1,
            "numbers_used": math.log1p(numbers_used),
            "numbers_unused": math.log1p(len(self.numbers) - numbers_used),
            "mentions_used_share": mentions_used / len(self.mentions) if self.mentions else 1,
            "mentions_used": math.log1p(mentions_used),
            "mentions_unused": math.log1p(len(self.mentions) - mentions_used),
            "declined": total and not calls,
            "calls": math.log1p(len(calls)),
        }


# Tools that allow anything: what a value may be is not this test's business.

TOOLS: list[Tool] = [
    {
        "name": "get_weather",
        "description": "Gets the forecast of a city for some days. Say 'New York' or 14 days.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"description": "City, e.g. New York or São Paulo"},
                "days": {"default": 5, "description": "1 to 14"},
                "unit": {"enum": ["celsius", "fahrenheit"], "default": "celsius"},
                "nested": {"default": {"a": [1.0, True]}},
            },
            "required": ["city", "undescribed"],
        },
    },
    {"name": "bookHTTPTable4Two", "description": "Booking a table"},
    {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"const": 1}}}},
]
OPEN: list[Tool] = [{"name": tool["name"]} for tool in TOOLS]


def steps_of(response: bytes, tools: list[Tool] = OPEN) -> list[_core.Step]:
    segmenter = _core.Segmenter(json.dumps(tools))
    steps = segmenter.feed(response)
    if not segmenter.finished:
        steps += segmenter.finish()
    assert not segmenter.dead, segmenter.death
    return steps


def judge(
    calls: list[dict[str, Any]], user: str | bytes, tools: list[Tool] = TOOLS
) -> list[dict[str, float]]:
    """The features of each step, by name."""
    response = json.dumps(calls, ensure_ascii=False).encode()
    steps = steps_of(response, [{"name": tool["name"]} for tool in tools])
    grounding = _core.Grounding(json.dumps(tools), [("system", "Be brief."), ("user", user)])
    rows = [grounding.features(steps[: i + 1]) for i in range(len(steps))]
    return [dict(zip(NAMES, row.tolist(), strict=True)) for row in rows]


def judge_value(value: Any, user: str, name: str = "city") -> dict[str, float]:
    return judge([{"name": "get_weather", "arguments": {name: value}}], user)[1]


def test_names() -> None:
    assert len(NAMES) == len(set(NAMES)) == 50
    row = _core.Grounding("[]", []).features(steps_of(b""))
    assert row.shape == (50,)
    assert row.dtype == np.float32


@pytest.mark.parametrize(
    ("value", "user", "found", "phrase", "share"),
    [
        ("New York", "weather in new  york?", 1, 1, 1),
        ("York", "weather in newyork", 1, 0, 0),
        ("York", "newyork, York", 1, 1, 1),
        ("New Delhi", "weather in New York", 0, 0, 0.5),
        ("São Paulo", "in São Paulo.", 1, 1, 1),
        ("l'été", "dans l\u2019été prochain", 1, 1, 1),
        ("2023-03-25", "on March 25th, 2023", 0, 0, 2 / 3),
        ("+", "a + b", 1, 1, 1),
        ("-", "a + b", 0, 0, 0),
        ("a \n b", "a b", 1, 1, 1),
        ("", "a b", 0, 0, 0),
        (5, "in 5 days", 1, 1, 1),
        (5.0, "in five days", 1, 1, 1),
        (5, "in 15 days", 0, 0, 0),
        (5, "in 5.2 days, at a5", 0, 0, 0),
        (5.2, "in 5.2km", 1, 1, 1),
        (25, "the 25th", 1, 1, 1),
        (-3, "at -3 degrees", 1, 1, 1),
        (-14, "2022-10-14", 0, 0, 0),
        (14, "2022-10-14", 1, 1, 1),
        (1200300, "1,200,300 people", 1, 1, 1),
        (2000000, "2 million", 1, 1, 1),
        (3000, "three thousand", 1, 1, 1),
        (10000, "10k", 1, 1, 1),
        (0.05, "5%", 1, 1, 1),
        ("5000", "5,000", 1, 1, 1),
        ("007", "agent 7", 1, 1, 1),
        (True, "true", 0, 0, 0),
        (None, "null", 0, 0, 0),
        (["a", 2], "a and two", 1, 1, 1),
        (["a", 3], "a and two", 0, 0, 0.5),
        ({"key": ["b"], "other": True}, "b", 1, 1, 1),
        ([], "b", 0, 0, 0),
    ],
)
def test_found(value: Any, user: str, found: float, phrase: float, share: float) -> None:
    features = judge_value(value, user)
    assert features["value_found"] == features["value_found_in_last_message"] == found
    assert features["value_found_as_phrase"] == phrase
    assert features["value_words_found"] == pytest.approx(share)
    assert features["value_words_found_in_last_message"] == pytest.approx(share)


def test_only_the_last_user_message_is_last() -> None:
    conversation = [("user", "Rome"), ("user", "Oslo"), ("assistant", "Bern?")]
    grounding = _core.Grounding(json.dumps(TOOLS), conversation)
    for city, last in (("Rome", 0), ("Oslo", 1), ("Bern", 0), ("Rome Oslo", None)):
        response = json.dumps([{"name": "weather", "arguments": {"city": city}}]).encode()
        row = grounding.features(steps_of(response)[:2])
        assert row[NAMES.index("value_found")] == (last is not None)
        assert row[NAMES.index("value_found_in_last_message")] == (last or 0)


def test_the_schema_of_a_value() -> None:
    features = judge_value("new york", "")
    assert features["value_in_parameter_description"] == 1
    assert features["value_in_tool_description"] == 1
    assert features["parameter_required"] == 1
    assert features["parameter_has_default"] == features["parameter_listed"] == 0
    features = judge_value(5.0, "", "days")
    assert features["value_is_default"] == features["parameter_has_default"] == 1
    assert features["value_in_parameter_description"] == features["parameter_required"] == 0
    assert judge_value("celsius", "", "unit")["parameter_listed"] == 1
    assert judge_value({"a": [1, True]}, "", "nested")["value_is_default"] == 1
    assert judge_value({"a": [1, 1]}, "", "nested")["value_is_default"] == 0
    assert judge_value("x", "", "undescribed")["parameter_required"] == 1
    unknown = judge_value("x", "x", "unknown")
    assert unknown["parameter_required"] == 0
    assert unknown["value_found"] == 1


def test_references_are_followed() -> None:
    tool = {
        "name": "f",
        "parameters": {
            "$ref": "#/$defs/all",
            "$defs": {
                "all": {
                    "properties": {"a": {"$ref": "#/$defs/a~1b"}, "loop": {"$ref": "#/$defs/loop"}}
                },
                "a/b": {"enum": ["x"], "default": "x", "description": "the x"},
                "loop": {"$ref": "#/$defs/loop"},
            },
        },
    }  # fmt: skip
    features = judge([{"name": "f", "arguments": {"a": "x", "loop": 1}}], "", [tool])[1]
    for name in ("parameter_listed", "value_is_default", "value_in_parameter_description"):
        assert features[name] == 1


def test_repeated_and_counted() -> None:
    arguments = {"a": "x", "b": "\u0078", "c": 5, "d": 5.0, "e": [1], "f": [1.0], "g": "5"}
    rows = judge([{"name": "weather", "arguments": arguments}] * 2, "")[1:8]
    assert [row["value_repeated_in_call"] for row in rows] == [0, 1, 0, 1, 0, 1, 0]
    assert [row["arguments_before"] * 8 for row in rows] == list(range(7))


def test_what_the_user_named_and_the_response_left_out() -> None:
    user = (
        "Book \u201cThe Ivy\u201d for 4 people near Hyde Park at 8.30. "
        "Please don't call Ana's 'old place'."
    )
    calls = [{"name": "weather", "arguments": {"city": "The ivy, hyde park", "n": 4}}]
    last = judge(calls, user)[-1]
    # Used: "the ivy", the, ivy, hyde, park. Not: "old place", ana. Book and Please begin sentences.
    assert last["mentions_used_share"] == pytest.approx(5 / 7)
    assert last["mentions_used"] == pytest.approx(math.log1p(5))
    assert last["mentions_unused"] == pytest.approx(math.log1p(2))
    assert last["numbers_used_share"] == 0.5
    assert last["numbers_unused"] == pytest.approx(math.log1p(1))
    assert last["declined"] == 0
    declined = judge([], user)[-1]
    assert declined["declined"] == declined["required_given_share"] == 1
    assert declined["numbers_used"] == declined["mentions_used"] == declined["calls"] == 0


def test_function_names() -> None:
    user = "Book a table for two in the restaurant"
    calls: list[dict[str, Any]] = [{"name": t["name"], "arguments": {}} for t in TOOLS]
    rows = [row for row in judge(calls + calls[:1], user) if row["tools"]]
    assert [row["name_words_in_last_message"] for row in rows] == pytest.approx([0, 0.5, 0, 0])
    assert [row["tool_rank"] for row in rows] == [0.5, 0, 0.5, 0.5]
    assert rows[1]["description_words_in_last_message"] == 1  # booking is book, and a table
    assert [row["times_called_before"] > 0 for row in rows] == [False, False, False, True]
    unused = [math.log1p(count) for count in (2, 1, 0, 0)]
    assert [row["other_tools_unused"] for row in rows] == pytest.approx(unused)


def test_bytes_that_are_no_text() -> None:
    junk = bytes(range(256)) * 4 + b"\xe2\x80" + b" \xc3 Rome \xe2"
    features = judge([{"name": "weather", "arguments": {"city": "Rome"}}], junk)
    assert features[1]["value_found_as_phrase"] == 1
    assert all(np.isfinite(list(row.values())).all() for row in features)


def test_numbers_at_the_end_of_doubles() -> None:
    response = b'[{"name": "weather", "arguments": {"a": %b, "b": -1e308, "c": 1e-999}}]' % (
        b"9" * 308
    )
    steps = steps_of(response)
    assert len(steps) == 7
    grounding = _core.Grounding(json.dumps(TOOLS), [("user", f"take {'9' * 400} or 1e999")])
    for i in range(len(steps)):
        assert np.isfinite(grounding.features(steps[: i + 1])).all()


def test_huge_values_are_cheap() -> None:
    value = "word " * 200_000
    response = json.dumps([{"name": "weather", "arguments": {"a": value, "b": value}}]).encode()
    steps = steps_of(response)
    grounding = _core.Grounding(json.dumps(TOOLS), [("user", '"a" B C D 1 2 3 ' * 50)])
    begin = time.perf_counter()
    for i in range(len(steps)):
        assert np.isfinite(grounding.features(steps[: i + 1])).all()
    assert time.perf_counter() - begin < 5


def test_unusable_input_is_refused() -> None:
    for tools in ("{}", "[", '[{"name": ""}]', "[1]"):
        with pytest.raises(ValueError, match="tool"):
            _core.Grounding(tools, [])
    grounding = _core.Grounding(json.dumps(TOOLS), [])
    with pytest.raises(ValueError, match="no step"):
        grounding.features([])
    with pytest.raises(TypeError):
        grounding.features([None])  # type: ignore[list-item]


def test_a_foreign_list_of_tools_does_no_harm() -> None:
    steps = steps_of(b'[{"name": "weather", "arguments": {"\\u0061": [1, "x"], "b": 2}}]')
    for tools in (TOOLS, []):
        grounding = _core.Grounding(json.dumps(tools), [("user", 'x "y" 1 Z')])
        for i in range(len(steps)):
            assert np.isfinite(grounding.features(steps[: i + 1])).all()


PIECES = [
    "New York", "new", "York", "Paris", "São Paulo", "celsius", "5", "14", "5.5", "-3", "1,200",
    "12,34", "7%", "2 million", "three", "half", "3k", "a4", "x_1", "2022-10-14", "10:30", "25th",
    "weather", "Booking", "tables", "HTTP", '"', "'", "`", "don't", "\u2019", "\u201c", "\u201d",
    "\u2013", "\u00a0", " ", "\n", "\t", ".", ",", "!", "?", ":", "(", "-", "_", "é", "日本",
    "\x1f", "%",
]  # fmt: skip
texts = st.lists(
    st.sampled_from(PIECES) | st.sampled_from([" ", " "]) | st.text(max_size=3), max_size=24
).map("".join)
short = st.lists(st.sampled_from(PIECES), max_size=4).map("".join) | st.text(max_size=4)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-20, 20)
    | st.sampled_from([0.05, 0.07, 5.5, 1200, 2e6, 3000, 14, 2022, 10**300])
    | st.floats(-1e15, 1e15, allow_nan=False)
    | short
    | short
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "é"]), inner, max_size=3)
    ),
    max_leaves=5,
)
arguments = st.dictionaries(
    st.sampled_from(["city", "days", "unit", "nested", "undescribed", "unknown", "ü\n"]),
    values,
    max_size=4,
)
call_lists = st.lists(
    st.tuples(st.sampled_from([tool["name"] for tool in TOOLS]), arguments).map(
        lambda call: {"name": call[0], "arguments": call[1]}
    ),
    max_size=3,
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), texts), max_size=3),
    call_lists,
    st.booleans(),
)
def test_twin(conversation: list[tuple[str, str]], calls: list[Any], escaped: bool) -> None:
    response = json.dumps(calls, ensure_ascii=escaped).encode()
    steps = steps_of(response)
    grounding = _core.Grounding(json.dumps(TOOLS), conversation)
    history = [(call["name"], json.dumps(call["arguments"])) for call in calls[:1]]
    grounded = _core.Grounding(json.dumps(TOOLS), conversation, words=WORDS, history=history)
    twin = Twin(TOOLS, conversation)
    for i in range(len(steps)):
        chain = steps[: i + 1]
        row = grounding.features(chain)
        expected = twin.features(chain, response)
        assert not expected.keys() - set(NAMES)
        found = dict(zip(OLD, row.tolist(), strict=False))
        assert found == pytest.approx(
            {name: float(expected.get(name, 0)) for name in OLD}, abs=1e-6
        )
        with_words = grounded.features(chain)
        assert (with_words[: len(OLD)] == row[: len(OLD)]).all()
        assert ((with_words >= 0) & (with_words < 100)).all()
