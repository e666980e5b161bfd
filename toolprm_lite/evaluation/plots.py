"""The plots of the budget study."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolprm_lite.errors import ConfigError
from toolprm_lite.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = dict[str, Any]


def write_study(folder: Path, found: Record) -> None:
    """Write sweep.json, grid.png and budget.png. Raises `ConfigError` without matplotlib."""
    replace_file(
        folder / "sweep.json", f"{json.dumps(found, indent=1, allow_nan=False)}\n".encode()
    )
    _save(folder / "grid.png", _heat_map(found))
    _save(folder / "budget.png", _curves(found))


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(f"plots need {error.name}: pip install 'toolprm_lite[train]'") from error
    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def _save(path: Path, figure: Figure) -> None:
    data = BytesIO()
    figure.savefig(data, format="png")
    replace_file(path, data.getvalue())


def _heat_map(found: Record) -> Figure:
    grid = found["grid"]
    beams = sorted({cell["beams"] for cell in grid})
    expand = sorted({cell["expand"] for cell in grid})
    shares = np.full((len(beams), len(expand)), np.nan)
    for cell in grid:
        shares[beams.index(cell["beams"]), expand.index(cell["expand"])] = 100 * cell["share"]
    figure = _figure(1.6 + 0.9 * len(expand), 1.4 + 0.7 * len(beams))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="viridis", aspect="auto")
    figure.colorbar(image, ax=axes, label="right, %")
    axes.set_xticks(range(len(expand)), [str(m) for m in expand])
    axes.set_yticks(range(len(beams)), [str(n) for n in beams])
    axes.set_xlabel("M, draws for each beam and step")
    axes.set_ylabel("N, beams kept")
    middle = np.nanmean([np.nanmin(shares), np.nanmax(shares)])
    for row, column in np.argwhere(~np.isnan(shares)):
        value = shares[row, column]
        colour = "black" if value > middle else "white"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour)
    axes.set_title(f"{found['problems']} problems")
    return figure


def _curves(found: Record) -> Figure:
    figure = _figure(6.4, 4.2)
    axes = figure.subplots()
    for n in sorted({cell["beams"] for cell in found["grid"]}):
        row = sorted(
            (cell for cell in found["grid"] if cell["beams"] == n and cell["decoded"]),
            key=lambda cell: cell["expand"],
        )
        tokens = [cell["decoded"] for cell in row]
        axes.plot(tokens, [100 * cell["share"] for cell in row], marker="o", label=f"N = {n}")
        for cell in row:
            axes.annotate(
                f"M={cell['expand']}",
                (cell["decoded"], 100 * cell["share"]),
                textcoords="offset points",
                xytext=(3, 4),
                fontsize=7,
            )
    for cell in found["others"]:
        if cell["decoded"]:
            axes.plot(cell["decoded"], 100 * cell["share"], marker="x", color="black", ls="none")
            axes.annotate(
                cell["strategy"],
                (cell["decoded"], 100 * cell["share"]),
                textcoords="offset points",
                xytext=(3, -10),
                fontsize=7,
            )
    axes.set_xscale("log")
    axes.set_xlabel("decoded tokens of a problem, mean")
    axes.set_ylabel("right, %")
    axes.set_title(f"{found['problems']} problems")
    axes.legend(fontsize=8)
    return figure
