"""Judges heads on a split, and puts what was found into JSON and drawings."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toolprm_lite.errors import TrainingError
from toolprm_lite.evaluation.intervals import bootstrap
from toolprm_lite.files import replace_file
from toolprm_lite.reward.aggregate import AGGREGATES, Aggregate
from toolprm_lite.reward.base import STEP_KINDS
from toolprm_lite.reward.chains import Float64Array, chain_scores
from toolprm_lite.reward.head import LABELS, Head, Label
from toolprm_lite.training import metrics
from toolprm_lite.training.data import Examples, Trajectories


def judge(
    head: Head,
    examples: Examples,
    trajectories: Trajectories,
    rows: npt.NDArray[np.bool_],
    chosen: npt.NDArray[np.bool_],
    groups: Mapping[str, npt.NDArray[np.bool_]] | None = None,
) -> dict[str, Any]:
    """The figures of a head on the steps `rows` (bool [steps]) and the trajectories `chosen`
    (bool [trajectories]) of a split, as JSON.

    Steps: for each label the figures over all kinds that the head judges, and for each kind.
    Trajectories: how often a complete one is rightly called right, when the aggregate over its
    steps must reach 0.5. Selection: how often the best-ranked complete trajectory is the right
    one, compared with what other ways to choose give (`selection_by_policy`: the model's own
    probability of the response), with a 95% interval over problems. `groups` names parts of the
    problems (bool [problems], see `Supervision.groups`) that are judged by themselves, too.
    """
    rewards = {
        label: head.probabilities(examples.kinds, examples.features, examples.hidden, label)
        for label in LABELS
    }
    own = rewards[head.card.label]
    scores = {
        name: chain_scores(own, examples.previous, name)[trajectories.last] for name in AGGREGATES
    }
    ranked = scores[head.aggregate]
    parts = {}
    for name, members in (groups or {}).items():
        ours = chosen & members[trajectories.problem]
        if ours.any():
            steps = rows & members[examples.problem]
            parts[name] = {
                "steps": _steps_of(own, examples, steps, head.card.label, head.card.kinds),
                "selection": _selection(ranked, trajectories, ours),
            }
    return {
        "head": head.name,
        "source": head.source,
        "model": head.card.model.name,
        "layers": list(head.layers),
        "pooled": head.pooled,
        "kinds": list(head.card.kinds),
        "label": head.card.label,
        "aggregate": head.aggregate,
        "steps": _steps(head.card.kinds, rewards, examples, rows),
        "trajectories": _trajectories(scores, trajectories, chosen & trajectories.complete),
        "selection": _selections(ranked, trajectories, chosen),
        "selection_by_policy": _policy_selection(head, examples, trajectories, chosen),
        "groups": parts,
        "reliability": _reliability(head, own, examples, rows),
    }


def _steps(
    kinds: Sequence[str],
    rewards: Mapping[Label, npt.NDArray[np.float32]],
    examples: Examples,
    rows: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    """The figures of the steps `rows` for each label, over all `kinds` and for each one."""
    return {
        label: {
            "all": _steps_of(rewards[label], examples, rows, label, kinds),
            **{kind: _steps_of(rewards[label], examples, rows, label, (kind,)) for kind in kinds},
        }
        for label in LABELS
    }


def _trajectories(
    scores: Mapping[Aggregate, Float64Array],
    trajectories: Trajectories,
    complete: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    """How well each aggregate tells the right ones of the trajectories `complete`."""
    right = trajectories.right[complete]
    return {
        "complete": int(complete.sum()),
        "right": _figure(float(right.mean()) if len(right) else math.nan),
        **{
            name: {
                "accuracy": _figure(metrics.accuracy(score[complete], right)),
                "auc": _figure(metrics.auc(score[complete], right)),
            }
            for name, score in scores.items()
        },
    }


def _selections(
    ranked: Float64Array, trajectories: Trajectories, chosen: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """Of all chosen trajectories, and of those with and without a constraint, if any are."""
    selections = {"all": _selection(ranked, trajectories, chosen)}
    for name, flag in (("constrained", True), ("unconstrained", False)):
        ours = chosen & (trajectories.constrained == flag)
        if ours.any():
            selections[name] = _selection(ranked, trajectories, ours)
    return selections


def _policy_selection(
    head: Head,
    examples: Examples,
    trajectories: Trajectories,
    chosen: npt.NDArray[np.bool_],
) -> dict[str, Any] | None:
    """By the model's own probability of the response, None where the head doesn't read it."""
    if "logprob_total" not in head.card.features:
        return None
    total = examples.features[:, head.card.features.index("logprob_total")]
    return _selection(total[trajectories.last], trajectories, chosen)


def _steps_of(
    rewards: npt.NDArray[np.float32],
    examples: Examples,
    rows: npt.NDArray[np.bool_],
    label: Label,
    kinds: Sequence[str],
) -> dict[str, Any]:
    """The figures of the steps `rows` that are of these kinds."""
    ours = rows & np.isin(examples.kinds, [STEP_KINDS.index(name) for name in kinds])
    return _step_figures(
        rewards[ours],
        examples.labels[ours, LABELS.index(label)],
        examples.problem[ours] * len(STEP_KINDS) + examples.kinds[ours],
    )


def scores(report: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a report that go onto a head's card."""
    steps = report["steps"][report["label"]]
    whole = report["selection"]["all"]["all"]
    kept = ("auc", "auc_within", "accuracy", "bce", "ece", "brier", "steps")
    return {
        "steps": {kind: {name: found[name] for name in kept} for kind, found in steps.items()},
        "responses": {
            name: whole[name]
            for name in ("problems", "picked", "greedy", "voted", "random", "oracle")
        },
    }


