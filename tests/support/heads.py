"""Heads with random weights, and steps for them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from toolprm_lite import Searcher
from toolprm_lite.reward.base import CERTAINTY, FEATURES, StepBatch
from toolprm_lite.reward.head import (
    FittedModel,
    Head,
    HeadCard,
    HeadWeights,
)

MODEL = FittedModel("Small-1", "llama", 6, 4, "ab12")
CARD = HeadCard(
    name="toolprm",
    model=MODEL,
    call_format="json-list",
    layers=(1, 3),
    pooled=True,
    features=(*CERTAINTY, "found"),
    notes={"seed": 1},
)
UNITS = 5


def make_head(**changes: Any) -> Head:
    card = replace(CARD, **changes)
    random = np.random.default_rng(3)
    inputs = card.hidden_width + len(card.features)

    def draw(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    weights = HeadWeights(
        draw(inputs),
        np.exp(draw(inputs)),
        draw(UNITS, inputs),
        draw(5, UNITS),
        draw(2, 5, UNITS),
        draw(2, 5),
        np.exp(draw(2, 5, 2)),
    )
    return Head(card, weights)


def make_steps(head: Head, count: int = 40) -> StepBatch:
    random = np.random.default_rng(4)
    return SimpleNamespace(  # type: ignore[return-value]
        kinds=random.integers(0, 5, count).astype(np.int8),
        features=random.standard_normal((count, len(head.card.features))).astype(np.float32),
        hidden=(3 * random.standard_normal((count, head.card.hidden_width))).astype(np.float32),
        candidates=list,
        columns=head.card.features,
    )


def random_head(searcher: Searcher, seed: int, pooled: bool, aggregate: str) -> Head:
    info = searcher.info
    model = FittedModel(
        info.name, info.architecture, info.width, info.layers, searcher.vocabulary_hash
    )
    card = HeadCard(
        name="random", model=model, call_format="json-list", prompt="signatures", layers=(3, 1),
        pooled=pooled, features=FEATURES, aggregate=aggregate,
    )  # fmt: skip
    inputs = card.hidden_width + len(FEATURES)
    random = np.random.default_rng(seed)
    shapes = [(inputs,), (6, inputs), (5, 6), (2, 5, 6), (2, 5), (2, 5, 2)]
    shift, *others = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    return Head(card, HeadWeights(shift, np.ones(inputs, np.float32), *others))
