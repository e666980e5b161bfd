"""A GGUF file: opened as llama.cpp's model, and what it says about itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from toolprm_lite.backends.base import ModelInfo, model_name
from toolprm_lite.backends.llamacpp.library import forget_log, log_reason, meta_text
from toolprm_lite.backends.llamacpp.native import Native
from toolprm_lite.backends.llamacpp.vocabulary import Vocabulary
from toolprm_lite.errors import ModelError


def check_file(path: str | os.PathLike[str]) -> Path:
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


def load_model(llama: Any, file: Path, gpu_layers: int) -> Any:
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 999 if gpu_layers < 0 else gpu_layers
    forget_log()
    model = llama.llama_model_load_from_file(os.fsencode(file), params)
    if not model:
        raise ModelError(
            f"{file} can't be loaded{log_reason()}; if it is incomplete download it again, if it "
            f"is newer than llama-cpp-python {llama.__version__} upgrade that"
        )
    if llama.llama_model_has_encoder(model) or not llama.llama_model_has_decoder(model):
        llama.llama_model_free(model)
        raise ModelError(f"{file} is not a decoder-only language model; choose one that is")
    return model


def metadata(llama: Any, model: Any, key: str) -> bytes:
    """A value's first 1023 bytes, up to a null byte."""
    return meta_text(llama.llama_model_meta_val_str, model, key, 1023) or b""


def cell_bytes(llama: Any, model: Any, gpu_layers: int, ubatch: int) -> int:
    """Main memory that a cell of the context takes at most: keys and values in float16 of the
    blocks that are not on a GPU, and attention's scores and mask for `ubatch` tokens, which are
    computed at once.

    The keys and values of a hybrid model are not counted: few of its blocks have any. A GPU says
    itself when its own memory is full.
    """
    blocks = 0 if gpu_layers < 0 else max(0, int(llama.llama_model_n_layer(model)) - gpu_layers)
    if llama.llama_model_is_recurrent(model) or not blocks:
        return 0
    heads = int(llama.llama_model_n_head(model))
    scores = 4 * ubatch * (heads + 1)
    if llama.llama_model_is_hybrid(model) or not heads:
        return scores
    architecture = metadata(llama, model, "general.architecture").decode("utf-8", "replace")
    width = int(llama.llama_model_n_embd(model)) // heads

    def head_width(name: str) -> int:
        text = metadata(llama, model, f"{architecture}.attention.{name}")
        return int(text) if text.isdigit() else width

    shared = int(llama.llama_model_n_head_kv(model))
    values = head_width("key_length") + head_width("value_length")
    return scores + 2 * blocks * shared * values


def read_info(
    native: Native, file: Path, vocabulary: Vocabulary, max_sequences: int, max_prompts: int
) -> ModelInfo:
    """What the model and its open context say about themselves. Raises `ModelError` for an
    adapter of another model."""
    llama, model = native.llama, native.model
    adapter = native.adapter
    template = llama.llama_model_chat_template(model, None)
    info = ModelInfo(
        name=model_name(metadata(llama, model, "general.name"), file.stem),
        architecture=metadata(llama, model, "general.architecture").decode("utf-8", "replace"),
        vocab_size=vocabulary.size,
        width=int(llama.llama_model_n_embd(model)),
        layers=int(llama.llama_model_n_layer(model)),
        context=int(llama.llama_n_ctx(native.context)),
        max_sequences=max_sequences,
        eog_tokens=vocabulary.ends,
        chat_template=template.decode("utf-8", "replace") if template else None,
        bos_token=vocabulary.text(llama.llama_vocab_bos(vocabulary.handle)),
        eos_token=vocabulary.text(llama.llama_vocab_eos(vocabulary.handle)),
        max_prompts=max_prompts,
        adapter="" if adapter is None else adapter.card.identity,
        prompt="" if adapter is None else adapter.card.prompt,
        call_format="" if adapter is None else adapter.card.call_format,
    )
    if adapter is not None:
        adapter.card.check(info.name, info.architecture, adapter.file)
    return info
