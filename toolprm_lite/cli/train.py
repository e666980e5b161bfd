"""`toolprm-lite train`: reward heads from supervision sets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from toolprm_lite.cli.options import MOST_SEED, about_option, number_option, output_folder
from toolprm_lite.cli.output import WIDTH, console, drawing, print_message, print_text
from toolprm_lite.cli.progress import PLAIN_SECONDS
from toolprm_lite.errors import TrainingError
from toolprm_lite.reward.head import LABELS
from toolprm_lite.training.rivals import RIVALS, Rival

if TYPE_CHECKING:
    from toolprm_lite.reward.head import Label

_MEMBERS = 4  # `training.train.MEMBERS`, which is slow to import

_EPILOG = """\b
Example:
  toolprm-lite train supervision/ --output heads/
"""


def _label(context: click.Context, parameter: click.Parameter, value: str) -> str | None:
    return None if value == "auto" else value


def _layers(
    context: click.Context, parameter: click.Parameter, value: str
) -> tuple[int, ...] | None:
    if value == "auto":
        return None
    try:
        layers = tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter("give auto, or layers as in 11,14") from None
    if len(set(layers)) != len(layers):
        raise click.BadParameter("a layer is given twice")
    return layers


@click.command(epilog=_EPILOG)
@click.argument("sets", nargs=-1, required=True, metavar="SET...")
@output_folder("Where the heads go, a file each, with train.json.")
@click.option(
    "--rival",
    type=click.Choice([*RIVALS, "all"]),
    default="toolprm",
    show_default=True,
    help="What to judge: every step, all but values, or whole responses only.",
)
@click.option(
    "--layers",
    default="auto",
    show_default=True,
    callback=_layers,
    metavar="auto|11,14",
    help="Whose states to read; auto chooses on validation.",
)
@click.option(
    "--label",
    type=click.Choice(["auto", *LABELS]),
    default="auto",
    show_default=True,
    callback=_label,
    help="The question to answer; auto chooses on validation.",
)
@number_option("--seed", 0, 0, MOST_SEED, help="Of it all.")
@number_option("--epochs", 30, 1, 10000, help="At most.")
@number_option(
    "--members", _MEMBERS, 1, 64, help="Networks in a head, which answers with their mean."
)
@about_option("heads' cards")
def train(
    sets: tuple[str, ...],
    output: Path,
    rival: Rival | Literal["all"],
    layers: tuple[int, ...] | None,
    label: Label | None,
    seed: int,
    epochs: int,
    members: int,
    about: Path | None,
) -> None:
    """Fit reward heads to supervision SETs, and choose their settings on validation."""
    check_installed()
    from toolprm_lite.training.fit_head import HeadSettings
    from toolprm_lite.training.train import TrainSettings
    from toolprm_lite.training.train import train as train_heads

    settings = TrainSettings(
        rivals=RIVALS if rival == "all" else (rival,),
        layers=layers,
        label=label,
        about=None if about is None else _text(about),
        head=HeadSettings(seed=seed, epochs=epochs, members=members),
    )
    tell_trained(train_heads(sets, output, settings, training), output)


def tell_trained(reports: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """The table of the heads, and where they are."""
    from toolprm_lite.cli.reward_tables import table

    with drawing(WIDTH) as terminal:
        terminal.print(table(reports, "validation (settings were chosen on it)"))
    for report in reports:
        states = ", ".join(map(str, report["layers"])) + (" and pooled" if report["pooled"] else "")
        print_text(f"{folder / report['head']}.safetensors: layers {states}")


def check_installed() -> None:
    """Raise `TrainingError` where a package is missing that training needs."""
    try:
        import toolprm_lite.training.select  # noqa: F401
    except ImportError as error:
        raise TrainingError(
            f"training needs {error.name or 'torch'}: pip install 'toolprm_lite[train]'"
        ) from error


@contextmanager
def training(
    epochs: int,
) -> Iterator[tuple[Callable[[str, int, int], None], Callable[[int, float], None]]]:
    """A bar on a terminal: fits, and epochs within the current one. Else lines at intervals."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    terminal = console(stderr=True)
    with Progress(
        *columns, console=terminal, transient=True, disable=not terminal.is_terminal
    ) as bar:
        task = bar.add_task("reading")
        now, before, last_shown = "", 0, time.monotonic()

        def on_fit(what: str, done: int, total: int) -> None:
            nonlocal now, before, last_shown
            now, before = what, done
            if not terminal.is_terminal and time.monotonic() - last_shown >= PLAIN_SECONDS:
                last_shown = time.monotonic()
                print_message(f"{what} ({done + 1} of {total})")
            bar.update(task, description=what, total=total * epochs, completed=done * epochs)

        def on_epoch(epoch: int, loss: float) -> None:
            bar.update(
                task,
                description=f"{now}  epoch {epoch}  loss {loss:.4f}",
                completed=before * epochs + epoch,
            )

        yield on_fit, on_epoch


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise TrainingError(f"{path}: not UTF-8 text; save it as UTF-8") from None
