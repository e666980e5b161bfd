"""The problems of an evaluation: of BFCL, of ToolAlpaca, of a file or of a supervision set,
all or a sample of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolprm_lite.errors import ConfigError, DatasetError, ProblemError
from toolprm_lite.tasks import bfcl
from toolprm_lite.tasks.loading import load_problems
from toolprm_lite.tasks.problem import Problem, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """Which problems are asked.

    Attributes:
        source: bfcl, toolalpaca, or the path of a problem file or of a supervision set.
        data: of bfcl the unpacked bfcl-eval wheel, of toolalpaca the file.
        split: of a supervision set.
        categories: of BFCL, or sources of other problems; empty is BFCL's default, or all.
        bring_up: of BFCL only the bring-up set.
        sample: how many to draw, as many of each category, none of the bring-up set; None is all.
        sample_seed: of that draw.
        skip: leave out those that a sample of this size draws.
        limit: the first so many.
    """

    source: str
    data: Path | None = None
    split: Split = "test"
    categories: tuple[str, ...] = ()
    bring_up: bool = False
    sample: int | None = None
    sample_seed: int = 0
    skip: int = 0
    limit: int | None = None

    @property
    def name(self) -> str:
        """The source without its folder."""
        return self.source if self.source in ("bfcl", "toolalpaca") else Path(self.source).name


def read_source(
    settings: SourceSettings, left_out: Callable[[str], None] = lambda reason: None
) -> list[Problem]:
    """The problems that the settings name; `left_out` gets the records that can't be used.

    Raises `ConfigError` where none is left, and as `read_bfcl`, `read_problems` and `read_set` do.
    """
    source, data = settings.source, settings.data
    if source in ("bfcl", "toolalpaca"):
        if data is None:
            what = "the unpacked bfcl-eval wheel" if source == "bfcl" else "ToolAlpaca's problems"
            raise ConfigError(f"{source} needs --data, the path of {what}")
    elif data is not None:
        raise ConfigError(f"--data goes with bfcl and toolalpaca; {source} is read as it is")
    if source == "bfcl":
        assert data is not None
        problems = bfcl.read_bfcl(data, settings.categories or bfcl.DEFAULT)
        if settings.bring_up:
            problems = [problem for problem in problems if problem.bring_up]
    else:
        path = Path(source) if data is None else data
        if path.is_dir():
            problems = read_set(path, settings.split)
        else:
            problems, rejected = read_problems(path)
            for reason in rejected:
                left_out(reason)
        if settings.categories:
            problems = [problem for problem in problems if problem.category in settings.categories]
    if settings.sample is not None:
        fresh = [problem for problem in problems if not problem.bring_up] or problems
        seen = {problem.id for problem in sample(fresh, settings.skip, settings.sample_seed)}
        drawn = sample(fresh, settings.skip + settings.sample, settings.sample_seed)
        problems = [problem for problem in drawn if problem.id not in seen]
    elif settings.skip:
        raise ConfigError("--skip goes with --sample: it leaves out what a smaller sample draws")
    problems = problems[: settings.limit]
    if not problems:
        raise ConfigError(f"{source}: no problem is left; change --categories, or the options")
    return problems


def read_problems(path: Path) -> tuple[list[Problem], list[str]]:
    """The problems of a file, and what was left out and why.

    Raises `ProblemError` for a file that can't be read or has none.
    """
    problems, rejected = load_problems([path])
    if not problems:
        raise ProblemError(f"{path}: no problem can be used; {rejected[0]}")
    return problems, [str(record) for record in rejected]


def read_set(folder: Path, split: Split) -> list[Problem]:
    """The problems of a supervision set's split, as it shows them: masked, with distractors.

    Raises `DatasetError` when the folder is no set, or has no problem of the split.
    """
    path = folder / "problems.jsonl"
    try:
        with path.open(encoding="utf-8") as file:
            records = [json.loads(line) for line in file]
        problems = [Problem.from_dict(record) for record in records if record["split"] == split]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: not the problems of a supervision set ({error}); name a folder that "
            "`toolprm-lite collect` wrote"
        ) from None
    if not problems:
        raise DatasetError(f"{folder}: no {split} problem in it; give another --split")
    return problems


def sample(problems: Sequence[Problem], count: int, seed: int) -> list[Problem]:
    """`count` of the problems, as many of each category as can be, in their order.

    Which ones depends on the seed and the ids alone.
    """
    by_category: dict[str, list[Problem]] = {}
    for problem in problems:
        by_category.setdefault(problem.category, []).append(problem)
    drawn = {
        category: sorted(group, key=lambda problem: _rank(problem.id, seed))
        for category, group in by_category.items()
    }
    chosen: set[str] = set()
    place = 0
    while len(chosen) < count and any(place < len(group) for group in drawn.values()):
        for group in drawn.values():
            if place < len(group) and len(chosen) < count:
                chosen.add(group[place].id)
        place += 1
    return [problem for problem in problems if problem.id in chosen]


def _rank(identity: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{identity}".encode()).digest()
