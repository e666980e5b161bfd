"""`toolprm-lite collect`: a supervision set from files of problems with known answers."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolprm_lite.cli import described
from toolprm_lite.cli.options import MOST_PROBLEMS, Decorator, all_of, model_options, open_searcher
from toolprm_lite.cli.output import console, in_one_line, say
from toolprm_lite.cli.progress import PLAIN_SECONDS, duration
from toolprm_lite.errors import ConfigError, DatasetError, ProblemError
from toolprm_lite.search.config import CALL_FORMATS

if TYPE_CHECKING:
    from toolprm_lite.supervision.collect import CollectSettings, Progress
    from toolprm_lite.supervision.exclusion import Exclusions
    from toolprm_lite.supervision.plan import Planned, Split
    from toolprm_lite.supervision.problems import Problem

_EPILOG = """\b
Example:
  toolprm-lite collect problems.jsonl --output supervision/
"""

_SHOWN = 2  # left-out problems of one reason that are shown in full
_SHARE = click.FloatRange(0, 1)


def _layers(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter("give layers as in 11,14,17") from None


def _option(name: str, default: Any, **attributes: Any) -> Decorator:
    return click.option(name, default=default, show_default=True, **attributes)


# The defaults are those of `CollectSettings` and `PlanSettings`, which are slow to import.
_OPTIONS: list[Decorator] = [
    _option("--draws", 10, type=click.IntRange(1, 1024), help="Responses for each problem."),
    _option("--temperature", 0.8, help="Of the draws."),
    _option("--top-k", 64, help="Tokens that a draw may choose among."),
    _option("--seed", 0, type=click.IntRange(0, (1 << 63) - 1), help="Of plan and draws."),
    click.option(
        "--layers",
        callback=_layers,
        metavar="11,14,17",
        show_default="three past the middle",
        help="Whose hidden states are stored.",
    ),
    _option(
        "--unconstrained-share",
        0.1,
        type=_SHARE,
        help="Share of the problems that are answered without a constraint, too.",
    ),
    _option("--max-tokens", 256, help="Longest response."),
    _option("--max-step-tokens", 48, help="Longest step; what runs on is given up."),
    _option(
        "--match",
        "exact",
        type=click.Choice(["exact", "bfcl"]),
        help="When a value is right: equal as JSON, or as BFCL has it.",
    ),
    _option(
        "--call-format",
        "auto",
        type=click.Choice(CALL_FORMATS),
        help="How calls are written; auto is as the model's chat template teaches.",
    ),
    _option(
        "--shard",
        12,
        type=click.IntRange(1, 1 << 20),
        help="Problems that are written together, at least; an interrupt loses no more.",
    ),
    _option(
        "--mask-share",
        0.5,
        type=_SHARE,
        help="Share of the problems whose names become random strings.",
    ),
    _option(
        "--refusal-share",
        0.1,
        type=_SHARE,
        help="Share of the problems that lose their right tools.",
    ),
    _option(
        "--multi-share",
        1.0,
        type=_SHARE,
        help="Share of the problems with several calls that is kept.",
    ),
    _option(
        "--joined-share",
        0.0,
        type=_SHARE,
        help="Share of the single questions that are asked two or three at once.",
    ),
    _option("--max-tools", 6, type=click.IntRange(1, 1 << 10), help="Tools offered, at most."),
    _option(
        "--group",
        6,
        type=click.IntRange(1, 1 << 20),
        help="Problems that share tools and mask, at most.",
    ),
    click.option(
        "--limit",
        type=click.IntRange(1, MOST_PROBLEMS),
        metavar="N",
        help="Stop after the plan's first N problems; a later run may go on.",
    ),
    click.option(
        "--as-is",
        is_flag=True,
        help="Show the problems as they stand, all of them as test: to judge heads on a benchmark.",
    ),
    click.option(
        "--beside",
        multiple=True,
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        metavar="SET",
        help="Leave out SET's problems, and keep its splits, to fit heads to both; repeatable.",
    ),
    click.option(
        "--exclude",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Leave out the records whose ids FILE lists, a line each: an id, or a problem file's "
        "name and an id; further words and # comments are ignored.",
    ),
    click.option(
        "--keep-unsupported",
        is_flag=True,
        help="Keep problems with answers that the conversation does not tell.",
    ),
    click.option(
        "--rejected",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE.jsonl",
        help="Where to list the problems that are left out, each with its reason.",
    ),
]

collect_options = all_of(_OPTIONS)

problem_files = click.argument(
    "problems", nargs=-1, required=True, metavar="PROBLEMS...", type=click.Path(path_type=Path)
)


@click.command(epilog=_EPILOG)
@problem_files
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="The set. A run that was stopped goes on from there.",
)
@model_options
@collect_options
def collect(problems: tuple[Path, ...], output: Path, **values: Any) -> None:
    """Let a model answer PROBLEMS, and keep every step it decides with its label.

    A problem is a JSON line with messages or a query, tools, and the calls that are right; the
    files of BFCL, xLAM and OpenAI's fine-tuning are read too.
    """
    gather(problems, output, values)


def gather(paths: Sequence[Path], folder: Path, values: Mapping[str, Any]) -> None:
    """Collect the set into `folder`. `values` are those of `model_options`, `collect_options`.

    Ends with exit code 130 by Ctrl-C. Raises `ToolprmError`, and `OSError` where the disk is full.
    """
    from toolprm_lite.models import weights_of

    weights = {  # a wrong path is told before the problems are read
        **weights_of(values["model"]), "backend": values["backend"], "dtype": values["dtype"],
    }  # fmt: skip
    settings = _settings(values)
    from toolprm_lite.supervision.plan import as_is, make_plan

    whole = values["as_is"]
    problems = _chosen(
        paths, whole or values["keep_unsupported"], values["rejected"], values["exclude"]
    )
    if whole and values["beside"]:
        raise ConfigError("--beside goes with a plan of its own; leave out --as-is")
    if whole:
        plan = as_is(problems)
    else:
        plan = make_plan(problems, settings.plan, _splits(values["beside"], problems))
    if not plan:
        raise ProblemError(
            f"no problem is left of the {len(problems)} that can be used; give more problems, or "
            "a larger --multi-share"
        )
    _announce(problems, plan, values["limit"])
    from toolprm_lite.files import locked
    from toolprm_lite.supervision.collect import collect as collect_set

    with (
        locked(folder, folder=True),
        open_searcher(values) as searcher,
        _watching(folder) as watch,
    ):
        collect_set(searcher, plan, folder, settings, watch, values["limit"], weights)


def _splits(folders: Sequence[Path], problems: Sequence[Problem]) -> dict[str, Split] | None:
    """The splits of the sets' problems, by id. Raises `DatasetError` where one is of other files,
    and where they put a problem into different splits."""
    from toolprm_lite.supervision.dataset import open_set

    known = {problem.id for problem in problems}
    splits: dict[str, Split] = {}
    for folder in folders:
        for record in open_set(folder).problems:
            whole = record["id"]
            for id in (whole,) if whole in known else whole.split("+"):  # a join's parts
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


def _settings(values: Mapping[str, Any]) -> CollectSettings:
    try:
        from toolprm_lite.supervision.collect import CollectSettings
        from toolprm_lite.supervision.plan import PlanSettings
        from toolprm_lite.supervision.problems import load_problems  # noqa: F401
    except ImportError as error:
        raise DatasetError(
            f"collecting needs {error.name}: pip install 'toolprm_lite[train]'"
        ) from error

    if values["as_is"]:
        changes = {"mask_share": 0.0, "refusal_share": 0.0, "fractions": (0.0, 0.0, 1.0)}
        values = {**values, **changes}

    def given(settings: type[Any]) -> dict[str, Any]:
        return {
            field.name: values[field.name] for field in fields(settings) if field.name in values
        }

    return CollectSettings(**given(CollectSettings), plan=PlanSettings(**given(PlanSettings)))


# Problems


def _chosen(
    paths: Sequence[Path],
    keep_unsupported: bool,
    rejected_path: Path | None,
    exclude: Path | None,
) -> list[Problem]:
    """The problems that can be used. Those left out are summed up, and listed in a file if asked.

    Raises `ProblemError` where none is left, and where `exclude` matches no record.
    """
    from toolprm_lite.supervision.exclusion import Exclusions
    from toolprm_lite.supervision.problems import Rejected, load_problems
    from toolprm_lite.supervision.quality import unsupported

    excluded = None if exclude is None else Exclusions.read(exclude, paths)
    found, rejected = load_problems(paths, excluded)
    if excluded is not None:
        _tell_excluded(excluded, sum(record.kind == "excluded" for record in rejected))
    kept: list[Problem] = []
    for problem in found:
        refusal = None
        if not _is_text(problem):
            refusal = ("text", "half of a surrogate pair (\\ud800) in its text", "take it out")
        elif not keep_unsupported:
            try:
                place = unsupported(problem)
            except Exception as error:  # whatever it is, the other problems can be used
                refusal = ("tools", described(error), "correct the tool")
            else:
                if place is not None:
                    reason = f"the conversation does not tell the value of {place}"
                    refusal = ("unsupported", reason, "give --keep-unsupported to keep it")
        if refusal is None:
            kept.append(problem)
        else:
            rejected.append(Rejected(problem.file, 0, problem.id, *refusal))
    for path in dict.fromkeys(map(str, paths)):
        _sum_up(path, kept, [record for record in rejected if record.file == path])
    if rejected_path is not None:
        from toolprm_lite.files import replace_file

        lines = [json.dumps({name: getattr(r, name) for name in r.__slots__}) for r in rejected]
        replace_file(rejected_path, "".join(f"{line}\n" for line in lines).encode())
    if not kept:
        raise ProblemError(
            f"{', '.join(map(str, paths))}: no problem can be used, {len(rejected)} are left out; "
            "mend them as said above"
        )
    return kept


def _tell_excluded(excluded: Exclusions, records: int) -> None:
    """How many records were left out and which lines matched none. Raises `ProblemError` where no
    line did."""
    path, lines, unmatched = excluded.path, len(excluded.entries), excluded.unmatched
    if not records:
        raise ProblemError(
            f"{path}: none of its {lines} lines matches a record of the problem files; each line "
            "needs a record's id, or a file's name and an id"
        )
    say(
        f"{path}: {records} records left out; {len(unmatched)} of its {lines} lines match no record"
        + (":" if unmatched else "")
    )
    for line in unmatched[:_SHOWN]:
        say(f"  {line}")
    if len(unmatched) > _SHOWN:
        say(f"  … and {len(unmatched) - _SHOWN} more")


def _is_text(problem: Problem) -> bool:
    """Whether what was read as it stands is text; messages and tools have been seen to."""
    try:
        json.dumps([problem.id, problem.source, problem.answers], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _sum_up(path: str, kept: Sequence[Problem], rejected: Sequence[Any]) -> None:
    here = [problem for problem in kept if problem.file == path]
    mended = sum(bool(problem.repairs) for problem in here)
    text = f"{path}: {len(here)} problems" + (f", {mended} of them mended" if mended else "")
    say(text + (f"; {len(rejected)} left out:" if rejected else ""))
    for kind, count in Counter(record.kind for record in rejected).most_common():
        records = [record for record in rejected if record.kind == kind]
        for record in records[:_SHOWN]:
            where = f"line {record.line}" + ("" if record.id is None else f" ({record.id})")
            say(f"  {where if record.line else record.id}: {record.reason}; {record.mend}")
        if count > _SHOWN:
            say(f"  … and {count - _SHOWN} more of {kind}")


def _announce(problems: Sequence[Problem], plan: Sequence[Planned], limit: int | None) -> None:
    """What will be collected."""
    dropped = f" ({len(problems) - len(plan)} left out by it)" if len(plan) < len(problems) else ""
    say(f"plan: {_counts(plan)}{dropped}")
    if limit is not None and limit < len(plan):
        say(f"of these the first: {_counts(plan[:limit])}")


def _counts(plan: Sequence[Planned]) -> str:
    splits = Counter(problem.split for problem in plan)
    parts = ", ".join(f"{splits[split]} {split}" for split in ("train", "validation", "test"))
    return (
        f"{len(plan)} problems ({parts}); {sum(p.masked for p in plan)} masked, "
        f"{sum(p.refusal for p in plan)} to decline, "
        f"{sum(len(p.answers) > 1 for p in plan)} with several calls"
    )


# Progress


@contextlib.contextmanager
def _watching(folder: Path) -> Iterator[Callable[[Progress], None]]:
    """Shows how far the collection is: a bar on a terminal, else a line now and then."""
    started = told = time.monotonic()
    first = now = None  # the first report says what was there already
    skipped = 0
    with contextlib.ExitStack() as stack:
        show, tell = stack.enter_context(_bar()) if sys.stderr.isatty() else (None, say)

        def watch(progress: Progress) -> None:
            nonlocal started, told, first, now, skipped
            now = progress
            if first is None:
                first, started = progress, time.monotonic()
                if first.done:
                    tell(f"{folder}: {first.done} of {first.total} problems are there already")
            if progress.skipped is not None:
                skipped += 1
                tell(f"skipped: {progress.skipped}")
            seconds = time.monotonic() - started
            text = _line(progress, first.done, seconds)
            if show is not None:
                show(progress, text)
            elif time.monotonic() - told >= PLAIN_SECONDS:
                told = time.monotonic()
                tell(f"{progress.done}/{progress.total} problems · {text}")

        try:
            yield watch
        except KeyboardInterrupt:
            if now is None:
                raise
            tell(
                f"stopped at {now.done} of {now.total} problems; the same command goes on from "
                "there, only the shard in work is done again"
            )
            raise click.exceptions.Exit(130) from None
    if now is not None:
        after = f", {skipped} skipped" if skipped else ""
        seconds = time.monotonic() - started
        say(
            f"{folder}: {now.done} problems, {now.steps} steps{after} · greedy right "
            f"{_percent(now)} · {seconds:.1f} s"
        )


def _line(progress: Progress, before: int, seconds: float) -> str:
    done = progress.done - before
    parts = []
    if done and seconds > 0:
        speed = done / seconds
        parts.append(f"{speed:.1f}/s" if speed >= 1 else f"{60 * speed:.1f}/min")
        parts.append(f"{duration((progress.total - progress.done) / speed)} left")
    return " · ".join([*parts, f"greedy right {_percent(progress)}", f"{progress.steps} steps"])


def _percent(progress: Progress) -> str:
    return f"{100 * progress.right / max(1, progress.done):.0f}%"


@contextlib.contextmanager
def _bar() -> Iterator[tuple[Callable[[Progress, str], None], Callable[[str], None]]]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    terminal = console(stderr=True)
    columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=terminal, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None)

        def show(progress: Progress, text: str) -> None:
            bar.update(task, completed=progress.done, total=progress.total, description=text)

        yield show, lambda text: terminal.print(Text(in_one_line(text)), soft_wrap=True)
