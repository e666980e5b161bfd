"""A transformers model over the flat cache: forward passes of prompts and of steps.

Knows places and masks, nothing of prompts, branches or reuse.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from toolprm_lite import _core
from toolprm_lite.backends.base import Batch, Float32Array, Int32Array, MaskArray, Output
from toolprm_lite.backends.torch.device_top_k import device_top_k
from toolprm_lite.backends.torch.flat_cache import FlatCache, Placed, flat_attention
from toolprm_lite.backends.torch.masks import AttentionMasks
from toolprm_lite.backends.torch.static_step import ROWS, StaticStep, round_up, visible_places
from toolprm_lite.backends.torch.taps import BlockTaps, find_blocks


class FlatModel:
    """`model` is None when it is closed. `static`: steps of fixed shapes are used where they fit.

    They pay where launching costs more than computing, and take masks without windows only.
    """

    def __init__(self, model: Any, cells: int) -> None:
        self.model: Any = model
        self.config = config = model.config.get_text_config()
        weight = next(model.parameters())
        self.device: torch.device = weight.device
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self.cache: Any = FlatCache(config.num_hidden_layers, cells)
        self._cells = cells
        self._masks = AttentionMasks(config, weight.device, weight.dtype)
        self._taps = BlockTaps(find_blocks(model, config.num_hidden_layers))
        self.static = self.device.type == "cuda" and self._masks.without_windows(cells)
        self.steps: dict[tuple[int, int, int], StaticStep] = {}  # by (rows, places, k)
        self._pool: Any = None

    @property
    def layers(self) -> tuple[int, ...]:
        """The tapped layers."""
        return self._taps.layers

    def tap(self, layers: tuple[int, ...]) -> None:
        """Choose the layers whose inputs are given as hidden states."""
        if layers != self._taps.layers:
            self._taps.layers = layers
            self.steps.clear()

    def forget(self) -> None:
        """Drop what an interrupted pass left."""
        self._taps.forget()

    def close(self) -> None:
        self.model = self.cache = self._pool = None
        self.steps.clear()
        self._taps.close()

    def forward(
        self, tokens: Int32Array, placed: Placed, logits_at: Int32Array, hidden_at: Int32Array
    ) -> tuple[torch.Tensor, Float32Array | None]:
        """Logits [len(logits_at), vocabulary] and states [len(hidden_at), layers * width]."""
        self.cache.write_at(placed.begin, placed.end)

        def put(values: Any) -> torch.Tensor:
            return torch.from_numpy(np.asarray(values, np.int64)).to(self.device)

        rows = put(logits_at)
        with torch.inference_mode(), flat_attention(self.config), self._taps.listening():
            output = self.model(
                input_ids=put(tokens)[None],
                position_ids=put(placed.positions)[None],
                attention_mask=self._masks.of(placed),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=rows if len(rows) else 1,
            )
            states = self._taps.take(put(hidden_at)) if self.layers else None
            hidden = None if states is None else states.float().cpu().numpy()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            return output.logits[0, : len(rows)], hidden

    def fits_static(self, tokens: int) -> bool:
        """Whether a step of so many tokens is one of fixed shape."""
        return self.static and tokens <= ROWS[-1]

    def static_decode(
        self, batch: Batch, placed: Placed, masks: MaskArray | None, k: int
    ) -> Output:
        """A step of fixed shape, with the choice of the top k in it."""
        rows = round_up(len(batch.tokens), ROWS)
        places = visible_places(placed.end, self._cells)
        started = time.perf_counter()
        with torch.inference_mode(), flat_attention(self.config), self._taps.listening():
            step = self.steps.get((rows, places, k))
            if step is None:
                if self.device.type == "cuda" and self._pool is None:
                    self._pool = torch.cuda.graph_pool_handle()
                step = self.steps[rows, places, k] = StaticStep(
                    self._static_forward,
                    rows=rows,
                    places=places,
                    spare=self.cache.spare,
                    words=(self.vocab_size + 31) // 32,
                    k=k,
                    device=self.device,
                    pool=self._pool,
                )
            ids, logprobs, entropy, states = step(
                batch.tokens, batch.positions, placed.begin, placed.allowed, masks,
                batch.logits_at, batch.hidden_at,
            )  # fmt: skip
        return Output(ids, logprobs, entropy, states, time.perf_counter() - started)

    def _static_forward(
        self, ids: torch.Tensor, positions: torch.Tensor, places: torch.Tensor, allowed: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.cache.write_to(places, allowed.shape[1])
        output = self.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self._masks.of_static(allowed),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=0,
        )
        return output.logits[0], self._taps.take()

    def output(
        self,
        logits: torch.Tensor,
        masks: MaskArray | None,
        k: int,
        hidden: Float32Array | None,
        seconds: float,
    ) -> Output:
        """The top k of the logits [rows, vocabulary]."""
        with torch.inference_mode():
            if self.device.type == "cpu":
                table = np.ascontiguousarray(logits.float().numpy())
                return Output(*_core.top_k(table, masks, k), hidden, seconds)
            return Output(*device_top_k(logits, masks, k), hidden, seconds)
