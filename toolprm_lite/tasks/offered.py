"""Which tools a problem offers: the right ones, others of the same side, or none that fits."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from toolprm_lite.tasks.names import alike, key_of, stem, words_of
from toolprm_lite.tasks.plan_settings import PlanSettings
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tasks.splits import hash_side
from toolprm_lite.tasks.topics import Topic, Topics, topic_of, topic_of_tool
from toolprm_lite.tools import Tool

_ALONE = 0.25  # the share of problems with one tool, as in simple calls


@dataclass(frozen=True, slots=True)
class Pooled:
    """A tool that may be offered with problems that it was not listed with."""

    tool: Tool
    key: str
    words: frozenset[str]
    sources: frozenset[str]
    topic: Topic


def pools(
    problems: Sequence[Problem], sides: dict[str, int], settings: PlanSettings
) -> list[list[Pooled]]:
    """For each side the tools that may be added there, one definition a name."""
    tools: dict[str, Tool] = {}
    sources: dict[str, set[str]] = defaultdict(set)
    for problem in problems:
        for tool in problem.tools:
            key = key_of(tool.name)
            tools.setdefault(key, tool)
            sources[key].add(problem.source)
    pools: list[list[Pooled]] = [[], [], []]
    for key in sorted(tools):
        side = sides[key] if key in sides else hash_side(key, settings)
        tool = tools[key]
        pools[side].append(
            Pooled(tool, key, words_of(tool.name), frozenset(sources[key]), topic_of_tool(tool))
        )
    return pools


def by_source(pool: Iterable[Pooled]) -> dict[str, list[Pooled]]:
    """The pool by source; "" holds all of it."""
    found: dict[str, list[Pooled]] = defaultdict(list)
    for pooled in pool:
        found[""].append(pooled)
        for source in sorted(pooled.sources):
            found[source].append(pooled)
    return found


def _number_of_tools(needed: int, alone: float, rng: random.Random, settings: PlanSettings) -> int:
    """How many to offer where `needed` must be: 1 with the chance `alone`, else evenly up."""
    if settings.max_tools <= needed:
        return needed
    if needed <= 1 and rng.random() < alone:
        return 1
    return rng.randint(max(2, needed), settings.max_tools)


def chance_alone(groups: Sequence[tuple[list[Problem], bool]]) -> float:
    """The chance of one tool, where one will do, that gives a quarter of all problems one."""
    total = sum(len(members) for members, _ in groups)
    able = sum(
        len(members)
        for members, refusal in groups
        if refusal or len({call["name"] for p in members for call in p.answers}) <= 1
    )
    return min(1.0, _ALONE * total / able) if able else 0.0


def offered_tools(
    members: Sequence[Problem],
    side: int,
    pool: dict[str, list[Pooled]],
    sides: dict[str, int],
    alone: float,
    rng: random.Random,
    settings: PlanSettings,
) -> list[Tool]:
    """The right tools of all members, then listed ones of this side, then some of the pool."""
    listed = list({tool.name: tool for m in members for tool in m.tools}.values())
    needed = {answer["name"] for member in members for answer in member.answers}
    tools = [tool for tool in listed if tool.name in needed]
    others = [
        tool
        for tool in listed
        if tool.name not in needed and sides.get(key_of(tool.name), side) == side
    ]
    rng.shuffle(others)
    number = _number_of_tools(len(tools), alone, rng, settings)
    taken = {key_of(tool.name) for tool in tools}
    topics = [words_of(tool.name) for tool in tools]
    for tool in others:
        if len(tools) < max(number, 1) and key_of(tool.name) not in taken:
            tools.append(tool)
            taken.add(key_of(tool.name))
    if needed:  # where nothing was right from the start, an added tool might be
        source = members[0].sources[0]
        for _ in range(20 * settings.max_tools):
            if len(tools) >= number:
                break
            choices = pool.get(source if rng.random() < 0.5 else "") or pool.get("")
            if not choices:
                break
            pooled = choices[rng.randrange(len(choices))]
            if pooled.key in taken or any(alike(pooled.words, topic) for topic in topics if topic):
                continue
            tools.append(pooled.tool)
            taken.add(pooled.key)
    if not tools:  # all listed tools are of another side, and nothing is right: any tool
        tools = [pooled.tool for pooled in rng.sample(pool[""], 1)] if pool.get("") else listed[:1]
    rng.shuffle(tools)
    return tools


def foreign_tools(
    members: Sequence[Problem],
    pool: dict[str, list[Pooled]],
    topics: Topics,
    alone: float,
    rng: random.Random,
    settings: PlanSettings,
) -> list[Tool] | None:
    """Tools that can't answer: of other sources if there are, with no word of a right one's name,
    and about something else than the right ones and the requests.

    None where there is no such tool.
    """
    sources = {source for member in members for source in member.sources}
    listed = {key_of(tool.name) for member in members for tool in member.tools}
    right: set[str] = set()
    for member in members:
        for answer in member.answers:
            right |= words_of(answer["name"])
    spoken = {
        stem(word)
        for member in members
        for message in member.messages
        for word in re.findall(r"[^\W\d_]+", message["content"].lower())
    }
    usable = [
        pooled
        for pooled in pool.get("", ())
        if pooled.key not in listed and pooled.words and not pooled.words & right
    ]
    other = [pooled for pooled in usable if not sources & pooled.sources]
    needed = {answer["name"] for member in members for answer in member.answers}
    tools = {tool.name: tool for member in members for tool in member.tools}
    rights = [topic_of_tool(tools[name]) for name in sorted(needed)]
    asked = [topic_of(_request(member)) for member in members]
    number = _number_of_tools(1, alone, rng, settings)
    for choices in (other, usable):
        for silent in (True, False):  # none of their words is spoken, if there are such tools
            found: list[Tool] = []
            for pooled in rng.sample(choices, len(choices)):
                if len(found) == number:
                    break
                if silent and pooled.words & spoken:
                    continue
                if not topics.may_answer(pooled.topic, rights, asked):
                    found.append(pooled.tool)
            if found:
                return found
    return None


def _request(problem: Problem) -> str:
    """What the user said last."""
    said = [message["content"] for message in problem.messages if message["role"] == "user"]
    return str(said[-1])
