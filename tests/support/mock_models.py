"""Mock backends with other distributions, or that record what is decoded."""

from __future__ import annotations

from typing import Any

import numpy as np

from support.mock_backend import EOG, MockBackend
from toolprm_lite.backends.base import Batch, MaskArray, Output


class RandomModel(MockBackend):
    """Likes the tokens that follow in some response, each as chance will have it, and no other
    token quite as much."""

    def __init__(self, responses: list[str], seed: int, **settings: object) -> None:
        super().__init__(dict.fromkeys(responses, 1.0), **settings)
        self.seed = seed

    def logits(self, path: tuple[int, ...]) -> np.ndarray:
        random = np.random.default_rng([self.seed, *path])
        logits = random.normal(-9.0, 1.5, self.info.vocab_size).astype(np.float32)
        for token in self.next.get(path, {EOG: 1.0}):
            logits[token] = random.normal(0.0, 1.0)
        return logits


class Paths(MockBackend):
    """Remembers which path every decoded token ended, and how many sequences there were."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.paths: list[tuple[int, ...]] = []
        self.rows: list[int] = []
        self.held: list[int] = []

    def decode(self, batch: Batch, masks: MaskArray | None, k: int) -> Output:
        output = super().decode(batch, masks, k)
        self.rows.append(len(set(batch.sequences.tolist())))
        self.held.append(len(self._sequences))
        for position, sequence in zip(
            batch.positions.tolist(), batch.sequences.tolist(), strict=True
        ):
            whole = self._sequences[sequence]
            self.paths.append(tuple(whole[: position - len(self.prompt) + 1]))
        return output
