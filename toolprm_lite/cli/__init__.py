"""The command line. Each command is a file of its own, imported when it is called: help and errors
come at once."""

from __future__ import annotations

import errno
import warnings
from importlib import import_module
from typing import Any

import click

from toolprm_lite import __version__
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


class Failure(click.ClickException):
    """An error as people see it: one line, exit code 2."""

    exit_code = 2


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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except ToolprmError as error:
            raise Failure(one_line(error)) from error
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            raise click.exceptions.Exit(130) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # click ends quietly
                raise
            raise Failure(
                f"{error.filename}: {error.strerror}" if error.filename else one_line(error)
            ) from error


def _show_warning(message: Warning | str, *place: Any, **more: Any) -> None:
    """A warning as people see it: one line on stderr. Python shows each text once."""
    click.echo(f"warning: {' '.join(str(message).split())}", err=True)


def one_line(error: Exception) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).splitlines())


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="toolprm-lite", message="%(prog)s %(version)s")
def main() -> None:
    """Finds the right tool call in a local model: step beam search guided by rewards."""
