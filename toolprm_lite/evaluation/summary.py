"""A run's answers made into figures: accuracy with intervals, tokens, time, kinds of failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toolprm_lite.evaluation.failures import FAILURES
from toolprm_lite.evaluation.items import Item
from toolprm_lite.evaluation.matching import CallLike

Record = dict[str, Any]
Float64Array = npt.NDArray[np.float64]
Checker = Callable[[Item, Sequence[CallLike]], bool]
Answers = Mapping[str, Sequence[Mapping[str, Record]]]  # by strategy, seed and problem

GREEDY = "greedy"
_ROUNDS = 2000


def summarise(
    items: Sequence[Item],
    answers: Answers,
    official: Checker | None = None,
) -> Record:
    """Figures over the items that every strategy has answered with every seed.

    What draws nothing has one seed. Shares and gains are means over seeds; `average_spread` and
    `all_spread` are the standard deviations of the shares that single seeds give. With `official`
    every answer is judged a second time; where the own judge has no verdict, the official one
    stands for it. "average" is the mean of the categories in which calls are right, "all" that over
    problems; the bring-up set is in neither, if there is anything else. Gains are over greedy, on
    the same problems; intervals are those of `interval`, with problems within their categories.
    """
    columns = [(strategy, found) for strategy, runs in answers.items() for found in runs]
    shared = [item for item in items if all(item.id in found for _, found in columns)]
    verdicts: list[list[bool | None]] = []
    disagree: list[Record] = []
    for strategy, found in columns:
        verdicts.append([])
        for item in shared:
            record = found[item.id]
            ours: bool | None = record["right"]
            if official is not None:
                theirs = bool(record.get("complete")) and official(item, record["calls"])
                if ours is not None and ours != theirs:
                    disagree.append(
                        {"strategy": strategy, "id": item.id, "ours": ours, "official": theirs}
                    )
                ours = theirs if ours is None else ours
            verdicts[-1].append(ours)
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
        "problems": len(items),
        "answered": len(shared),
        "judged": len(judged),
        "categories": dict(Counter(item.category for item in chosen)),
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


class _Table:
    """The problems' places by category."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.places: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            self.places.setdefault(item.category, []).append(place)
        fresh = [item for item in items if not item.bring_up]
        scored = [item.category for item in fresh or items]
        calling = {item.category for item in items if not item.declines}
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


