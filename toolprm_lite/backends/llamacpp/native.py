"""llama.cpp's model and context: made, and freed once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolprm_lite.backends.llamacpp.adapter import LoadedAdapter
from toolprm_lite.backends.llamacpp.library import forget_log, log_reason
from toolprm_lite.backends.llamacpp.tap import Tap
from toolprm_lite.errors import ModelError
from toolprm_lite.process import forks, inherited, native_work

BATCH = 2048  # tokens one llama_decode takes
UBATCH = 512  # tokens llama.cpp computes at once


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """`cells` that all sequences share, `sequences` of prompts and branches together; `offload`:
    keys, values and arithmetic may be on a GPU."""

    cells: int
    sequences: int
    threads: int
    offload: bool


class Native:
    """The C pointers, freed once however the backend goes away; in a forked child not at all,
    since threads of the parent may have been at work with them."""

    def __init__(self, llama: Any) -> None:
        self.llama = llama
        self._forks = forks()
        self.model: Any = None
        self.adapter: LoadedAdapter | None = None  # freed with the model
        self.context: Any = None
        self.memory: Any = None  # the context's
        self.batch = self.ubatch = 0  # tokens that the context takes, and computes at once

    @property
    def stateful(self) -> bool:
        """Whether a sequence has a state of its own, which can't be cut: recurrent and hybrid
        models."""
        llama, model = self.llama, self.model
        return bool(llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model))

    def open_context(self, settings: ContextSettings, tap: Tap | None, file: Path) -> None:
        """A new context in place of the old one; `file` is named in errors."""
        llama = self.llama
        self._free_context()
        params = llama.llama_context_default_params()
        params.n_ctx = settings.cells
        params.n_batch = BATCH
        params.n_ubatch = UBATCH
        params.n_seq_max = settings.sequences
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = settings.threads
        params.offload_kqv = params.op_offload = settings.offload
        if not settings.offload:
            # On the CPU flash attention adds up in float16 for small batches: log-probabilities
            # then move by 1e-2, and with the place where a reused prompt was cut.
            params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if hasattr(params, "n_outputs_max"):
            # The default reserves logits for every token of a batch: 300 MB for 150,000 words.
            params.n_outputs_max = settings.sequences
        if tap is not None and tap.callback is not None:
            params.cb_eval = tap.callback
            params.cb_eval_user_data = tap.address
        forget_log()
        self.context = llama.llama_init_from_model(self.model, params)
        if not self.context:
            raise ModelError(
                f"no context of {settings.cells} cells for {file}{log_reason()}; a smaller "
                "--context needs less memory"
            )
        self.memory = llama.llama_get_memory(self.context)
        if not self.memory:
            raise ModelError(f"{file} is not a model that writes text, such as an embedder")
        if self.adapter is not None:
            self.adapter.use(llama, self.context)
        self.batch = int(llama.llama_n_batch(self.context))
        self.ubatch = int(llama.llama_n_ubatch(self.context))

    def free(self) -> None:
        if inherited(self._forks):
            return
        with native_work:  # the garbage collector may call this in any thread
            self._free_context()
            if self.model:
                self.llama.llama_model_free(self.model)
            self.model = None

    def _free_context(self) -> None:
        if self.context:
            self.llama.llama_free(self.context)
        self.context = self.memory = None
