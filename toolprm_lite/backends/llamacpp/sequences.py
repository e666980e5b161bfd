"""Prompts and branches as sequences of llama.cpp's memory: begun, cut, copied, kept, dropped.

Knows tokens and cells, nothing of decoding.
"""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from toolprm_lite import _core
from toolprm_lite.backends.base import Int32Array, ModelInfo, SequenceOp, checked_ops
from toolprm_lite.backends.llamacpp.native import Native
from toolprm_lite.backends.prompts import CachedPrompt, PromptCache, plan_prompt
from toolprm_lite.errors import ModelError

_MAX_SEQUENCES = 256  # llama.cpp's LLAMA_MAX_SEQ, prompts and branches together
_MIN_CHECKPOINT = 64  # tokens; a shorter shared beginning is not worth a checkpoint


def sequence_limits(
    max_sequences: int | None, max_prompts: int | None, *, stateful: bool, on_gpu: bool
) -> tuple[int, int]:
    """(branches, prompts) that a context has sequences for; None is what suits the model.

    Raises `ModelError` for numbers that llama.cpp can't have.
    """
    if max_sequences is None:
        max_sequences = 32 if stateful else 128
    if max_prompts is None:
        # On a CPU a row in a batch costs nearly as much as alone, and it attends to the cells of
        # all prompts.
        max_prompts = 16 if on_gpu and not stateful else 4
    if max_prompts < 1:
        raise ModelError(f"max_prompts is {max_prompts}; it must be at least 1")
    limit = _MAX_SEQUENCES - max_prompts
    if not 1 <= max_sequences <= limit:
        raise ModelError(f"max_sequences is {max_sequences}; it must be between 1 and {limit}")
    return max_sequences, max_prompts


