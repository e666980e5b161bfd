"""One decode step of a fixed shape: on a GPU recorded once as a CUDA graph and replayed.

A step's Python costs more than a small model's arithmetic on a GPU. With every shape fixed and
every buffer in its place, the whole step, the choice of the top k included, is one launch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from toolprm_lite.backends.base import Float32Array, Int32Array, MaskArray
from toolprm_lite.backends.torch.device_top_k import top_k_table, unpack_table

ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_PLACES = 256  # the smallest number of places that a step looks at; doubled from there


def round_up(value: int, sizes: tuple[int, ...]) -> int:
    """The smallest of `sizes` (rising) that holds `value`."""
    return next(size for size in sizes if size >= value)


def visible_places(end: int, cells: int) -> int:
    """How many places a step looks at when `end` are taken, of `cells`."""
    places = _PLACES
    while places < end:
        places *= 2
    return min(places, cells)


class StaticStep:
    """A step of `rows` tokens that looks at the first `places` of the cache.

    `forward(ids [1, rows], positions [1, rows], places [rows], allowed uint8 [rows, places])` gives
    logits [rows, vocabulary] and tapped states [rows, width] or None, and may be recorded: it reads
    its tensors where they are. Rows that a call doesn't fill write to the place `spare`.
    """

    def __init__(
        self,
        forward: Callable[..., tuple[torch.Tensor, torch.Tensor | None]],
        *,
        rows: int,
        places: int,
        spare: int,
        words: int,
        k: int,
        device: torch.device,
        pool: Any = None,
    ) -> None:
        self._forward = forward
        self._rows, self._spare, self._k = rows, spare, k
        self._cuda = device.type == "cuda"

        def pair(*shape: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
            host = torch.zeros(shape, dtype=dtype, pin_memory=self._cuda)
            return host, (torch.zeros(shape, dtype=dtype, device=device) if self._cuda else host)

        self._host_numbers, self._numbers = pair(3, rows, dtype=torch.int64)
        self._host_allowed, self._allowed = pair(rows, places, dtype=torch.uint8)
        self._host_words, self._words = pair(rows, words, dtype=torch.int32)
        self._table: torch.Tensor
        self._states: torch.Tensor | None = None
        self._graph: Any = None
        self._fill_spare(0)
        if self._cuda:
            self._record(pool)

    def __call__(
        self,
        tokens: Int32Array,
        positions: Int32Array,
        begin: int,
        allowed: Any,
        masks: MaskArray | None,
        logits_at: Int32Array,
        hidden_at: Int32Array,
    ) -> tuple[Int32Array, Float32Array, Float32Array, Float32Array | None]:
        """(top ids, log-probabilities, entropy, states) as `Output` has them.

        The tokens go to the places from `begin` on; `allowed` uint8 [tokens, end] is what each
        attends to.
        """
        count, end = allowed.shape
        numbers = self._host_numbers.numpy()
        numbers[0, :count] = tokens
        numbers[1, :count] = positions
        numbers[2, :count] = np.arange(begin, begin + count)
        view = self._host_allowed.numpy()
        view[:count] = 0
        view[:count, :end] = allowed
        self._fill_spare(count)
        words = self._host_words.numpy()
        words[:] = -1
        if masks is not None:
            words[logits_at] = masks.view(np.int32)
        if self._cuda:
            for host, there in (
                (self._host_numbers, self._numbers),
                (self._host_allowed, self._allowed),
                (self._host_words, self._words),
            ):
                there.copy_(host, non_blocking=True)
            self._graph.replay()
        else:
            self._compute()
        ids, logprobs, entropy = unpack_table(self._table, self._k)
        states = None
        if self._states is not None:
            at = torch.from_numpy(hidden_at.astype(np.int64)).to(self._states.device)
            states = self._states.index_select(0, at).float().cpu().numpy()
        return ids[logits_at], logprobs[logits_at], entropy[logits_at], states

    def _fill_spare(self, count: int) -> None:
        """Rows from `count` on: any token, in the spare place, that attends to the first one."""
        self._host_numbers[:2, count:] = 0
        self._host_numbers[2, count:] = self._spare
        self._host_allowed[count:] = 0
        self._host_allowed[count:, 0] = 1

    def _compute(self) -> None:
        ids, positions, places = self._numbers
        logits, self._states = self._forward(ids[None], positions[None], places, self._allowed)
        self._table = top_k_table(logits, self._words, self._k)

    def _record(self, pool: Any) -> None:
        self._numbers.copy_(self._host_numbers)
        self._allowed.copy_(self._host_allowed)
        # Allocation and autotuning at the first run must be done before.
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._compute()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._compute()
