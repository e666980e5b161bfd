"""The plan: clean splits, fair tools, refusals that are right, groups that share a beginning."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from toolprm_lite.errors import ConfigError
from toolprm_lite.prompt import parse_messages
from toolprm_lite.schema import closed_schema
from toolprm_lite.tasks.joining import join_problems
from toolprm_lite.tasks.plan import as_is, make_plan
from toolprm_lite.tasks.plan_settings import PlanSettings
from toolprm_lite.tasks.problem import SPLITS, Problem
from toolprm_lite.tools import Tool

NOUNS = ["weather", "flight", "recipe", "invoice", "song", "planet", "river", "garden", "museum"]


def tool(name: str, parameter: str = "topic") -> Tool:
    schema = {"type": "object", "properties": {parameter: {"type": "string"}}}
    return Tool(name, f"Does {name}.", schema)


def one(identity: str, source: str, tools: list[Tool], *right: str) -> Problem:
    answers = [{"name": name, "arguments": {"topic": "x"}} for name in right]
    return Problem(identity, source, parse_messages(f"Question {identity}"), tools, answers)


def mixture() -> list[Problem]:
    """Two sources: 30 tools of ten problems each; and problems with three of 120 tools."""
    rng = random.Random(1)
    problems = []
    for number in range(30):
        name = f"get_{NOUNS[number % 9]}_{number}"
        problems += [one(f"s{number}-{k}", "simple", [tool(name)], name) for k in range(10)]
    for number in range(150):
        block = 12 * (number % 10)
        names = [f"make{NOUNS[k % 9].title()}{block + k}" for k in rng.sample(range(12), 5)]
        right = names[: 1 + number % 3]
        problems.append(one(f"m{number}", "multi", [tool(name) for name in names], *right))
    return problems


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return mixture()


@pytest.fixture(scope="module")
def plan(problems: list[Problem]) -> list[Problem]:
    return make_plan(problems, PlanSettings())


def by_id(problems: list[Problem]) -> dict[str, Problem]:
    return {problem.id: problem for problem in problems}


def test_no_function_is_right_in_two_splits(problems: list[Problem], plan: list[Problem]) -> None:
    known = by_id(problems)
    split: dict[str, str] = {}
    for planned in plan:
        for answer in known[planned.id].answers:
            name = answer["name"].lower()
            assert split.setdefault(name, planned.split) == planned.split
    for planned in plan:
        if not planned.masked:
            for offered in planned.tools:
                assert split.get(offered.name.lower(), planned.split) == planned.split


def test_splits_have_their_fractions(problems: list[Problem], plan: list[Problem]) -> None:
    assert len(problems) == 450
    assert len(plan) >= 430
    splits = Counter(planned.split for planned in plan)
    assert splits["train"] / len(plan) == pytest.approx(0.7, abs=0.05)
    assert splits["validation"] / len(plan) == pytest.approx(0.15, abs=0.05)
    several = Counter(planned.split for planned in plan if len(planned.answers) > 1)
    assert all(several[split] >= 5 for split in SPLITS)
    for source in ("simple", "multi"):
        assert {planned.split for planned in plan if planned.source == source} == set(SPLITS)


def test_right_answers_stay_right(problems: list[Problem], plan: list[Problem]) -> None:
    known = by_id(problems)
    for planned in plan:
        offered = {one_tool.name: one_tool for one_tool in planned.tools}
        assert len(offered) == len(planned.tools)
        assert planned.declines == (not planned.answers)
        if planned.declines:
            continue
        assert len(planned.answers) == len(known[planned.id].answers)
        if not planned.masked:
            assert planned.answers == known[planned.id].answers
        for answer in planned.answers:
            schema = closed_schema(offered[answer["name"]].parameters)
            assert Draft202012Validator(schema).is_valid(answer["arguments"])


def test_numbers_of_tools_are_spread(plan: list[Problem]) -> None:
    sizes = Counter(len(planned.tools) for planned in plan)
    assert set(sizes) == {1, 2, 3, 4, 5, 6}
    assert sizes[1] / len(plan) == pytest.approx(0.25, abs=0.08)
    # All that is offered isn't always what is right.
    several = [p for p in plan if len(p.answers) == 2]
    assert any(len(p.tools) > 2 for p in several)


def test_shares_of_refusals_and_masks(plan: list[Problem]) -> None:
    assert sum(p.declines for p in plan) / len(plan) == pytest.approx(0.1, abs=0.01)
    assert sum(p.masked for p in plan) / len(plan) == pytest.approx(0.5, abs=0.05)


def test_refusals_offer_nothing_that_fits(problems: list[Problem], plan: list[Problem]) -> None:
    known = by_id(problems)
    refusals = [p for p in plan if p.declines and not p.masked]
    assert refusals
    for planned in refusals:
        right = " ".join(answer["name"] for answer in known[planned.id].answers).lower()
        for offered in planned.tools:
            assert offered.name.startswith("get_") == (planned.source == "multi")
            assert not any(noun in offered.name.lower() and noun in right for noun in NOUNS)


def test_a_history_of_calls_is_never_refused() -> None:
    history = parse_messages(
        [
            {"role": "user", "content": "Q"},
            {"role": "assistant", "tool_calls": [{"name": "get_song", "arguments": {}}]},
            {"role": "tool", "content": "done"},
            {"role": "user", "content": "Again."},
        ]
    )
    given = [
        Problem(
            f"h{k}", "own", history, [tool("get_song")], [{"name": "get_song", "arguments": {}}]
        )
        for k in range(10)
    ]
    given += [one(f"o{k}", "other", [tool(f"find_{n}")], f"find_{n}") for k, n in enumerate(NOUNS)]
    plan = make_plan(given, PlanSettings(refusal_share=1.0))
    assert not any(p.declines for p in plan if p.source == "own")


def test_groups_share_tools_and_follow_each_other(plan: list[Problem]) -> None:
    def shown(planned: Problem) -> str:
        return json.dumps([one_tool.to_dict() for one_tool in planned.tools])

    runs = [list(run) for _, run in itertools.groupby(plan, key=shown)]
    sizes = Counter(len(run) for run in runs)
    assert max(sizes) <= 12  # two groups of six may meet
    simple = [run for run in runs if run[0].source == "simple"]
    assert sum(map(len, simple)) / len(simple) > 3
    for run in runs:
        assert len({(p.split, p.masked, p.declines) for p in run}) == 1


def test_each_beginning_is_a_fair_sample(plan: list[Problem]) -> None:
    for length in (100, 200, 300):
        start = plan[:length]
        for key in ("split", "source", "masked"):
            whole = Counter(getattr(p, key) for p in plan)
            here = Counter(getattr(p, key) for p in start)
            for value, number in whole.items():
                assert here[value] / length == pytest.approx(number / len(plan), abs=0.08)


def test_deterministic(problems: list[Problem], plan: list[Problem]) -> None:
    again = make_plan(problems, PlanSettings())
    assert [p.to_dict() for p in again] == [p.to_dict() for p in plan]
    other = make_plan(problems, PlanSettings(seed=1))
    assert [p.id for p in other] != [p.id for p in plan]
    assert json.loads(json.dumps(plan[0].to_dict())) == plan[0].to_dict()


def test_spellings_are_one_function() -> None:
    spellings = ["getWeather", "get_weather", "GetWeather"]
    given = [one(f"{n}-{k}", n, [tool(n)], n) for n in spellings for k in range(10)]
    given += [one(f"o{k}", "other", [tool(f"find_{n}")], f"find_{n}") for k, n in enumerate(NOUNS)]
    settings = PlanSettings(refusal_share=0, mask_share=0)
    plan = make_plan(given, settings)
    assert len({p.split for p in plan if p.source in spellings}) == 1
    for planned in plan:
        keys = [one_tool.name.lower().replace("_", "") for one_tool in planned.tools]
        assert len(set(keys)) == len(keys)


def test_unmasked_only_and_masked_only(problems: list[Problem]) -> None:
    for share, expected in ((0.0, {False}), (1.0, {True})):
        plan = make_plan(problems[:60], PlanSettings(mask_share=share))
        assert {p.masked for p in plan} == expected


def test_problems_without_a_right_call() -> None:
    given = [one(f"n{k}", "none", [tool(f"get_{n}")]) for k, n in enumerate(NOUNS)]
    plan = make_plan(given, PlanSettings())
    assert len(plan) == len(NOUNS)
    assert all(p.declines and p.answers == [] and p.tools for p in plan)


def test_little_or_nothing() -> None:
    assert make_plan([], PlanSettings()) == []
    plan = make_plan([one("a", "own", [tool("get_song")], "get_song")], PlanSettings())
    assert [p.id for p in plan] == ["a"]


def test_more_answers_than_tools_allowed() -> None:
    names = [f"get_{noun}" for noun in NOUNS]
    given = [one("a", "own", [tool(n) for n in names], *names)]
    plan = make_plan(given, PlanSettings(max_tools=2, refusal_share=0, mask_share=0))
    assert sorted(one_tool.name for one_tool in plan[0].tools) == sorted(names)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mask_share": 1.5},
        {"refusal_share": -0.1},
        {"joined_share": 2},
        {"max_tools": 0},
        {"group": 0},
        {"fractions": (0.5, 0.1, 0.1)},
        {"fractions": (1.2, -0.1, -0.1)},
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PlanSettings(**wrong)


def test_as_is_changes_nothing(problems: list[Problem]) -> None:
    possible = [{"f": {"topic": ["x", "X"]}}]
    some = [problems[0], replace(problems[-1], possible=possible)]
    plan = as_is(some)
    for problem, planned in zip(some, plan, strict=True):
        assert (planned.split, planned.masked, planned.declines) == ("test", False, False)
        assert (planned.messages, planned.tools) == (problem.messages, problem.tools)
        assert planned.answers == problem.answers
    assert "possible" not in plan[0].to_dict()
    assert plan[1].to_dict()["possible"] == possible


def test_problems_with_several_calls_are_thinned(problems: list[Problem]) -> None:
    several = {problem.id for problem in problems if len(problem.answers) > 1}
    shares = {}
    for share in (0.0, 0.5, 1.0):
        plan = make_plan(problems, PlanSettings(multi_share=share, refusal_share=0))
        shares[share] = sum(planned.id in several for planned in plan)
    assert shares[0.0] == 0
    assert 0 < shares[0.5] < shares[1.0]


def test_a_plan_keeps_the_splits_of_another(problems: list[Problem]) -> None:
    first = make_plan(problems, PlanSettings(multi_share=0.3))
    splits = {planned.id: planned.split for planned in first}
    second = make_plan(problems, PlanSettings(), splits)
    assert len(second) > 20
    assert not splits.keys() & {planned.id for planned in second}
    assert any(len(planned.answers) > 1 for planned in second)
    known = by_id(problems)
    sides: dict[str, set[str]] = {}
    for planned in (*first, *second):
        for answer in known[planned.id].answers:
            sides.setdefault(answer["name"], set()).add(planned.split)
    assert all(len(found) == 1 for found in sides.values())
    assert second == make_plan(problems, PlanSettings(), splits)
    everything = dict.fromkeys(known, "train")
    assert make_plan(problems, PlanSettings(), everything) == []


def questions() -> list[Problem]:
    """Six questions for each of ten functions, some with one answer; and one of two turns."""
    found = []
    for number in range(60):
        name = f"find_{NOUNS[number % 10 % 9]}_{number % 10}"
        asked = one(f"q{number}", "simple", [tool(name), tool("other")], name)
        call = {"name": name, "arguments": {"topic": f"t{number // 12}"}}
        found.append(replace(asked, answers=[call]))
    turns = parse_messages([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    return [*found, replace(found[0], id="long", messages=turns)]


def test_questions_are_joined_within_their_side() -> None:
    known = by_id(questions())
    alone = {planned.id: planned for planned in make_plan(questions())}
    plan = make_plan(questions(), PlanSettings(joined_share=1, refusal_share=0, mask_share=0))
    assert plan == make_plan(
        questions(), PlanSettings(joined_share=1, refusal_share=0, mask_share=0)
    )
    assert sum(planned.id == "long" for planned in plan) == 1
    assert {planned.source for planned in plan if planned.id != "long"} == {"joined"}
    assert len({planned.id.split("+")[0] for planned in plan}) == len(plan) > 55
    same = 0
    for planned in plan:
        if planned.id == "long":
            continue
        parts = [known[part] for part in planned.id.split("+")]
        assert len(parts) in (2, 3)
        assert planned.answers == [part.answers[0] for part in parts]
        assert planned.parts == tuple(part.source for part in parts)
        assert Problem.from_dict(planned.to_dict()) == planned
        assert len({json.dumps(answer) for answer in planned.answers}) == len(parts)
        assert {alone[part.id].split for part in parts} == {planned.split}
        text = str(planned.messages[0]["content"])
        assert all(str(part.messages[0]["content"]) in text for part in parts)
        assert {answer["name"] for answer in planned.answers} <= {t.name for t in planned.tools}
        same += len({answer["name"] for answer in planned.answers}) < len(parts)
    assert 0.5 * len(plan) < same < len(plan)


def test_a_join_keeps_the_sources_of_its_parts() -> None:
    first, second = questions()[0], replace(questions()[20], source="other")
    made = join_problems([first], [second], 4, random.Random(0))[first.id]
    assert (made.source, made.category) == ("joined", "joined")
    assert made.parts == (first.source, "other")
    assert made.sources == (first.source, "other")
    assert made.to_dict()["parts"] == [first.source, "other"]
    assert "parts" not in first.to_dict()
    assert first.sources == (first.source,)
    assert replace(made, parts=("a", "b", "a")).sources == ("a", "b")


def test_a_refused_join_is_offered_tools_of_other_sources_than_its_parts() -> None:
    given = [replace(problem, source=f"source{n % 2}") for n, problem in enumerate(questions())]
    given += [one(f"o{k}", "other", [tool(f"find_{n}")], f"find_{n}") for k, n in enumerate(NOUNS)]
    plan = make_plan(given, PlanSettings(joined_share=1, refusal_share=1, mask_share=0))
    refused = [planned for planned in plan if planned.parts and planned.declines]
    assert refused
    for planned in refused:
        assert all(offered.name.startswith("find_") for offered in planned.tools)


def test_no_join_gives_a_name_two_meanings() -> None:
    first, second = questions()[0], questions()[20]
    clash = replace(second, tools=[*second.tools[:1], tool("other", "place")])
    rng = random.Random(0)
    assert join_problems([first], [second], 4, rng)
    assert join_problems([first], [clash], 4, rng) == {}
    assert join_problems([first], [replace(second, answers=first.answers)], 4, rng) == {}


def test_a_share_is_joined_and_known_ones_are_only_joined() -> None:
    half = make_plan(questions(), PlanSettings(joined_share=0.5))
    joined = {planned.id.split("+")[0] for planned in half if planned.source == "joined"}
    assert 15 < len(joined) < 45
    assert not joined & {planned.id for planned in half}
    splits = {planned.id: planned.split for planned in make_plan(questions())}
    kept = make_plan(questions(), PlanSettings(joined_share=1), splits)
    assert kept
    for planned in kept:
        assert "+" in planned.id
        assert {splits[part] for part in planned.id.split("+")} == {planned.split}
