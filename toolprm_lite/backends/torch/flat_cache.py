"""What plugs into transformers: a cache that keeps prompts and branches in one flat row, and the
attention over it.

The cache holds the tokens of prompts and branches in order of arrival. Which of them
a token attends to says a mask made from the ledger, so a fork copies nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, Cache
from transformers.cache_utils import CacheLayerMixin

ATTENTION = "toolprm_flat"


@dataclass(frozen=True, slots=True)
class Placed:
    """The tokens of one step in the cache: at the places `begin` .. `end`, and at `positions`
    [tokens] of their sequences.

    `allowed` uint8 [tokens, end] says what each attends to, None that they go on what is there.
    `all_positions` int32 [end] are the positions of the tokens at all places.
    """

    begin: int
    end: int
    positions: npt.NDArray[Any]
    allowed: Any
    all_positions: npt.NDArray[np.int32]


class FlatCache(Cache):
    """Keys and values of `cells` tokens for each of `layers` blocks, written in place.

    `write_at(begin, end)` says where the next forward pass puts its tokens; attention sees places
    0 .. end. `write_to(places, end)` does so with a tensor, which may change between replays of a
    recorded pass. One more cell, `spare`, takes values that are never read.
    """

    def __init__(self, layers: int, cells: int) -> None:
        self.cells = self.spare = cells
        self.begin = self.end = 0
        self.places: torch.Tensor | None = None
        self._flat = [_FlatLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self._flat))

    def write_at(self, begin: int, end: int) -> None:
        self.begin, self.end, self.places = begin, end, None

    def write_to(self, places: torch.Tensor, end: int) -> None:
        self.begin, self.end, self.places = 0, end, places

    @torch.inference_mode()
    def compact(self, first: int, places: torch.Tensor) -> None:
        """Move the tokens at `places` (int64, rising) to `first`, `first + 1`, ..."""
        last = first + len(places)
        for layer in self._flat:
            if layer.is_initialized:
                index = places.to(layer.keys.device)
                layer.keys[:, :, first:last] = layer.keys.index_select(2, index)
                layer.values[:, :, first:last] = layer.values.index_select(2, index)

    @property
    def cell_bytes(self) -> int:
        """Bytes of one token's keys and values."""
        return sum(
            (layer.keys[0, :, 0].numel() + layer.values[0, :, 0].numel())
            * layer.keys.element_size()
            for layer in self._flat
        )

    @torch.inference_mode()
    def read(self, places: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Copies of the keys and values at `places` (int64): [heads, places, dim] of each block."""
        index = places.to(self._flat[0].keys.device)
        return [
            (layer.keys[0].index_select(1, index), layer.values[0].index_select(1, index))
            for layer in self._flat
        ]

    @torch.inference_mode()
    def write(
        self, begin: int, states: list[tuple[torch.Tensor, torch.Tensor]], count: int
    ) -> None:
        """Put the first `count` tokens of what `read` gave to the places from `begin` on."""
        for layer, (keys, values) in zip(self._flat, states, strict=True):
            layer.keys[0, :, begin : begin + count] = keys[:, :count]
            layer.values[0, :, begin : begin + count] = values[:, :count]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.begin


class _FlatLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    is_sliding = False
    keys: Any
    values: Any

    def __init__(self, cache: FlatCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        def room(states: torch.Tensor) -> torch.Tensor:
            shape = (1, states.shape[1], self._cache.cells + 1, states.shape[3])
            return torch.zeros(shape, dtype=states.dtype, device=states.device)

        self.keys, self.values = room(key_states), room(value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *unused: Any, **ignored: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin, end, places = self._cache.begin, self._cache.end, self._cache.places
        if places is None:
            self.keys[:, :, begin:end] = key_states
            self.values[:, :, begin:end] = value_states
        else:
            self.keys.index_copy_(2, places, key_states)
            self.values.index_copy_(2, places, value_states)
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self._cache.begin

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.end, 0

    def get_max_length(self) -> int:
        return self._cache.cells


@contextmanager
def flat_attention(config: Any) -> Iterator[None]:
    """Within the context, the model that `config` belongs to attends by this module's function.

    The model may be the application's own, which still uses it in its own way.
    """
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


def additive_mask(allowed: torch.Tensor, groups: int, dtype: torch.dtype) -> torch.Tensor:
    """bool [rows, places] to what `_attend` adds to the scores, [1, 1, groups * rows, places]."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    mask.masked_fill_(~allowed, float("-inf"))
    return mask.repeat(groups, 1)[None, None]


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **ignored: Any,
) -> tuple[torch.Tensor, None]:
    """Queries [1, heads, rows, dim] over keys and values [1, key heads, places, dim].

    Without a mask the rows are the whole cache, causal. With one, the query heads that share a key
    head are stacked as rows of one product: keys and values are read once for all of
    them and never repeated.
    """
    _, heads, rows, _ = query.shape
    key_heads = key.shape[1]
    if attention_mask is None:
        out = scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=heads != key_heads
        )
    else:
        packed = query.reshape(1, key_heads, heads // key_heads * rows, query.shape[3])
        if softcap is None:
            out = scaled_dot_product_attention(
                packed, key, value, attn_mask=attention_mask, scale=scaling
            )
        else:
            scale = scaling if scaling is not None else query.shape[3] ** -0.5
            scores = softcap * torch.tanh(packed @ key.transpose(2, 3) * (scale / softcap))
            weights = torch.softmax((scores + attention_mask).float(), dim=-1)
            out = weights.to(value.dtype) @ value
        out = out.reshape(1, heads, rows, value.shape[3])
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _attend)