def interval(
    groups: Sequence[Float64Array], *, weighted: bool, rounds: int = _ROUNDS
) -> list[float]:
    """95% of the means when each group's problems are drawn again with replacement.

    `groups` have one value a problem, the mean over its seeds: float64 [problems]. `weighted`
    gives every group the same weight, else every problem has it. A problem is drawn with all its
    seeds, which contains the variance of the seeds as well: the draws of two problems are
    independent, so the variance of a problem's mean is that between problems plus that between
    seeds over their number. To draw seeds again within each problem would count the latter twice
    (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).
    """
    random = np.random.default_rng(0)
    total = sum(map(len, groups))
    means = np.zeros(rounds)
    for group in groups:
        size = len(group)
        drawn = random.multinomial(size, np.full(size, 1 / size), size=rounds)
        means += drawn @ group / (size * len(groups) if weighted else total)
    return [float(bound) for bound in np.quantile(means, (0.025, 0.975))]


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
    records = [found[item.id] for found in answers[name] for item in table.items]
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
    items: Sequence[Item],
    right: Mapping[str, Float64Array],
    answers: Answers,
) -> tuple[str, Float64Array] | None:
    """Whether any response of the largest pool, or greedy's, is right."""
    pools = [name for name in answers if name.startswith(("majority", "best-of-n"))]
    if not pools or GREEDY not in right:
        return None
    name = max(pools, key=lambda pool: int(pool.rpartition("@")[2]))
    anywhere = [
        [bool(found[item.id].get("any_right")) for item in items] for found in answers[name]
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


# As Markdown


def markdown(summary: Record, title: str) -> str:
    """The summary as people read it."""
    rows = summary["strategies"]
    oracle = summary.get("oracle")
    lines = [f"# {title}", "", _scope(summary), ""]
    names = list(summary["categories"])
    scored = [row for row in (*rows, oracle) if row is not None]
    seeds = max(row["seeds"] for row in rows)
    head = ["strategy", *names, "average", "95%", "gain", "95%", "all", "way to the oracle"]
    head += ["seeds", "SD over seeds (average, all)"] if seeds > 1 else []
    body = [
        [
            row["strategy"],
            *(_percent(row["categories"][name]["share"]) for name in names),
            _percent(row["average"]),
            _range(row["average_interval"]),
            _points(row.get("average_gain")),
            _point_range(row.get("average_gain_interval")),
            _percent(row["all"]),
            _percent((row.get("way") or {}).get("average")),
            *([str(row["seeds"]), _spreads(row)] if seeds > 1 else []),
        ]
        for row in scored
    ]
    lines += ["## Right answers", "", *_table(head, body), ""]
    if "f1" in rows[0]:
        head = ["strategy", "F1 functions", "F1 arguments", "mean", "strict"]
        body = [
            [
                row["strategy"],
                *(_percent(row["f1"][part]) for part in ("function", "argument", "mean")),
                _percent(row["all"]),
            ]
            for row in rows
        ]
        lines += ["## As Hammer scores ToolAlpaca", "", *_table(head, body), ""]
    head = [
        "strategy", "decoded", "of greedy's", "drawn", "judge's", "decode ms", "p95", "reward ms",
        "all but prefill ms", "a candidate right",
    ]  # fmt: skip
    body = [
        [
            row["strategy"],
            _number(_sum(row["tokens"]["decoded"], row["tokens"]["forced"])),
            _number(row["tokens"]["of_greedy"], 2),
            _number(row["tokens"]["drawn"]),
            _number(row["tokens"]["judge"]),
            *(_number(row["ms"][name]) for name in ("decode", "decode_p95")),
            _number(row["ms"]["reward"], 1),
            _number(row["ms"]["without_prefill"]),
            _percent(row["any_right"]),
        ]
        for row in rows
    ]
    lines += ["## Cost of a problem", "", "Tokens are means, times medians.", ""]
    lines += [*_table(head, body), ""]
    kinds = [kind for kind in FAILURES if any(kind in row["failures"] for row in rows)]
    if kinds:
        head = ["strategy", *kinds]
        body = [
            [row["strategy"], *(str(row["failures"].get(kind, 0)) for kind in kinds)]
            for row in rows
        ]
        lines += ["## Failures", "", *_table(head, body), ""]
        if seeds > 1:
            lines += ["Counts are of all seeds together.", ""]
    if "official" in summary:
        official = summary["official"]
        lines += [
            "## The official checker",
            "",
            f"{official['judged']} answers judged, {official['disagreements']} verdicts disagree.",
            "",
            *(
                f"- {each['id']}, {each['strategy']}: ours {_verdict(each['ours'])}, official "
                f"{_verdict(each['official'])}"
                for each in official["disagree"]
            ),
        ]
    return "\n".join(lines).rstrip() + "\n"


def _scope(summary: Record) -> str:
    text = f"{summary['judged']} problems"
    if summary["answered"] < summary["problems"]:
        text += f" (of {summary['problems']}; the others are not answered yet)"
    if summary["judged"] < summary["answered"]:
        unjudged = summary["answered"] - summary["judged"]
        text += f", {unjudged} more that only the official checker can judge"
    counts = ", ".join(f"{name} {count}" for name, count in summary["categories"].items())
    return f"{text}: {counts}. The average is over categories in which calls are right."


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rule = "|".join("---" if number == 0 else "--:" for number in range(len(head)))
    return [f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in body)]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _range(bounds: Sequence[float] | None) -> str:
    return "-" if bounds is None else f"{bounds[0]:.1%} .. {bounds[1]:.1%}"


def _spreads(row: Record) -> str:
    """In points."""
    spreads = row["average_spread"], row["all_spread"]
    return ", ".join("-" if spread is None else f"{100 * spread:.1f}" for spread in spreads)


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def _point_range(bounds: Sequence[float] | None) -> str:
    return "-" if bounds is None else f"{100 * bounds[0]:+.1f} .. {100 * bounds[1]:+.1f}"


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _sum(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _verdict(right: bool) -> str:
    return "right" if right else "wrong"
