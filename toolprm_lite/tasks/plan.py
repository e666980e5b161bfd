"""Which problems are collected, and in which form: splits, offered tools, refusals, masks, order.

No function is right in more than one split. Knows nothing of models; draws all its random numbers
from the seed, so that the same problems give the same plan.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from toolprm_lite.tasks.joining import join_problems, joinable
from toolprm_lite.tasks.masking import mask
from toolprm_lite.tasks.names import fraction, random_of, right_names
from toolprm_lite.tasks.offered import (
    Pooled,
    by_source,
    chance_alone,
    foreign_tools,
    offered_tools,
    pools,
)
from toolprm_lite.tasks.plan_settings import PlanSettings
from toolprm_lite.tasks.problem import SPLITS, Problem, Split
from toolprm_lite.tasks.splits import side_of, sides_around, split_functions
from toolprm_lite.tasks.topics import Topics
from toolprm_lite.tools import Tool


def make_plan(
    problems: Sequence[Problem],
    settings: PlanSettings | None = None,
    kept_splits: Mapping[str, Split] | None = None,
) -> list[Problem]:
    """Give every problem its split, its tools and its mask, and put all in a fair order.

    Problems whose functions fall on several sides are left out. Problems that share tools and mask
    follow each other; otherwise each beginning of the plan is a sample of all sources and splits.

    `kept_splits` are the splits of problems of an earlier plan, by id: they are left out but for
    joins, and their functions stay on their sides, so that heads may be fitted to both.
    """
    settings = settings or PlanSettings()
    known = [problem for problem in problems if kept_splits and problem.id in kept_splits]
    taken = {
        name: SPLITS.index(kept_splits[problem.id])
        for problem in problems
        if kept_splits and problem.id in kept_splits
        for name in right_names(problem)
    }
    problems = [
        problem
        for problem in problems
        if (
            len(problem.answers) < 2
            or fraction(f"{settings.seed}/multi/{problem.id}") < settings.multi_share
        )
        and not (kept_splits and problem.id in kept_splits)
    ]
    if kept_splits:
        sides = sides_around(problems, taken, settings)
    else:
        sides = split_functions(problems, settings)
    by_side: list[list[Problem]] = [[], [], []]
    for problem in problems:
        side = side_of(problem, sides, settings)
        if side is not None:
            by_side[side].append(problem)
    if settings.joined_share > 0:
        by_side = [
            _with_joins(
                chosen,
                [problem for problem in known if side_of(problem, sides, settings) == side],
                side,
                settings,
            )
            for side, chosen in enumerate(by_side)
        ]
    offered = pools(problems, sides, settings)
    groups = [
        group
        for side, chosen in enumerate(by_side)
        for group in _side_groups(chosen, side, offered[side], sides, settings)
    ]
    return [planned for group in _interleave(groups, settings) for planned in group]


def as_is(problems: Sequence[Problem]) -> list[Problem]:
    """A plan that changes nothing, all of it test: to judge rewards on a benchmark's problems."""
    return [replace(problem, split="test") for problem in problems]


def _with_joins(
    problems: Sequence[Problem], known: Sequence[Problem], side: int, settings: PlanSettings
) -> list[Problem]:
    """The problems of a side, some of them joined instead of alone; `known` ones only joined."""
    single = [problem for problem in (*problems, *known) if joinable(problem)]
    chosen = [
        problem
        for problem in single
        if fraction(f"{settings.seed}/join/{problem.id}") < settings.joined_share
    ]
    rng = random_of(settings, "join", side)
    joins = join_problems(chosen, single, settings.max_tools, rng)
    return [problem for problem in problems if problem.id not in joins] + list(joins.values())