def _step_figures(
    rewards: npt.NDArray[np.float32],
    labels: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.integer[Any]],
) -> dict[str, Any]:
    return {
        "steps": len(rewards),
        "right": _figure(float(labels.mean()) if len(labels) else math.nan),
        "bce": _figure(metrics.bce(rewards, labels)),
        "accuracy": _figure(metrics.accuracy(rewards, labels)),
        "auc": _figure(metrics.auc(rewards, labels)),
        "auc_within": _figure(metrics.grouped_auc(rewards, labels, groups)),
        "ece": _figure(metrics.ece(rewards, labels)),
        "brier": _figure(metrics.brier(rewards, labels)),
    }


def _selection(
    scores: npt.NDArray[np.floating[Any]],
    trajectories: Trajectories,
    rows: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    ours = trajectories.take(rows)
    found = metrics.choose(
        scores[rows], ours.right, ours.complete, ours.draws, ours.greedy, ours.group
    )
    problem_of = dict(zip(ours.group.tolist(), ours.problem.tolist(), strict=True))
    problem = np.array([problem_of[group] for group in found.group.tolist()], np.int64)
    result: dict[str, Any] = {}
    for name, groups in (("all", np.ones(len(found.group), bool)), ("mixed", found.mixed)):
        result[name] = {"problems": len(np.unique(problem[groups]))}
        for way in ("picked", "greedy", "voted", "random", "oracle"):
            values = getattr(found, way)[groups]
            result[name][way] = _figure(float(values.mean()) if len(values) else math.nan)
        interval = bootstrap(found.picked[groups], problem[groups])
        result[name]["interval"] = [_figure(end) for end in interval]
        ahead = (found.picked - found.greedy)[groups]
        result[name]["over_greedy"] = [_figure(end) for end in bootstrap(ahead, problem[groups])]
    return result


def _reliability(
    head: Head,
    rewards: npt.NDArray[np.float32],
    examples: Examples,
    rows: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    labels = examples.labels[:, LABELS.index(head.card.label)]
    found: dict[str, Any] = {}
    for kind in head.card.kinds:
        ours = rows & (examples.kinds == STEP_KINDS.index(kind))
        bins = metrics.reliability(rewards[ours], labels[ours])
        found[kind] = {
            "count": bins.count.tolist(),
            "probability": [_figure(value) for value in bins.probability.tolist()],
            "share": [_figure(value) for value in bins.share.tolist()],
        }
    return found


def _figure(value: float) -> float | None:
    """A figure for JSON, which has no NaN."""
    return round(value, 6) if math.isfinite(value) else None


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report as JSON, whole or not at all. Raises `OSError`."""
    text = json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False)
    replace_file(path, (text + "\n").encode())


def draw_reliability(path: Path, reports: Sequence[Mapping[str, Any]]) -> None:
    """A PNG: how often steps are right against how probable the heads say they are.

    A panel for each kind, a line for each head; a dot's area is its share of the steps. Raises
    `OSError`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TrainingError(
            f"plots need {error.name}: pip install 'toolprm_lite[train]'"
        ) from error

    figure = Figure(figsize=(3.1 * len(STEP_KINDS), 3.4), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(STEP_KINDS), sharey=True)
    for panel, kind in zip(panels, STEP_KINDS, strict=True):
        panel.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for place, report in enumerate(reports):
            bins = report["reliability"].get(kind)
            if bins is None:
                continue
            filled = [at for at, count in enumerate(bins["count"]) if count]
            total = sum(bins["count"]) or 1
            x = [bins["probability"][at] for at in filled]
            y = [bins["share"][at] for at in filled]
            color = f"C{place}"
            label = f"{report['head']} ({report['label']})"
            panel.plot(x, y, color=color, linewidth=1, label=label)
            panel.scatter(x, y, [6 + 200 * bins["count"][at] / total for at in filled], color=color)
        panel.set_title(kind, fontsize=9)
        panel.set_xlabel("probability")
        panel.set_xlim(-0.02, 1.02)
        panel.set_ylim(-0.02, 1.02)
    panels[0].set_ylabel("share that is right")
    handles, labels = panels[-1].get_legend_handles_labels()
    if handles:
        panels[-1].legend(handles, labels, fontsize=7, loc="upper left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    replace_file(path, buffer.getvalue())
