"""Figures of a run's answers: accuracy with intervals, tokens, time, kinds of failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from toolprm_lite.evaluation.failures import FAILURES
from toolprm_lite.evaluation.intervals import Float64Array, interval
from toolprm_lite.tasks.matching import CallLike
from toolprm_lite.tasks.problem import Problem

Record = dict[str, Any]
Checker = Callable[[Problem, Sequence[CallLike]], bool]
Answers = Mapping[str, Sequence[Mapping[str, Record]]]  # by strategy, seed and problem

GREEDY = "greedy"


def summarise(
    problems: Sequence[Problem],
    answers: Answers,
    official: Checker | None = None,
) -> Record:
    """Figures over the problems that every strategy has answered with every seed.

    What draws nothing has one seed. Shares and gains are means over seeds; `average_spread` and
    `all_spread` are the standard deviations of the shares that single seeds give. With `official`
    every answer is judged a second time; if our judge has no verdict, the official one
    is taken. "average" is the mean of the categories in which calls are right, "all" that over
    problems; the bring-up set is in neither, if there is anything else. Gains are over greedy, on
    the same problems; intervals are those of `interval`, with problems within their categories.
    """
    columns = [(strategy, found) for strategy, runs in answers.items() for found in runs]
    shared = [problem for problem in problems if all(problem.id in found for _, found in columns)]
    verdicts, disagree = _verdicts(columns, shared, official)
    judged = [
        place
        for place in range(len(shared))
        if all(column[place] is not None for column in verdicts)
    ]
    chosen = [shared[place] for place in judged]
    right = {
        name: np.array(
            [
                [column[place] for place in judged]
                for (strategy, _), column in zip(columns, verdicts, strict=True)
                if strategy == name
            ],
            np.float64,
        )
        for name in answers
    }
    table = _Table(chosen)
    rows = [_row(table, name, right[name], right.get(GREEDY), answers) for name in answers]
    summary: Record = {
        "problems": len(problems),
        "answered": len(shared),
        "judged": len(judged),
        "categories": dict(Counter(problem.category for problem in chosen)),
        "strategies": rows,
    }
    oracle = _oracle(chosen, right, answers)
    if oracle is not None:
        name, values = oracle
        ceiling = table.accuracy(values, right.get(GREEDY))
        summary["oracle"] = {"strategy": name, **ceiling}
        for row in rows:
            row["way"] = {
                part: _way(row[part], ceiling[part], _find(rows, GREEDY).get(part))
                for part in ("average", "all")
            }
    if official is not None:
        summary["official"] = {
            "judged": len(shared) * len(columns),
            "disagreements": len(disagree),
            "disagree": disagree,
        }
    return summary


def _verdicts(
    columns: Sequence[tuple[str, Mapping[str, Record]]],
    problems: Sequence[Problem],
    official: Checker | None,
) -> tuple[list[list[bool | None]], list[Record]]:
    """The verdicts of each column on the problems, and where the official ones are others."""
    verdicts: list[list[bool | None]] = []
    disagree: list[Record] = []
    for strategy, found in columns:
        verdicts.append([])
        for problem in problems:
            record = found[problem.id]
            ours: bool | None = record["right"]
            if official is not None:
                theirs = bool(record.get("complete")) and official(problem, record["calls"])
                if ours is not None and ours != theirs:
                    disagree.append(
                        {"strategy": strategy, "id": problem.id, "ours": ours, "official": theirs}
                    )
                ours = theirs if ours is None else ours
            verdicts[-1].append(ours)
    return verdicts, disagree


class _Table:
    """The problems' places by category."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = problems
        self.places: dict[str, list[int]] = {}
        for place, problem in enumerate(problems):
            self.places.setdefault(problem.category, []).append(place)
        fresh = [problem for problem in problems if not problem.bring_up]
        scored = [problem.category for problem in fresh or problems]
        calling = {problem.category for problem in problems if not problem.declines}
        self.scored = list(dict.fromkeys(scored))
        self.averaged = [category for category in self.scored if category in calling]

    def accuracy(self, answers: Float64Array, greedy: Float64Array | None) -> Record:
        """Shares by category, averaged, and over all; float64 [seeds, problems] in."""
        categories = {}
        right = answers.mean(axis=0)
        greedy = None if greedy is None else greedy.mean(axis=0)
        for category, places in self.places.items():
            categories[category] = {
                "problems": len(places),
                "right": int(answers[:, places].sum()),
                "share": float(right[places].mean()),
                "interval": self._interval(right, [category], weighted=False),
            }
        found: Record = {"seeds": len(answers), "categories": categories}
        for part, names, weighted in (
            ("average", self.averaged, True),
            ("all", self.scored, False),
        ):
            found[part] = self._mean(right, names, weighted)
            found[f"{part}_interval"] = self._interval(right, names, weighted)
            found[f"{part}_spread"] = _spread(
                [self._mean(seed, names, weighted) for seed in answers]
            )
            if greedy is not None:
                found[f"{part}_gain"] = self._mean(right - greedy, names, weighted)
                found[f"{part}_gain_interval"] = self._interval(right - greedy, names, weighted)
        return found

    def _mean(self, values: Float64Array, names: Sequence[str], weighted: bool) -> float | None:
        groups = [values[self.places[name]] for name in names]
        if not groups:
            return None
        if weighted:
            return float(np.mean([group.mean() for group in groups]))
        return float(np.concatenate(groups).mean())

    def _interval(
        self, values: Float64Array, names: Sequence[str], weighted: bool
    ) -> list[float] | None:
        groups = [values[self.places[name]] for name in names]
        return interval(groups, weighted=weighted) if groups else None


