"""`toolprm-lite eval-reward`: compare heads on the problems of a split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from toolprm_lite.cli.output import WIDTH, drawing, write
from toolprm_lite.json_lines import json_line

if TYPE_CHECKING:
    from toolprm_lite.tasks.problem import Split

_EPILOG = """\b
Example:
  toolprm-lite eval-reward supervision/ --head heads/toolprm.safetensors --split test
"""


@click.command(name="eval-reward", epilog=_EPILOG)
@click.argument("sets", nargs=-1, required=True, metavar="SET...")
@click.option(
    "--head",
    "heads",
    multiple=True,
    required=True,
    metavar="FILE",
    help="A head to judge; may be given several times.",
)
@click.option(
    "--split",
    type=click.Choice(["test", "validation", "train", "all"]),
    default="test",
    show_default=True,
    help="Whose problems.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where report.json and reliability.png go.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def eval_reward(
    sets: tuple[str, ...],
    heads: tuple[str, ...],
    split: Split | Literal["all"],
    output: Path | None,
    as_json: bool,
) -> None:
    """Judge reward heads by supervision SETs."""
    from toolprm_lite.training.judging import judge_heads

    whole = judge_heads(sets, heads, split, output)
    if as_json:
        write(json_line(whole))
    else:
        tell_judged(whole)


def tell_judged(whole: Mapping[str, Any]) -> None:
    """The tables of a report."""
    from toolprm_lite.cli import reward_tables as show

    reports = whole["heads"]
    with drawing(WIDTH) as terminal:
        terminal.print(show.table(reports, f"{whole['split']} problems"))
        terminal.print(show.kind_table(reports))
        terminal.print(show.selection_table(reports))
        terminal.print(show.group_table(reports[0]))
