"""llama.cpp's own greedy decoding."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")


def llama_greedy(path: Path, prompt: list[int], count: int, threads: int) -> list[int]:
    """llama.cpp's greedy sampler over its own context, none of our code."""
    model = llama_cpp.llama_model_load_from_file(
        str(path).encode(), llama_cpp.llama_model_default_params()
    )
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = 2048
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED  # as the backend, on the CPU
    context = llama_cpp.llama_init_from_model(model, params)
    sampler = llama_cpp.llama_sampler_init_greedy()
    vocab = llama_cpp.llama_model_get_vocab(model)
    tokens, result = list(prompt), []
    for _ in range(count):
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        assert (
            llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens))) == 0
        )
        token = llama_cpp.llama_sampler_sample(sampler, context, -1)
        result.append(token)
        if llama_cpp.llama_vocab_is_eog(vocab, token):
            break
        tokens = [token]
    llama_cpp.llama_sampler_free(sampler)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return result
