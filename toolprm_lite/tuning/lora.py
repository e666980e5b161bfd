"""Low-rank adapters (LoRA, arXiv 2106.09685) of a transformers model's linear layers.

y = W x + scale * B (A x), where only A and B are trained. B begins as zeros, so that an adapter
changes nothing before it is trained. Knows nothing of files or problems.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from toolprm_lite.backends.torch.adapter import GGUF_NAMES
from toolprm_lite.backends.torch.hf_models import TESTED
from toolprm_lite.errors import TrainingError

# A linear layer of a block that adapter files have a name for.
_LAYER = re.compile(rf"model\.layers\.\d+\.({'|'.join(map(re.escape, GGUF_NAMES))})")


class LoraLinear(torch.nn.Module):
    """A frozen linear layer and its trained change."""

    def __init__(self, base: torch.nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        # Parameters in float32 also where the model is in bfloat16: small updates would be lost.
        place = base.weight.device
        self.a = torch.nn.Parameter(torch.empty(rank, base.in_features, device=place))
        self.b = torch.nn.Parameter(torch.zeros(base.out_features, rank, device=place))
        torch.nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.nn.functional.linear(x, self.a.to(x.dtype))
        change = torch.nn.functional.linear(inner, self.b.to(x.dtype))
        whole: torch.Tensor = self.base(x) + self.scale * change
        return whole


def attach(model: Any, rank: int, scale: float = 1.0) -> dict[str, LoraLinear]:
    """Put an adapter on each linear layer of the model's blocks and freeze everything else.

    Returns them by the layers' names, as in "model.layers.0.self_attn.q_proj". Raises
    `TrainingError` for a model of an architecture whose adapter files were not tested: the order of
    their rows depends on it.
    """
    kind = model.config.get_text_config().model_type
    if kind not in TESTED:
        raise TrainingError(
            f"adapters of {kind} models can't be written; they can for {', '.join(sorted(TESTED))}"
        )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found = {
        name: module
        for name, module in model.named_modules()
        if _LAYER.fullmatch(name) and isinstance(module, torch.nn.Linear)
    }
    attached: dict[str, LoraLinear] = {}
    for name, module in found.items():
        parent, _, last = name.rpartition(".")
        attached[name] = LoraLinear(module, rank, scale)
        setattr(model.get_submodule(parent), last, attached[name])
    return attached


def state_of(adapters: Mapping[str, LoraLinear]) -> dict[str, torch.Tensor]:
    """The trained weights, by the layer's name and `.a` or `.b`; float32 copies on the CPU."""
    return {
        f"{name}.{part}": getattr(adapter, part).detach().float().cpu().clone()
        for name, adapter in adapters.items()
        for part in ("a", "b")
    }


def load_state(adapters: Mapping[str, LoraLinear], state: Mapping[str, torch.Tensor]) -> None:
    """Put back what `state_of` gave."""
    with torch.no_grad():
        for name, adapter in adapters.items():
            adapter.a.copy_(state[f"{name}.a"])
            adapter.b.copy_(state[f"{name}.b"])


def parameters_of(adapters: Mapping[str, LoraLinear]) -> Iterator[torch.nn.Parameter]:
    """What is trained."""
    for adapter in adapters.values():
        yield adapter.a
        yield adapter.b
