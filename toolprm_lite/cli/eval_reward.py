"""`toolprm-lite eval-reward`: heads side by side on the problems of a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolprm_lite.cli.output import WIDTH, drawing, json_line, write

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
    split: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Judge reward heads by supervision SETs."""
    import numpy as np

    from toolprm_lite.errors import HeadError
    from toolprm_lite.reward.head import load_head
    from toolprm_lite.training import report as show
    from toolprm_lite.training.data import SPLITS, open_supervision

    loaded = [load_head(path) for path in heads]
    data = open_supervision(sets)
    for head in loaded:
        theirs, ours = head.card, data
        for what, one, other in (
            ("model", _identity(theirs.model), _identity(ours.model)),
            ("call format", theirs.call_format, ours.call_format),
            ("features", theirs.features, ours.features),
        ):
            if one != other:
                raise HeadError(
                    f"{head.source}: the head's {what} is not that of {sets[0]}: it was fitted to "
                    f"{theirs.model.name}, and the set is of {ours.model.name}; name sets that "
                    "were collected for this head"
                )
    trajectories = data.trajectories()
    reports: list[dict[str, Any]] = []
    for head in loaded:
        examples = data.examples(head.layers, head.pooled)
        if split == "all":
            rows, chosen = np.ones(len(examples.kinds), bool), np.ones(len(trajectories.last), bool)
        else:
            rows = data.require(examples, split)  # type: ignore[arg-type]
            chosen = trajectories.split == SPLITS.index(split)
        reports.append(show.judge(head, examples, trajectories, rows, chosen, data.groups()))
    whole = {"split": split, "sets": list(data.names), "heads": reports}
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        show.write_report(output / "report.json", whole)
        show.draw_reliability(output / "reliability.png", reports)
    if as_json:
        write(json_line(whole))
        return
    with drawing(WIDTH) as terminal:
        terminal.print(show.table(reports, f"{split} problems"))
        terminal.print(show.kind_table(reports))
        terminal.print(show.selection_table(reports))
        terminal.print(show.group_table(reports[0]))


def _identity(model: Any) -> tuple[Any, ...]:
    return model.architecture, model.width, model.layers, model.vocabulary
