"""Makes a head's logits probabilities: a slope and an offset for each label and kind of step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from toolprm_lite.reward.head import LABELS, Head
from toolprm_lite.training.data import Examples


def calibrate(
    head: Head, examples: Examples, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """The calibration of `HeadWeights` for each label and kind, from the steps `rows`."""
    calibration: npt.NDArray[np.float32] = head.weights.calibration.copy()
    kinds = examples.kinds[rows]
    logits = head.logits(kinds, examples.features[rows], examples.hidden[rows])
    labels = examples.labels[rows]
    for place in range(len(LABELS)):
        for kind in np.unique(kinds):
            ours = kinds == kind
            calibration[place, kind] = platt(logits[ours, place], labels[ours, place])
    return calibration


def platt(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset that make logits [steps] probabilities of the labels [steps].

    A weak prior holds them near 1 and 0, so few steps of a kind, or steps of one label, change
    little; the slope stays above 0, so that calibration never reverses the order.
    """
    x = np.asarray(logits, np.float64)
    y = np.asarray(labels, np.float64)
    prior = np.array([1.0, 0.0])
    at = prior.copy()

    def objective(point: npt.NDArray[np.float64]) -> float:
        z = point[0] * x + point[1]
        return float((np.logaddexp(0, z) - y * z).sum() + 0.5 * ((point - prior) ** 2).sum())

    value = objective(at)
    for _ in range(50):
        p = 0.5 * (1 + np.tanh(0.5 * (at[0] * x + at[1])))
        gradient = np.array([((p - y) * x).sum(), (p - y).sum()]) + (at - prior)
        q = p * (1 - p)
        cross = (q * x).sum()
        curvature = np.array([[(q * x * x).sum() + 1, cross], [cross, q.sum() + 1]])
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while (found := objective(at - size * step)) > value and size > 1e-6:
            size /= 2
        if value - found < 1e-10 * max(1.0, abs(value)):
            break
        at, value = at - size * step, found
    return max(float(at[0]), 1e-2), float(at[1])