class Sequences:
    """What the sequences of the open context hold.

    `prompts` are the tokens of the prompts in the context, `cache` the states of others. `cells`
    is the size that the context was asked for, `prompt_cache` the cache's limit in bytes.
    """

    def __init__(self, native: Native, info: ModelInfo, cells: int, prompt_cache: int) -> None:
        self._native, self._llama, self._info = native, native.llama, info
        self._cells = cells
        self._stateful = native.stateful
        self.prompts: dict[int, Int32Array] = {}
        self.cache: PromptCache[npt.NDArray[np.uint8]] = PromptCache(prompt_cache)
        self._live: dict[int, int] = {}  # branches that hold cells, and the prompt of each
        self.begin_empty()

    def begin_empty(self) -> None:
        """Called when the context's memory is empty."""
        self._live.clear()
        self.prompts.clear()
        self.cache.clear()
        # Counts the prompts' cells; llama.cpp itself knows which they are.
        self._ledger = _core.KvLedger(self._info.max_prompts, self._cells, 0)
        self._held: dict[int, int] = {}  # prompts, and the ledger's sequences for them

    @property
    def prompt_cells(self) -> int:
        """Cells that prompts hold; what several of them share counts once."""
        return self._ledger.used

    def number(self, sequence: int) -> int:
        """llama.cpp's number of a branch or a prompt: prompts come after the branches."""
        return sequence if sequence >= 0 else self._info.max_sequences - sequence

    # Prompts

    def begin(self, wanted: Int32Array, prompt: int, room: int) -> tuple[int, int]:
        """Make the prompt's sequence a beginning of `wanted`.

        Returns how many tokens are kept, and where a checkpoint shall be made (0 = nowhere).
        """
        plan = plan_prompt(
            self.prompts, self.cache, wanted, prompt,
            whole=self._stateful, used=self._ledger.used, room=room, context=self._info.context,
        )  # fmt: skip
        self._drop_branches(prompt)
        if plan.keeps_own:
            self.keep(prompt)
        if plan.entry is not None:
            kept = self._restore(plan.entry, plan.length, prompt)
        elif plan.source != prompt:
            kept = self._copy(plan.source, plan.length, prompt)
        elif plan.length == len(self.prompts.get(prompt, ())):
            kept = plan.length
        else:
            kept = plan.length if plan.length and self._cut(prompt, plan.length) else 0
        if kept == 0:
            self._forget(prompt)
        if prompt not in self.prompts:
            self._held[prompt] = self._ledger.fork(0)
            self._ledger.take_ops()
            self.prompts[prompt] = wanted[:0]
        return kept, plan.parted if plan.parted - kept >= _MIN_CHECKPOINT else 0

    def extend(self, prompt: int, tokens: Int32Array) -> None:
        """The prompt's sequence now holds `tokens`, which begin with what it held before."""
        self._ledger.extend(self._held[prompt], len(tokens) - len(self.prompts[prompt]))
        self.prompts[prompt] = tokens

    def keep(self, prompt: int) -> None:
        """Put a prompt's state into the cache, if there is room for it at all."""
        context, sequence = self._native.context, self.number(-prompt)
        size = int(self._llama.llama_state_seq_get_size(context, sequence))
        if size > self.cache.limit:
            return
        state = np.empty(size, np.uint8)
        data = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        if self._llama.llama_state_seq_get_data(context, data, size, sequence) == size:
            self.cache.put(self.prompts[prompt], state, size)

    def release(self, prompt: int) -> None:
        """Free the prompt's cells and drop its branches. Its state may stay in the cache."""
        self._drop_branches(prompt)
        if prompt in self.prompts:
            if not self.cache.stands_for(self.prompts[prompt]):
                self.keep(prompt)
            self._forget(prompt)

    def _cut(self, prompt: int, length: int) -> bool:
        """Cut a prompt down to `length` tokens, where the memory can go back."""
        memory, sequence = self._native.memory, self.number(-prompt)
        if not self._llama.llama_memory_seq_rm(memory, sequence, length, -1):
            return False
        self._ledger.shorten(self._held[prompt], len(self.prompts[prompt]) - length)
        self.prompts[prompt] = self.prompts[prompt][:length]
        # A sliding window may have given up cells that the shorter prompt needs again.
        window = int(self._llama.llama_model_n_swa(self._native.model))
        oldest = int(self._llama.llama_memory_seq_pos_min(memory, sequence))
        return oldest <= max(0, length - window)

    def _copy(self, source: int, length: int, prompt: int) -> int:
        """Let a prompt share the beginning of another one. Returns how many tokens that gave."""
        self._forget(prompt)
        sequences = self.number(-source), self.number(-prompt)
        self._llama.llama_memory_seq_cp(self._native.memory, *sequences, -1, -1)
        self._held[prompt] = self._ledger.fork(self._held[source])
        self._ledger.take_ops()
        self.prompts[prompt] = self.prompts[source]
        whole = length == len(self.prompts[source])
        return length if whole or self._cut(prompt, length) else 0

    def _restore(self, entry: CachedPrompt[npt.NDArray[np.uint8]], length: int, prompt: int) -> int:
        """Read a cached state back. Returns how many tokens that gave."""
        self._forget(prompt)
        data = entry.state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        context, sequence = self._native.context, self.number(-prompt)
        if not self._llama.llama_state_seq_set_data(context, data, entry.bytes, sequence):
            return 0  # no row of cells is long enough: the prompt is prefilled like any other
        self._held[prompt] = self._ledger.fork(0)
        self._ledger.take_ops()
        self._ledger.extend(self._held[prompt], len(entry.tokens))
        self.prompts[prompt] = entry.tokens
        return length if length == len(entry.tokens) or self._cut(prompt, length) else 0

    def _forget(self, prompt: int) -> None:
        """Empty a prompt's sequence, whatever it holds."""
        self._llama.llama_memory_seq_rm(self._native.memory, self.number(-prompt), -1, -1)
        self.prompts.pop(prompt, None)
        if prompt in self._held:
            self._ledger.drop(self._held.pop(prompt))
            self._ledger.take_ops()

    # Branches

    def carry_out(self, ops: Int32Array) -> None:
        """Forks and drops, in order. llama.cpp aborts on a wrong sequence, so they are checked."""
        llama, memory, live = self._llama, self._native.memory, self._live
        for kind, first, second in checked_ops(ops, self._info):
            if kind == SequenceOp.FORK:
                if second in live:
                    llama.llama_memory_seq_rm(memory, second, -1, -1)
                llama.llama_memory_seq_cp(memory, self.number(first), second, -1, -1)
                live[second] = -first if first <= 0 else live.get(first, 0)
            else:
                llama.llama_memory_seq_rm(memory, first, -1, -1)
                live.pop(first, None)

    def note_branches(self, branches: Int32Array) -> None:
        """These hold cells now."""
        for branch in branches.tolist():
            self._live.setdefault(branch, 0)

    def _drop_branches(self, prompt: int) -> None:
        for branch in [branch for branch, owner in self._live.items() if owner == prompt]:
            self._llama.llama_memory_seq_rm(self._native.memory, branch, -1, -1)
            del self._live[branch]
