"""An adapter beside a GGUF model: loaded once, switched on for each context."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from toolprm_lite.backends.adapters import (
    CARD_KEY,
    MOST_CARD,
    AdapterCard,
    find_adapter,
    is_safetensors,
    read_card,
)
from toolprm_lite.backends.llamacpp.library import forget_log, log_reason, meta_text
from toolprm_lite.errors import ModelError


class LoadedAdapter:
    """llama.cpp's adapter, which is freed with the model, and its card."""

    def __init__(self, llama: Any, model: Any, name: str | os.PathLike[str]) -> None:
        """Raises `ModelError` for a file that can't be read, or that fits another model."""
        self.file = find_adapter(name)
        with self.file.open("rb") as stream:
            if is_safetensors(stream.read(9)):
                raise ModelError(
                    f"{self.file}: llama.cpp needs the adapter as GGUF; give adapter.gguf, which "
                    "`toolprm-lite tune` writes beside it, or convert it with llama.cpp's "
                    "convert_lora_to_gguf.py"
                )
        forget_log()
        self.handle = llama.llama_adapter_lora_init(model, os.fsencode(self.file))
        if not self.handle:
            raise ModelError(
                f"{self.file}: not an adapter that fits the model{log_reason()}; name one that "
                "`toolprm-lite tune` wrote for it, and fetch it again if it is incomplete"
            )
        written = meta_text(llama.llama_adapter_meta_val_str, self.handle, CARD_KEY, MOST_CARD)
        text = None if written is None else written.decode("utf-8", "replace")
        self.card: AdapterCard = read_card(text, self.file)

    def use(self, llama: Any, context: Any) -> None:
        """Switch it on for a context. Raises `ModelError`."""
        handles = (type(self.handle) * 1)(self.handle)
        scales = (ctypes.c_float * 1)(1.0)
        if llama.llama_set_adapters_lora(context, handles, 1, scales) != 0:
            raise ModelError(f"{self.file}: llama.cpp can't use the adapter{log_reason()}")
