"""The most likely tokens, selected on the device of the logits: `_core.top_k` for a GPU."""

from __future__ import annotations

import numpy as np
import torch

from toolprm_lite.backends.base import Float32Array, Int32Array, MaskArray


def device_top_k(
    logits: torch.Tensor, masks: MaskArray | None, k: int
) -> tuple[Int32Array, Float32Array, Float32Array]:
    """As `_core.top_k`, of logits [rows, vocabulary] of any float dtype on any device."""
    words = None
    if masks is not None:
        words = torch.from_numpy(np.ascontiguousarray(masks).view(np.int32)).to(logits.device)
    return unpack_table(top_k_table(logits, words, k), k)


def top_k_table(logits: torch.Tensor, words: torch.Tensor | None, k: int) -> torch.Tensor:
    """Ids, log-probabilities and entropy side by side, float32 [rows, 2 * min(k, vocabulary) + 1].

    One table is one transfer. float32 holds ids up to 16 million exactly. `words` int32 [rows,
    ceil(vocabulary / 32)] are the masks' bits.
    """
    rows, size = logits.shape
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    entropy = -(logprobs.exp() * logprobs.clamp_min(-1e4)).sum(-1)
    allowed = logprobs
    if words is not None:
        bits = torch.arange(32, device=logits.device, dtype=torch.int32)
        ones = ((words[:, :, None] >> bits) & 1).reshape(rows, -1)[:, :size].bool()
        allowed = logprobs.masked_fill(~ones, float("-inf"))
    best, ids = allowed.topk(min(k, size), dim=-1)
    ids = ids.masked_fill(best == float("-inf"), -1)
    return torch.cat([ids.float(), best, entropy[:, None]], dim=1)


def unpack_table(table: torch.Tensor, k: int) -> tuple[Int32Array, Float32Array, Float32Array]:
    """The host's arrays of a `top_k_table`, padded to `k` with id -1 and -inf."""
    values = table.cpu().numpy()
    width = (values.shape[1] - 1) // 2
    ids = np.full((len(values), k), -1, np.int32)
    logprobs = np.full((len(values), k), -np.inf, np.float32)
    ids[:, :width] = values[:, :width]
    logprobs[:, :width] = values[:, width : 2 * width]
    return ids, logprobs, values[:, -1].copy()
