"""The likeliest tokens, chosen where the logits are: `_core.top_k` for a GPU."""

from __future__ import annotations

import numpy as np
import torch

from toolprm_lite.backends.base import Float32Array, Int32Array, MaskArray


def device_top_k(
    logits: torch.Tensor, masks: MaskArray | None, k: int
) -> tuple[Int32Array, Float32Array, Float32Array]:
    """As `_core.top_k`, of logits [rows, vocabulary] of any float dtype on any device.

    Only the result crosses to the host, in one piece.
    """
    rows, size = logits.shape
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    entropy = -(logprobs.exp() * logprobs.clamp_min(-1e4)).sum(-1)
    allowed = logprobs
    if masks is not None:
        words = torch.from_numpy(np.ascontiguousarray(masks).view(np.int32)).to(logits.device)
        bits = torch.arange(32, device=logits.device, dtype=torch.int32)
        ones = ((words[:, :, None] >> bits) & 1).reshape(rows, -1)[:, :size].bool()
        allowed = logprobs.masked_fill(~ones, float("-inf"))
    best, ids = allowed.topk(min(k, size), dim=-1)
    ids = ids.masked_fill(best == float("-inf"), -1)
    # Token ids are exact as float64, and one transfer costs less than three.
    packed = torch.cat([ids.double(), best.double(), entropy[:, None].double()], dim=1)
    table = packed.cpu().numpy()
    width = best.shape[1]
    top_ids = np.full((rows, k), -1, np.int32)
    top_logprobs = np.full((rows, k), -np.inf, np.float32)
    top_ids[:, :width] = table[:, :width]
    top_logprobs[:, :width] = table[:, width : 2 * width]
    return top_ids, top_logprobs, table[:, -1].astype(np.float32)
