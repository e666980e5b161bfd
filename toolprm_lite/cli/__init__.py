"""The command line. Each command is a file of its own, imported when it is called: help and errors
come at once."""

from __future__ import annotations

import errno
import shutil
import traceback
import warnings
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from toolprm_lite import __version__, interrupt
from toolprm_lite.cli.output import in_one_line, open_streams, say
from toolprm_lite.errors import ToolprmError

_COMMANDS = {
    "search": "Find the function calls that answer a request.",
    "collect": "Let a model answer problems, and label every step it decides.",
    "train": "Fit reward heads to what was collected.",
    "eval-reward": "Judge reward heads on held-out problems.",
    "fit": "All three: from problems to reward heads and their report.",
    "eval": "Compare strategies on BFCL, ToolAlpaca, or problems of your own.",
    "sweep": "The budget study: every number of beams and draws.",
}
_LONGEST = 2000  # characters of a message
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PACKAGE = Path(__file__).parent.parent


class Failure(click.ClickException):
    """An error as people see it: one line, exit code 2."""

    exit_code = 2

    def format_message(self) -> str:
        return in_one_line(self.message)


class _Commands(click.Group):
    """A group that knows its commands' names and summaries without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"{__name__}.{module}"), module)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            _refuse_empty(command, rest)
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        open_streams()
        verbose = "--verbose" in ctx.args
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except click.exceptions.Exit:
            raise
        except BaseException as error:
            if interrupt.seen() or isinstance(error, KeyboardInterrupt):
                say("stopped")
                raise click.exceptions.Exit(interrupt.EXIT_CODE) from None
            if isinstance(error, Failure):
                raise
            if isinstance(error, click.UsageError):
                message = in_one_line(error.format_message())
                raise click.UsageError(message, error.ctx) from error
            if not isinstance(error, Exception) or _closed_pipe(error):  # click ends quietly
                raise
            if verbose:
                say_traceback(error)
            raise Failure(described(error)) from error


def described(error: Exception) -> str:
    """An error in one line: what it says, and of one that nobody foresaw its name and place."""
    if isinstance(error, ToolprmError):
        return one_line(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        full = _room_left(error.filename) if error.errno in _FULL else ""
        return f"{error.filename}: {error.strerror}{full}"
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if _PACKAGE in path.parents:
            place = f" (at {path.relative_to(_PACKAGE.parent)}:{line})"
    return f"{type(error).__name__}: {one_line(error)}{place}"


def _room_left(path: str) -> str:
    """What to say of a disk that is full, or of a file that may grow no further."""
    file = Path(path)
    try:
        if path == "stdout" or (file.exists() and not file.is_file()):
            return ""
        free = shutil.disk_usage(file.parent).free
    except OSError:
        return ""
    return f", {free / 1e6:.0f} MB are free; make room and run the same command again"


def _show_warning(message: Warning | str, *place: Any, **more: Any) -> None:
    """A warning as people see it: one line on stderr. Python shows each text once."""
    say(f"warning: {' '.join(str(message).split())}")


def one_line(error: Exception) -> str:
    """An error's message without line breaks, and not without end."""
    text = " ".join(str(error).split("\n"))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def say_traceback(error: Exception) -> None:
    """Where an error comes from, on stderr."""
    for part in traceback.format_exception(error):
        for line in part.splitlines():
            say(line)


def _closed_pipe(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EPIPE


def _refuse_empty(command: click.Command, arguments: list[str]) -> None:
    """Raise `UsageError` for an option that is given an empty value, such as a variable not set."""
    names = {
        name
        for option in command.params
        if isinstance(option, click.Option) and not option.is_flag
        for name in option.opts
    }
    for before, argument in pairwise(arguments):
        if argument == "" and before in names:
            raise click.UsageError(f"{before} is empty; give it a value, or leave it out.")
    for argument in arguments:
        if argument.endswith("=") and argument[:-1] in names:
            raise click.UsageError(f"{argument[:-1]} is empty; give it a value, or leave it out.")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="toolprm-lite", message="%(prog)s %(version)s")
def main() -> None:
    """Finds the right tool call in a local model: step beam search guided by rewards."""
