"""`toolprm-lite collect`: a supervision set from files of problems with known answers."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolprm_lite.cli.options import (
    MOST_PROBLEMS,
    MOST_SEED,
    Decorator,
    all_of,
    call_format_option,
    given,
    model_options,
    model_settings,
    number_option,
    open_searcher,
    output_folder,
    prompt_option,
)
from toolprm_lite.cli.output import console, in_one_line, print_message
from toolprm_lite.cli.progress import PLAIN_SECONDS, duration
from toolprm_lite.errors import DatasetError

if TYPE_CHECKING:
    from toolprm_lite.supervision.collect import Progress
    from toolprm_lite.supervision.collect_settings import CollectSettings
    from toolprm_lite.supervision.prepare import PrepareSettings, Usable
    from toolprm_lite.tasks.exclusion import Exclusions
    from toolprm_lite.tasks.plan_settings import PlanSettings
    from toolprm_lite.tasks.problem import Problem
    from toolprm_lite.tasks.rejected import Rejected

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
def plan_options(*, refusal_share: float, joined_share: float) -> list[Decorator]:
    """How problems are changed before a model sees them."""
    return [
        _option(
            "--mask-share",
            0.5,
            type=_SHARE,
            help="Share of the problems whose names become random strings.",
        ),
        _option(
            "--refusal-share",
            refusal_share,
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
            joined_share,
            type=_SHARE,
            help="Share of the single questions that are asked two or three at once.",
        ),
        number_option("--max-tools", 6, 1, 1 << 10, help="Tools offered, at most."),
    ]


prepare_options: list[Decorator] = [
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
        help="Keep problems with answers that the conversation does not support.",
    ),
]

_OPTIONS: list[Decorator] = [
    number_option("--draws", 10, 1, 1024, help="Responses for each problem."),
    _option("--temperature", 0.8, help="Of the draws."),
    _option("--top-k", 64, help="Tokens that a draw may choose among."),
    number_option("--seed", 0, 0, MOST_SEED, help="Of plan and draws."),
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
    _option("--max-step-tokens", 48, help="Longest step; a longer one is dropped."),
    _option(
        "--match",
        "exact",
        type=click.Choice(["exact", "bfcl"]),
        help="When a value is right: equal as JSON, or as BFCL has it.",
    ),
    call_format_option,
    prompt_option("auto"),
    number_option(
        "--shard",
        12,
        1,
        1 << 20,
        help="Problems that are written together, at least; an interrupt loses no more.",
    ),
    *plan_options(refusal_share=0.1, joined_share=0.0),
    number_option(
        "--group",
        6,
        1,
        1 << 20,
        help="Problems that share tools and mask, at most.",
    ),
    click.option(
        "--limit",
        type=click.IntRange(1, MOST_PROBLEMS),
        metavar="N",
        help="Stop after the plan's first N problems; a later run may continue.",
    ),
    click.option(
        "--as-is",
        is_flag=True,
        help="Show the problems unchanged, all of them as test: to judge heads on a benchmark.",
    ),
    click.option(
        "--keep-splits",
        "kept_splits",
        multiple=True,
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        metavar="SET",
        help="Leave out SET's problems, and keep its splits, to fit heads to both; repeatable.",
    ),
    *prepare_options,
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
@output_folder("The set. A stopped run continues there.")
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
    weights = model_settings(values).identity()  # fails before the problems are read
    prepare, settings = collect_settings(values)
    plan = _planned(paths, prepare, settings.plan, values["rejected"], values["limit"])
    from toolprm_lite.files import locked
    from toolprm_lite.supervision.collect import collect as collect_set

    with (
        locked(folder, folder=True),
        open_searcher(values) as searcher,
        watching(folder) as watch,
    ):
        collect_set(searcher, plan, folder, settings, watch, values["limit"], weights)


def collect_settings(values: Mapping[str, Any]) -> tuple[PrepareSettings, CollectSettings]:
    """The settings among a command's parameters. Raises `ConfigError`, and `DatasetError` where a
    package is missing."""
    try:
        from toolprm_lite.supervision.collect_settings import CollectSettings
        from toolprm_lite.supervision.prepare import PrepareSettings
        from toolprm_lite.tasks.plan_settings import PlanSettings
    except ImportError as error:
        raise DatasetError(
            f"collecting needs {error.name}: pip install 'toolprm_lite[train]'"
        ) from error

    if values["as_is"]:
        changes = {"mask_share": 0.0, "refusal_share": 0.0, "fractions": (0.0, 0.0, 1.0)}
        values = {**values, **changes}

    plan = PlanSettings(**given(PlanSettings, values))
    settings = CollectSettings(**given(CollectSettings, values), plan=plan)
    return PrepareSettings(**given(PrepareSettings, values)), settings


# Problems


def _planned(
    paths: Sequence[Path],
    prepare: PrepareSettings,
    plan: PlanSettings,
    rejected: Path | None,
    limit: int | None,
) -> list[Problem]:
    """The plan. What is left out is summed up, and listed in the file `rejected` if asked."""
    from toolprm_lite.supervision.prepare import plan_problems, usable_problems, write_rejected

    usable = usable_problems(paths, prepare)
    tell_usable(usable)
    if rejected is not None:
        write_rejected(rejected, usable.rejected)
    planned = plan_problems(usable, prepare, plan)
    tell_plan(usable, planned, limit)
    return planned


def tell_usable(usable: Usable) -> None:
    """How many records of each file can be used, and why others can't."""
    if usable.exclusions is not None:
        _tell_excluded(usable.exclusions, sum(r.kind == "excluded" for r in usable.rejected))
    for path in usable.files:
        _sum_up(
            path, usable.problems, [record for record in usable.rejected if record.file == path]
        )


