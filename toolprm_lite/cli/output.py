"""What commands write to the terminal and to pipes.

Text of tools, models and files passes through here: control characters, bidirectional marks and the
like are shown as escapes, so that nothing steers the terminal. JSON has them escaped: it is the
same value.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from toolprm_lite.terminal import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


WIDTH = 160  # of tables that no terminal shows


def in_one_line(text: str) -> str:
    """The text as `visible` has it, in one line."""
    return visible(text.replace("\n", " "))


def print_message(text: str) -> None:
    """Write a line to stderr."""
    click.echo(in_one_line(text), err=True)


def print_text(text: str) -> None:
    """Write text of one or more lines to stdout. Raises `OSError` as `write` does."""
    write(f"{visible(text, keep=chr(10))}\n".encode(_encoding(), "backslashreplace"))


def write(data: bytes) -> None:
    """Write to stdout, at once. Raises `OSError`, named "stdout", where it can't be written."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed", "stdout")
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise _named(error) from None


def console(stderr: bool = False) -> Console:
    """A rich console that reads no markup, and shows plain strings as `visible` does."""
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            options |= {"markup": False, "emoji": False, "highlight": False}
            return super().render_str(visible(text, keep="\n"), **options)

    return Plain(stderr=stderr, highlight=False, markup=False, emoji=False)


@contextlib.contextmanager
def drawing(width: int | None = None) -> Iterator[Console]:
    """A console that draws on stdout, `width` wide where that is no terminal. Raises `OSError` as
    `write` does."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed", "stdout")
    terminal = console()
    if width is not None and not terminal.is_terminal:
        terminal.width = width
    try:
        yield terminal
        sys.stdout.flush()
    except OSError as error:
        raise _named(error) from None


def open_streams() -> None:
    """Open closed standard streams on the null device, so that no other file gets their number.

    Python's own objects stay None, but for stderr: what is said to it is lost, as was asked for.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")  # a terminal that knows only ASCII


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def _named(error: OSError) -> OSError:
    """The error of stdout. What it still holds is given up, or Python would fail again at exit."""
    if error.errno != errno.EPIPE:
        error.filename = "stdout"
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
    return error
