"""From supervision sets to reward heads in a folder, with what they were chosen from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolprm_lite.reward.head import Label
from toolprm_lite.reward.head_file import save_head
from toolprm_lite.tasks.problem import SPLITS
from toolprm_lite.training.data import open_supervision
from toolprm_lite.training.fit_head import HeadSettings, OnEpoch
from toolprm_lite.training.report import judge, scores, write_report
from toolprm_lite.training.rivals import Rival
from toolprm_lite.training.select import OnFit, select

MEMBERS = 4  # networks in a head

TrainWatch = Callable[[int], AbstractContextManager[tuple[OnFit | None, OnEpoch | None]]]
"""Called with the most epochs of a fit, once for each reward model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How heads are fitted.

    Attributes:
        rivals: the reward models to fit.
        layers: whose states are read; None is chosen on validation.
        label: the question that is answered; None is chosen on validation.
        about: a text for the heads' cards.
        head: how each head is fitted, where `select` does not choose it.
    """

    rivals: tuple[Rival, ...] = ("toolprm",)
    layers: tuple[int, ...] | None = None
    label: Label | None = None
    about: str | None = None
    head: HeadSettings = field(default_factory=lambda: HeadSettings(members=MEMBERS))


@contextmanager
def unwatched(epochs: int) -> Iterator[tuple[None, None]]:
    """A `TrainWatch` that shows nothing."""
    yield None, None


def train(
    sets: Sequence[str | Path],
    folder: Path,
    settings: TrainSettings,
    watch: TrainWatch = unwatched,
) -> list[dict[str, Any]]:
    """Fit a head for each reward model to the sets, and write it and train.json into `folder`.

    Returns the heads' reports on the validation split, as `report.judge` makes them. Raises
    `TrainingError` and `DatasetError`, and `OSError` where the heads can't be written.
    """
    data = open_supervision(sets)
    folder.mkdir(parents=True, exist_ok=True)
    trajectories = data.trajectories()
    reports: list[dict[str, Any]] = []
    chosen_from: dict[str, Any] = {}
    for name in settings.rivals:
        with watch(settings.head.epochs) as (on_fit, on_epoch):
            found = select(
                data,
                name,
                settings.head,
                layers=settings.layers,
                label=settings.label,
                on_fit=on_fit,
                on_epoch=on_epoch,
            )
        examples = data.examples(found.head.layers, found.head.pooled)
        judged = {
            split: judge(
                found.head, examples, trajectories, examples.split == place,
                trajectories.split == place,
            )
            for place, split in enumerate(SPLITS)
            if split != "train" and (examples.split == place).any()
        }  # fmt: skip
        notes: dict[str, Any] = {
            "scores": {split: scores(report) for split, report in judged.items()}
        }
        if settings.about is not None:
            notes["about"] = settings.about
        head = found.head.noted(notes)
        save_head(folder / f"{name}.safetensors", head)
        reports.append(judged["validation"])
        chosen_from[name] = {
            "card": {"notes": dict(head.card.notes)},
            "tried": [entry.to_dict() for entry in found.tried],
            "uses": found.uses,
            "carried": found.carried,
        }
        write_report(folder / "train.json", {"validation": reports, "chosen_from": chosen_from})
    return reports
