"""Heads side by side on the problems of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from toolprm_lite.errors import HeadError
from toolprm_lite.reward.head import FittedModel, Head
from toolprm_lite.reward.head_file import load_head
from toolprm_lite.tasks.problem import SPLITS, Split
from toolprm_lite.training.data import Supervision, open_supervision
from toolprm_lite.training.report import draw_reliability, judge, write_report


def judge_heads(
    sets: Sequence[str | Path],
    heads: Sequence[str | Path],
    split: Split | Literal["all"] = "test",
    folder: Path | None = None,
) -> dict[str, Any]:
    """Judge the files of heads by supervision sets: {"split", "sets", "heads": reports}.

    With `folder` it writes report.json and reliability.png. Raises `HeadError` for a head that is
    missing or fitted to another model, `TrainingError` and `DatasetError` for the sets.
    """
    loaded = [load_head(path) for path in heads]
    data = open_supervision(sets)
    for head in loaded:
        _check_fitted(head, data, str(sets[0]))
    trajectories = data.trajectories()
    reports: list[dict[str, Any]] = []
    for head in loaded:
        examples = data.examples(head.layers, head.pooled)
        features = head.columns_of(examples.features, data.features)
        examples = replace(examples, features=features)
        if split == "all":
            rows, chosen = np.ones(len(examples.kinds), bool), np.ones(len(trajectories.last), bool)
        else:
            rows = data.require(examples, split)
            chosen = trajectories.split == SPLITS.index(split)
        reports.append(judge(head, examples, trajectories, rows, chosen, data.groups()))
    whole = {"split": split, "sets": list(data.names), "heads": reports}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_report(folder / "report.json", whole)
        draw_reliability(folder / "reliability.png", reports)
    return whole


def _check_fitted(head: Head, data: Supervision, name: str) -> None:
    theirs = head.card
    for what, one, other in (
        ("model", _identity(theirs.model), _identity(data.model)),
        ("call format", theirs.call_format, data.call_format),
        ("prompt", theirs.prompt, data.prompt),
    ):
        if one != other:
            raise HeadError(
                f"{head.source}: the head's {what} is not that of {name}: it was fitted to "
                f"{theirs.model.name}, and the set is of {data.model.name}; name sets that "
                "were collected for this head"
            )
    if missing := sorted(set(theirs.features) - set(data.features)):
        raise HeadError(
            f"{head.source}: the head reads features that {name} does not have: "
            f"{', '.join(missing)}; name sets that were collected with this version"
        )


def _identity(model: FittedModel) -> tuple[Any, ...]:
    return model.architecture, model.width, model.layers, model.vocabulary, model.adapter
