"""`toolprm-lite sweep`: the budget study, N x M."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from toolprm_lite.cli.eval import (
    asking,
    eval_settings,
    output_option,
    read_problems,
    reward_options,
    seeds_option,
    source_options,
)
from toolprm_lite.cli.options import draw_options, model_options, open_searcher, sizes_option
from toolprm_lite.cli.output import drawing, write
from toolprm_lite.json_lines import json_line

_EPILOG = """\b
Example:
  toolprm-lite sweep supervision/ --split validation --heads heads/ \\
      --reward toolprm --output runs/sweep
"""


@click.command(epilog=_EPILOG)
@click.argument("source", metavar="bfcl|toolalpaca|PROBLEMS.jsonl|SET")
@output_option
@source_options
@sizes_option("--beams", "1,2,4,8,16", metavar="N,N", help="Beams retained after each step.")
@sizes_option("--expand", "1,2,4,8,16", metavar="M,M", help="Draws for each beam and step.")
@click.option(
    "--most",
    type=click.IntRange(1, 1 << 16),
    metavar="NM",
    help="Leave out cells of a larger N x M.",
)
@click.option(
    "--reward",
    default="auto",
    show_default=True,
    help="What judges steps, as in eval's strategies.",
)
@click.option(
    "--strategy",
    "others",
    multiple=True,
    metavar="NAME",
    show_default="greedy",
    help="What to compare the grid with, as in eval; give it several times.",
)
@reward_options
@model_options
@draw_options
@seeds_option
@click.option("--json", "as_json", is_flag=True, help="Print the study as one JSON object.")
def sweep(
    source: str,
    output: Path,
    beams: tuple[int, ...],
    expand: tuple[int, ...],
    most: int | None,
    reward: str,
    others: tuple[str, ...],
    as_json: bool,
    **values: Any,
) -> None:
    """Search problems with every N and M, and show what more beams and more draws are worth.

    The folder gets what eval writes, sweep.json, a heat map grid.png and the curves budget.png.
    """
    from toolprm_lite.evaluation.strategies import Strategy
    from toolprm_lite.evaluation.sweep import SweepSettings
    from toolprm_lite.evaluation.sweep import sweep as run_sweep
    from toolprm_lite.files import locked

    settings = SweepSettings(
        beams=beams,
        expand=expand,
        most=most,
        reward=reward,
        others=tuple(Strategy.parse(text) for text in others or ("greedy",)),
        evaluation=eval_settings(source, values),
    )
    problems = read_problems(settings.evaluation.source)
    with locked(output, folder=True), open_searcher(values) as searcher:
        found = run_sweep(searcher, problems, output, settings, watch=asking(output))
    if as_json:
        write(json_line(found))
        return
    _draw(found, beams, expand)


def _draw(found: Mapping[str, Any], beams: tuple[int, ...], expand: tuple[int, ...]) -> None:
    """The grid and the contrasts."""
    from rich import box
    from rich.table import Table

    table = Table(title=f"{found['problems']} problems: right, % (tokens decoded)", box=box.SIMPLE)
    table.add_column("N \\ M")
    for m in sorted(set(expand)):
        table.add_column(str(m), justify="right")
    by_cell = {(cell["beams"], cell["expand"]): cell for cell in found["grid"]}
    for n in sorted(set(beams)):
        row = [by_cell.get((n, m)) for m in sorted(set(expand))]
        table.add_row(
            str(n),
            *(
                "" if cell is None else f"{100 * cell['share']:.1f} ({cell['decoded'] or 0:.0f})"
                for cell in row
            ),
        )
    with drawing() as terminal:
        terminal.print(table)
        for name, contrast in found["contrasts"].items():
            low, high = contrast["interval"]
            terminal.print(f"{name}: {contrast['points']:+.1f} points ({low:+.1f} .. {high:+.1f})")
