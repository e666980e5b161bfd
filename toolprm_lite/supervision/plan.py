"""Which problems are collected, and in which form: splits, offered tools, refusals, masks, order.

No function is right in more than one split. Knows nothing of models; draws all its random numbers
from the seed, so that the same problems give the same plan.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from toolprm_lite.errors import ConfigError
from toolprm_lite.prompt import Message
from toolprm_lite.supervision.joining import join_problems, joinable
from toolprm_lite.supervision.masking import mask
from toolprm_lite.supervision.problems import Call, Problem
from toolprm_lite.tools import Tool

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

# Words that say nothing of what a function is about.
_COMMON_TEXT = """
    get set search find query fetch retrieve list show look lookup check create make add new
    generate calculate compute update modify delete remove cancel analyze analyse manage convert
    api data info information details detail value result by for of to from in on with and or the
    a an all tool function
"""
_COMMON = frozenset(_COMMON_TEXT.split())
_ALONE = 0.25  # the share of problems with one tool, as in simple calls
_MOVES = 150_000  # of the local search: some seconds


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """How a plan is made.

    `mask_share` and `refusal_share` are shares of the problems; `multi_share` that of the problems
    with several calls which are kept; `joined_share` that of the single questions with one call
    which are asked together with others of their side; `fractions` those of train, validation and
    test; `max_tools` the most tools offered (more only where the answers need them); `group` the
    most problems that share tools and mask. Raises `ConfigError`.
    """

    seed: int = 0
    mask_share: float = 0.5
    refusal_share: float = 0.1
    multi_share: float = 1.0
    joined_share: float = 0.0
    max_tools: int = 6
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    group: int = 6

    def __post_init__(self) -> None:
        for name in ("mask_share", "refusal_share", "multi_share", "joined_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        for name in ("max_tools", "group"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if (
            len(self.fractions) != 3
            or min(self.fractions) < 0
            or not math.isclose(sum(self.fractions), 1, abs_tol=1e-6)
        ):
            raise ConfigError(f"fractions are {self.fractions}; give three shares that add up to 1")


@dataclass(frozen=True, slots=True)
class Planned:
    """A problem as it is shown to the model. `refusal`: declining is right, answers are empty.
    `possible`: as in `Problem`."""

    id: str
    source: str
    split: Split
    masked: bool
    refusal: bool
    messages: list[Message]
    tools: list[Tool]
    answers: list[Call]
    possible: list[dict[str, Any]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The problem in JSON's own types."""
        record: dict[str, Any] = {
            "id": self.id,
            "source": self.source,
            "split": self.split,
            "masked": self.masked,
            "refusal": self.refusal,
            "messages": self.messages,
            "tools": [tool.to_dict() for tool in self.tools],
            "answers": self.answers,
        }
        return record if self.possible is None else {**record, "possible": self.possible}


def make_plan(
    problems: Sequence[Problem],
    settings: PlanSettings | None = None,
    beside: Mapping[str, Split] | None = None,
) -> list[Planned]:
    """Give every problem its split, its tools and its mask, and put all in a fair order.

    Problems whose functions fall on several sides are left out. Problems that share tools and mask
    follow each other; otherwise each beginning of the plan is a sample of all sources and splits.

    `beside` are the splits of problems of an earlier plan, by id: they are left out but for joins,
    and their functions stay on their sides, so that heads may be fitted to both.
    """
    settings = settings or PlanSettings()
    known = [problem for problem in problems if beside and problem.id in beside]
    taken = {
        name: SPLITS.index(beside[problem.id])
        for problem in problems
        if beside and problem.id in beside
        for name in _right(problem)
    }
    problems = [
        problem
        for problem in problems
        if (
            len(problem.answers) < 2
            or fraction(f"{settings.seed}/multi/{problem.id}") < settings.multi_share
        )
        and not (beside and problem.id in beside)
    ]
    if beside:
        sides = _sides_beside(problems, taken, settings)
    else:
        sides = _split_functions(problems, settings)
    by_side: list[list[Problem]] = [[], [], []]
    for problem in problems:
        side = _side(problem, sides, settings)
        if side is not None:
            by_side[side].append(problem)
    if settings.joined_share > 0:
        by_side = [
            _with_joins(
                chosen,
                [problem for problem in known if _side(problem, sides, settings) == side],
                side,
                settings,
            )
            for side, chosen in enumerate(by_side)
        ]
    pools = _pools(problems, sides, settings)
    groups = [
        group
        for side, chosen in enumerate(by_side)
        for group in _side_groups(chosen, side, pools[side], sides, settings)
    ]
    return [planned for group in _interleave(groups, settings) for planned in group]


