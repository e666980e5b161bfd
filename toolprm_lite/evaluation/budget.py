"""The budget study: the gain from N beams and from M draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toolprm_lite.errors import DatasetError
from toolprm_lite.evaluation.intervals import Float64Array, bootstrap
from toolprm_lite.evaluation.strategies import Strategy

Record = dict[str, Any]

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
    """Accuracy and tokens of each cell, and whether more draws gain more than more beams.

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
        raise DatasetError("no answer can be judged here; use problems of another category")
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
