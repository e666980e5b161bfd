"""Which problems a pass trains on: those of the training split, each time in another form.

Knows nothing of tokens or models.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from toolprm_lite.tasks.joining import part_ids
from toolprm_lite.tasks.plan import make_plan
from toolprm_lite.tasks.problem import Problem, Split
from toolprm_lite.tuning.settings import TuneSettings
from toolprm_lite.tuning.sharing import share_tools


def split_ids(plan: Sequence[Problem], problems: Sequence[Problem]) -> dict[Split, set[str]]:
    """Which of `problems` the plan puts into each split; those of joined ones each for itself."""
    known = {problem.id for problem in problems}
    ids: dict[Split, set[str]] = {"train": set(), "validation": set(), "test": set()}
    for problem in plan:
        if problem.split is not None:
            ids[problem.split].update(part_ids(problem.id, known))
    return ids


def validation_problems(plan: Sequence[Problem], settings: TuneSettings) -> list[Problem]:
    """The plan's validation problems, as many of each source, at most `check_problems`."""
    by_source: dict[str, list[Problem]] = defaultdict(list)
    for problem in plan:
        if problem.split == "validation":
            by_source[problem.source].append(problem)
    chosen: list[Problem] = []
    while len(chosen) < settings.check_problems and any(by_source.values()):
        for source in sorted(by_source):
            if by_source[source] and len(chosen) < settings.check_problems:
                chosen.append(by_source[source].pop(0))
    return chosen


def pass_problems(
    problems: Sequence[Problem], ids: Mapping[Split, set[str]], number: int, settings: TuneSettings
) -> list[Problem]:
    """What the pass of that number trains on, in an order that is a sample of all sources.

    `problems` are all usable ones. Tools that are right for a problem of another split are not
    offered. Depends on the settings and the number alone.
    """
    seed = settings.plan.seed + 1 + number
    elsewhere = {
        call["name"]
        for problem in problems
        if problem.id not in ids["train"]
        for call in problem.answers
    }
    own = [
        problem if not elsewhere else _without(problem, elsewhere)
        for problem in problems
        if problem.id in ids["train"]
    ]
    chosen = _balanced([problem for problem in own if problem.tools], seed, settings)
    shared = share_tools(chosen, settings.group, settings.plan.max_tools, seed)
    return make_plan(
        shared,
        replace(settings.plan, seed=seed, group=settings.group, fractions=(1.0, 0.0, 0.0)),
    )


def _without(problem: Problem, names: set[str]) -> Problem:
    right = {call["name"] for call in problem.answers}
    tools = [tool for tool in problem.tools if tool.name in right or tool.name not in names]
    return replace(problem, tools=tools)


def _balanced(problems: Sequence[Problem], seed: int, settings: TuneSettings) -> list[Problem]:
    """At most `decline_share` without a call, those of as many sources as there are."""
    rng = random.Random(f"{seed}:balance")
    by_source: dict[tuple[str, bool], list[Problem]] = defaultdict(list)
    for problem in problems:
        by_source[problem.source, not problem.answers].append(problem)
    calling = [problem for problem in problems if problem.answers]
    # As many of each source as there are, in turn, until the share is reached.
    share = settings.decline_share
    room = len(problems) if share >= 1 else int(share * len(calling) / (1 - share))
    waiting = [members for (_, declines), members in sorted(by_source.items()) if declines]
    for members in waiting:
        rng.shuffle(members)
    declining: list[Problem] = []
    while len(declining) < room and any(waiting):
        for members in waiting:
            if members and len(declining) < room:
                declining.append(members.pop())
    return calling + declining
