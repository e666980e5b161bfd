"""The llama.cpp backend: GGUF models through llama-cpp-python's ctypes layer.

One context serves prompts and all branches. Its KV cells are shared between sequences
(`kv_unified`), so a fork is metadata only. The high-level `Llama` class can't be set up
this way, so the C functions are called directly. Knows nothing of tools, steps or beams.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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
    SequenceOp,
    check_prompt,
    checked_ops,
    model_name,
    no_room_for_prompt,
    prompt_too_long,
)
from toolprm_lite.backends.guard import Guard, guarded
from toolprm_lite.backends.llamacpp_tap import CallbackTap, LayerInputTap
from toolprm_lite.backends.memory import available_memory, check_memory
from toolprm_lite.backends.options import check_options
from toolprm_lite.backends.prompts import (
    CACHE_BYTES,
    CachedPrompt,
    PromptCache,
    plan_prompt,
)
from toolprm_lite.errors import ModelError, NoRoom
from toolprm_lite.process import forks, free_at_exit, inherited, native_work
from toolprm_lite.special_texts import SpecialTexts, is_special
from toolprm_lite.terminal import visible

TESTED_VERSION = "0.3.36"

# What must be there; older releases of llama-cpp-python lack some of these.
_NEEDED = (
    "llama_model_load_from_file",
    "llama_init_from_model",
    "llama_get_memory",
    "llama_memory_clear",
    "llama_memory_seq_rm",
    "llama_memory_seq_cp",
    "llama_memory_seq_pos_min",
    "llama_state_seq_get_size",
    "llama_state_seq_get_data",
    "llama_state_seq_set_data",
    "llama_model_is_recurrent",
    "llama_model_is_hybrid",
    "llama_model_n_swa",
    "llama_model_chat_template",
    "llama_vocab_is_eog",
    "llama_vocab_get_add_bos",
    "llama_vocab_get_attr",
)

_BATCH = 2048  # tokens one llama_decode takes
_UBATCH = 512  # tokens llama.cpp computes at once
_MAX_SEQUENCES = 256  # llama.cpp's LLAMA_MAX_SEQ, prompts and branches together
_MIN_CHECKPOINT = 64  # tokens; a shorter shared beginning is not worth a checkpoint

# llama.cpp has one log for the whole process, and a thread may be in its callback at any time: it
# is made once. The last errors make a failed load explain itself.
_log_errors: deque[str] = deque(maxlen=4)
_log_callback: Any = None
_verbose = False


class LlamaCppBackend:
    """A GGUF model behind the `Backend` protocol.

    `gpu_layers`: blocks to keep on a GPU, -1 = all that can be. `threads`: None = the physical
    cores this process may use. `context`: KV cells that prompt and branches share, rounded up to
    a multiple of 256; None = the model's training context, at most 8192. `max_sequences`: live
    branches; None = 128, or 32 for a recurrent or hybrid model, whose branches each hold a state
    of their own. `max_prompts`: prompts that searches may use at once; None = 4, or 16 on a GPU if
    the model is none of these. `prompt_cache`: bytes of memory for the states of prompts that are
    not in use. `verbose` lets llama.cpp's log through.

    Hidden states (`tap`) are the residual stream: layer L is the input of block L, as
    transformers' `hidden_states[L]`. L = number of blocks is the last block's output before the
    final norm (transformers gives that entry after the norm).

    Raises `ModelError` for a missing package, a missing or broken file, or a model that can't
    write text.
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
        verbose: bool = False,
    ) -> None:
        check_options(gpu_layers=gpu_layers, threads=threads, context=context)
        self._llama = llama = _load_library(verbose)
        file = _check_file(path)
        if gpu_layers > 0 and not llama.llama_supports_gpu_offload():
            raise ModelError(
                f"gpu_layers is {gpu_layers}, but this build of llama-cpp-python has no GPU "
                "support; install one that has, or leave gpu_layers at 0"
            )
        self._native = _Native(llama)
        self._finalizer = weakref.finalize(self, self._native.free)
        self._finalizer.atexit = False  # no thread may be at work with it then
        self._guard = Guard()
        with native_work:
            free_at_exit(self._native)
            self._open(file, gpu_layers, threads, context, max_sequences, max_prompts, prompt_cache)

    def _open(
        self,
        file: Path,
        gpu_layers: int,
        threads: int | None,
        context: int | None,
        max_sequences: int | None,
        max_prompts: int | None,
        prompt_cache: int,
    ) -> None:
        llama = self._llama
        self._native.model = model = _load_model(llama, file, gpu_layers)
        self._vocab = vocab = llama.llama_model_get_vocab(model)

        self._stateful = bool(
            llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model)
        )
        if max_sequences is None:
            max_sequences = 32 if self._stateful else 128
        if max_prompts is None:
            # On a CPU a row costs nearly what it costs alone, and it attends to all prompts' cells.
            max_prompts = 16 if gpu_layers and not self._stateful else 4
        if max_prompts < 1:
            raise ModelError(f"max_prompts is {max_prompts}; it must be at least 1")
        limit = _MAX_SEQUENCES - max_prompts
        if not 1 <= max_sequences <= limit:
            raise ModelError(f"max_sequences is {max_sequences}; it must be between 1 and {limit}")
        self._sequences = max_sequences + max_prompts
        self._max_branches, self._max_prompts = max_sequences, max_prompts
        if context is None:
            context = min(llama.llama_model_n_ctx_train(model), 8192)
        on_cpu = _blocks_on_cpu(llama, model, gpu_layers)
        check_memory(context, _cell_bytes(llama, model, on_cpu), available_memory())
        self._cells = context
        self._threads = threads if threads is not None else _available_cores()
        self._offload = gpu_layers != 0

        self._live: dict[int, int] = {}  # branches that hold cells, and the prompt of each
        self._prompts: dict[int, Int32Array] = {}  # what the prompts' sequences hold
        self._cache: PromptCache[npt.NDArray[np.uint8]] = PromptCache(prompt_cache)
        self._tap: LayerInputTap | CallbackTap | None = None
        self._tapped: tuple[int, ...] = ()
        self._file = file
        self._new_context()

        architecture = _metadata(llama, model, "general.architecture").decode("utf-8", "replace")
        vocab_size = int(llama.llama_vocab_n_tokens(vocab))
        template = llama.llama_model_chat_template(model, None)
        is_eog = llama.llama_vocab_is_eog
        self._info = ModelInfo(
            name=model_name(_metadata(llama, model, "general.name"), file.stem),
            architecture=architecture,
            vocab_size=vocab_size,
            width=int(llama.llama_model_n_embd(model)),
            layers=int(llama.llama_model_n_layer(model)),
            context=int(llama.llama_n_ctx(self._native.context)),
            max_sequences=max_sequences,
            eog_tokens=frozenset(t for t in range(vocab_size) if is_eog(vocab, t)),
            chat_template=template.decode("utf-8", "replace") if template else None,
            bos_token=self._token_text(llama.llama_vocab_bos(vocab)),
            eos_token=self._token_text(llama.llama_vocab_eos(vocab)),
            max_prompts=max_prompts,
        )
        self._bytes: list[bytes] | None = None
        self._piece_buffer = ctypes.create_string_buffer(256)
        self._batch = _BatchBuffer(llama, self._batch_limit)

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def token_bytes(self) -> Sequence[bytes]:
        """The bytes each token writes; special tokens as their text, end-of-generation as b""."""
        if self._bytes is None:
            self._bytes = self._read_token_bytes()
        return self._bytes

    @cached_property
    @guarded
    def special_texts(self) -> SpecialTexts:
        """The tokens that `tokenize` finds by their texts; see `Backend.special_texts`."""
        llama, vocab = self._llama, self._vocab
        control = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN
        found: dict[str, int] = {}
        for token in range(self._info.vocab_size):
            kind = llama.llama_vocab_get_attr(vocab, token)
            if kind & (control | llama.LLAMA_TOKEN_ATTR_USER_DEFINED):
                try:
                    text = self._piece(token).decode()
                except UnicodeDecodeError:
                    continue  # no text can hold it
                if is_special(text, control=bool(kind & control)):
                    found.setdefault(text, token)
        return SpecialTexts(found)

    @guarded
    def tokenize(self, text: str) -> list[int]:
        """Token ids of text; special tokens in the text are recognised.

        The model's BOS token is put in front when the model wants one and the text does not begin
        with it. Unpaired surrogates are read as "?".
        """
        llama, vocab = self._llama, self._vocab
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = llama.llama_tokenize(vocab, data, len(data), buffer, room, False, True)
            if count >= 0:
                break
            room = -count
        tokens: list[int] = buffer[:count]
        bos = llama.llama_vocab_bos(vocab)
        if llama.llama_vocab_get_add_bos(vocab) and bos >= 0 and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return tokens

    @guarded
    def tap(self, layers: Sequence[int]) -> None:
        """Choose the layers whose inputs are returned as `hidden`, each 0 .. layers.

        Where llama.cpp can't copy a layer out by itself the context is made anew for the first
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
        old, new = self._tap, self._make_tap(wanted)
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
        kept, border = self._begin(wanted, prompt, room)
        # Between here and the end an interrupt leaves a shorter prompt, not a wrong one.
        seconds = 0.0
        last = np.array([count - 1], np.int32)
        none = np.empty(0, np.int32)
        done = kept
        size = self._batch_limit if chunk is None else min(chunk, self._batch_limit)
        if chunk is None and stop is not None:  # llama.cpp's own parts: it computes the same
            size = min(_UBATCH, size)
        while done < count:
            if stop is not None and stop():
                return Prefill(kept, done - kept, None)
            end = min(count, done + size)
            if done < border < end:
                end = border
            final = end == count
            here = last - done if final else none
            positions = np.arange(done, end, dtype=np.int32)
            self._batch.fill(wanted[done:end], positions, self._sequence(-prompt), here)
            try:
                code, spent = self._run(here if self._tap is not None else none)
            except BaseException:
                self.clear()
                raise
            if code == 1 and len(self._prompts) > 1:
                raise no_room_for_prompt(count, room, self._info.context)
            if code != 0:
                self.clear()
                if code == 1:
                    raise prompt_too_long(count, self._info.context)
                raise self._decode_error(code)
            seconds += spent
            self._ledger.extend(self._held[prompt], end - done)
            done = end
            self._prompts[prompt] = wanted[:done]
            if done == border:
                self._keep(prompt)
        return Prefill(kept, count - kept, self._output(mask, k, seconds))

    @guarded
    def release(self, prompt: int) -> None:
        """Free the prompt's cells; see `Backend.release`."""
        self._drop_branches(prompt)
        if prompt in self._prompts:
            if not self._cache.stands_for(self._prompts[prompt]):
                self._keep(prompt)
            self._forget(prompt)

    @property
    def prompt_cells(self) -> int:
        """Cells that prompts hold; what several of them share counts once."""
        return self._ledger.used

    @guarded
    def decode(self, batch: Batch, masks: MaskArray | None, k: int) -> Output:
        """One model step; see `Backend.decode`."""
        self._carry_out(batch.ops)
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
        if count > self._batch_limit or len(outputs) > self._sequences:
            raise NoRoom(
                f"{count} tokens with {len(outputs)} outputs are more than one step takes "
                f"({self._batch_limit} and {self._sequences}); decode them in parts"
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
        for sequence in batch.sequences.tolist():
            self._live.setdefault(sequence, 0)
        picked = None
        if len(outputs) != len(batch.logits_at):
            picked = np.searchsorted(outputs, batch.logits_at)
        return self._output(masks, k, seconds, picked)

    def close(self) -> None:
        """Free the model. Safe to call twice. In a forked child the model stays its parent's."""
        self._cache.clear()
        self._finalizer()

    # Context and memory

    def _require(self) -> None:
        if not self._finalizer.alive:
            raise ModelError("the model is closed; open it again")

    def _renew(self) -> None:
        self._new_context()
        if isinstance(self._tap, LayerInputTap):
            self._tap.switch(self._native.context, True)

    def _new_context(self) -> None:
        llama = self._llama
        native = self._native
        native.free_context()
        params = llama.llama_context_default_params()
        params.n_ctx = self._cells
        params.n_batch = _BATCH
        params.n_ubatch = _UBATCH
        params.n_seq_max = self._sequences
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = self._threads
        params.offload_kqv = params.op_offload = self._offload
        if not self._offload:
            # On the CPU flash attention adds up in float16 for small batches: log-probabilities
            # then move by 1e-2, and with the place where a reused prompt was cut.
            params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if hasattr(params, "n_outputs_max"):
            # The default reserves logits for every token of a batch: 300 MB for 150,000 words.
            params.n_outputs_max = self._sequences
        if self._tap is not None and self._tap.callback is not None:
            params.cb_eval = self._tap.callback
            params.cb_eval_user_data = self._tap.address
        _log_errors.clear()
        native.context = llama.llama_init_from_model(native.model, params)
        if not native.context:
            raise ModelError(
                f"no context of {self._cells} cells for {self._file}{_log_reason()}; a smaller "
                "--context needs less memory"
            )
        self._memory = llama.llama_get_memory(native.context)
        if not self._memory:
            raise ModelError(f"{self._file} is not a model that writes text, such as an embedder")
        self._batch_limit = int(llama.llama_n_batch(native.context))
        self._begin_nothing()

    @guarded
    def clear(self) -> None:
        """Forget everything: prompts, branches, cached states."""
        self._llama.llama_memory_clear(self._memory, False)
        self._begin_nothing()

    def _begin_nothing(self) -> None:
        self._live.clear()
        self._prompts.clear()
        self._cache.clear()
        # Counts the prompts' cells; llama.cpp itself knows which they are.
        self._ledger = _core.KvLedger(self._max_prompts, self._cells, 0)
        self._held: dict[int, int] = {}  # prompts, and the ledger's sequences for them

    def _sequence(self, number: int) -> int:
        """llama.cpp's number of a branch or a prompt: prompts above 0 stand above the branches."""
        return number if number >= 0 else self._max_branches - number

    def _drop_branches(self, prompt: int) -> None:
        for branch in [branch for branch, owner in self._live.items() if owner == prompt]:
            self._llama.llama_memory_seq_rm(self._memory, branch, -1, -1)
            del self._live[branch]

    def _begin(self, wanted: Int32Array, number: int, room: int) -> tuple[int, int]:
        """Make the prompt's sequence a beginning of `wanted`.

        Returns how many tokens are kept, and where a checkpoint shall be made (0 = nowhere).
        """
        plan = plan_prompt(
            self._prompts, self._cache, wanted, number,
            whole=self._stateful, used=self._ledger.used, room=room, context=self._info.context,
        )  # fmt: skip
        self._drop_branches(number)
        if plan.keeps_own:
            self._keep(number)
        if plan.entry is not None:
            kept = self._restore(plan.entry, plan.length, number)
        elif plan.source != number:
            kept = self._copy(plan.source, plan.length, number)
        elif plan.length == len(self._prompts.get(number, ())):
            kept = plan.length
        else:
            kept = plan.length if plan.length and self._cut(number, plan.length) else 0
        if kept == 0:
            self._forget(number)
        if number not in self._prompts:
            self._held[number] = self._ledger.fork(0)
            self._ledger.take_ops()
            self._prompts[number] = wanted[:0]
        return kept, plan.parted if plan.parted - kept >= _MIN_CHECKPOINT else 0

    def _cut(self, number: int, length: int) -> bool:
        """Cut a prompt down to `length` tokens, where the memory can go back."""
        memory, sequence = self._memory, self._sequence(-number)
        if not self._llama.llama_memory_seq_rm(memory, sequence, length, -1):
            return False
        self._ledger.shorten(self._held[number], len(self._prompts[number]) - length)
        self._prompts[number] = self._prompts[number][:length]
        # A sliding window may have given up cells that the shorter prompt needs again.
        window = int(self._llama.llama_model_n_swa(self._native.model))
        oldest = int(self._llama.llama_memory_seq_pos_min(memory, sequence))
        return oldest <= max(0, length - window)

    def _copy(self, source: int, length: int, number: int) -> int:
        """Let a prompt share the beginning of another one. Returns how many tokens that gave."""
        self._forget(number)
        sequences = self._sequence(-source), self._sequence(-number)
        self._llama.llama_memory_seq_cp(self._memory, *sequences, -1, -1)
        self._held[number] = self._ledger.fork(self._held[source])
        self._ledger.take_ops()
        self._prompts[number] = self._prompts[source]
        whole = length == len(self._prompts[source])
        return length if whole or self._cut(number, length) else 0

    def _restore(self, entry: CachedPrompt[npt.NDArray[np.uint8]], length: int, number: int) -> int:
        """Read a cached state back. Returns how many tokens that gave."""
        self._forget(number)
        data = entry.state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        context, sequence = self._native.context, self._sequence(-number)
        if not self._llama.llama_state_seq_set_data(context, data, entry.bytes, sequence):
            return 0  # no row of cells is long enough: the prompt is prefilled like any other
        self._held[number] = self._ledger.fork(0)
        self._ledger.take_ops()
        self._ledger.extend(self._held[number], len(entry.tokens))
        self._prompts[number] = entry.tokens
        return length if length == len(entry.tokens) or self._cut(number, length) else 0

    def _keep(self, number: int) -> None:
        """Put a prompt's state into the cache, if there is room for it at all."""
        context, sequence = self._native.context, self._sequence(-number)
        size = int(self._llama.llama_state_seq_get_size(context, sequence))
        if size > self._cache.limit:
            return
        state = np.empty(size, np.uint8)
        data = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        if self._llama.llama_state_seq_get_data(context, data, size, sequence) == size:
            self._cache.put(self._prompts[number], state, size)

    def _forget(self, number: int) -> None:
        """Empty a prompt's sequence, whatever it holds."""
        self._llama.llama_memory_seq_rm(self._memory, self._sequence(-number), -1, -1)
        self._prompts.pop(number, None)
        if number in self._held:
            self._ledger.drop(self._held.pop(number))
            self._ledger.take_ops()

    def _carry_out(self, ops: Int32Array) -> None:
        """Forks and drops, in order. llama.cpp aborts on a wrong sequence, so they are checked."""
        llama, memory, live = self._llama, self._memory, self._live
        for kind, first, second in checked_ops(ops, self._info):
            if kind == SequenceOp.FORK:
                if second in live:
                    llama.llama_memory_seq_rm(memory, second, -1, -1)
                llama.llama_memory_seq_cp(memory, self._sequence(first), second, -1, -1)
                live[second] = -first if first <= 0 else live.get(first, 0)
            else:
                llama.llama_memory_seq_rm(memory, first, -1, -1)
                live.pop(first, None)

    # Decoding

    def _run(self, hidden_at: Int32Array) -> tuple[int, float]:
        """Decode what is in the batch buffer. Returns llama.cpp's code and the seconds it took."""
        llama, context, batch = self._llama, self._native.context, self._batch
        if self._tap is not None:
            self._tap.begin(batch.count, hidden_at, batch.outputs)
        _log_errors.clear()
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
        return ModelError(f"llama.cpp could not decode a batch (code {code}){_log_reason()}")

    # Vocabulary and taps

    def _make_tap(self, layers: tuple[int, ...]) -> LayerInputTap | CallbackTap | None:
        if not layers:
            return None
        info, llama = self._info, self._llama
        library = llama.llama_cpp._lib
        version = llama.__version__
        if LayerInputTap.supported(library, version, info.architecture, layers, info.layers):
            return LayerInputTap(library, layers, info.width)
        if self._stateful:
            # Its batches are computed in another order, which the callback isn't told.
            raise ModelError(
                f"hidden states can't be read from {info.name} "
                f"({info.architecture}) with llama-cpp-python {version}; search without a head"
            )
        ubatch = int(llama.llama_n_ubatch(self._native.context))
        return CallbackTap(llama, layers, info.width, ubatch)

    @guarded
    def _read_token_bytes(self) -> list[bytes]:
        eog = self._info.eog_tokens
        return [
            b"" if token in eog else self._piece(token) for token in range(self._info.vocab_size)
        ]

    def _piece(self, token: int) -> bytes:
        """The bytes that a token writes, a special token's text."""
        piece_of, size = self._llama.llama_token_to_piece, len(self._piece_buffer)
        length = piece_of(self._vocab, token, self._piece_buffer, size, 0, True)
        if length < 0:
            self._piece_buffer = ctypes.create_string_buffer(-length)
            length = piece_of(self._vocab, token, self._piece_buffer, -length, 0, True)
        return memoryview(self._piece_buffer)[:length].tobytes()

    def _token_text(self, token: int) -> str:
        if token < 0:
            return ""
        text: bytes | None = self._llama.llama_vocab_get_text(self._vocab, token)
        return (text or b"").decode("utf-8", "replace")


class _Native:
    """The two C pointers, freed once however the backend goes away; in a forked child not at all,
    since threads of the parent may have been at work with them."""

    def __init__(self, llama: Any) -> None:
        self._llama = llama
        self._forks = forks()
        self.model: Any = None
        self.context: Any = None

    def free_context(self) -> None:
        if self.context:
            self._llama.llama_free(self.context)
        self.context = None

    def free(self) -> None:
        if inherited(self._forks):
            return
        with native_work:  # the garbage collector may come here in any thread
            self.free_context()
            if self.model:
                self._llama.llama_model_free(self.model)
            self.model = None


class _BatchBuffer:
    """A llama_batch whose arrays are numpy's: filling it is a few slice assignments."""

    def __init__(self, llama: Any, capacity: int) -> None:
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


def _load_library(verbose: bool) -> Any:
    """Import llama_cpp, see that it can be used, and set its log."""
    try:
        llama = importlib.import_module("llama_cpp")
    except ImportError as error:
        raise ModelError(
            "GGUF models need llama-cpp-python; install it with "
            "`pip install 'toolprm_lite[llamacpp]'`"
        ) from error
    except (OSError, RuntimeError, AttributeError) as error:
        raise ModelError(
            f"llama-cpp-python is installed but can't be loaded ({error}); reinstall it with "
            f"`pip install --force-reinstall llama-cpp-python=={TESTED_VERSION}`"
        ) from error
    missing = [name for name in _NEEDED if not hasattr(llama, name)]
    if not missing and not hasattr(llama.llama_context_default_params(), "kv_unified"):
        missing = ["kv_unified"]
    if missing:
        raise ModelError(
            f"llama-cpp-python {llama.__version__} lacks {', '.join(missing)}; install the tested "
            f"version with `pip install llama-cpp-python=={TESTED_VERSION}`"
        )
    global _log_callback, _verbose
    _verbose = verbose
    if _log_callback is None:
        _log_callback = llama.llama_log_callback(_log)
    llama.llama_log_set(_log_callback, None)  # sets ggml's log too
    llama.llama_backend_init()
    return llama


def _log(level: int, text: bytes, _data: object) -> None:
    message = text.decode("utf-8", "replace")
    if level == 4 and message.strip():  # GGML_LOG_LEVEL_ERROR
        _log_errors.append(message.strip())
    if _verbose and sys.stderr is not None:
        sys.stderr.write(visible(message, keep="\n\t"))


def _log_reason() -> str:
    """llama.cpp's first recent error, in brackets, or nothing."""
    return f" (llama.cpp: {_log_errors[0]})" if _log_errors else ""


def _check_file(path: str | os.PathLike[str]) -> Path:
    file = Path(path)
    if file.is_dir():
        raise ModelError(f"{file} is a folder; give the path of a GGUF file in it")
    try:
        with file.open("rb") as stream:
            magic = stream.read(4)
    except FileNotFoundError:
        raise ModelError(f"{file} does not exist; give the path of a GGUF file") from None
    except OSError as error:
        raise ModelError(f"{file} can't be read: {error.strerror}") from error
    if magic != b"GGUF":
        raise ModelError(
            f"{file} is not a GGUF file (it begins with {magic!r}); convert the model with "
            "llama.cpp's convert_hf_to_gguf.py"
        )
    return file


def _load_model(llama: Any, file: Path, gpu_layers: int) -> Any:
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 999 if gpu_layers < 0 else gpu_layers
    _log_errors.clear()
    model = llama.llama_model_load_from_file(os.fsencode(file), params)
    if not model:
        raise ModelError(
            f"{file} can't be loaded{_log_reason()}; if it is incomplete download it again, if it "
            f"is newer than llama-cpp-python {llama.__version__} upgrade that"
        )
    if llama.llama_model_has_encoder(model) or not llama.llama_model_has_decoder(model):
        llama.llama_model_free(model)
        raise ModelError(f"{file} is not a decoder-only language model; choose one that is")
    return model


def _metadata(llama: Any, model: Any, key: str) -> bytes:
    """A value's first 1023 bytes, up to a null byte."""
    buffer = ctypes.create_string_buffer(1024)
    length = llama.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value if length >= 0 else b""


def _blocks_on_cpu(llama: Any, model: Any, gpu_layers: int) -> int:
    """Blocks whose keys and values are in main memory. A GPU says itself when its own is full."""
    blocks = int(llama.llama_model_n_layer(model))
    return 0 if gpu_layers < 0 else max(0, blocks - gpu_layers)


def _cell_bytes(llama: Any, model: Any, blocks: int) -> int:
    """Main memory that a cell of the context takes at most: keys and values of so many blocks in
    float16, and attention's scores and mask for the tokens computed at once.

    The keys and values of a hybrid model are not counted: few of its blocks have any.
    """
    if llama.llama_model_is_recurrent(model) or not blocks:
        return 0
    heads = int(llama.llama_model_n_head(model))
    scores = 4 * _UBATCH * (heads + 1)
    if llama.llama_model_is_hybrid(model) or not heads:
        return scores
    architecture = _metadata(llama, model, "general.architecture").decode("utf-8", "replace")
    width = int(llama.llama_model_n_embd(model)) // heads

    def head_width(name: str) -> int:
        text = _metadata(llama, model, f"{architecture}.attention.{name}")
        return int(text) if text.isdigit() else width

    shared = int(llama.llama_model_n_head_kv(model))
    values = head_width("key_length") + head_width("value_length")
    return scores + 2 * blocks * shared * values


def _available_cores() -> int:
    """Physical cores this process may use: hyperthreads and more threads than a container's
    quota slow llama.cpp down."""
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:  # not on macOS and Windows
        return max(1, (os.cpu_count() or 2) // 2)
    cores = set()
    for cpu in usable:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text())
        except OSError:
            cores.add(str(cpu))
    count = len(cores)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no quota ("max"), or no cgroup v2
        pass
    return max(1, count)