def _tell_excluded(excluded: Exclusions, records: int) -> None:
    """How many records were left out and which lines matched none."""
    path, lines, unmatched = excluded.path, len(excluded.entries), excluded.unmatched
    print_message(
        f"{path}: {records} records left out; {len(unmatched)} of its {lines} lines match no record"
        + (":" if unmatched else "")
    )
    for line in unmatched[:_SHOWN]:
        print_message(f"  {line}")
    if len(unmatched) > _SHOWN:
        print_message(f"  … and {len(unmatched) - _SHOWN} more")


def _sum_up(path: str, kept: Sequence[Problem], rejected: Sequence[Rejected]) -> None:
    here = [problem for problem in kept if problem.file == path]
    corrected = sum(bool(problem.repairs) for problem in here)
    text = f"{path}: {len(here)} problems"
    text += f", {corrected} of them corrected" if corrected else ""
    print_message(text + (f"; {len(rejected)} left out:" if rejected else ""))
    for kind, count in Counter(record.kind for record in rejected).most_common():
        records = [record for record in rejected if record.kind == kind]
        for record in records[:_SHOWN]:
            where = f"line {record.line}" + ("" if record.id is None else f" ({record.id})")
            print_message(f"  {where if record.line else record.id}: {record.reason}; {record.fix}")
        if count > _SHOWN:
            print_message(f"  … and {count - _SHOWN} more of {kind}")


def tell_plan(usable: Usable, plan: Sequence[Problem], limit: int | None) -> None:
    """What will be collected."""
    left_out = len(usable.problems) - len(plan)
    dropped = f" ({left_out} left out by it)" if left_out > 0 else ""
    print_message(f"plan: {_counts(plan)}{dropped}")
    if limit is not None and limit < len(plan):
        print_message(f"of these the first: {_counts(plan[:limit])}")


def _counts(plan: Sequence[Problem]) -> str:
    splits = Counter(problem.split for problem in plan)
    parts = ", ".join(f"{splits[split]} {split}" for split in ("train", "validation", "test"))
    return (
        f"{len(plan)} problems ({parts}); {sum(p.masked for p in plan)} masked, "
        f"{sum(p.declines for p in plan)} to decline, "
        f"{sum(len(p.answers) > 1 for p in plan)} with several calls"
    )


# Progress


@contextlib.contextmanager
def watching(folder: Path) -> Iterator[Callable[[Progress], None]]:
    """Shows the progress of a collection: a bar on a terminal, else lines at intervals."""
    started = last_shown = time.monotonic()
    first = now = None  # the first report says what was there already
    skipped = 0
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(_bar()) if sys.stderr.isatty() else (None, print_message)
        show, report = bar

        def watch(progress: Progress) -> None:
            nonlocal started, last_shown, first, now, skipped
            now = progress
            if first is None:
                first, started = progress, time.monotonic()
                if first.done:
                    report(f"{folder}: {first.done} of {first.total} problems are there already")
            if progress.skipped is not None:
                skipped += 1
                report(f"skipped: {progress.skipped}")
            seconds = time.monotonic() - started
            text = _line(progress, first.done, seconds)
            if show is not None:
                show(progress, text)
            elif time.monotonic() - last_shown >= PLAIN_SECONDS:
                last_shown = time.monotonic()
                report(f"{progress.done}/{progress.total} problems · {text}")

        try:
            yield watch
        except KeyboardInterrupt:
            if now is None:
                raise
            report(
                f"stopped at {now.done} of {now.total} problems; the same command continues "
                "there, only the shard in work is done again"
            )
            raise click.exceptions.Exit(130) from None
    if now is not None:
        after = f", {skipped} skipped" if skipped else ""
        seconds = time.monotonic() - started
        print_message(
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
