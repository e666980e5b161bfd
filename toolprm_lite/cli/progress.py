"""Progress of a command: a bar on a terminal, else lines at intervals or nothing. On stderr
only."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from toolprm_lite.cli.output import console, in_one_line, print_message

PLAIN_SECONDS = 30.0  # between lines where there is no terminal


@contextlib.contextmanager
def progress(
    total: int, visible: bool, plain: bool = False
) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """Two functions: one more is done; print a line.

    `visible` draws a bar; without it `plain` prints lines of progress.
    """
    started = last_shown = time.monotonic()
    done = 0

    def rate() -> float:
        return done / max(time.monotonic() - started, 1e-9)

    if not visible:

        def count() -> None:
            nonlocal done, last_shown
            done += 1
            if plain and time.monotonic() - last_shown >= PLAIN_SECONDS:
                last_shown = time.monotonic()
                left = (total - done) / rate()
                print_message(f"{done}/{total} · {_speed(rate())} · {duration(left)} left")

        yield count, print_message
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft
    from rich.text import Text

    terminal = console(stderr=True)
    speed = TextColumn("{task.fields[rate]}", style="dim")
    columns = (MofNCompleteColumn(), BarColumn(), speed, TimeLeft(compact=True), TextColumn("left"))
    with Progress(
        *columns, console=terminal, transient=True, redirect_stdout=False, speed_estimate_period=600
    ) as bar:
        task = bar.add_task("", total=total, rate="")

        def advance() -> None:
            nonlocal done
            done += 1
            bar.update(task, advance=1, rate=_speed(rate()))

        yield advance, lambda text: terminal.print(Text(in_one_line(text)), soft_wrap=True)


def _speed(rate: float) -> str:
    return f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"


def duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
