"""The arrays that llama.cpp reads a batch from."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from toolprm_lite.backends.base import Int32Array


class BatchBuffer:
    """A llama_batch whose arrays are numpy's: filling it is a few slice assignments."""

    def __init__(self, llama: Any, capacity: int) -> None:
        self.capacity = capacity  # tokens of one step
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._sequence_counts = np.ones(capacity, np.int32)
        self._sequences = np.zeros(capacity, np.int32)
        # seq_id is an array of pointers, one to each token's list of sequences, which here has one
        base = self._sequences.ctypes.data
        self._sequence_pointers = base + 4 * np.arange(capacity, dtype=np.uintp)
        self._outputs = np.zeros(capacity, np.int8)
        self.count = 0
        self.outputs: Int32Array = np.empty(0, np.int32)

        self.struct = llama.llama_batch()
        int32_p = ctypes.POINTER(ctypes.c_int32)
        self.struct.token = ctypes.cast(self._tokens.ctypes.data, int32_p)
        self.struct.pos = ctypes.cast(self._positions.ctypes.data, int32_p)
        self.struct.n_seq_id = ctypes.cast(self._sequence_counts.ctypes.data, int32_p)
        self.struct.seq_id = ctypes.cast(
            self._sequence_pointers.ctypes.data, ctypes.POINTER(int32_p)
        )
        self.struct.logits = ctypes.cast(self._outputs.ctypes.data, ctypes.POINTER(ctypes.c_int8))

    def fill(
        self,
        tokens: Int32Array,
        positions: Int32Array,
        sequences: Int32Array | int,
        outputs: Int32Array,
    ) -> None:
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = positions
        self._sequences[:count] = sequences
        self._outputs[:count] = 0
        self._outputs[outputs] = 1
        self.outputs = outputs
        self.count = self.struct.n_tokens = count
