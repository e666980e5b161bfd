"""The side of every function: train, validation or test. No function is right on two sides."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from toolprm_lite.tasks.names import fraction, key_of, random_of, right_names
from toolprm_lite.tasks.plan_settings import PlanSettings
from toolprm_lite.tasks.problem import Problem

_MOVES = 150_000  # of the local search: some seconds


def split_functions(problems: Sequence[Problem], settings: PlanSettings) -> dict[str, int]:
    """The side (0, 1, 2) of every right function.

    So that few problems mix sides, a local search moves all functions of a problem to one side. The
    cost is the number of mixed problems, plus how far the kept ones are from the fractions within
    each stratum (a source's problems with one function, and with several).
    """
    rights = [right_names(problem) for problem in problems]
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


def sides_around(
    problems: Sequence[Problem], taken: Mapping[str, int], settings: PlanSettings
) -> dict[str, int]:
    """Sides of functions of which some are `taken`: the others follow those of their problem."""
    sides = dict(taken)
    # Problems with the most functions that have a side first: the others have more freedom.
    known = [sum(name in taken for name in right_names(problem)) for problem in problems]
    for _, problem in sorted(zip(known, problems, strict=True), key=lambda pair: -pair[0]):
        names = right_names(problem)
        found = Counter(sides[name] for name in names if name in sides)
        side = max(found, key=lambda key: (found[key], -key)) if found else None
        for name in names:
            sides.setdefault(name, hash_side(names[0], settings) if side is None else side)
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
        self.rng = random_of(settings, "split")
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
        self.rng.shuffle(order)
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
        """Simulated annealing; the temperature falls to 0, and the best state seen is kept."""
        if not self.edges:
            return
        moves = min(_MOVES, 100 * len(self.edges))
        cost = best = 0.0
        best_sides = list(self.side)
        usable = [side for side in range(3) if self.fractions[side] > 0]
        for turn in range(moves):
            temperature = 1.0 * (1 - turn / moves) ** 2
            edge = self.edges[self.rng.randrange(len(self.edges))]
            side = usable[self.rng.randrange(len(usable))]
            functions = [function for function in edge if self.side[function] != side]
            if not functions:
                continue
            before = [self.side[function] for function in functions]
            change = self._move(functions, [side] * len(functions))
            if change <= 0 or (
                temperature > 0 and self.rng.random() < math.exp(-change / temperature)
            ):
                cost += change
                if cost < best - 1e-9:
                    best, best_sides = cost, list(self.side)
            else:
                self._move(functions, before)
        self.side = best_sides


def side_of(problem: Problem, sides: dict[str, int], settings: PlanSettings) -> int | None:
    """The problem's side, or None where its functions are on several."""
    found = {sides[name] for name in right_names(problem)}
    if len(found) > 1:
        return None
    if found:
        return found.pop()
    # Nothing is right: the side of most of its tools.
    listed = Counter(
        sides.get(key_of(tool.name), hash_side(key_of(tool.name), settings))
        for tool in problem.tools
    )
    return min(listed, key=lambda side: (-listed[side], side))


def hash_side(text: str, settings: PlanSettings) -> int:
    """The side that a text's hash gives, with the settings' fractions."""
    place = fraction(f"{settings.seed}:{text}")
    first, second, _ = settings.fractions
    return 0 if place < first else 1 if place < first + second else 2
