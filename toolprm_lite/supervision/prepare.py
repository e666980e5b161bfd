"""From files of problems to the plan that a collection follows.

Knows neither models nor how a set is written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from toolprm_lite.described import described
from toolprm_lite.errors import ConfigError, DatasetError, ProblemError
from toolprm_lite.files import replace_file
from toolprm_lite.supervision.dataset import open_set
from toolprm_lite.tasks.exclusion import Exclusions
from toolprm_lite.tasks.joining import part_ids
from toolprm_lite.tasks.loading import load_problems
from toolprm_lite.tasks.plan import as_is, make_plan
from toolprm_lite.tasks.plan_settings import PlanSettings
from toolprm_lite.tasks.problem import Problem, Split
from toolprm_lite.tasks.quality import unsupported
from toolprm_lite.tasks.rejected import Rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSettings:
    """Which problems are collected.

    Attributes:
        keep_unsupported: also those with answers that the conversation does not give.
        exclude: a file of the ids of records to leave out.
        as_is: show the problems unchanged, all of them as test.
        kept_splits: sets whose problems are left out and whose splits are kept.
    """

    keep_unsupported: bool = False
    exclude: Path | None = None
    as_is: bool = False
    kept_splits: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Usable:
    """The problems of `files` that can be used, the records that can't, and what excluded some."""

    files: tuple[str, ...]
    problems: list[Problem]
    rejected: list[Rejected]
    exclusions: Exclusions | None


def usable_problems(paths: Sequence[Path], settings: PrepareSettings) -> Usable:
    """Read the problems, and sort out those that nothing can be learned from.

    Raises `ProblemError` where a file can't be read, and where `exclude` matches no record.
    """
    exclude = settings.exclude
    exclusions = None if exclude is None else Exclusions.read(exclude, paths)
    found, rejected = load_problems(paths, exclusions)
    if exclusions is not None and not any(record.kind == "excluded" for record in rejected):
        raise ProblemError(
            f"{exclusions.path}: none of its {len(exclusions.entries)} lines matches a record of "
            "the problem files; each line needs a record's id, or a file's name and an id"
        )
    kept: list[Problem] = []
    for problem in found:
        refusal = _refusal(problem, settings.as_is or settings.keep_unsupported)
        if refusal is None:
            kept.append(problem)
        else:
            rejected.append(Rejected(problem.file, 0, problem.id, *refusal))
    return Usable(tuple(dict.fromkeys(map(str, paths))), kept, rejected, exclusions)


def plan_problems(usable: Usable, settings: PrepareSettings, plan: PlanSettings) -> list[Problem]:
    """The plan of the usable problems.

    Raises `ProblemError` where none is left, `ConfigError` for settings that exclude each other,
    and `DatasetError` where a set in `kept_splits` is of other files.
    """
    problems = usable.problems
    if not problems:
        raise ProblemError(
            f"{', '.join(usable.files)}: no problem can be used, {len(usable.rejected)} are left "
            "out; fix them as described above"
        )
    if settings.as_is:
        if settings.kept_splits:
            raise ConfigError("--keep-splits goes with a plan of its own; leave out --as-is")
        planned = as_is(problems)
    else:
        planned = make_plan(problems, plan, _splits(settings.kept_splits, problems))
    if not planned:
        raise ProblemError(
            f"no problem is left of the {len(problems)} that can be used; give more problems, or "
            "a larger --multi-share"
        )
    return planned


def write_rejected(path: Path, rejected: Sequence[Rejected]) -> None:
    """List the records that can't be used in a file of JSON lines. Raises `OSError`."""
    lines = [json.dumps(asdict(record)) for record in rejected]
    replace_file(path, "".join(f"{line}\n" for line in lines).encode())


def _refusal(problem: Problem, keep_unsupported: bool) -> tuple[str, str, str] | None:
    """The kind, the reason and the correction, for a problem that can't be used."""
    if not _is_text(problem):
        return "text", "half of a surrogate pair (\\ud800) in its text", "take it out"
    if keep_unsupported:
        return None
    try:
        place = unsupported(problem)
    except Exception as error:  # whatever it is, the other problems can be used
        return "tools", described(error), "correct the tool"
    if place is None:
        return None
    reason = f"the conversation does not contain the value of {place}"
    return "unsupported", reason, "give --keep-unsupported to keep it"


def _is_text(problem: Problem) -> bool:
    """Whether what was read unchanged is text; messages and tools have been checked."""
    try:
        json.dumps([problem.id, problem.source, problem.answers], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _splits(folders: Sequence[Path], problems: Sequence[Problem]) -> dict[str, Split] | None:
    """The splits of the sets' problems, by id. Raises `DatasetError` where one is of other files,
    and where they put a problem into different splits."""
    known = {problem.id for problem in problems}
    splits: dict[str, Split] = {}
    for folder in folders:
        for record in open_set(folder).problems:
            whole = record["id"]
            for id in part_ids(whole, known):
                if id not in known:
                    raise DatasetError(
                        f"{folder}: its problem {whole} is not among these files; give the files "
                        "that it was collected from, in that order, and the same --exclude"
                    )
                if splits.setdefault(id, record["split"]) != record["split"]:
                    raise DatasetError(
                        f"{folder}: problem {id} is in the {record['split']} split, and in "
                        f"{splits[id]} in a set before it; name sets that keep one plan's splits"
                    )
    return splits or None
