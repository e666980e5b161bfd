"""`toolprm-lite train`: reward heads from supervision sets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from toolprm_lite.cli.output import WIDTH, console, drawing, say, tell
from toolprm_lite.cli.progress import PLAIN_SECONDS
from toolprm_lite.errors import TrainingError
from toolprm_lite.reward.head import LABELS

if TYPE_CHECKING:
    from toolprm_lite.reward.head import Label
    from toolprm_lite.training.data import Supervision
    from toolprm_lite.training.fit import FitSettings, Rival
    from toolprm_lite.training.select import Selected

RIVALS: tuple[Rival, ...] = ("toolprm", "c-prm", "orm")
MEMBERS = 4  # networks in a head

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
        raise click.BadParameter("a layer stands twice")
    return layers


@click.command(epilog=_EPILOG)
@click.argument("sets", nargs=-1, required=True, metavar="SET...")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Where the heads go, a file each, with train.json.",
)
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
@click.option(
    "--seed", type=click.IntRange(0, (1 << 63) - 1), default=0, show_default=True, help="Of it all."
)
@click.option(
    "--epochs", type=click.IntRange(1, 10000), default=30, show_default=True, help="At most."
)
@click.option(
    "--members",
    type=click.IntRange(1, 64),
    default=MEMBERS,
    show_default=True,
    help="Networks in a head, which answers with their mean.",
)
@click.option(
    "--about",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="A text for the heads' cards: what data this is, under which licence.",
)
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
    _check_installed()
    from toolprm_lite.reward.head import save_head
    from toolprm_lite.training.data import SPLITS, open_supervision
    from toolprm_lite.training.fit import FitSettings
    from toolprm_lite.training.report import judge, scores, table, write_report

    data = open_supervision(sets)
    notes_about = None if about is None else _text(about)
    output.mkdir(parents=True, exist_ok=True)
    settings = FitSettings(seed=seed, epochs=epochs, members=members)
    trajectories = data.trajectories()
    reports: list[dict[str, Any]] = []
    chosen_from: dict[str, Any] = {}
    for name in RIVALS if rival == "all" else (rival,):
        found = _select(data, name, settings, layers, label)
        examples = data.examples(found.head.layers, found.head.pooled)
        judged = {
            split: judge(
                found.head, examples, trajectories, examples.split == place,
                trajectories.split == place,
            )
            for place, split in enumerate(SPLITS)
            if split != "train" and (examples.split == place).any()
        }  # fmt: skip
        notes: dict[str, Any] = {
            "scores": {split: scores(report) for split, report in judged.items()}
        }
        if notes_about is not None:
            notes["about"] = notes_about
        head = found.head.noted(notes)
        save_head(output / f"{name}.safetensors", head)
        reports.append(judged["validation"])
        chosen_from[name] = {
            "card": {"notes": dict(head.card.notes)},
            "tried": [entry.to_dict() for entry in found.tried],
            "uses": found.uses,
            "carried": found.carried,
        }
        write_report(output / "train.json", {"validation": reports, "chosen_from": chosen_from})
    with drawing(WIDTH) as terminal:
        terminal.print(table(reports, "validation (settings were chosen on it)"))
    for report in reports:
        states = ", ".join(map(str, report["layers"])) + (" and pooled" if report["pooled"] else "")
        tell(f"{output / report['head']}.safetensors: layers {states}")


def _check_installed() -> None:
    try:
        import toolprm_lite.training.select  # noqa: F401
    except ImportError as error:
        raise TrainingError(
            f"training needs {error.name or 'torch'}: pip install 'toolprm_lite[train]'"
        ) from error


def _select(
    data: Supervision,
    rival: Rival,
    settings: FitSettings,
    layers: tuple[int, ...] | None,
    label: Label | None,
) -> Selected:
    from toolprm_lite.training.select import select

    with _progress(settings.epochs) as (on_fit, on_epoch):
        return select(
            data,
            rival,
            settings,
            layers=layers,
            label=label,
            on_fit=on_fit,
            on_epoch=on_epoch,
        )


@contextmanager
def _progress(
    epochs: int,
) -> Iterator[tuple[Callable[[str, int, int], None], Callable[[int, float], None]]]:
    """A bar on a terminal: fits, and epochs within the one that runs. Else a line now and then."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    terminal = console(stderr=True)
    with Progress(
        *columns, console=terminal, transient=True, disable=not terminal.is_terminal
    ) as bar:
        task = bar.add_task("reading")
        now, before, told = "", 0, time.monotonic()

        def on_fit(what: str, done: int, total: int) -> None:
            nonlocal now, before, told
            now, before = what, done
            if not terminal.is_terminal and time.monotonic() - told >= PLAIN_SECONDS:
                told = time.monotonic()
                say(f"{what} ({done + 1} of {total})")
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
