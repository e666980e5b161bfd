"""What a training will take, before it begins."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from toolprm_lite.backends.memory import available_memory
from toolprm_lite.errors import TrainingError
from toolprm_lite.tuning.lora import LoraLinear, parameters_of
from toolprm_lite.tuning.trees import Tree, losses, pack


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a training will take. `examples` and `tokens` are those of all passes, `trained` the
    adapter's weights; `seconds` from the time of one tree, `memory` in bytes."""

    examples: int
    tokens: int
    left_out: int
    sources: Mapping[str, int]
    trained: int
    seconds: float
    memory: int


def estimate(
    model: Any,
    adapters: Mapping[str, LoraLinear],
    steps: Sequence[Sequence[Tree]],
    done: int,
    left_out: int,
) -> Estimate:
    """Time from one tree of the middle size, computed twice; memory from sizes. `done` of the steps
    are not to be done again. Raises `TrainingError` where the memory is not there."""
    trees = [tree for step in steps for tree in step]
    left = sum(tree.tokens for step in steps[done:] for tree in step)
    middle = sorted(trees, key=lambda tree: tree.tokens)[len(trees) // 2]
    trained = sum(parameter.numel() for parameter in parameters_of(adapters))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    memory = weights + _more_memory(model, trained, max(trees, key=lambda tree: tree.tokens))
    device = next(model.parameters()).device
    available = available_memory() if device.type == "cpu" else None
    if available is not None and memory - weights > available:  # the weights are there already
        raise TrainingError(
            f"training needs some {memory / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are "
            "available beside the model's weights; give a smaller --most-tokens"
        )
    seconds = 0.0
    for _ in range(2):  # the first warms up
        started = time.monotonic()
        torch.autograd.backward(losses(model, pack(middle))[0].sum())
        float(next(iter(adapters.values())).b.grad.sum())  # type: ignore[union-attr]  # waits for a GPU
        seconds = time.monotonic() - started
    for parameter in parameters_of(adapters):
        parameter.grad = None
    return Estimate(
        examples=sum(len(tree.examples) for tree in trees),
        tokens=sum(tree.tokens for tree in trees),
        left_out=left_out,
        sources=Counter(e.source for tree in trees for e in tree.examples),
        trained=trained,
        seconds=seconds / middle.tokens * left,
        memory=memory,
    )


def _more_memory(model: Any, trained: int, largest: Tree) -> int:
    """Bytes beside the weights: the adapter with its gradient, the optimizer's moments and the
    copies for state and best; what a pass over the largest tree keeps for its gradient; its masks;
    and the logits of its targets."""
    config = model.config.get_text_config()
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    size: int = next(model.parameters()).element_size()
    kept: int = config.num_hidden_layers * (16 * config.hidden_size + 6 * inner)
    masks = largest.tokens**2 * (3 + 2 * size)
    logits: int = 3 * 4 * largest.targets * config.vocab_size
    return 10 * 4 * trained + size * largest.tokens * kept + masks + logits
