"""The budget study: what N beams and M draws each are worth, as figures and as plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from toolprm_lite.errors import ConfigError, DatasetError
from toolprm_lite.evaluation.strategies import Strategy
from toolprm_lite.files import replace_file
from toolprm_lite.training.metrics import bootstrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = dict[str, Any]
Float64Array = npt.NDArray[np.float64]

FIXED = 4  # where the paper holds one of the two


def cells(beams: Sequence[int], expand: Sequence[int], most: int | None) -> list[tuple[int, int]]:
    """The pairs (N, M), cheapest first; `most` limits N x M."""
    pairs = [(n, m) for n in beams for m in expand if most is None or n * m <= most]
    return sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair[0]))


def study(
    answers: Mapping[str, Sequence[Mapping[str, Record]]],
    identities: Sequence[str],
    cells: Sequence[str],
) -> Record:
    """Accuracy and tokens of each cell, and whether more draws are worth more than more beams.

    `answers` are by strategy, seed and problem; shares and gains are means over seeds. `cells` are
    the grid's (step-beam:REWARD@NxM), the others are there for comparison. Problems whose answers
    have no verdict are left out. A contrast is the gain of the second setting over the first, in
    points, with 95% of a bootstrap over the problems; `draws_over_beams` is the difference of the
    two gains at the fixed sizes.
    """
    identities = [
        identity
        for identity in identities
        if all(found[identity]["right"] is not None for runs in answers.values() for found in runs)
    ]
    if not identities:
        raise DatasetError("no answer can be judged here; ask problems of another category")
    grid: list[Record] = []
    others: list[Record] = []
    right: dict[tuple[int, int], Float64Array] = {}
    numbers = np.arange(len(identities))
    for name, runs in answers.items():
        strategy = Strategy.parse(name)
        records = [found[identity] for found in runs for identity in identities]
        verdicts = np.array([bool(record["right"]) for record in records], np.float64)
        values = verdicts.reshape(len(runs), -1).mean(axis=0)
        cell: Record = {
            "strategy": name,
            "share": float(values.mean()),
            "interval": list(bootstrap(values, numbers)),
            **_cost(records),
        }
        if name in cells:
            right[strategy.beams, strategy.expand] = values
            grid.append({"beams": strategy.beams, "expand": strategy.expand, **cell})
        else:
            others.append(cell)
    return {
        "problems": len(identities),
        "grid": grid,
        "others": others,
        "contrasts": _contrasts(right, numbers),
    }


def _cost(records: Sequence[Record]) -> Record:
    asked = [record["stats"] for record in records if "stats" in record]
    decoded = [stats["decode_tokens"] + stats["forced_tokens"] for stats in asked]
    decode = [stats["ms"]["decode"] for stats in asked]
    return {
        "decoded": float(np.mean(decoded)) if asked else None,
        "drawn": float(np.mean([stats["drawn_tokens"] for stats in asked])) if asked else None,
        "decode_ms": float(np.median(decode)) if asked else None,
    }


def _contrasts(
    right: Mapping[tuple[int, int], Float64Array], numbers: npt.NDArray[np.int64]
) -> Record:
    found: Record = {}

    def tell(name: str, values: Float64Array, settings: Sequence[tuple[int, int]]) -> None:
        low, high = bootstrap(values, numbers, rounds=2000)
        found[name] = {
            "settings": [f"{n}x{m}" for n, m in settings],
            "points": 100 * float(values.mean()),
            "interval": [100 * low, 100 * high],
        }

    draws = sorted(m for n, m in right if n == FIXED)
    beams = sorted(n for n, m in right if m == FIXED)
    if len(draws) > 1:
        few, many = (FIXED, draws[0]), (FIXED, draws[-1])
        tell("more_draws", right[many] - right[few], (few, many))
    if len(beams) > 1:
        few, many = (beams[0], FIXED), (beams[-1], FIXED)
        tell("more_beams", right[many] - right[few], (few, many))
    if len(draws) > 1 and len(beams) > 1:
        one, other = (FIXED, draws[-1]), (beams[-1], FIXED)
        less, least = (FIXED, draws[0]), (beams[0], FIXED)
        gain = (right[one] - right[less]) - (right[other] - right[least])
        tell("draws_over_beams", gain, (less, one, least, other))
    for n, m in sorted(right):
        if m > n and (m, n) in right:
            tell(f"{n}x{m} over {m}x{n}", right[n, m] - right[m, n], ((m, n), (n, m)))
    return found


# Plots


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
    from io import BytesIO

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
