"""Reads some layers' hidden states while llama.cpp decodes, without its embeddings mode.

Switching `embeddings` on would make an output of every prompt token and run the LM head over all
of them. Two ways lead around that:

- `LayerInputTap`: llama.cpp copies the input of a layer out by itself. Free of cost, but exported
  under C++ names only, and an architecture whose graph doesn't record its layer inputs makes
  llama.cpp abort the process; hence a list of architectures that were read and tried.
- `CallbackTap`: the public evaluation callback. Works for every attention model whose blocks name
  their output `l_out`; it is asked about each node of the graph.

Knows tensors and rows, nothing of prompts or sequences.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from toolprm_lite._core import TensorTap
from toolprm_lite.backends.base import Float32Array, Int32Array, ModelInfo
from toolprm_lite.errors import ModelError

# Versions of llama-cpp-python and architectures of which the llama.cpp source was read: each block
# of the graph records its input (src/models/*.cpp, `t_layer_inp`). The last block's output is not
# recorded, so tapping it always takes the callback.
LAYER_INPUT_VERSIONS = frozenset({"0.3.36"})
LAYER_INPUT_ARCHITECTURES = frozenset(
    {
        "llama",
        "qwen3",
        "qwen3moe",
        "qwen3next",
        "qwen35",
        "qwen35moe",
        "lfm2",
        "lfm2moe",
        "gpt-oss",
        "minimax-m2",
    }
)

# The plain name, and as the Itanium and the Microsoft C++ ABI write it.
_SET_NAMES = (
    "llama_set_embeddings_layer_inp",
    "_Z30llama_set_embeddings_layer_inpP13llama_contextjb",
    "?llama_set_embeddings_layer_inp@@YAXPEAUllama_context@@I_N@Z",
)
_GET_NAMES = (
    "llama_get_embeddings_layer_inp",
    "_Z30llama_get_embeddings_layer_inpP13llama_contextj",
    "?llama_get_embeddings_layer_inp@@YAPEAMPEAUllama_context@@I@Z",
)


def _symbol(libraries: list[ctypes.CDLL], names: tuple[str, ...], result: Any, *args: Any) -> Any:
    """The first of `names` that one of the libraries exports, as a typed function, or None."""
    for library in libraries:
        for name in names:
            try:
                # A copy of our own: attributes of the library object are shared with llama_cpp.
                return ctypes.CFUNCTYPE(result, *args)((name, library))
            except AttributeError:
                continue
    return None


class LayerInputTap:
    """The inputs of blocks, copied out by llama.cpp itself. Lives as long as the context."""

    callback: Any = None
    address: int | None = None

    def __init__(self, library: ctypes.CDLL, layers: tuple[int, ...], width: int) -> None:
        self._set = _symbol(
            [library], _SET_NAMES, None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_bool
        )
        self._get = _symbol(
            [library],
            _GET_NAMES,
            ctypes.POINTER(ctypes.c_float),
            ctypes.c_void_p,
            ctypes.c_uint32,
        )
        self._layers = layers
        self._width = width

    @staticmethod
    def supported(
        library: ctypes.CDLL,
        version: str,
        architecture: str,
        layers: tuple[int, ...],
        blocks: int,
    ) -> bool:
        """Whether this way is known to work; a wrong yes would abort the process."""
        return (
            version in LAYER_INPUT_VERSIONS
            and architecture in LAYER_INPUT_ARCHITECTURES
            and max(layers) < blocks
            and any(hasattr(library, name) for name in _SET_NAMES)
            and any(hasattr(library, name) for name in _GET_NAMES)
        )

    def switch(self, context: int, on: bool) -> None:
        """Start or stop the copying; takes effect with the next decode."""
        for layer in self._layers:
            self._set(context, layer, on)

    def begin(self, tokens: int, wanted: Int32Array, outputs: Int32Array) -> None:
        """Announce a decode of `tokens` tokens; see `CallbackTap.begin`."""
        self._tokens = tokens
        self._wanted = wanted

    def check(self) -> None:
        """Nothing can have gone wrong: no code of ours ran."""

    def rows(self, context: int) -> Float32Array:
        """The wanted rows of the last decode, float32 [wanted, layers * width], a copy."""
        states: Float32Array = np.empty(
            (len(self._wanted), len(self._layers), self._width), np.float32
        )
        for place, layer in enumerate(self._layers):
            pointer = self._get(context, layer)
            whole = np.ctypeslib.as_array(pointer, (self._tokens, self._width))
            states[:, place] = whole[self._wanted]
        return states.reshape(len(self._wanted), len(self._layers) * self._width)


class CallbackTap:
    """The outputs of the blocks before `layers`, read by the evaluation callback.

    `callback` and `address` go into the context's parameters, so a context serves one tap, which
    can be aimed at other layers; keep this object alive as long as the context.
    """

    def __init__(self, llama: Any, layers: tuple[int, ...], width: int, ubatch: int) -> None:
        libraries = [llama.llama_cpp._lib, *_ggml_base(Path(llama.__file__).parent)]
        name, size, read = (
            _address(libraries, function)
            for function in ("ggml_get_name", "ggml_nbytes", "ggml_backend_tensor_get")
        )
        if not (name and size and read):
            raise ModelError(
                "this build of llama-cpp-python does not export ggml's tensor functions, so hidden "
                "states can't be read; install llama-cpp-python 0.3.36, or search without a head"
            )
        self._tap = TensorTap(name, size, read, _names(layers), width, ubatch)
        self.callback = llama.ggml_backend_sched_eval_callback(TensorTap.callback)
        self.address: int | None = self._tap.address

    def switch(self, context: int, on: bool) -> None:
        """Nothing to do: the context was made with the callback."""

    def aim(self, layers: tuple[int, ...]) -> None:
        """Read other layers from the next decode on."""
        self._tap.aim(_names(layers))

    def begin(self, tokens: int, wanted: Int32Array, outputs: Int32Array) -> None:
        """Announce a decode of `tokens` tokens.

        `wanted` are the tokens whose states shall be kept, `outputs` those with logits, both
        int32, rising. The last block computes the outputs only, so there `wanted` must be
        contained in `outputs`.
        """
        self._tap.begin(tokens, wanted, outputs)

    def check(self) -> None:
        """Raise what went wrong in the callback, if anything did."""
        if self._tap.failure is not None:
            raise ModelError(f"reading the hidden states failed: {self._tap.failure}")

    def rows(self, context: int) -> Float32Array:
        """The wanted rows of the last decode, float32 [wanted, layers * width]."""
        missing = self._tap.missing
        if missing is not None:
            raise ModelError(
                f"this model's graph has no tensor {missing!r}, so its hidden states can't be "
                "read; use a reward that reads none"
            )
        return self._tap.rows()


Tap: TypeAlias = LayerInputTap | CallbackTap


def make_tap(
    llama: Any, info: ModelInfo, layers: tuple[int, ...], *, ubatch: int, stateful: bool
) -> Tap | None:
    """The way that is known to work for these layers; None for no layers. `ubatch`: tokens that the
    context computes at once. Raises `ModelError` where no way works."""
    if not layers:
        return None
    library, version = llama.llama_cpp._lib, llama.__version__
    if LayerInputTap.supported(library, version, info.architecture, layers, info.layers):
        return LayerInputTap(library, layers, info.width)
    if stateful:
        # Its batches are computed in another order, which the callback does not know.
        raise ModelError(
            f"hidden states can't be read from {info.name} "
            f"({info.architecture}) with llama-cpp-python {version}; search without a head"
        )
    return CallbackTap(llama, layers, info.width, ubatch)


def _names(layers: tuple[int, ...]) -> list[str]:
    return ["embd" if layer == 0 else f"l_out-{layer - 1}" for layer in layers]


def _address(libraries: list[ctypes.CDLL], name: str) -> int | None:
    for library in libraries:
        try:
            return ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        except AttributeError:
            continue
    return None


def _ggml_base(package: Path) -> list[ctypes.CDLL]:
    """The library with ggml's tensor functions, where libllama's own handle doesn't reach it."""
    suffix = {"win32": "ggml-base.dll", "darwin": "libggml-base.dylib"}.get(
        sys.platform, "libggml-base.so"
    )
    path = package / "lib" / suffix
    return [ctypes.CDLL(str(path))] if path.exists() else []
