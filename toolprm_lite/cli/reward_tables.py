"""Reports of heads as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from toolprm_lite.reward.base import STEP_KINDS


def table(reports: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The heads in one table, each by its own label."""
    result = Table(title=title, title_justify="left")
    result.add_column("reward model", no_wrap=True)
    for column in ("label", "aggregate"):
        result.add_column(column)
    for column in (
        "loss",
        "step acc.",
        "AUC",
        "AUC within",
        "ECE",
        "Brier",
        "traj. acc.\nlast / min",
        "selection",
    ):
        result.add_column(column, justify="right")
    for report in reports:
        steps = report["steps"][report["label"]]["all"]
        whole = report["trajectories"]
        mixed = report["selection"]["all"]["mixed"]
        result.add_row(
            report["head"],
            report["label"],
            report["aggregate"],
            _number(steps["bce"], 4),
            _percent(steps["accuracy"]),
            _number(steps["auc"], 3),
            _number(steps["auc_within"], 3),
            _number(steps["ece"], 3),
            _number(steps["brier"], 3),
            f"{_percent(whole['last']['accuracy'])} / {_percent(whole['min']['accuracy'])}",
            _with_interval(mixed),
        )
    return result


def kind_table(reports: Sequence[Mapping[str, Any]]) -> Table:
    """AUC and share of right steps for each kind."""
    result = Table(title="by kind: AUC (within a problem)", title_justify="left")
    result.add_column("reward model", no_wrap=True)
    for kind in STEP_KINDS:
        result.add_column(kind, justify="right")
    for report in reports:
        steps = report["steps"][report["label"]]
        cells = []
        for kind in STEP_KINDS:
            found = steps.get(kind)
            if found is None:
                cells.append("")
            else:
                within = _number(found["auc_within"], 3)
                cells.append(f"{_number(found['auc'], 3)} ({within})")
        result.add_row(report["head"], *cells)
    return result


def selection_table(reports: Sequence[Mapping[str, Any]]) -> Table:
    """How often the answer is right, by the way it is chosen among the collected responses."""
    result = Table(title="chosen response right", title_justify="left")
    result.add_column("by", no_wrap=True)
    result.add_column("of all problems", justify="right")
    result.add_column("of problems with right and wrong ones", justify="right")
    if reports:
        first = reports[0]["selection"]["all"]
        for way, name in (
            ("random", "a random draw"),
            ("greedy", "greedy"),
            ("voted", "most drawn"),
        ):
            result.add_row(name, *(_percent(first[part][way]) for part in ("all", "mixed")))
        policy = reports[0]["selection_by_policy"]
        if policy is not None:
            cells = (_with_interval(policy[part]) for part in ("all", "mixed"))
            result.add_row("the model's own probability", *cells)
        for report in reports:
            found = report["selection"]["all"]
            result.add_row(
                report["head"], *(_with_interval(found[part]) for part in ("all", "mixed"))
            )
        result.add_row("any is right", *(_percent(first[part]["oracle"]) for part in first))
        counts = (f"n = {first[part]['problems']}" for part in ("all", "mixed"))
        result.add_row("problems", *counts, style="dim")
    return result


def group_table(report: Mapping[str, Any]) -> Table:
    """One head, part by part of the problems."""
    result = Table(title=f"{report['head']}, part by part", title_justify="left")
    result.add_column("problems", no_wrap=True)
    for column in (
        "n", "steps right", "step acc.", "AUC", "AUC within", "greedy", report["head"], "any right",
    ):  # fmt: skip
        result.add_column(column, justify="right")
    for name, part in report["groups"].items():
        steps, found = part["steps"], part["selection"]["all"]
        result.add_row(
            name,
            str(found["problems"]),
            _percent(steps["right"]),
            _percent(steps["accuracy"]),
            _number(steps["auc"], 3),
            _number(steps["auc_within"], 3),
            _percent(found["greedy"]),
            _percent(found["picked"]),
            _percent(found["oracle"]),
        )
    return result


def _with_interval(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    if found["picked"] is None:
        return "-"
    return f"{_percent(found['picked'])} [{_percent(low)} .. {_percent(high)}]"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
