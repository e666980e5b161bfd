"""Groups of problems that offer the same tools, so that a model's pass computes these once.

Knows nothing of tokens.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from toolprm_lite.prompt import Message
from toolprm_lite.tasks.names import alike, words_of
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tools import Tool

_MOST_LOOKED_AT = 2000  # problems, for the members of a group
_OFTEN = 5  # problems with a system message that says nothing about one of them


def share_tools(
    problems: Sequence[Problem], group: int, max_tools: int, seed: int
) -> list[Problem]:
    """The problems in groups of at most `group` that offer the same tools: those of all members.

    A model's pass over a group computes the tools once, and each question has tools that are right
    for another one. Members are of one source and begin with the same system message, where
    messages that a source uses often are exchanged; no member's right function is about the same
    as another's, which might be right, too. Problems that fit into no group with at most
    `max_tools` tools keep their own.
    """
    uses = Counter((problem.source, _system(problem)) for problem in problems)
    kinds: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        system = _system(problem)
        often = uses[problem.source, system] >= _OFTEN
        kinds[problem.source, "" if often else system].append(problem)
    grouped: list[Problem] = []
    for key in sorted(kinds):
        waiting = kinds[key]
        random.Random(f"{seed}:share:{key}").shuffle(waiting)
        while waiting:
            members, tools, waiting = _one_group(waiting, group, max_tools)
            first = members[0].messages[0]
            grouped += [replace(_with(first, member), tools=tools) for member in members]
    return grouped


def _system(problem: Problem) -> str:
    first = problem.messages[0]
    return str(first["content"]) if first["role"] == "system" else ""


def _with(first: Message, problem: Problem) -> Problem:
    """The problem with this system message, where it is one, in place of its own."""
    rest = problem.messages[1:] if _system(problem) else problem.messages
    kept = [first] if first["role"] == "system" else []
    return replace(problem, messages=[*kept, *rest])


def _one_group(
    problems: Sequence[Problem], group: int, max_tools: int
) -> tuple[list[Problem], list[Tool], list[Problem]]:
    """The first problem and those that go with it, their tools, and the other problems."""
    tools: dict[str, Tool] = {}
    if not problems[0].answers:
        return [problems[0]], problems[0].tools, list(problems[1:])
    members: list[Problem] = []
    left: list[Problem] = []
    for looked, problem in enumerate(problems):
        if looked >= _MOST_LOOKED_AT or len(members) >= group:
            left += problems[looked:]
            break
        names = {call["name"] for call in problem.answers}
        more = [t for t in problem.tools if t.name in names and tools.get(t.name) != t]
        fits = not members or (
            problem.answers
            and len(tools) + len(more) <= max_tools
            and not any(
                alike(words_of(tool.name), words_of(other.name))
                for tool in more
                for other in tools.values()
            )
        )
        if fits:
            members.append(problem)
            tools.update({tool.name: tool for tool in more})
        else:
            left.append(problem)
    return members, list(tools.values()), left
