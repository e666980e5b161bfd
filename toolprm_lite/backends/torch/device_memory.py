"""How much memory a model's context takes, and how much its device has."""

from __future__ import annotations

from typing import Any

import torch

from toolprm_lite.backends.memory import available_memory, check_memory


def check_context(config: Any, weight: torch.Tensor, cells: int) -> None:
    """Raise `ModelError` where `cells` keys and values, stored as `weight` is, don't fit."""
    check_memory(cells, _cell_bytes(config, weight.element_size()), _available(weight.device))


def _cell_bytes(config: Any, size: int) -> int:
    """Bytes of one token's keys and values, of `size` each."""
    heads = config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * shared * width * size)


def _available(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory() if device.type == "cpu" else None
