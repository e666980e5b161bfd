"""The backend itself: it composes the library, the model, its sequences and the taps.

One context serves prompts and all branches. Its KV cells are shared between sequences
(`kv_unified`), so a fork is metadata only. The high-level `Llama` class can't be set up
this way, so the C functions are called directly. Knows nothing of tools, steps or beams.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from toolprm_lite import _core
from toolprm_lite.backends.base import (
    RESPONSE_ROOM,
    Batch,
    Float32Array,
    Int32Array,
    MaskArray,
    ModelInfo,
    Output,
    Prefill,
    check_prompt,
    no_room_for_prompt,
    prompt_too_long,
)
from toolprm_lite.backends.cores import available_cores
from toolprm_lite.backends.guard import Guard, guarded
from toolprm_lite.backends.llamacpp.adapter import LoadedAdapter
from toolprm_lite.backends.llamacpp.batch import BatchBuffer
from toolprm_lite.backends.llamacpp.library import forget_log, load_library, log_reason
from toolprm_lite.backends.llamacpp.model import cell_bytes, check_file, load_model, read_info
from toolprm_lite.backends.llamacpp.native import UBATCH, ContextSettings, Native
from toolprm_lite.backends.llamacpp.sequences import Sequences, sequence_limits
from toolprm_lite.backends.llamacpp.tap import CallbackTap, LayerInputTap, Tap, make_tap
from toolprm_lite.backends.llamacpp.vocabulary import Vocabulary
from toolprm_lite.backends.memory import available_memory, check_memory
from toolprm_lite.backends.options import check_options
from toolprm_lite.backends.prompts import CACHE_BYTES
from toolprm_lite.errors import ModelError, NoRoom
from toolprm_lite.process import free_at_exit, native_work
from toolprm_lite.special_texts import SpecialTexts


class LlamaCppBackend:
    """A GGUF model as a `Backend`.

    `gpu_layers`: blocks to keep on a GPU, -1 = all that can be. `threads`: None = the physical
    cores this process may use. `context`: KV cells that prompt and branches share, rounded up to
    a multiple of 256; None = the model's training context, at most 8192. `max_sequences`: live
    branches; None = 128, or 32 for a recurrent or hybrid model, whose branches each hold a state
    of their own. `max_prompts`: prompts that searches may use at once; None = 4, or 16 on a GPU if
    the model is none of these. `prompt_cache`: bytes of memory for the states of prompts that are
    not in use. `adapter`: a GGUF file of low-rank changes of the weights. `verbose` lets
    llama.cpp's log through.

    Hidden states (`tap`) are the residual stream: layer L is the input of block L, as
    transformers' `hidden_states[L]`. L = number of blocks is the last block's output before the
    final norm (transformers gives that entry after the norm).

    Raises `ModelError` for a missing package, a missing or broken file, a model that can't write
    text, or an adapter of another model.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        gpu_layers: int = 0,
        threads: int | None = None,
        context: int | None = None,
        max_sequences: int | None = None,
        max_prompts: int | None = None,
        prompt_cache: int = CACHE_BYTES,
        adapter: str | os.PathLike[str] | None = None,
        verbose: bool = False,
    ) -> None:
        check_options(gpu_layers=gpu_layers, threads=threads, context=context)
        self._llama = llama = load_library(verbose)
        self._file = check_file(path)
        if gpu_layers > 0 and not llama.llama_supports_gpu_offload():
            raise ModelError(
                f"gpu_layers is {gpu_layers}, but this build of llama-cpp-python has no GPU "
                "support; install one that has, or leave gpu_layers at 0"
            )
        self._native = Native(llama)
        self._finalizer = weakref.finalize(self, self._native.free)
        self._finalizer.atexit = False  # no thread may be at work with it then
        self._guard = Guard()
        with native_work:
            free_at_exit(self._native)
            self._native.model = load_model(llama, self._file, gpu_layers)
            if adapter is not None:
                self._native.adapter = LoadedAdapter(llama, self._native.model, adapter)
            limits = sequence_limits(
                max_sequences, max_prompts, stateful=self._native.stateful, on_gpu=gpu_layers != 0
            )
            self._open(gpu_layers, threads, context, limits, prompt_cache)

    def _open(
        self,
        gpu_layers: int,
        threads: int | None,
        context: int | None,
        limits: tuple[int, int],
        prompt_cache: int,
    ) -> None:
        """Make the context, and what is read from the model and it."""
        llama, native = self._llama, self._native
        if context is None:
            context = min(llama.llama_model_n_ctx_train(native.model), 8192)
        cell = cell_bytes(llama, native.model, gpu_layers, UBATCH)
        check_memory(context, cell, available_memory())
        self._settings = ContextSettings(
            cells=context,
            sequences=sum(limits),
            threads=threads if threads is not None else available_cores(),
            offload=gpu_layers != 0,
        )
        self._tap: Tap | None = None
        self._tapped: tuple[int, ...] = ()
        native.open_context(self._settings, None, self._file)
        self._vocabulary = Vocabulary(llama, native.model)
        self._info = read_info(native, self._file, self._vocabulary, *limits)
        self._sequences = Sequences(native, self._info, context, prompt_cache)
        self._batch = BatchBuffer(llama, native.batch)

    @property
    def info(self) -> ModelInfo:
        return self._info

    @cached_property
    @guarded
    def token_bytes(self) -> Sequence[bytes]:
        """The bytes each token writes; special tokens as their text, end-of-generation as b""."""
        return self._vocabulary.read_bytes()

    @cached_property
    @guarded
    def special_texts(self) -> SpecialTexts:
        """The tokens that `tokenize` finds by their texts; see `Backend.special_texts`."""
        return self._vocabulary.special_texts()

    @guarded
    def tokenize(self, text: str) -> list[int]:
        """Token ids of text; special tokens in the text are recognised.

        The model's BOS token is put in front when the model wants one and the text does not begin
        with it. Unpaired surrogates are read as "?".
        """
        return self._vocabulary.tokenize(text)

    @guarded
    def tap(self, layers: Sequence[int]) -> None:
        """Choose the layers whose inputs are returned as `hidden`, each 0 .. layers.

        Where llama.cpp can't copy a layer out on its own, a new context is made for the first
        layers and after the last, so the next prefill reuses nothing and branches are gone. Raises
        `ModelError` for a layer that the model hasn't got.
        """
        wanted = tuple(layers)
        if wanted == self._tapped:
            return
        info = self._info
        for layer in wanted:
            if not 0 <= layer <= info.layers:
                raise ModelError(
                    f"layer {layer} can't be tapped: {info.name} has {info.layers} blocks, so "
                    f"layers are 0 to {info.layers}"
                )
        old = self._tap
        new = make_tap(
            self._llama,
            info,
            wanted,
            ubatch=self._native.ubatch,
            stateful=self._native.stateful,
        )
        if isinstance(old, CallbackTap) and isinstance(new, CallbackTap):
            old.aim(wanted)
            self._tapped = wanted
            return
        if isinstance(old, LayerInputTap):
            old.switch(self._native.context, False)
        self._tap, self._tapped = new, wanted
        if isinstance(old, CallbackTap) or isinstance(new, CallbackTap):
            self._new_context()
        if isinstance(new, LayerInputTap):
            new.switch(self._native.context, True)

    @guarded
    def clear(self) -> None:
        """Forget everything: prompts, branches, cached states."""
        self._llama.llama_memory_clear(self._native.memory, False)
        self._sequences.begin_empty()

    @guarded
    def prefill(
        self,
        tokens: Sequence[int],
        mask: MaskArray | None,
        k: int,
        *,
        prompt: int = 0,
        room: int = RESPONSE_ROOM,
        chunk: int | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Prefill:
        """Make `tokens` the prompt of that number; see `Backend.prefill`.

        A model with recurrent state can't go back to the middle of a prompt. It keeps a state at
        the border where two prompts parted instead, so a third prompt with that beginning reuses
        it.
        """
        wanted: Int32Array = np.ascontiguousarray(tokens, dtype=np.int32)
        count = len(wanted)
        check_prompt(wanted, self._info, prompt)
        sequences, limit = self._sequences, self._batch.capacity
        kept, border = sequences.begin(wanted, prompt, room)
        # Between here and the end an interrupt leaves a shorter prompt, not a wrong one.
        seconds = 0.0
        done = kept
        size = limit if chunk is None else min(chunk, limit)
        if chunk is None and stop is not None:  # llama.cpp's own parts: it computes the same
            size = min(UBATCH, size)
        while done < count:
            if stop is not None and stop():
                return Prefill(kept, done - kept, None)
            end = min(count, done + size)
            if done < border < end:
                end = border
            seconds += self._extend(prompt, wanted, done, end, room)
            done = end
            if done == border:
                sequences.keep(prompt)
        return Prefill(kept, count - kept, self._output(mask, k, seconds))

    def _extend(self, prompt: int, wanted: Int32Array, begin: int, end: int, room: int) -> float:
        """Decode the prompt's tokens from `begin` to `end`, the whole prompt's last one with its
        output. Returns the seconds it took."""
        count = len(wanted)
        outputs = np.array([end - begin - 1] if end == count else [], np.int32)
        positions = np.arange(begin, end, dtype=np.int32)
        sequence = self._sequences.number(-prompt)
        self._batch.fill(wanted[begin:end], positions, sequence, outputs)
        try:
            code, seconds = self._run(outputs if self._tap is not None else outputs[:0])
        except BaseException:
            self.clear()
            raise
        if code == 1 and len(self._sequences.prompts) > 1:
            raise no_room_for_prompt(count, room, self._info.context)
        if code != 0:
            self.clear()
            if code == 1:
                raise prompt_too_long(count, self._info.context)
            raise self._decode_error(code)
        self._sequences.extend(prompt, wanted[:end])
        return seconds

    @guarded
    def release(self, prompt: int) -> None:
        """Free the prompt's cells; see `Backend.release`."""
        self._sequences.release(prompt)

    @property
    def prompt_cells(self) -> int:
        """Cells that prompts hold; what several of them share counts once."""
        return self._sequences.prompt_cells

    @guarded
    def decode(self, batch: Batch, masks: MaskArray | None, k: int) -> Output:
        """One model step; see `Backend.decode`."""
        self._sequences.carry_out(batch.ops)
        count = len(batch.tokens)
        if count == 0:
            return self._empty_output(k)
        low, high = int(batch.sequences.min()), int(batch.sequences.max())
        if low < 1 or high > self._info.max_sequences:
            raise ModelError(
                f"sequences {low} to {high} in a batch; branches are 1 to "
                f"{self._info.max_sequences}"
            )
        # The last block computes its outputs only, so a state wanted there has to be one.
        outputs = batch.logits_at
        if self._info.layers in self._tapped:
            outputs = np.union1d(batch.logits_at, batch.hidden_at).astype(np.int32)
        most, most_outputs = self._batch.capacity, self._settings.sequences
        if count > most or len(outputs) > most_outputs:
            raise NoRoom(
                f"{count} tokens with {len(outputs)} outputs are more than one step takes "
                f"({most} and {most_outputs}); decode them in parts"
            )
        hidden_at = batch.hidden_at if self._tap is not None else batch.hidden_at[:0]
        self._batch.fill(batch.tokens, batch.positions, batch.sequences, outputs)
        code, seconds = self._run(hidden_at)
        if code == 1:
            # llama.cpp finds cells for the whole batch before it touches one, so nothing is left.
            raise NoRoom(
                f"no free KV cells for {count} tokens in a context of {self._info.context}; "
                "free branches, or give a larger --context"
            )
        if code != 0:
            raise self._decode_error(code)
        self._sequences.note_branches(batch.sequences)
        picked = None
        if len(outputs) != len(batch.logits_at):
            picked = np.searchsorted(outputs, batch.logits_at)
        return self._output(masks, k, seconds, picked)

    def close(self) -> None:
        """Free the model. Safe to call twice. In a forked child the model stays its parent's."""
        self._sequences.cache.clear()
        self._finalizer()

    # Of `guarded`

    def _require(self) -> None:
        if not self._finalizer.alive:
            raise ModelError("the model is closed; open it again")

    def _renew(self) -> None:
        self._new_context()
        if isinstance(self._tap, LayerInputTap):
            self._tap.switch(self._native.context, True)

    def _new_context(self) -> None:
        self._native.open_context(self._settings, self._tap, self._file)
        self._sequences.begin_empty()

    # Decoding

    def _run(self, hidden_at: Int32Array) -> tuple[int, float]:
        """Decode what is in the batch buffer. Returns llama.cpp's code and the seconds it took."""
        llama, context, batch = self._llama, self._native.context, self._batch
        if self._tap is not None:
            self._tap.begin(batch.count, hidden_at, batch.outputs)
        forget_log()
        native_work.pause()
        started = time.perf_counter()
        code = llama.llama_decode(context, batch.struct)
        llama.llama_synchronize(context)
        seconds = time.perf_counter() - started
        if self._tap is not None:
            self._tap.check()
        return int(code), seconds

    def _output(
        self,
        masks: MaskArray | None,
        k: int,
        seconds: float,
        picked: Any = None,
    ) -> Output:
        """Top k of the last decode's outputs, of `picked` ones where given."""
        context = self._native.context
        shape = (len(self._batch.outputs), self._info.vocab_size)
        if shape[0]:
            # A view into llama.cpp's buffer: no copy, and valid until the next decode.
            logits: Float32Array = np.ctypeslib.as_array(
                self._llama.llama_get_logits(context), shape
            )
        else:
            logits = np.empty(shape, np.float32)
        if picked is not None:
            logits = logits[picked]
        hidden = self._tap.rows(context) if self._tap is not None else None
        ids, logprobs, entropy = _core.top_k(logits, masks, k)
        return Output(ids, logprobs, entropy, hidden, seconds)

    def _empty_output(self, k: int) -> Output:
        hidden = None
        if self._tap is not None:
            hidden = np.empty((0, self._info.width * len(self._tapped)), np.float32)
        return Output(
            np.empty((0, k), np.int32),
            np.empty((0, k), np.float32),
            np.empty(0, np.float32),
            hidden,
        )

    def _decode_error(self, code: int) -> ModelError:
        return ModelError(f"llama.cpp could not decode a batch (code {code}){log_reason()}")
