"""The attention masks of a step, from what each token may attend to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from toolprm_lite.backends.torch.flat_cache import Placed, additive_mask

FULL, SLIDING = "full_attention", "sliding_attention"  # transformers' types of layers


def types_of_layers(config: Any) -> tuple[frozenset[str], int | None]:
    """(the types of attention that a model's layers have, the width of sliding windows)."""
    window: int | None = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    return frozenset(types or ([SLIDING] if window else [FULL])), window


class AttentionMasks:
    """Of one model, as its attention layers want them: None, a tensor, or one for each type of
    layer."""

    def __init__(self, config: Any, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        heads = config.num_attention_heads
        self._groups = heads // (getattr(config, "num_key_value_heads", None) or heads)
        self._types, self._window = types_of_layers(config)
        # A cap on the scores is not in torch's fused attention, so its prompts need a mask, too.
        self._capped = getattr(config, "attn_logit_softcapping", None) is not None

    def without_windows(self, cells: int) -> bool:
        """Whether a context of so many cells is in every layer's sight."""
        return self._types == {FULL} or (self._window or 0) >= cells

    def of(self, placed: Placed) -> Any:
        """The mask of tokens in the cache, None where causal attention needs none."""
        begin, end, allowed = placed.begin, placed.end, placed.allowed
        sees_all = self._types == {FULL} or (self._window is not None and end <= self._window)
        if allowed is None and begin == 0 and sees_all and not self._capped:
            return None
        if allowed is None:
            lower = np.arange(end)[None, :] <= np.arange(begin, end)[:, None]
        else:
            lower = allowed.view(np.bool_)
        full = self._additive(lower)
        if sees_all:
            near = full
        else:
            where = np.arange(end) if allowed is None else placed.all_positions
            close = np.asarray(placed.positions)[:, None] - where[None, :] < self._window
            near = self._additive(lower & close)
        if self._types == {FULL}:
            return full
        if self._types == {SLIDING}:
            return near
        return {FULL: full, SLIDING: near}

    def of_static(self, allowed: torch.Tensor) -> Any:
        """The mask of a step of fixed shape without windows; `allowed` uint8 [rows, places]."""
        mask = additive_mask(allowed.bool(), self._groups, self._dtype)
        return {FULL: mask, SLIDING: mask} if len(self._types) > 1 else mask

    def _additive(self, allowed: Any) -> torch.Tensor:
        mask = torch.from_numpy(np.ascontiguousarray(allowed)).to(self._device)
        return additive_mask(mask, self._groups, self._dtype)
