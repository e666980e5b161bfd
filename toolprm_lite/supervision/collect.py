"""Collects a supervision set into a folder, shard by shard; one that was stopped goes on from
there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from toolprm_lite.files import locked
from toolprm_lite.instruction import own_style
from toolprm_lite.reward.base import FEATURES
from toolprm_lite.search.searcher import Searcher
from toolprm_lite.store import as_json
from toolprm_lite.supervision.collect_settings import CollectSettings
from toolprm_lite.supervision.dataset import FORMAT, SetWriter
from toolprm_lite.supervision.shards import Shard, collect_shard, split_shards, state_layers
from toolprm_lite.tasks.problem import Problem


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a collection is, at the start and after each problem.

    What was there at the start counts as done; `right` counts greedy responses under the
    constraint; `skipped` says why the problem could not be shown, if it could not.
    """

    done: int
    total: int
    steps: int
    right: int
    skipped: str | None = None


def collect(
    searcher: Searcher,
    plan: Sequence[Problem],
    folder: Path,
    settings: CollectSettings,
    report: Callable[[Progress], None] = lambda progress: None,
    limit: int | None = None,
    weights: Mapping[str, Any] | None = None,
) -> None:
    """Collect the set of `plan` into `folder`, continuing where an earlier run has stopped.

    A shard depends on its own problems alone, so an interrupted collection ends as the same set.
    With `limit` it ends with the shard that holds the plan's problem of that number; a later run
    may go further. `weights` identifies the model's file and precision among those of the same
    model: a set holds rollouts of one. Raises `ConfigError` for layers that the model does not
    have, `DatasetError` when `folder` holds something else, `OSError` when it can't be written.
    `folder` is kept from other runs.
    """
    with locked(folder, folder=True, nested=True):
        _collect(searcher, plan, folder, settings, report, limit, weights or {})


def _collect(
    searcher: Searcher,
    plan: Sequence[Problem],
    folder: Path,
    settings: CollectSettings,
    report: Callable[[Progress], None],
    limit: int | None,
    weights: Mapping[str, Any],
) -> None:
    if settings.prompt == "auto":  # not that of a head: this set is for a new one
        settings = replace(settings, prompt=own_style(searcher.info.prompt).name)
    layers = state_layers(searcher, settings)
    writer = SetWriter(folder)
    manifest = _manifest(searcher, layers, settings, weights, len(plan))
    writer.begin(manifest, [problem.to_dict() for problem in plan])
    shards = list(split_shards(plan, settings.shard))
    wanted, total = 0, 0
    while wanted < len(shards) and (limit is None or total < limit):
        total += len(shards[wanted])
        wanted += 1
    missing = []
    done = steps = right = 0
    for number in range(wanted):
        if writer.has(number):
            counts = writer.counts(number)
            done, steps, right = done + len(shards[number]), steps + counts[0], right + counts[1]
        else:
            missing.append(number)
    report(Progress(done, total, steps, right))

    def count(shard: Shard, was_right: bool, skipped: str | None) -> None:
        nonlocal done, right
        done += 1
        right += was_right
        report(Progress(done, total, steps + shard.rows, right, skipped))

    for number in missing:
        shard = collect_shard(searcher, shards[number], settings, count)
        steps += shard.rows
        _write(writer, number, shard, layers, searcher.info.width)
    if wanted == len(shards):
        writer.finish()


def _manifest(
    searcher: Searcher,
    layers: tuple[int, ...],
    settings: CollectSettings,
    weights: Mapping[str, Any],
    problems: int,
) -> dict[str, Any]:
    info = searcher.info
    recorded = {key: value for key, value in asdict(settings).items() if key != "layers"}
    return {
        "format": FORMAT,
        "model": {
            "name": info.name,
            "architecture": info.architecture,
            "width": info.width,
            "layers": info.layers,
            "vocabulary": searcher.vocabulary_hash,
            "adapter": info.adapter,
        },
        "weights": dict(weights),
        "call_format": searcher.call_format(settings.call_format).name,
        "prompt": settings.prompt,
        "layers": list(layers),
        "pooled": True,
        "features": list(FEATURES),
        "settings": as_json(recorded),
        "problems": problems,
        "complete": False,
    }


def _write(
    writer: SetWriter, number: int, shard: Shard, layers: tuple[int, ...], width: int
) -> None:
    names = [f"boundary.{layer}" for layer in layers] + [f"pooled.{layer}" for layer in layers]
    features = np.concatenate([*shard.features, np.empty((0, len(FEATURES)), np.float32)])
    states = np.concatenate(
        [part for part in shard.states if part.size]
        or [np.empty((0, len(names) * width), np.float32)]
    )
    limit = np.finfo(np.float16).max
    halves = np.clip(states, -limit, limit).astype(np.float16)
    tensors = {
        name: np.ascontiguousarray(halves[:, place * width : (place + 1) * width])
        for place, name in enumerate(names)
    }
    writer.write(number, shard.steps, shard.trajectories, tensors, features)
