"""`toolprm-lite sweep`: the budget study, N x M."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolprm_lite.cli.eval import (
    answer_all,
    asking,
    collected,
    output_option,
    read_items,
    reward_options,
    seeds_option,
    source_options,
    write_summary,
)
from toolprm_lite.cli.options import draw_options, model_options
from toolprm_lite.cli.output import drawing, json_line, write
from toolprm_lite.errors import ConfigError

_EPILOG = """\b
Example:
  toolprm-lite sweep supervision/ --split validation --heads heads/ \\
      --reward toolprm --output runs/sweep
"""


def _sizes(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in value.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1 or max(sizes) > 256 or len(set(sizes)) < len(sizes):
        raise click.BadParameter("give different sizes of at most 256, as in 1,2,4,8,16")
    return sizes


@click.command(epilog=_EPILOG)
@click.argument("source", metavar="bfcl|toolalpaca|PROBLEMS.jsonl|SET")
@output_option
@source_options
@click.option(
    "--beams",
    default="1,2,4,8,16",
    show_default=True,
    callback=_sizes,
    metavar="N,N",
    help="Beams retained after each step.",
)
@click.option(
    "--expand",
    default="1,2,4,8,16",
    show_default=True,
    callback=_sizes,
    metavar="M,M",
    help="Draws for each beam and step.",
)
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
    help="What to set beside the grid, as in eval; give it several times.",
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
    """Search problems with every N and M, and tell what more beams and more draws are worth.

    The folder gets what eval writes, sweep.json, a heat map grid.png and the curves budget.png.
    """
    from toolprm_lite.evaluation import budget, summary
    from toolprm_lite.evaluation.strategies import Strategy

    pairs = budget.cells(beams, expand, most)
    if not pairs:
        raise ConfigError(f"--most {most} leaves no cell; give a larger one")
    grid = [Strategy.parse(f"step-beam:{reward}@{n}x{m}") for n, m in pairs]
    compared = [Strategy.parse(text) for text in others or ("greedy",)]
    items = read_items(source, values)
    with asking(output, source, values, [*compared, *grid], {}) as (run, asked, ask):
        answer_all(run, items, asked, ask)
        answers = collected(run, asked)
        fresh = [item for item in items if not item.bring_up] or items
        found = budget.study(answers, [item.id for item in fresh], list(map(str, grid)))
        whole = summary.summarise(items, answers)
        text = summary.markdown(whole, f"{source}: {run.settings['model']}")
        write_summary(output, {"settings": run.settings, **whole}, text)
        budget.write_study(output, found)
    if as_json:
        write(json_line(found))
        return
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
