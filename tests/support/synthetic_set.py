"""Supervision sets made of noise with a known signal in it: layer 1 knows what is right, layer 2
and all pooled states know nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from toolprm_lite.reward.base import CERTAINTY, STEP_KINDS
from toolprm_lite.supervision.dataset import SetWriter

WIDTH = 12
FEATURES = [*CERTAINTY, "found"]
MODEL = {
    "name": "mock", "architecture": "mock", "width": WIDTH, "layers": 4, "vocabulary": "ab12",
    "adapter": "",
}  # fmt: skip


def write_set(
    folder: Path,
    problems: int = 60,
    *,
    seed: int = 0,
    signal: float = 2.0,
    splits: tuple[str, ...] = ("train", "train", "train", "validation", "test"),
    first: int = 0,
    **changes: Any,
) -> Path:
    """Each problem: two names, three values each, and the three endings of each; half of all
    decisions are right."""
    random = np.random.default_rng(seed)
    direction = np.random.default_rng(99).standard_normal(WIDTH)
    records: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    trajectories: list[dict[str, Any]] = []
    for number in range(first, first + problems):
        name = f"problem-{number}"
        split = splits[number % len(splits)]
        answers = [{"name": "f", "arguments": {}}] * (number % 3)
        records.append(
            {
                "id": name,
                "source": "made" if number % 2 else "found",
                "split": split,
                "masked": number % 4 == 0,
                "refusal": not answers,
                "answers": answers,
            }
        )
        start = len(steps)
        ends: list[tuple[int, bool]] = []

        def add(
            kind: str,
            previous: int,
            local: bool,
            viable: bool,
            name: str = name,
            start: int = start,
        ) -> int:
            steps.append(
                {
                    "problem": name,
                    "constrained": True,
                    "step": len(steps) - start,
                    "previous": previous,
                    "kind": kind,
                    "call": 0,
                    "function": "f",
                    "argument": None,
                    "value": None,
                    "boundary": 1,
                    "tokens": 1,
                    "draws": 1,
                    "greedy": False,
                    "goes_on": False,
                    "local": local,
                    "viable": viable,
                    "row": len(steps),
                }
            )
            return len(steps) - 1 - start

        for _ in range(2):
            right = bool(random.random() < 0.7)
            function = add("FUNC_NAME", -1, right, right)
            for _ in range(3):
                good = bool(random.random() < 0.5)
                whole = right and good
                last = add("ARG_VALUE", function, good, whole)
                for kind in STEP_KINDS[2:]:
                    last = add(kind, last, whole, whole)
                ends.append((last, whole))
        greedy = int(random.integers(len(ends)))
        for place, (last, whole) in enumerate(ends):
            trajectories.append(
                {
                    "problem": name,
                    "constrained": True,
                    "step": last,
                    "draws": int(random.integers(1, 4)),
                    "greedy": place == greedy,
                    "complete": True,
                    "right": whole,
                    "fate": "kept",
                    "tokens": 9,
                    "text": "[]",
                }
            )
        trajectories.append(
            {**trajectories[-1], "step": -1, "greedy": False, "complete": False, "right": False}
        )
    count = len(steps)
    viable = np.array([step["viable"] for step in steps])
    local = np.array([step["local"] for step in steps])
    noise = {
        f"{kind}.{layer}": random.standard_normal((count, WIDTH)).astype(np.float16)
        for kind in ("boundary", "pooled")
        for layer in (1, 2)
    }
    known = (viable.astype(float) + local - 1.0)[:, None]
    noise["boundary.1"] = (noise["boundary.1"] + signal * known * direction).astype(np.float16)
    features = random.standard_normal((count, len(FEATURES))).astype(np.float32)
    manifest = {
        "format": 1,
        "model": MODEL,
        "call_format": "json-list",
        "prompt": "schemas",
        "layers": [1, 2],
        "features": FEATURES,
        "pooled": True,
        "settings": {"prompt": "schemas"},
        "problems": len(records),
        "complete": False,
        **changes,
    }
    writer = SetWriter(folder)
    writer.begin(manifest, records)

    def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        return {key: [row[key] for row in rows] for key in rows[0]}

    writer.write(0, columns(steps), columns(trajectories), noise, features)
    return folder