def _side_groups(
    problems: Sequence[Problem],
    side: int,
    pool: Sequence[Pooled],
    sides: dict[str, int],
    settings: PlanSettings,
) -> list[list[Problem]]:
    """The planned problems of one side, in groups that share tools and mask."""
    refused = _choose_refusals(problems, side, settings)
    buckets: dict[tuple[str, bool], list[Problem]] = defaultdict(list)
    for problem in problems:
        listing = "\n".join(
            sorted(json.dumps(tool.to_dict(), sort_keys=True) for tool in problem.tools)
        )
        buckets[hashlib.sha256(listing.encode()).hexdigest(), problem.id in refused].append(problem)
    groups: list[tuple[list[Problem], bool]] = []
    for (listing, refusal), members in buckets.items():
        rng = random_of(settings, "group", listing, refusal)
        rng.shuffle(members)
        members.sort(key=right_names)  # the same right functions together: fewer must be offered
        groups += [
            (members[start : start + settings.group], refusal)
            for start in range(0, len(members), settings.group)
        ]
    masked = _choose_masked([len(members) for members, _ in groups], side, settings)
    listed = by_source(pool)
    topics = Topics(pooled.topic for pooled in pool)
    alone = chance_alone(groups)
    result: list[list[Problem]] = []
    for (members, refusal), hide in zip(groups, masked, strict=True):
        rng = random_of(settings, "tools", members[0].id)
        tools = None
        if refusal:
            tools = foreign_tools(members, listed, topics, alone, rng, settings)
        if tools is None:
            refusal = False
            tools = offered_tools(members, side, listed, sides, alone, rng, settings)
        key = f"group:{members[0].id}"
        result.append(
            [_shown(member, side, tools, refusal, hide, key, settings) for member in members]
        )
    return result


def _shown(
    problem: Problem,
    side: int,
    tools: list[Tool],
    refusal: bool,
    hide: bool,
    key: str,
    settings: PlanSettings,
) -> Problem:
    answers = [] if refusal else problem.answers
    shown = replace(
        problem,
        tools=tools,
        answers=answers,
        split=SPLITS[side],
        masked=hide,
        possible=None if refusal or hide else problem.possible,
    )
    return mask(shown, settings.seed, key) if hide else shown


def _choose_refusals(problems: Sequence[Problem], side: int, settings: PlanSettings) -> set[str]:
    """The ids of the problems that lose their right tools, spread over the sources.

    A history that has used the tools, or ends in a promise to, would contradict a refusal.
    """
    sources: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        sources[problem.source].append(problem)
    chosen: set[str] = set()
    missing = 0.0
    for source in sorted(sources):
        members = sources[source]
        able = [
            problem
            for problem in members
            if problem.answers
            and problem.messages[-1]["role"] == "user"
            and not any(m["role"] == "tool" or "tool_calls" in m for m in problem.messages)
        ]
        missing += settings.refusal_share * len(members)
        missing -= sum(not problem.answers for problem in members)
        number = max(0, min(len(able), round(missing)))
        missing -= number
        rng = random_of(settings, "refuse", side, source)
        chosen.update(problem.id for problem in rng.sample(able, number))
    return chosen


def _choose_masked(sizes: Sequence[int], side: int, settings: PlanSettings) -> list[bool]:
    """Which groups are masked: as many problems as `mask_share` says."""
    order = list(range(len(sizes)))
    random_of(settings, "mask", side).shuffle(order)
    hide = [False] * len(sizes)
    missing = 0.0
    for place in order:
        missing += settings.mask_share * sizes[place]
        if missing >= sizes[place] / 2 and settings.mask_share > 0:
            hide[place] = True
            missing -= sizes[place]
    return hide


# Order


def _interleave(groups: Sequence[list[Problem]], settings: PlanSettings) -> list[list[Problem]]:
    """Groups in an order of which each beginning has its share of every kind of problem."""
    strata: dict[tuple[Any, ...], list[list[Problem]]] = defaultdict(list)
    for group in groups:
        first = group[0]
        strata[first.split or "", first.source, first.declines, first.masked].append(group)
    placed: list[tuple[float, str, list[Problem]]] = []
    for kind in sorted(strata):
        members = strata[kind]
        rng = random_of(settings, "order", *kind)
        rng.shuffle(members)
        total = sum(map(len, members))
        before = 0
        for group in members:
            place = (before + rng.random() * len(group)) / total
            placed.append((place, group[0].id, group))
            before += len(group)
    return [group for _, _, group in sorted(placed, key=lambda item: item[:2])]
