"""The backend itself: it composes the model, the tokenizer and the sequences.

One batch of one row holds everything: prompts, and the tokens of all branches in order of arrival.
A mask from the ledger gives each token its ancestors. Knows nothing of tools, steps or
beams.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from toolprm_lite.backends.adapters import AdapterCard
from toolprm_lite.backends.base import (
    RESPONSE_ROOM,
    Batch,
    Int32Array,
    MaskArray,
    ModelInfo,
    Output,
    Prefill,
    check_prompt,
)
from toolprm_lite.backends.guard import Guard, guarded
from toolprm_lite.backends.options import check_options
from toolprm_lite.backends.prompts import CACHE_BYTES
from toolprm_lite.backends.torch.adapter import merge_adapter
from toolprm_lite.backends.torch.device_memory import check_context
from toolprm_lite.backends.torch.flat_model import FlatModel
from toolprm_lite.backends.torch.hf_models import (
    TESTED,
    architecture,
    load_model,
    refuse_stateful,
    refuse_unsuitable,
)
from toolprm_lite.backends.torch.hf_tokens import HfTokens, chat_template
from toolprm_lite.backends.torch.sequences import Sequences
from toolprm_lite.backends.torch.trial import try_out
from toolprm_lite.errors import ModelError
from toolprm_lite.process import compute, inherited, native_work
from toolprm_lite.special_texts import SpecialTexts

_PREFILL = 2048  # prompt tokens of one forward pass
_MASKED_PREFILL = 512  # of one that needs a mask, with other prompts present
_MAX_CONTEXT = 8192
_MAX_SEQUENCES = 128
_MAX_PROMPTS = 16


class TorchBackend:
    """A transformers model as a `Backend`.

    `model` is a causal language model with plain attention (full or sliding window) in every block,
    `tokenizer` its fast tokenizer; both may be the application's own, and are left as they were
    between calls. `context`: cells that prompt and branches share; None = the model's own, at most
    8192. `max_sequences`: live branches. `max_prompts`: prompts that searches may use at once.
    `prompt_cache`: bytes of the device's memory for the states of prompts that are not in use.
    `adapter`: the card of an adapter that the weights contain already.

    Hidden states (`tap`) are the residual stream: layer L is the input of block L, as
    `hidden_states[L]`. L = number of blocks is the last block's output before the final norm.

    Raises `ModelError` for a model that this can't drive. An architecture that is not among the
    tested ones is held against its own plain forward pass first.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str | None = None,
        context: int | None = None,
        max_sequences: int = _MAX_SEQUENCES,
        max_prompts: int = _MAX_PROMPTS,
        prompt_cache: int = CACHE_BYTES,
        adapter: AdapterCard | None = None,
    ) -> None:
        self._guard = Guard()
        config = model.config.get_text_config()
        source = name or str(getattr(model, "name_or_path", "")) or type(model).__name__
        refuse_unsuitable(config, source)
        refuse_stateful(model, source)
        if max_sequences < 1:
            raise ModelError(f"max_sequences is {max_sequences}; it must be at least 1")
        if max_prompts < 1:
            raise ModelError(f"max_prompts is {max_prompts}; it must be at least 1")
        trained = getattr(config, "max_position_embeddings", None) or _MAX_CONTEXT
        cells = context if context is not None else min(trained, _MAX_CONTEXT)
        check_options(context=cells)
        check_context(config, next(model.parameters()), cells)
        self._model = FlatModel(model, cells)
        self._tokens = HfTokens(tokenizer, model, self._model.vocab_size)
        self._info = ModelInfo(
            name=source.rstrip("/").rsplit("/", 1)[-1],
            architecture=architecture(config),
            vocab_size=self._model.vocab_size,
            width=config.hidden_size,
            layers=config.num_hidden_layers,
            context=cells,
            max_sequences=max_sequences,
            eog_tokens=self._tokens.ends,
            chat_template=chat_template(tokenizer),
            bos_token=tokenizer.bos_token or "",
            eos_token=tokenizer.eos_token or "",
            max_prompts=max_prompts,
            adapter="" if adapter is None else adapter.identity,
            prompt="" if adapter is None else adapter.prompt,
            call_format="" if adapter is None else adapter.call_format,
        )
        self._sequences = Sequences(self._model.cache, self._info, prompt_cache)
        if config.model_type not in TESTED:
            self._try_out(source)

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        *,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        context: int | None = None,
        prompt_cache: int = CACHE_BYTES,
        adapter: str | os.PathLike[str] | None = None,
    ) -> TorchBackend:
        """Open a transformers folder, a GGUF file or a hub id.

        `threads` sets torch's own, for the whole process. `adapter`: a GGUF or safetensors file of
        low-rank changes, added to the weights. Raises `ModelError`.
        """
        check_options(threads=threads, context=context)
        if threads is not None:
            torch.set_num_threads(threads)
        with native_work:
            model, tokenizer, name = compute(lambda: load_model(source, device, dtype))
            card = None
            if adapter is not None:
                card = compute(lambda: merge_adapter(model, name, adapter))
            return cls(
                model,
                tokenizer,
                name=name,
                context=context,
                prompt_cache=prompt_cache,
                adapter=card,
            )

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def token_bytes(self) -> Sequence[bytes]:
        """The bytes each token writes; special tokens as their text, end-of-generation as b""."""
        return self._tokens.bytes

    @property
    def special_texts(self) -> SpecialTexts:
        """The tokens that `tokenize` finds by their texts; see `Backend.special_texts`."""
        return self._tokens.special_texts

    @guarded
    def tokenize(self, text: str) -> list[int]:
        """Token ids of text; see `Backend.tokenize`."""
        return self._tokens.tokenize(text)

    @guarded
    def tap(self, layers: Sequence[int]) -> None:
        """Choose the layers whose inputs are returned as `hidden`, each 0 .. layers.

        Raises `ModelError` for a layer that the model does not have.
        """
        wanted = tuple(layers)
        for layer in wanted:
            if not 0 <= layer <= self._info.layers:
                raise ModelError(
                    f"layer {layer} can't be tapped: {self._info.name} has {self._info.layers} "
                    f"blocks, so layers are 0 to {self._info.layers}"
                )
        self._model.tap(wanted)

    @guarded
    def clear(self) -> None:
        """Forget everything: prompts, branches, cached states."""
        self._renew()

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
        """Make `tokens` the prompt of that number; see `Backend.prefill`."""
        wanted: Int32Array = np.ascontiguousarray(tokens, dtype=np.int32)
        check_prompt(wanted, self._info, prompt)
        count = len(wanted)
        sequences = self._sequences
        kept = done = sequences.begin(wanted, prompt, room)
        seconds = 0.0
        while done < count:
            if stop is not None and stop():
                return Prefill(kept, done - kept, None)
            most = _PREFILL if sequences.alone(prompt) else _MASKED_PREFILL
            end = min(count, done + min(most, chunk or _PREFILL))
            placed = sequences.place_prompt(prompt, end - done)
            rows = np.array([end - done - 1] if end == count else [], np.int32)
            native_work.pause()
            started = time.perf_counter()
            try:
                logits, hidden = self._model.forward(wanted[done:end], placed, rows, rows)
            except BaseException:
                sequences.take_back(prompt, end - done)
                raise
            seconds += time.perf_counter() - started
            done = end
            sequences.extend(prompt, wanted[:done])
        output = self._model.output(logits, mask, k, hidden, seconds)
        return Prefill(kept, count - kept, output)

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
        if len(batch.tokens) == 0:
            return self._empty_output(k)
        self._check(batch)
        branches = batch.sequences.tolist()
        self._sequences.make_room(branches)
        started = time.perf_counter()
        try:
            placed = self._sequences.place(branches, batch.positions)
            if self._model.fits_static(len(branches)):
                return self._model.static_decode(batch, placed, masks, k)
            logits, hidden = self._model.forward(
                batch.tokens, placed, batch.logits_at, batch.hidden_at
            )
        except BaseException:
            # The cells hold nothing: an interrupted step must not be attended to later.
            self.clear()
            raise
        return self._model.output(logits, masks, k, hidden, time.perf_counter() - started)

    def close(self) -> None:
        """Release model and cache. Safe to call twice."""
        if inherited(self._guard.forks):
            return
        self._model.close()
        self._tokens.close()
        self._sequences.close()

    def _check(self, batch: Batch) -> None:
        """Raise `ModelError` for branches and tokens that there can't be."""
        low, high = int(batch.sequences.min()), int(batch.sequences.max())
        limit = self._info.max_sequences
        if low < 1 or high > limit:
            raise ModelError(f"sequences {low} to {high} in a batch; branches are 1 to {limit}")
        if batch.tokens.min() < 0 or batch.tokens.max() >= self._info.vocab_size:
            raise ModelError(
                f"a batch has an invalid token; the vocabulary has {self._info.vocab_size}"
            )

    def _empty_output(self, k: int) -> Output:
        layers = len(self._model.layers)
        hidden = np.empty((0, self._info.width * layers), np.float32) if layers else None
        return Output(
            np.empty((0, k), np.int32),
            np.empty((0, k), np.float32),
            np.empty(0, np.float32),
            hidden,
        )

    @guarded
    def _try_out(self, source: str) -> None:
        def prefill(tokens: list[int]) -> None:
            self.prefill(tokens, None, 1)

        try:
            try_out(self._model, self._sequences, prefill, source)
        finally:
            self.clear()

    # Of `guarded`

    def _renew(self) -> None:
        self._model.forget()
        self._sequences.clear()

    def _require(self) -> None:
        if self._model.model is None:
            raise ModelError("the model is closed; open it again")
