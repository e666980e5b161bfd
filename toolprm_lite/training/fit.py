"""From problems to reward heads, their report and their threshold of doubt: collect, train, judge,
choose. A stopped run continues there."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from toolprm_lite.errors import ConfigError
from toolprm_lite.evaluation.evaluate import Watch
from toolprm_lite.evaluation.evaluate import unwatched as unwatched_asking
from toolprm_lite.files import locked
from toolprm_lite.search.searcher import Searcher
from toolprm_lite.store import Record, read_settings, write_settings
from toolprm_lite.supervision.collect import Progress, collect
from toolprm_lite.supervision.collect_settings import CollectSettings
from toolprm_lite.supervision.prepare import (
    PrepareSettings,
    Usable,
    plan_problems,
    usable_problems,
    write_rejected,
)
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tasks.sources import read_set, sample
from toolprm_lite.training.doubt import DoubtSettings, Measured, fit_doubt
from toolprm_lite.training.fit_head import HeadSettings
from toolprm_lite.training.judging import judge_heads
from toolprm_lite.training.rivals import RIVALS
from toolprm_lite.training.train import MEMBERS, TrainSettings, TrainWatch, train
from toolprm_lite.training.train import unwatched as unwatched_training

Stage = Literal["collect", "train", "judge", "doubt"]
Collecting = Callable[[Path], AbstractContextManager[Callable[[Progress], None]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How a model's heads are fitted.

    Attributes:
        prepare: which problems are collected.
        collect: how; its seed is that of training, too.
        limit: stop collecting after the plan's first so many problems; None is all.
        rejected: a file to list the records in that are left out.
        weights: what identifies the model's file and precision.
        epochs: of each fit, at most.
        doubt: how the threshold of doubt is chosen.
    """

    prepare: PrepareSettings = field(default_factory=PrepareSettings)
    collect: CollectSettings = field(default_factory=CollectSettings)
    limit: int | None = None
    rejected: Path | None = None
    weights: dict[str, Any] = field(default_factory=dict)
    epochs: int = 30
    doubt: DoubtSettings = field(default_factory=DoubtSettings)

    def __post_init__(self) -> None:
        if self.prepare.as_is:
            raise ConfigError(
                "--as-is makes every problem one for testing; leave it out to fit heads"
            )


@contextmanager
def _uncollected(folder: Path) -> Iterator[Callable[[Progress], None]]:
    yield lambda progress: None


@dataclass(frozen=True, slots=True, kw_only=True)
class FitWatch:
    """The callbacks of a fit's progress.

    Attributes:
        begins: a stage, the folder it writes into, and whether it was done before.
        usable: the problems that were read.
        planned: those, and the plan.
        collecting, training, asking: see `Collecting`, `TrainWatch` and `Watch`.
        trained: the heads' reports on the validation split, and their folder.
        judged: the report on the test split, as `judge_heads` makes it.
        measured: what the searches of each threshold gave.
    """

    begins: Callable[[Stage, Path, bool], None] = lambda stage, folder, done: None
    usable: Callable[[Usable], None] = lambda usable: None
    planned: Callable[[Usable, Sequence[Problem]], None] = lambda usable, plan: None
    collecting: Collecting = _uncollected
    training: TrainWatch = unwatched_training
    trained: Callable[[Sequence[Record], Path], None] = lambda reports, folder: None
    judged: Callable[[Record], None] = lambda report: None
    asking: Watch = unwatched_asking
    measured: Callable[[Sequence[Measured]], None] = lambda measured: None


def fit(
    problems: Sequence[Path],
    folder: Path,
    settings: FitSettings,
    open_searcher: Callable[[], AbstractContextManager[Searcher]],
    watch: FitWatch | None = None,
) -> dict[str, Path]:
    """Fit a model's reward heads to files of problems, into set/, heads/, report/ and doubt/.

    Returns the files of the heads, by name; the first is ToolPRM's, whose card has the threshold.
    The model is closed while heads are trained. Raises `ToolprmError`, and `OSError` where
    something can't be written.
    """
    watch = watch or FitWatch()
    supervision, heads = folder / "set", folder / "heads"
    files: dict[str, Path] = {name: heads / f"{name}.safetensors" for name in RIVALS}
    with locked(folder, folder=True):
        watch.begins("collect", supervision, False)
        _collect(problems, supervision, settings, open_searcher, watch)
        record = folder / "fit.json"
        seed = settings.collect.seed
        asked: Record = {"epochs": settings.epochs, "seed": seed, "set": _digest(supervision)}
        known = _read(record)
        fitted = all(file.exists() for file in files.values()) and all(
            known.get(key) == value for key, value in asked.items()
        )
        watch.begins("train", heads, fitted)
        if not fitted:
            known = asked
            head = HeadSettings(seed=seed, epochs=settings.epochs, members=MEMBERS)
            reports = train(
                [supervision], heads, TrainSettings(rivals=RIVALS, head=head), watch.training
            )
            watch.trained(reports, heads)
            shutil.rmtree(folder / "doubt", ignore_errors=True)  # searches with other heads
            write_settings(record, known)
        watch.begins("judge", folder / "report", False)
        watch.judged(judge_heads([supervision], list(files.values()), "test", folder / "report"))
        _choose_doubt(folder, files["toolprm"], known, settings, open_searcher, watch)
    return files


def _collect(
    paths: Sequence[Path],
    folder: Path,
    settings: FitSettings,
    open_searcher: Callable[[], AbstractContextManager[Searcher]],
    watch: FitWatch,
) -> None:
    usable = usable_problems(paths, settings.prepare)
    watch.usable(usable)
    if settings.rejected is not None:
        write_rejected(settings.rejected, usable.rejected)
    plan = plan_problems(usable, settings.prepare, settings.collect.plan)
    watch.planned(usable, plan)
    with (
        locked(folder, folder=True),
        open_searcher() as searcher,
        watch.collecting(folder) as report,
    ):
        collect(searcher, plan, folder, settings.collect, report, settings.limit, settings.weights)


def _choose_doubt(
    folder: Path,
    head: Path,
    known: Record,
    settings: FitSettings,
    open_searcher: Callable[[], AbstractContextManager[Searcher]],
    watch: FitWatch,
) -> None:
    """Choose the threshold, unless that was done with the same settings; note it in fit.json."""
    how = settings.doubt
    if not how.problems:
        return
    place = folder / "doubt"
    chosen = {"problems": how.problems, "thresholds": list(how.thresholds)}
    done = known.get("doubt") == chosen
    watch.begins("doubt", place, done)
    if done:
        return
    collecting = settings.collect
    how = replace(
        how,
        search=replace(
            how.search,
            seed=collecting.seed,
            max_tokens=collecting.max_tokens,
            max_step_tokens=collecting.max_step_tokens,
            call_format=collecting.call_format,
            prompt=collecting.prompt,
        ),
    )
    problems = sample(read_set(folder / "set", "validation"), how.problems, collecting.seed)
    depends = {key: known[key] for key in ("epochs", "seed", "set")}
    with locked(place, folder=True), open_searcher() as searcher:
        measured = fit_doubt(
            searcher, problems, head, place, how, depends={"heads": depends}, watch=watch.asking
        )
    watch.measured(measured)
    write_settings(folder / "fit.json", {**known, "doubt": chosen})


def _digest(folder: Path) -> str:
    """Of the set's parts that heads depend on; the states follow from them."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.parquet")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    digest.update((folder / "problems.jsonl").read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> Record:
    try:
        return read_settings(path) or {}
    except (OSError, ValueError):
        return {}
