"""From what a caller names as the model to an open backend."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from toolprm_lite.backends.base import Backend
from toolprm_lite.backends.options import check_options
from toolprm_lite.errors import ConfigError, ModelError
from toolprm_lite.models import adapter_for, find_model

if TYPE_CHECKING:
    from toolprm_lite.backends.torch import TorchBackend

BackendName = Literal["auto", "llamacpp", "torch"]


def open_backend(
    model: str | os.PathLike[str] | object | None = None,
    *,
    tokenizer: object | None = None,
    adapter: str | os.PathLike[str] | None = "auto",
    backend: BackendName = "auto",
    gpu_layers: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    context: int | None = None,
    prompt_cache: int = 256,
    verbose: bool = False,
) -> Backend:
    """Open a model. Arguments and errors are those of `Searcher.from_model`."""
    if backend not in ("auto", "llamacpp", "torch"):
        raise ConfigError(f"backend is {backend!r}; it must be auto, llamacpp or torch")
    check_options(
        gpu_layers=gpu_layers, threads=threads, context=context, prompt_cache=prompt_cache
    )
    kept = prompt_cache << 20
    if model is not None and not isinstance(model, (str, os.PathLike)):
        if tokenizer is None or backend == "llamacpp":
            raise ConfigError(
                "a model given as an object needs its tokenizer, and the torch backend"
            )
        if adapter not in ("auto", "none", None):
            raise ConfigError("a model given as an object has no adapter of ours; merge it first")
        return _torch_backend()(model, tokenizer, context=context, prompt_cache=kept)
    if tokenizer is not None:
        raise ConfigError("a tokenizer goes with a model given as an object, not with a path")
    source = find_model(model)
    gguf = isinstance(source, Path) and source.is_file()
    if isinstance(source, Path) and not gguf and not source.is_dir():
        raise ModelError(f"{source} is neither a file nor a folder; give the path of a model")
    added = adapter_for(model, adapter)
    if backend == "torch" or (backend == "auto" and not gguf):
        if gpu_layers:
            raise ConfigError("gpu_layers is for llamacpp; give the torch backend a device")
        return _torch_backend().load(
            source, device=device, dtype=dtype, threads=threads, context=context, prompt_cache=kept,
            adapter=added,
        )  # fmt: skip
    if device != "auto" or dtype != "auto":
        raise ConfigError("device and dtype are for the torch backend; give llamacpp gpu_layers")
    from toolprm_lite.backends.llamacpp import LlamaCppBackend

    return LlamaCppBackend(
        source, gpu_layers=gpu_layers, threads=threads, context=context, prompt_cache=kept,
        adapter=added, verbose=verbose,
    )  # fmt: skip


def _torch_backend() -> type[TorchBackend]:
    try:
        from toolprm_lite.backends.torch import TorchBackend
    except ImportError as error:
        raise ModelError(
            f"the torch backend needs {error.name}; install it with "
            "`pip install 'toolprm_lite[torch]'`"
        ) from error
    return TorchBackend
