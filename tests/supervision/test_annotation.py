"""Which steps are right: tables, and a twin that tries every assignment."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolprm_lite.errors import ProblemError
from toolprm_lite.supervision.annotation import Label, annotate
from toolprm_lite.tasks.matching import Answers, responses_equal, values_equal

Call = dict[str, Any]


@dataclass(frozen=True)
class Step:
    kind: str
    previous: int
    call: int | None = None
    function: str | None = None
    argument: str | None = None
    value: Any = None
    goes_on: bool = False


def call(function: str, /, **arguments: Any) -> Call:
    return {"name": function, "arguments": arguments}


def written(*calls: Call, end: bool = True) -> list[Step]:
    """The steps of one response."""
    steps: list[Step] = []

    def add(kind: str, *rest: Any) -> None:
        steps.append(Step(kind, len(steps) - 1, *rest))

    for number, one in enumerate(calls):
        name = one["name"]
        add("FUNC_NAME", number, name)
        for argument, value in one["arguments"].items():
            add("ARG_VALUE", number, name, argument, value)
        add("PARAM_FINISH", number, name)
        add("FUNC_FINISH", number, name)
    if end:
        add("TOTAL_FINISH")
    return steps


def marks(labels: list[Label]) -> tuple[str, str]:
    """local and viable as rows of + and -."""
    return (
        "".join("-+"[label.local] for label in labels),
        "".join("-+"[label.viable] for label in labels),
    )


F1, F2 = call("f", x=1, y=1), call("f", x=2, y=2)
DEFAULTS = [
    {"name": "f", "parameters": {"properties": {"x": {"default": 1}, "y": {"default": 2}}}},
]


@pytest.mark.parametrize(
    ("response", "answers", "local", "viable"),
    [
        # For each call FUNC_NAME, ARG_VALUE ..., PARAM_FINISH, FUNC_FINISH; then TOTAL_FINISH.
        ([], [], "+", "+"),
        ([], [F1], "-", "-"),
        ([F1], [], "----- -", "----- -"),
        ([F1], [F1], "+++++ +", "+++++ +"),
        ([call("f", y=1, x=1)], [F1], "+++++ +", "+++++ +"),
        ([call("g", x=1)], [F1], "---- -", "---- -"),
        ([call("f", x=9, y=1)], [F1], "+-+-- -", "+---- -"),
        ([call("f", x=1)], [F1], "++-- -", "++-- -"),
        ([call("f", x=1, y=1, z=1)], [F1], "+++--- -", "+++--- -"),
        ([F1], [F1, F2], "+++++ -", "+++++ -"),
        ([F2, F1], [F1, F2], "+++++ +++++ +", "+++++ +++++ +"),
        # A call written twice: the second has only the other answer left.
        ([F1, F1], [F1, F2], "+++++ +---- -", "+++++ +---- -"),
        ([call("g"), call("g")], [call("g"), call("g", x=1)], "+++ +-- -", "+++ +-- -"),
        ([call("g")] * 3, [call("g")] * 2, "+++ +++ --- -", "+++ +++ --- -"),
        # A wrong first call leaves its answer to a later one.
        (
            [call("g", x=3), call("g", x=1), call("g", x=2)],
            [call("g", x=1), call("g", x=2)],
            "+--- ++++ ++++ -",
            "+--- ---- ---- -",
        ),
        # x chose the first answer: y is the other's.
        ([call("f", x=1, y=2)], [F1, F2], "++--- -", "++--- -"),
        # A wrong call doesn't spoil the local labels of the next one.
        ([call("g"), F1], [F1, F2], "--- +++++ -", "--- ----- -"),
    ],
)
def test_labels(response: list[Call], answers: list[Call], local: str, viable: str) -> None:
    expected = (local.replace(" ", ""), viable.replace(" ", ""))
    assert marks(annotate(written(*response), answers)) == expected


@pytest.mark.parametrize(
    ("response", "answers", "local", "viable"),
    [
        ([call("f", x=1)], [call("f")], "+++++", "+++++"),
        ([call("f")], [call("f", x=1.0, y=2)], "++++", "++++"),
        ([call("f", x=1)], [call("f", x=3)], "+----", "+----"),
        ([call("f", y=2, x=3)], [call("f", x=3)], "++++++", "++++++"),
    ],
)
def test_defaults(response: list[Call], answers: list[Call], local: str, viable: str) -> None:
    assert marks(annotate(written(*response), answers, DEFAULTS)) == (local, viable)


def test_an_argument_given_twice_is_wrong() -> None:
    steps = [
        Step("FUNC_NAME", -1, 0, "f"),
        Step("ARG_VALUE", 0, 0, "f", "x", 1),
        Step("ARG_VALUE", 1, 0, "f", "x", 1),
        Step("PARAM_FINISH", 2, 0, "f"),
    ]
    assert marks(annotate(steps, [call("f", x=1)])) == ("++--", "++--")


def test_bfcl_rule() -> None:
    answers = [{"f": {"city": ["New York", "NYC"], "unit": ["C", ""]}}]
    steps = written(call("f", city="new-york"))
    assert marks(annotate(steps, answers, rule="bfcl")) == ("+++++", "+++++")
    made = Answers(answers, rule="bfcl")
    assert annotate(steps, made) == annotate(steps, answers, rule="bfcl")


def test_no_steps() -> None:
    assert annotate([], [F1]) == []


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([Step("FUNC_NAME", 0, 0, "f")], "step 0: previous is 0"),
        ([Step("FUNC_NAME", -2, 0, "f")], "step 0: previous is -2"),
        ([Step("FUNC_NAME", -1, 0)], "step 0: FUNC_NAME without a function"),
        ([Step("ARG_VALUE", -1, 0, "f", "x", 1)], "step 0: ARG_VALUE outside of a call"),
        ([*written(F1, end=False)[:1], Step("ARG_VALUE", 0, 0, "f")], "step 1: .* an argument"),
        ([*written(F1, end=False)[:1], Step("TOTAL_FINISH", 0)], "step 1: TOTAL_FINISH inside"),
        ([*written(F1, end=False)[:1], Step("NAME", 0)], "step 1: unknown kind 'NAME'"),
        ([*written(), Step("FUNC_NAME", 0, 0, "f")], "step 1: it follows the end"),
    ],
)
def test_steps_that_are_no_response(steps: list[Step], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        annotate(steps, [F1])


# The twin: reads each step's whole response again, and tries every assignment.


def defaults_of(name: str, tools: list[dict[str, Any]]) -> dict[str, Any]:
    for tool in tools:
        if tool["name"] == name:
            schemas = tool["parameters"]["properties"]
            return {key: schema["default"] for key, schema in schemas.items()}
    return {}


def has(answer: Call, argument: str, value: Any, tools: list[dict[str, Any]]) -> bool:
    """Whether the answer has the argument: said, or left to the default."""
    full = {**defaults_of(answer["name"], tools), **answer["arguments"]}
    return argument in full and values_equal(full[argument], value)


def assignments(calls: int, answers: int) -> Iterator[tuple[int | None, ...]]:
    """Each way to give calls different answers, or none."""
    places = [*range(answers), *[None] * calls]
    return iter(set(itertools.permutations(places, calls)))


def slow_label(steps: list[Step], index: int, answers: list[Call], tools: list[Any]) -> Label:
    chain: list[Step] = []
    at = index
    while at >= 0:
        chain.insert(0, steps[at])
        at = steps[at].previous
    last = chain[-1]
    calls: list[Call] = []
    closed: list[bool] = []
    for step in chain:
        if step.kind == "FUNC_NAME":
            assert step.function is not None
            calls.append(call(step.function))
            closed.append(False)
        elif step.kind == "ARG_VALUE":
            calls[-1]["arguments"][step.argument] = step.value
        elif step.kind in ("PARAM_FINISH", "FUNC_FINISH"):
            closed[-1] = True
    if last.kind == "TOTAL_FINISH":
        right = responses_equal(calls, answers, tools)
        return Label(right, right)

    def still_right(number: int, answer: Call, as_open: bool) -> bool:
        if closed[number] and not (as_open and number == len(calls) - 1):
            return responses_equal([calls[number]], [answer], tools)
        arguments = calls[number]["arguments"].items()
        return answer["name"] == calls[number]["name"] and all(
            has(answer, argument, value, tools) for argument, value in arguments
        )

    def judged(number: int, argument: str) -> bool:
        """Whether the step itself is about this argument."""
        if number < len(calls) - 1:
            return False
        return last.kind != "ARG_VALUE" or last.argument == argument

    def score(chosen: tuple[int | None, ...]) -> tuple[int, int, int]:
        given = [(n, answers[a]) for n, a in enumerate(chosen) if a is not None]
        named = [(n, answer) for n, answer in given if answer["name"] == calls[n]["name"]]
        equal = sum(
            has(answer, argument, value, tools)
            for n, answer in named
            for argument, value in calls[n]["arguments"].items()
            if not judged(n, argument)
        )
        return sum(still_right(n, answer, True) for n, answer in given), len(named), equal

    def answered(chosen: tuple[int | None, ...]) -> bool:
        if chosen[-1] is None:
            return False
        answer = answers[chosen[-1]]
        if last.kind == "FUNC_NAME":
            return bool(answer["name"] == last.function)
        if last.kind == "ARG_VALUE":
            assert last.argument is not None
            same = bool(answer["name"] == calls[-1]["name"])
            return same and has(answer, last.argument, last.value, tools)
        return responses_equal([calls[-1]], [answer], tools)

    scores = {chosen: score(chosen) for chosen in assignments(len(calls), len(answers))}
    best = max(scores.values())
    bests = [chosen for chosen, value in scores.items() if value == best]
    local = all(chosen[-1] is not None for chosen in bests) and any(map(answered, bests))
    viable = any(
        all(a is not None and still_right(n, answers[a], False) for n, a in enumerate(chosen))
        for chosen in scores
    )
    return Label(local, viable)


CALLS = st.builds(
    lambda name, arguments: {"name": name, "arguments": dict(arguments)},
    st.sampled_from("ffg"),
    st.lists(
        st.tuples(st.sampled_from("xyz"), st.sampled_from([1, 2, 2.0, "a", " a"])),
        max_size=3,
        unique_by=lambda pair: pair[0],
    ),
)


def forest(responses: list[list[Call]], chance: random.Random) -> list[Step]:
    """The steps of the responses; some share their beginnings, and some break off."""
    steps: list[Step] = []
    known: dict[Any, int] = {}
    for response in responses:
        chain = written(*response)
        if chance.random() < 0.3:
            chain = chain[: chance.randrange(len(chain) + 1)]
        share = chance.random() < 0.7
        previous = -1
        path: tuple[Any, ...] = ()
        for step in chain:
            path = (*path, (step.kind, step.function, step.argument, repr(step.value)))
            if not share or path not in known:
                arguments = (step.call, step.function, step.argument, step.value)
                steps.append(Step(step.kind, previous, *arguments))
                known[path] = len(steps) - 1
            previous = known[path]
    return steps


@settings(deadline=None, max_examples=300)
@given(
    st.lists(CALLS, max_size=3),
    st.lists(st.lists(CALLS, max_size=3), max_size=3),
    st.sampled_from([[], DEFAULTS]),
    st.randoms(use_true_random=False),
)
def test_labels_are_those_of_the_slow_twin(
    answers: list[Call], responses: list[list[Call]], tools: list[Any], chance: random.Random
) -> None:
    mixed = [chance.sample(answers, len(answers))] if answers else []
    steps = forest([*responses, *mixed, answers[:1]], chance)
    labels = annotate(steps, answers, tools)
    assert labels == [slow_label(steps, index, answers, tools) for index in range(len(steps))]
    for step, label in zip(steps, labels, strict=True):
        if label.viable:
            assert label.local
            assert step.previous < 0 or labels[step.previous].viable
        if label.local and step.kind == "FUNC_FINISH":  # a right call is right in all its steps
            at = step.previous
            while steps[at].kind != "FUNC_NAME":
                assert labels[at].local
                at = steps[at].previous
            assert labels[at].local


@given(st.lists(CALLS, max_size=4), st.randoms(use_true_random=False))
def test_right_responses_are_right_throughout(answers: list[Call], chance: random.Random) -> None:
    shuffled = chance.sample(answers, len(answers))
    labels = annotate(written(*shuffled), answers)
    assert all(label.local and label.viable for label in labels)


@pytest.mark.parametrize("size", [3, 16, 24])
def test_many_answers_of_one_name_take_no_time(size: int) -> None:
    chance = random.Random(size)
    answers = [call("f", x=chance.randrange(4), y=chance.randrange(4)) for _ in range(size)]
    responses = []
    for _ in range(max(1, 60 // size)):
        response = [dict(one, arguments=dict(one["arguments"])) for one in answers]
        chance.shuffle(response)
        for one in response[::3]:
            one["arguments"]["x"] = chance.randrange(6)
        responses.append(response)
    steps = forest(responses, chance)
    began = time.perf_counter()
    annotate(steps, answers)
    assert time.perf_counter() - began < 2  # far above what it takes, far below an exponential


def test_a_comma_promises_more() -> None:
    answers = [call("f", x=1, y=2), call("g", x=1)]

    def viable(*steps: Step) -> list[bool]:
        chain = [replace(step, previous=place - 1) for place, step in enumerate(steps)]
        return [label.viable for label in annotate(chain, answers)]

    def value(argument: str, number: int, goes_on: bool) -> Step:
        return Step("ARG_VALUE", 0, argument=argument, value=number, goes_on=goes_on)

    def end(goes_on: bool) -> list[Step]:
        return [Step("PARAM_FINISH", 0), Step("FUNC_FINISH", 0, goes_on=goes_on)]

    f, g = (Step("FUNC_NAME", 0, function=name) for name in "fg")
    assert viable(f, value("x", 1, True)) == [True, True]
    assert viable(f, value("x", 1, True), value("y", 2, True)) == [True, True, False]
    assert viable(g, value("x", 1, True)) == [True, False]
    assert viable(g, value("x", 1, False), *end(True)) == [True] * 4
    both = [g, value("x", 1, False), *end(True), f, value("x", 1, True), value("y", 2, False)]
    assert viable(*both, *end(False)) == [True] * 9
    assert viable(*both, *end(True)) == [*[True] * 8, False]
    steps = [
        replace(step, previous=place - 1) for place, step in enumerate([g, value("x", 1, True)])
    ]
    assert [label.local for label in annotate(steps, answers)] == [True, True]
    # An argument that repeats its default may follow.
    tool = {"name": "g", "parameters": {"type": "object", "properties": {
        "x": {"type": "integer"}, "z": {"type": "integer", "default": 0}}}}  # fmt: skip
    assert [label.viable for label in annotate(steps, answers, [tool])] == [True, True]
