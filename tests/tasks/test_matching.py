"""When values, calls and responses are equal."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolprm_lite.errors import ProblemError, ToolsError
from toolprm_lite.tasks.assignment import Assignment
from toolprm_lite.tasks.bfcl_check import bfcl_right
from toolprm_lite.tasks.matching import Answers, responses_equal, values_equal
from toolprm_lite.tools import Tool

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda parts: (
        st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=2), parts, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("a", "b", "exact", "bfcl"),
    [
        (5, 5.0, True, True),
        (0.0, -0.0, True, True),
        (2**60, float(2**60), True, True),
        (2**60 + 1, float(2**60), False, False),
        (math.nan, math.nan, True, True),
        (math.inf, math.inf, True, True),
        (True, 1, False, False),
        (False, 0.0, False, False),
        (None, "", False, False),
        (None, False, False, False),
        ("5", 5, False, False),
        ("Paris", " Paris\n", True, False),
        ("Paris", "Paris ", True, True),
        ("cafe\u0301", "caf\u00e9", True, False),
        ("Paris", "paris", False, True),
        ("New York, NY", "new-york ny", False, True),
        ("it's", 'it"s', False, True),
        ("a_b^c*d/e.f", "ABCDEF", False, True),
        ("a:b", "ab", False, False),
        ([1, 2], [1.0, 2.0], True, True),
        ([1, 2], [2, 1], False, False),
        ([1], [1, 1], False, False),
        ([], {}, False, False),
        ([[True]], [[1]], False, False),
        (["A b"], ["ab"], False, True),
        ({"a": 1, "b": "x "}, {"b": "x", "a": 1.0}, True, True),
        ({"a": 1}, {"a": 1, "b": None}, False, False),
        ({"a ": 1}, {"a": 1}, False, False),
        ({"a": {"b": ["C"]}}, {"a": {"b": ["c"]}}, False, True),
        (["array"], ("array",), True, True),
        ("boolean", True, False, False),
    ],
)
def test_values(a: Any, b: Any, exact: bool, bfcl: bool) -> None:
    for left, right in ((a, b), (b, a)):
        assert values_equal(left, right) is exact
        assert values_equal(left, right, "bfcl") is bfcl


@given(JSON, st.randoms())
def test_a_value_equals_itself_written_again(value: Any, chance: random.Random) -> None:
    def rewrite(part: Any) -> Any:
        if isinstance(part, dict):
            items = list(part.items())
            chance.shuffle(items)
            return {key: rewrite(inner) for key, inner in items}
        if isinstance(part, list):
            return [rewrite(inner) for inner in part]
        if isinstance(part, float) and part.is_integer():
            return int(part)
        return f" {part}\t" if isinstance(part, str) else part

    assert values_equal(rewrite(value), value)


SMALL = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 1.0, 0.5, "", "a", "a ", "A", "1", "true"]),
    lambda parts: (
        st.lists(parts, max_size=3) | st.dictionaries(st.sampled_from("ab"), parts, max_size=2)
    ),
    max_leaves=4,
)


def slowly_equal(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(slowly_equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(slowly_equal(a[key], b[key]) for key in a)
    if isinstance(a, str) and isinstance(b, str):
        return a.strip() == b.strip()
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return bool(a == b)


@given(SMALL, SMALL)
def test_values_are_equal_as_read_side_by_side(a: Any, b: Any) -> None:
    assert values_equal(a, b) is slowly_equal(a, b)


def test_a_value_that_is_no_json_is_named() -> None:
    with pytest.raises(ProblemError, match="not a JSON value"):
        values_equal({"a": {1, 2}}, 1)


def call(function: str, /, **arguments: Any) -> dict[str, Any]:
    return {"name": function, "arguments": arguments}


WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"type": "string", "default": "C"},
            "days": {"type": "integer", "default": 1},
            "note": {"type": ["string", "null"], "default": None},
        },
        "required": ["city"],
    },
}


@pytest.mark.parametrize(
    ("written", "answer", "equal"),
    [
        (call("weather", city="Rome"), call("weather", city="Rome"), True),
        (call("weather", city="Rome", unit="C"), call("weather", city="Rome"), True),
        (call("weather", city="Rome"), call("weather", city="Rome", unit="C "), True),
        (call("weather", days=1.0, city="Rome"), call("weather", city="Rome", unit="C"), True),
        (call("weather", city="Rome", note=None), call("weather", city="Rome"), True),
        (call("weather", city="Rome", note=""), call("weather", city="Rome"), False),
        (call("weather", city="Rome"), call("weather", city="Rome", unit="F"), False),
        (call("weather", city="Rome", unit="C"), call("weather", city="Rome", unit="F"), False),
        (call("weather", city="Rome", unit="F"), call("weather", city="Rome"), False),
        (call("weather", city="Rome", unit="F"), call("weather", city="Rome", unit="C"), False),
        (call("weather", city="Rome", sky="blue"), call("weather", city="Rome"), False),
        (call("weather"), call("weather", city="Rome"), False),
        (call("Weather", city="Rome"), call("weather", city="Rome"), False),
        ({"name": "weather"}, call("weather"), True),
        ({"name": "weather", "arguments": None}, call("weather"), False),
        ({"name": "weather", "arguments": [1]}, call("weather"), False),
        ({"name": None, "arguments": {}}, call("weather"), False),
        ({}, call("weather"), False),
    ],
)
def test_calls_and_their_defaults(
    written: dict[str, Any], answer: dict[str, Any], equal: bool
) -> None:
    for tools in (
        [WEATHER],
        [Tool.from_dict(WEATHER)],
        [{"type": "function", "function": WEATHER}],
    ):
        assert responses_equal([written], [answer], tools) is equal


def test_without_tools_nothing_has_a_default() -> None:
    assert not responses_equal(
        [call("weather", city="Rome", unit="C")], [call("weather", city="Rome")]
    )


def test_bfcl_counts_defaults_as_written() -> None:
    written, answer = call("weather", city="ROME", unit="C"), call("weather", city="Rome")
    assert not responses_equal([written], [answer], [WEATHER], "bfcl")
    assert responses_equal([call("weather", city="ROME")], [answer], [WEATHER], "bfcl")


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        ({"city": "new york"}, True),
        ({"city": "NYC", "unit": "f"}, True),
        ({"city": "NYC", "unit": ""}, True),
        ({"city": "Boston"}, False),
        ({"unit": "F"}, False),
        ({"city": "NYC", "sky": 1}, False),
        ({"city": "NYC", "at": {"hour": 5}}, True),
        ({"city": "NYC", "at": {"hour": 6.0, "zone": "utc"}}, True),
        ({"city": "NYC", "at": {"zone": "UTC"}}, False),
        ({"city": "NYC", "at": {"hour": 7}}, False),
        ({"city": "NYC", "stops": [{"at": "X"}]}, True),
        ({"city": "NYC", "stops": [{"at": "X"}, {"at": "X"}]}, False),
    ],
)
def test_bfcl_answers_of_several_possible_values(arguments: dict[str, Any], right: bool) -> None:
    possible = {
        "city": ["New York", "NYC"],
        "unit": ["F", ""],
        "at": [{"hour": [5, 6], "zone": ["UTC", ""]}, ""],
        "stops": [[{"at": ["x"]}], ""],
    }
    written = call("weather", **arguments)
    assert responses_equal([written], [{"weather": possible}], None, "bfcl") is right


CALLS = st.builds(
    lambda name, arguments: {"name": name, "arguments": arguments},
    st.sampled_from("fg"),
    st.dictionaries(st.sampled_from("xy"), st.integers(0, 2), max_size=2),
)
DEFAULT = {"name": "f", "parameters": {"properties": {"x": {"type": "integer", "default": 1}}}}


@given(st.lists(CALLS, max_size=4), st.lists(CALLS, max_size=4))
def test_responses_are_multisets(calls: list[Any], answers: list[Any]) -> None:
    tools = [DEFAULT]
    some = any(
        all(responses_equal([a], [b], tools) for a, b in zip(calls, order, strict=True))
        for order in itertools.permutations(answers)
        if len(order) == len(calls)
    )
    assert responses_equal(calls, answers, tools) is some
    assert responses_equal(list(reversed(answers)), answers, tools)


def test_a_response_of_loose_answers_is_matched_as_a_whole() -> None:
    # The first call fits both answers, the second only the first of them.
    answers = [{"f": {"x": [1, 2]}}, {"f": {"x": [1]}}]
    assert responses_equal([call("f", x=1), call("f", x=2)], answers, None, "bfcl")
    assert not responses_equal([call("f", x=2), call("f", x=2)], answers, None, "bfcl")


def test_declining() -> None:
    assert responses_equal([], [])
    assert not responses_equal([call("f")], [])
    assert not responses_equal([], [call("f")])


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([1], "answer 1 is not an object"),
        ([call("f"), {"arguments": {}}], "answer 2 has no name"),
        ([{"name": "f", "arguments": []}], r"answer 1 \('f'\): its arguments are not an object"),
    ],
)
def test_broken_answers_are_named(answers: list[Any], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        Answers(answers)


def test_broken_rules_and_tools_are_named() -> None:
    with pytest.raises(ProblemError, match="unknown match rule 'loose'"):
        Answers([], rule="loose")  # type: ignore[arg-type]
    with pytest.raises(ToolsError, match="tool 1"):
        Answers([], [{"parameters": {}}])
    with pytest.raises(ProblemError, match=r"answer 1 is not of BFCL's form"):
        Answers([{"f": {"x": 1}}], rule="bfcl")


WEIGHTS = st.integers(1, 4).flatmap(
    lambda columns: st.lists(st.tuples(*[st.integers(0, 4)] * columns), max_size=5)
)


def best_by_trying(rows: list[tuple[int, ...]], free: set[int]) -> int:
    if not rows:
        return 0
    rest = rows[1:]
    taken = [rows[0][c] + best_by_trying(rest, free - {c}) for c in free]
    return max([best_by_trying(rest, free), *taken])


@given(WEIGHTS)
def test_assignments_are_best(rows: list[tuple[int, ...]]) -> None:
    assignment = Assignment()
    for count, row in enumerate(rows, 1):
        assignment = assignment.assign(row)
        columns = set(range(len(row)))
        assert assignment.rows == count
        assert assignment.value == best_by_trying(rows[:count], columns)
        for column in columns:
            expected = best_by_trying(rows[:count], columns - {column})
            assert assignment.without(column) == expected


FUNCTIONS = [
    {
        "name": "book.room",
        "parameters": {
            "type": "dict",
            "properties": {
                "city": {"type": "string"},
                "nights": {"type": "integer"},
                "price": {"type": "float"},
                "breakfast": {"type": "boolean"},
                "extras": {"type": "array", "items": {"type": "string"}},
                "guest": {"type": "dict", "properties": {"name": {"type": "string"}}},
                "beds": {"type": "array", "items": {"type": "dict"}},
                "corner": {"type": "tuple", "items": {"type": "float"}},
                "anything": {"type": "any"},
            },
            "required": ["city"],
        },
    },
    {
        "name": "cancel",
        "parameters": {"type": "dict", "properties": {"id": {"type": "integer"}}},
    },
]
POSSIBLE = {
    "city": ["New York", "NYC"],
    "nights": [2, ""],
    "price": [100.0, 99.5, ""],
    "breakfast": [True, ""],
    "extras": [["Wi-Fi", "TV"], ["tv"], ""],
    "guest": [{"name": ["Ann Lee"], "age": [30, ""]}, ""],
    "beds": [[{"size": ["king", "queen"]}], ""],
    "corner": [[1.0, 2.0], ""],
    "anything": ["x", 5, ""],
}


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        ({"city": "new york"}, True),
        ({"city": "n.y.c."}, True),
        ({"city": ["NYC"]}, False),
        ({}, False),
        ({"city": "NYC", "nights": 2}, True),
        ({"city": "NYC", "nights": 2.0}, False),
        ({"city": "NYC", "nights": "2"}, False),
        ({"city": "NYC", "nights": True}, False),
        ({"city": "NYC", "price": 100}, True),
        ({"city": "NYC", "price": 99.5}, True),
        ({"city": "NYC", "price": 10**400}, False),
        ({"city": "NYC", "breakfast": True}, True),
        ({"city": "NYC", "breakfast": 1}, False),
        ({"city": "NYC", "extras": ["wifi", "tv"]}, True),
        ({"city": "NYC", "extras": ["tv", "wifi"]}, False),
        ({"city": "NYC", "extras": []}, True),  # "" among the possible ones is an empty list
        ({"city": "NYC", "guest": {"name": "ann lee"}}, True),
        ({"city": "NYC", "guest": {"name": "ann lee", "age": 30}}, True),
        ({"city": "NYC", "guest": {"name": "ann lee", "age": 31}}, False),
        ({"city": "NYC", "guest": {"age": 30}}, False),
        ({"city": "NYC", "guest": {"name": "ann lee", "vip": True}}, False),
        ({"city": "NYC", "beds": [{"size": "King"}]}, True),
        ({"city": "NYC", "beds": [{"size": "King"}, {"size": "King"}]}, False),
        ({"city": "NYC", "beds": ["king"]}, False),
        ({"city": "NYC", "corner": [1.0, 2.0]}, True),
        ({"city": "NYC", "anything": "X"}, True),
        ({"city": "NYC", "anything": 5}, False),  # the first possible value says its type
        ({"city": "NYC", "sky": 1}, False),
        ([], False),
    ],
)
def test_bfcl_values(arguments: Any, right: bool) -> None:
    written = [{"name": "book.room", "arguments": arguments}]
    assert bfcl_right(written, [{"book.room": POSSIBLE}], FUNCTIONS) is right


def test_bfcl_counts_and_orders() -> None:
    first, second = {"cancel": {"id": [1]}}, {"cancel": {"id": [2]}}
    assert bfcl_right([call("cancel", id=2), call("cancel", id=1)], [first, second], FUNCTIONS)
    assert not bfcl_right([call("cancel", id=1)] * 2, [first, second], FUNCTIONS)
    assert not bfcl_right([call("cancel", id=1)] * 2, [first], FUNCTIONS)
    assert not bfcl_right([], [first], FUNCTIONS)
    assert not bfcl_right([call("book.room", id=1)], [first], FUNCTIONS)
    assert bfcl_right([], [], FUNCTIONS)


def test_bfcl_believes_an_answer_of_another_type() -> None:
    # The schema says integer, the answer names a variable.
    possible = [{"cancel": {"id": ["last_id"]}}]
    assert bfcl_right([call("cancel", id="last_id")], possible, FUNCTIONS)
    assert not bfcl_right([call("cancel", id="Last id")], possible, FUNCTIONS)
    assert not bfcl_right([call("cancel", id=1)], possible, FUNCTIONS)


def test_bfcl_first_fits_first() -> None:
    # BFCL gives the looser answer the call that the other one needs.
    possible = [{"cancel": {"id": [1, 2]}}, {"cancel": {"id": [1]}}]
    assert not bfcl_right([call("cancel", id=1), call("cancel", id=2)], possible, FUNCTIONS)


@pytest.mark.parametrize(
    ("possible", "message"),
    [
        ([{"f": {"x": [1]}}], "function 'f' is not defined"),
        ([{"cancel": {"id": 1}}], "possible answer 1 is not of BFCL's form"),
        ([{"a": {}, "b": {}}], "possible answer 1 is not of BFCL's form"),
        ([3], "possible answer 1 is not of BFCL's form"),
    ],
)
def test_broken_bfcl_records_are_named(possible: Any, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        bfcl_right([call("f", x=1)], possible, FUNCTIONS)
