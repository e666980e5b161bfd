"""A run's summary as a text in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolprm_lite.evaluation.failures import FAILURES

Record = dict[str, Any]


def markdown(summary: Record, title: str) -> str:
    """The summary as Markdown."""
    lines = [f"# {title}", "", _scope(summary), "", *_right(summary)]
    rows = summary["strategies"]
    if "f1" in rows[0]:
        lines += _f1(rows)
    lines += [*_cost(rows), *_failures(rows)]
    if "official" in summary:
        lines += _official(summary["official"])
    return "\n".join(lines).rstrip() + "\n"


def _seeds(rows: Sequence[Record]) -> int:
    return max(int(row["seeds"]) for row in rows)


def _right(summary: Record) -> list[str]:
    names = list(summary["categories"])
    scored = [row for row in (*summary["strategies"], summary.get("oracle")) if row is not None]
    several = _seeds(summary["strategies"]) > 1
    head = ["strategy", *names, "average", "95%", "gain", "95%", "all", "way to the oracle"]
    head += ["seeds", "SD over seeds (average, all)"] if several else []
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
            *([str(row["seeds"]), _spreads(row)] if several else []),
        ]
        for row in scored
    ]
    return ["## Right answers", "", *_table(head, body), ""]


def _f1(rows: Sequence[Record]) -> list[str]:
    head = ["strategy", "F1 functions", "F1 arguments", "mean", "strict"]
    body = [
        [
            row["strategy"],
            *(_percent(row["f1"][part]) for part in ("function", "argument", "mean")),
            _percent(row["all"]),
        ]
        for row in rows
    ]
    return ["## As Hammer scores ToolAlpaca", "", *_table(head, body), ""]


def _cost(rows: Sequence[Record]) -> list[str]:
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
    note = "Tokens are means, times medians."
    return ["## Cost of a problem", "", note, "", *_table(head, body), ""]


def _failures(rows: Sequence[Record]) -> list[str]:
    kinds = [kind for kind in FAILURES if any(kind in row["failures"] for row in rows)]
    if not kinds:
        return []
    head = ["strategy", *kinds]
    body = [
        [row["strategy"], *(str(row["failures"].get(kind, 0)) for kind in kinds)] for row in rows
    ]
    several = ["Counts are of all seeds together.", ""] if _seeds(rows) > 1 else []
    return ["## Failures", "", *_table(head, body), "", *several]


def _official(official: Record) -> list[str]:
    return [
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
