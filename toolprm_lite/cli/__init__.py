"""The command line. Each command is a file of its own, imported when it is called: help and errors
come at once."""

from __future__ import annotations

import errno
import traceback
import warnings
from importlib import import_module
from itertools import pairwise
from typing import Any

import click

from toolprm_lite import __version__, interrupt
from toolprm_lite.cli.output import in_one_line, open_streams, print_message
from toolprm_lite.described import described

_COMMANDS = {
    "search": "Find the function calls that answer a request.",
    "demo": "Answer six built-in requests, with their traces.",
    "collect": "Let a model answer problems, and label every step it decides.",
    "train": "Fit reward heads to what was collected.",
    "eval-reward": "Judge reward heads on held-out problems.",
    "fit": "All three: from problems to reward heads and their report.",
    "tune": "Train an adapter, with which a model calls functions better.",
    "eval": "Compare strategies on BFCL, ToolAlpaca, or problems of your own.",
    "sweep": "The budget study: a grid of numbers of beams and draws.",
}


class Failure(click.ClickException):
    """An error on the command line: one line, exit code 2."""

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
                print_message("stopped")
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


def _show_warning(message: Warning | str, *place: Any, **more: Any) -> None:
    """A warning on the command line: one line on stderr. Python shows each text once."""
    print_message(f"warning: {' '.join(str(message).split())}")


def say_traceback(error: Exception) -> None:
    """Where an error comes from, on stderr."""
    for part in traceback.format_exception(error):
        for line in part.splitlines():
            print_message(line)


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