def _spread(shares: Sequence[float | None]) -> float | None:
    """The standard deviation over seeds, None where there is but one."""
    known = [share for share in shares if share is not None]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None


def _row(
    table: _Table,
    name: str,
    right: Float64Array,
    greedy: Float64Array | None,
    answers: Answers,
) -> Record:
    records = [found[problem.id] for found in answers[name] for problem in table.problems]
    row: Record = {"strategy": name, **table.accuracy(right, greedy)}
    asked = [record for record in records if "stats" in record]
    row["errors"] = len(records) - len(asked)
    row["incomplete"] = sum(not record["complete"] for record in asked)
    row["any_right"] = sum(bool(record["any_right"]) for record in asked) / max(1, len(asked))
    row["failures"] = _failures(records)
    row["tokens"] = {
        "decoded": _mean(record["stats"]["decode_tokens"] for record in asked),
        "forced": _mean(record["stats"]["forced_tokens"] for record in asked),
        "drawn": _mean(record["stats"]["drawn_tokens"] for record in asked),
        "judge": _mean(record.get("judge_tokens", 0) for record in asked),
    }
    phases = {
        phase: np.array([record["stats"]["ms"][phase] for record in asked], np.float64)
        for phase in ("decode", "core", "reward")
    }
    whole = sum(phases.values(), np.zeros(len(asked)))
    row["ms"] = {
        **{phase: _quantile(values, 0.5) for phase, values in phases.items()},
        "decode_p95": _quantile(phases["decode"], 0.95),
        "without_prefill": _quantile(whole, 0.5),
    }
    (baseline,) = answers.get(GREEDY, [{}])
    costs = [
        (_decoded(record), _decoded(baseline[record["id"]]))
        for record in asked
        if "stats" in baseline.get(record["id"], {})
    ]
    spent, unit = (sum(column) for column in zip(*costs, strict=True)) if costs else (0, 0)
    row["tokens"]["of_greedy"] = spent / unit if unit else None
    return row


def _decoded(record: Record) -> int:
    stats = record["stats"]
    return int(stats["decode_tokens"] + stats["forced_tokens"])


def _failures(records: Sequence[Record]) -> dict[str, int]:
    """How often each kind of failure occurs, by `FAILURES`."""
    kinds = Counter(
        "error" if "error" in record else record.get("failure", "")
        for record in records
        if not record["right"]
    )
    return {kind: kinds[kind] for kind in FAILURES if kinds[kind]}


def _oracle(
    problems: Sequence[Problem],
    right: Mapping[str, Float64Array],
    answers: Answers,
) -> tuple[str, Float64Array] | None:
    """Whether any response of the largest pool, or greedy's, is right."""
    pools = [name for name in answers if name.startswith(("majority", "best-of-n"))]
    if not pools or GREEDY not in right:
        return None
    name = max(pools, key=lambda pool: int(pool.rpartition("@")[2]))
    anywhere = [
        [bool(found[problem.id].get("any_right")) for problem in problems]
        for found in answers[name]
    ]
    return f"oracle@{name.rpartition('@')[2]}", np.maximum(right[GREEDY], anywhere)


def _way(value: float | None, ceiling: float | None, floor: float | None) -> float | None:
    """How far from greedy to the oracle, 0 .. 1."""
    if value is None or ceiling is None or floor is None or ceiling <= floor:
        return None
    return (value - floor) / (ceiling - floor)


def _find(rows: Sequence[Record], name: str) -> Record:
    return next((row for row in rows if row["strategy"] == name), {})


def _mean(values: Any) -> float | None:
    numbers = list(values)
    return float(np.mean(numbers)) if numbers else None


def _quantile(values: Float64Array, level: float) -> float | None:
    return float(np.quantile(values, level)) if len(values) else None