def as_is(problems: Sequence[Problem]) -> list[Planned]:
    """A plan that changes nothing, all of it test: to judge rewards on a benchmark's problems."""
    return [
        Planned(
            id=problem.id,
            source=problem.source,
            split="test",
            masked=False,
            refusal=not problem.answers,
            messages=problem.messages,
            tools=problem.tools,
            answers=problem.answers,
            possible=problem.possible,
        )
        for problem in problems
    ]


def plan_report(problems: Sequence[Problem], plan: Sequence[Planned]) -> dict[str, Any]:
    """Counts of a plan made from `problems`.

    {"problems", "planned", "dropped", "multi_call", "refusals", "masked",
    "splits": {split: {"problems", "multi_call", "refusals", "masked", "functions"}},
    "sources": {source: {split: problems, "multi_call", "dropped"}},
    "tools": {number offered: problems}}. "multi_call" counts problems with two or more right
    calls; "functions" names that are right in the split.
    """
    planned_ids = {planned.id for planned in plan}
    right = {problem.id: _right(problem) for problem in problems}
    splits: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        part = [planned for planned in plan if planned.split == split]
        functions = {
            name
            for planned in part
            for id in (planned.id, *planned.id.split("+"))  # a join's is that of its parts
            for name in right.get(id, ())
        }
        splits[split] = {**_totals(part), "functions": len(functions)}
    sources: dict[str, dict[str, int]] = {}
    for source in dict.fromkeys(problem.source for problem in problems):
        part = [planned for planned in plan if planned.source == source]
        counts = Counter(planned.split for planned in part)
        sources[source] = {
            **{split: counts[split] for split in SPLITS},
            "multi_call": _totals(part)["multi_call"],
            "dropped": sum(p.source == source and p.id not in planned_ids for p in problems),
        }
    sizes = Counter(len(planned.tools) for planned in plan)
    totals = _totals(plan)
    return {
        "problems": len(problems),
        "planned": len(plan),
        "dropped": len(problems) - len(plan),
        "multi_call": totals["multi_call"],
        "refusals": totals["refusals"],
        "masked": totals["masked"],
        "splits": splits,
        "sources": sources,
        "tools": {size: sizes[size] for size in sorted(sizes)},
    }


def _totals(part: Sequence[Planned]) -> dict[str, int]:
    return {
        "problems": len(part),
        "multi_call": sum(len(planned.answers) > 1 for planned in part),
        "refusals": sum(planned.refusal for planned in part),
        "masked": sum(planned.masked for planned in part),
    }


# Names


def _key(name: str) -> str:
    """What a name is in any spelling: getWeather, get_weather and GetWeather are one."""
    return "".join(sign for sign in name.lower() if sign.isalnum()) or name.lower()


def _words(name: str) -> frozenset[str]:
    """The words of a name that say what it is about."""
    split = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    words = re.findall(r"[^\W\d_]+", split.lower())
    return frozenset(_stem(word) for word in words if word not in _COMMON)


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _right(problem: Problem) -> list[str]:
    """The keys of the functions that are right, each once."""
    return list(dict.fromkeys(_key(answer["name"]) for answer in problem.answers))


def _dice(settings: PlanSettings, *what: object) -> random.Random:
    return random.Random(":".join(map(str, (settings.seed, *what))))


