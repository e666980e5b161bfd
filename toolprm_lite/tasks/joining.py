"""Problems with several calls, made of problems with one: two or three questions in one.

Data with several right calls is rare, and most of it calls a different function each time. Here a
function is called again, with other arguments, wherever there are questions for it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence

from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tools import Tool

SOURCE = "joined"

_THREE = 0.3  # the share of joins of three questions
_SAME = 0.8  # how often the next question is looked for among those of the first one's function
_TRIES = 20
_PHRASES = ("{} {}", "{}\n{}", "{} Also: {}", "{}\n\n{}", "{} And another thing. {}", "{} Then: {}")


def part_ids(id: str, known: Container[str]) -> Iterator[str]:
    """The ids of the parts of a problem that may be a join, those in `known`; its own id if that is
    known. What is left, of which no known id can be made, comes last."""
    part = ""
    for piece in [id] if id in known else id.split("+"):
        part = f"{part}+{piece}" if part else piece
        if part in known:
            yield part
            part = ""
    if part:
        yield part


def joinable(problem: Problem) -> bool:
    """Whether it is one question, answered by one call."""
    return (
        len(problem.answers) == 1
        and [message["role"] for message in problem.messages] == ["user"]
        and problem.possible is None
    )


def join_problems(
    firsts: Sequence[Problem], others: Sequence[Problem], max_tools: int, rng: random.Random
) -> dict[str, Problem]:
    """Each of `firsts` joined with one or two of `others`, if any fit, by its id.

    All must be `joinable`. The ids are joined with "+", the source is `SOURCE`, and `parts` has the
    sources of the parts. The tools are those of all, the right ones first, at most `max_tools`
    unless more are right.
    """
    by_name: dict[str, list[Problem]] = defaultdict(list)
    for problem in others:
        by_name[problem.answers[0]["name"]].append(problem)
    made: dict[str, Problem] = {}
    for first in firsts:
        parts = [first]
        wanted = 3 if rng.random() < _THREE else 2
        same = by_name[first.answers[0]["name"]]
        for _ in range(_TRIES):
            if len(parts) == wanted:
                break
            choices = same if rng.random() < _SAME else others
            if choices and _goes_with(parts, other := choices[rng.randrange(len(choices))]):
                parts.append(other)
        if len(parts) > 1:
            made[first.id] = _joined(parts, max_tools, rng)
    return made


def _goes_with(parts: Sequence[Problem], other: Problem) -> bool:
    """Whether the question is another one, and no tool means two things."""
    tools = _tools(parts)
    return other.answers[0] not in [part.answers[0] for part in parts] and all(
        tools.get(tool.name, tool) == tool for tool in other.tools
    )


def _tools(parts: Sequence[Problem]) -> Mapping[str, Tool]:
    return {tool.name: tool for part in parts for tool in part.tools}


def _joined(parts: Sequence[Problem], max_tools: int, rng: random.Random) -> Problem:
    text = str(parts[0].messages[0]["content"]).strip()
    for part in parts[1:]:
        text = rng.choice(_PHRASES).format(text, str(part.messages[0]["content"]).strip())
    answers = [part.answers[0] for part in parts]
    right = {answer["name"] for answer in answers}
    tools = sorted(_tools(parts).values(), key=lambda tool: tool.name not in right)
    return Problem(
        id="+".join(part.id for part in parts),
        source=SOURCE,
        messages=[{**parts[0].messages[0], "content": text}],
        tools=tools[: max(max_tools, len(right))],
        answers=answers,
        parts=tuple(part.source for part in parts),
    )