def fraction(key: str) -> float:
    """A number in 0 .. 1 that depends on the key alone."""
    digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _hash_side(text: str, settings: PlanSettings) -> int:
    place = fraction(f"{settings.seed}:{text}")
    first, second, _ = settings.fractions
    return 0 if place < first else 1 if place < first + second else 2


# Splits


def _split_functions(problems: Sequence[Problem], settings: PlanSettings) -> dict[str, int]:
    """The side (0, 1, 2) of every right function.

    Few problems shall mix sides: a local search moves all functions of a problem to one side. The
    cost is the number of mixed problems, plus how far the kept ones are from the fractions within
    each stratum (a source's problems with one function, and with several).
    """
    rights = [_right(problem) for problem in problems]
    chosen = [number for number, right in enumerate(rights) if right]
    functions = sorted({name for right in rights for name in right})
    index = {name: place for place, name in enumerate(functions)}
    strata: dict[tuple[str, bool], int] = {}
    edges: list[tuple[int, ...]] = []
    stratum: list[int] = []
    for number in chosen:
        edges.append(tuple(index[name] for name in rights[number]))
        kind = (problems[number].source, len(problems[number].answers) > 1)
        stratum.append(strata.setdefault(kind, len(strata)))
    search = _Partition(len(functions), edges, stratum, len(strata), settings)
    search.run()
    return {name: search.side[place] for place, name in enumerate(functions)}


def _sides_beside(
    problems: Sequence[Problem], taken: Mapping[str, int], settings: PlanSettings
) -> dict[str, int]:
    """Sides of functions of which some are `taken`: the others follow those of their problem."""
    sides = dict(taken)
    # Problems with the most functions that have a side first: the others have more freedom.
    known = [sum(name in taken for name in _right(problem)) for problem in problems]
    for _, problem in sorted(zip(known, problems, strict=True), key=lambda pair: -pair[0]):
        names = _right(problem)
        found = Counter(sides[name] for name in names if name in sides)
        side = max(found, key=lambda key: (found[key], -key)) if found else None
        for name in names:
            sides.setdefault(name, _hash_side(names[0], settings) if side is None else side)
    return sides


class _Partition:
    """The local search over the sides of functions."""

    def __init__(
        self,
        functions: int,
        edges: list[tuple[int, ...]],
        stratum: list[int],
        strata: int,
        settings: PlanSettings,
    ) -> None:
        self.edges = edges
        self.stratum = stratum
        self.fractions = settings.fractions
        self.dice = _dice(settings, "split")
        self.of_function: list[list[int]] = [[] for _ in range(functions)]
        for number, edge in enumerate(edges):
            for function in edge:
                self.of_function[function].append(number)
        self.side = [0] * functions
        self._grow()
        self.kept = [[0, 0, 0] for _ in range(strata)]
        self.mixed = 0
        for number in range(len(edges)):
            self._count(number, 1)
        self.balance = [self._imbalance(counts) for counts in self.kept]

    def _grow(self) -> None:
        """A start: neighbourhoods, grown problem by problem until a side has its fraction."""
        left = set(range(len(self.edges)))
        order = list(range(len(self.edges)))
        self.dice.shuffle(order)
        for side in (1, 2):
            want = round(self.fractions[side] * len(self.edges))
            queue: list[int] = []
            seen: set[int] = set()
            start = 0
            while want > 0 and left:
                while not queue and start < len(order):
                    if order[start] in left:
                        queue.append(order[start])
                    start += 1
                if not queue:
                    break
                number = queue.pop(0)
                if number not in left:
                    continue
                left.discard(number)
                want -= 1
                for function in self.edges[number]:
                    self.side[function] = side
                    for near in self.of_function[function]:
                        if near in left and near not in seen:
                            seen.add(near)
                            queue.append(near)

    def _count(self, number: int, by: int) -> None:
        edge = self.edges[number]
        side = self.side[edge[0]]
        if all(self.side[function] == side for function in edge):
            self.kept[self.stratum[number]][side] += by
        else:
            self.mixed += by

    def _imbalance(self, counts: Sequence[int]) -> float:
        total = sum(counts)
        return sum(
            (count - fraction * total) ** 2 / (fraction * total + 1)
            for count, fraction in zip(counts, self.fractions, strict=True)
        )

    def _move(self, functions: Sequence[int], sides: Sequence[int]) -> float:
        """Put the functions on these sides; return by how much the cost has grown."""
        touched = sorted({number for f in functions for number in self.of_function[f]})
        strata = {self.stratum[number] for number in touched}
        before = self.mixed + sum(self.balance[s] for s in strata)
        for number in touched:
            self._count(number, -1)
        for function, side in zip(functions, sides, strict=True):
            self.side[function] = side
        for number in touched:
            self._count(number, 1)
        for s in strata:
            self.balance[s] = self._imbalance(self.kept[s])
        return self.mixed + sum(self.balance[s] for s in strata) - before

    def run(self) -> None:
        """Simulated annealing; the warmth falls to nothing, and the best state seen is kept."""
        if not self.edges:
            return
        moves = min(_MOVES, 100 * len(self.edges))
        cost = best = 0.0
        best_sides = list(self.side)
        usable = [side for side in range(3) if self.fractions[side] > 0]
        for turn in range(moves):
            warmth = 1.0 * (1 - turn / moves) ** 2
            edge = self.edges[self.dice.randrange(len(self.edges))]
            side = usable[self.dice.randrange(len(usable))]
            functions = [function for function in edge if self.side[function] != side]
            if not functions:
                continue
            before = [self.side[function] for function in functions]
            change = self._move(functions, [side] * len(functions))
            if change <= 0 or (warmth > 0 and self.dice.random() < math.exp(-change / warmth)):
                cost += change
                if cost < best - 1e-9:
                    best, best_sides = cost, list(self.side)
            else:
                self._move(functions, before)
        self.side = best_sides


def _side(problem: Problem, sides: dict[str, int], settings: PlanSettings) -> int | None:
    """The problem's side, or None where its functions are on several."""
    found = {sides[name] for name in _right(problem)}
    if len(found) > 1:
        return None
    if found:
        return found.pop()
    # Nothing is right: where most of its tools are at home.
    listed = Counter(
        sides.get(_key(tool.name), _hash_side(_key(tool.name), settings)) for tool in problem.tools
    )
    return min(listed, key=lambda side: (-listed[side], side))


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
    dice = _dice(settings, "join", side)
    joins = join_problems(chosen, single, settings.max_tools, dice)
    return [problem for problem in problems if problem.id not in joins] + list(joins.values())


# Tools


@dataclass(frozen=True, slots=True)
class _Pooled:
    tool: Tool
    key: str
    words: frozenset[str]
    sources: frozenset[str]


def _pools(
    problems: Sequence[Problem], sides: dict[str, int], settings: PlanSettings
) -> list[list[_Pooled]]:
    """For each side the tools that may be added there, one definition a name."""
    tools: dict[str, Tool] = {}
    sources: dict[str, set[str]] = defaultdict(set)
    for problem in problems:
        for tool in problem.tools:
            key = _key(tool.name)
            tools.setdefault(key, tool)
            sources[key].add(problem.source)
    pools: list[list[_Pooled]] = [[], [], []]
    for key in sorted(tools):
        side = sides[key] if key in sides else _hash_side(key, settings)
        tool = tools[key]
        pools[side].append(_Pooled(tool, key, _words(tool.name), frozenset(sources[key])))
    return pools


def _side_groups(
    problems: Sequence[Problem],
    side: int,
    pool: Sequence[_Pooled],
    sides: dict[str, int],
    settings: PlanSettings,
) -> list[list[Planned]]:
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
        dice = _dice(settings, "group", listing, refusal)
        dice.shuffle(members)
        members.sort(key=_right)  # the same right functions together: fewer must be offered
        groups += [
            (members[start : start + settings.group], refusal)
            for start in range(0, len(members), settings.group)
        ]
    masked = _choose_masked([len(members) for members, _ in groups], side, settings)
    by_source = _by_source(pool)
    alone = _chance_alone(groups)
    result: list[list[Planned]] = []
    for (members, refusal), hide in zip(groups, masked, strict=True):
        dice = _dice(settings, "tools", members[0].id)
        tools = None
        if refusal:
            tools = _foreign_tools(members, by_source, alone, dice, settings)
        if tools is None:
            refusal = False
            tools = _offered_tools(members, side, by_source, sides, alone, dice, settings)
        key = f"group:{members[0].id}"
        result.append(
            [_planned(member, side, tools, refusal, hide, key, settings) for member in members]
        )
    return result


def _planned(
    problem: Problem,
    side: int,
    tools: list[Tool],
    refusal: bool,
    hide: bool,
    key: str,
    settings: PlanSettings,
) -> Planned:
    answers = [] if refusal else problem.answers
    shown = replace(problem, tools=tools, answers=answers)
    if hide:
        shown = mask(shown, settings.seed, key)
    return Planned(
        id=problem.id,
        source=problem.source,
        split=SPLITS[side],
        masked=hide,
        refusal=not answers,
        messages=shown.messages,
        tools=shown.tools,
        answers=shown.answers,
        possible=None if refusal or hide else problem.possible,
    )


def _choose_refusals(problems: Sequence[Problem], side: int, settings: PlanSettings) -> set[str]:
    """The ids of the problems that lose their right tools, spread over the sources.

    A history that has used the tools, or ends in a promise to, would contradict a refusal.
    """
    by_source: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        by_source[problem.source].append(problem)
    chosen: set[str] = set()
    owed = 0.0
    for source in sorted(by_source):
        members = by_source[source]
        able = [
            problem
            for problem in members
            if problem.answers
            and problem.messages[-1]["role"] == "user"
            and not any(m["role"] == "tool" or "tool_calls" in m for m in problem.messages)
        ]
        owed += settings.refusal_share * len(members)
        owed -= sum(not problem.answers for problem in members)
        number = max(0, min(len(able), round(owed)))
        owed -= number
        chosen.update(p.id for p in _dice(settings, "refuse", side, source).sample(able, number))
    return chosen


def _choose_masked(sizes: Sequence[int], side: int, settings: PlanSettings) -> list[bool]:
    """Which groups are masked: as many problems as `mask_share` says."""
    order = list(range(len(sizes)))
    _dice(settings, "mask", side).shuffle(order)
    hide = [False] * len(sizes)
    owed = 0.0
    for place in order:
        owed += settings.mask_share * sizes[place]
        if owed >= sizes[place] / 2 and settings.mask_share > 0:
            hide[place] = True
            owed -= sizes[place]
    return hide


def _by_source(pool: Iterable[_Pooled]) -> dict[str, list[_Pooled]]:
    """The pool by source; "" holds all of it."""
    found: dict[str, list[_Pooled]] = defaultdict(list)
    for pooled in pool:
        found[""].append(pooled)
        for source in sorted(pooled.sources):
            found[source].append(pooled)
    return found


def _number_of_tools(needed: int, alone: float, dice: random.Random, settings: PlanSettings) -> int:
    """How many to offer where `needed` must be: 1 with the chance `alone`, else evenly up."""
    if settings.max_tools <= needed:
        return needed
    if needed <= 1 and dice.random() < alone:
        return 1
    return dice.randint(max(2, needed), settings.max_tools)


def _chance_alone(groups: Sequence[tuple[list[Problem], bool]]) -> float:
    """The chance of one tool, where one will do, that gives a quarter of all problems one."""
    total = sum(len(members) for members, _ in groups)
    able = sum(
        len(members)
        for members, refusal in groups
        if refusal or len({call["name"] for p in members for call in p.answers}) <= 1
    )
    return min(1.0, _ALONE * total / able) if able else 0.0


def _offered_tools(
    members: Sequence[Problem],
    side: int,
    pool: dict[str, list[_Pooled]],
    sides: dict[str, int],
    alone: float,
    dice: random.Random,
    settings: PlanSettings,
) -> list[Tool]:
    """The right tools of all members, then listed ones of this side, then some of the pool."""
    listed = list({tool.name: tool for m in members for tool in m.tools}.values())
    needed = {answer["name"] for member in members for answer in member.answers}
    tools = [tool for tool in listed if tool.name in needed]
    others = [
        tool
        for tool in listed
        if tool.name not in needed and sides.get(_key(tool.name), side) == side
    ]
    dice.shuffle(others)
    number = _number_of_tools(len(tools), alone, dice, settings)
    taken = {_key(tool.name) for tool in tools}
    topics = [_words(tool.name) for tool in tools]
    for tool in others:
        if len(tools) < max(number, 1) and _key(tool.name) not in taken:
            tools.append(tool)
            taken.add(_key(tool.name))
    if needed:  # where nothing was right from the start, an added tool might be
        source = members[0].source
        for _ in range(20 * settings.max_tools):
            if len(tools) >= number:
                break
            choices = pool.get(source if dice.random() < 0.5 else "") or pool.get("")
            if not choices:
                break
            pooled = choices[dice.randrange(len(choices))]
            if pooled.key in taken or any(_alike(pooled.words, topic) for topic in topics if topic):
                continue
            tools.append(pooled.tool)
            taken.add(pooled.key)
    if not tools:  # all that was listed is at home elsewhere: nothing is right, so any tool will do
        tools = [pooled.tool for pooled in dice.sample(pool[""], 1)] if pool.get("") else listed[:1]
    dice.shuffle(tools)
    return tools


def _alike(words: frozenset[str], topic: frozenset[str]) -> bool:
    """Whether a tool may do what the right one does: generatePassword, generate_random_password."""
    return words <= topic or topic <= words


def _foreign_tools(
    members: Sequence[Problem],
    pool: dict[str, list[_Pooled]],
    alone: float,
    dice: random.Random,
    settings: PlanSettings,
) -> list[Tool] | None:
    """Tools that can't answer: of other sources if there are, sharing no word with the right ones.

    None where there is no such tool.
    """
    source = members[0].source
    listed = {_key(tool.name) for member in members for tool in member.tools}
    right: set[str] = set()
    for member in members:
        for answer in member.answers:
            right |= _words(answer["name"])
    said = {
        _stem(word)
        for member in members
        for message in member.messages
        for word in re.findall(r"[^\W\d_]+", message["content"].lower())
    }
    usable = [
        pooled
        for pooled in pool.get("", ())
        if pooled.key not in listed and pooled.words and not pooled.words & right
    ]
    other = [pooled for pooled in usable if source not in pooled.sources]
    usable = other or usable
    usable = [pooled for pooled in usable if not pooled.words & said] or usable
    if not usable:
        return None
    number = min(_number_of_tools(1, alone, dice, settings), len(usable))
    return [pooled.tool for pooled in dice.sample(usable, number)]


# Order


def _interleave(groups: Sequence[list[Planned]], settings: PlanSettings) -> list[list[Planned]]:
    """Groups in an order of which each beginning has its share of every kind of problem."""
    strata: dict[tuple[Any, ...], list[list[Planned]]] = defaultdict(list)
    for group in groups:
        first = group[0]
        strata[first.split, first.source, first.refusal, first.masked].append(group)
    placed: list[tuple[float, str, list[Planned]]] = []
    for kind in sorted(strata):
        members = strata[kind]
        dice = _dice(settings, "order", *kind)
        dice.shuffle(members)
        total = sum(map(len, members))
        before = 0
        for group in members:
            place = (before + dice.random() * len(group)) / total
            placed.append((place, group[0].id, group))
            before += len(group)
    return [group for _, _, group in sorted(placed, key=lambda item: item[:2])]
