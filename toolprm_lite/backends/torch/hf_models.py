"""From a folder, a hub id, a GGUF file or the application's own objects to a transformers model."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from toolprm_lite.backends.base import model_name
from toolprm_lite.errors import ModelError

EXTRA = "pip install 'toolprm_lite[torch]'"

# Tested against a full forward pass; any other architecture is tested when it is opened.
TESTED = frozenset({"llama", "qwen2", "qwen3", "mistral", "gemma3_text"})
_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU, else the CPU. Raises `ModelError` for one that isn't there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        mps = getattr(torch.backends, "mps", None)
        return torch.device("mps" if mps is not None and mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"device is {name!r}; it must be auto, cpu, cuda, cuda:1, mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device is {name!r}, but torch sees no CUDA GPU; use cpu")
    return device


def choose_dtype(name: str, device: torch.device, config: Any) -> torch.dtype:
    """`auto` is bfloat16 on a GPU that has it (else float16); on a CPU what multiplies fastest.

    The CPU is measured at this model's own shape: bfloat16 is twice as fast where the machine has
    instructions for it, and many times slower where it has not.
    """
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name in named:
        return named[name]
    if name != "auto":
        raise ModelError(f"dtype is {name!r}; it must be auto, {', '.join(named)}")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type != "cpu":
        return torch.float16
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * width
    seconds = {
        dtype: _seconds_of_product(dtype, width, inner) for dtype in (torch.float32, torch.bfloat16)
    }
    # float32 unless the gain is large: the heads were measured with float32 states.
    faster = seconds[torch.bfloat16] < 0.75 * seconds[torch.float32]
    return torch.bfloat16 if faster else torch.float32


def _seconds_of_product(dtype: torch.dtype, width: int, inner: int) -> float:
    left = torch.ones(16, width, dtype=dtype)
    right = torch.ones(inner, width, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)
        best = min(best, time.perf_counter() - started)
    return best


def load_model(
    source: str | os.PathLike[str], device: str = "auto", dtype: str = "auto"
) -> tuple[Any, Any, str]:
    """(model, tokenizer, name) of a transformers folder, a GGUF file or a hub id.

    A GGUF file is unpacked to `dtype`: quantised weights, full-precision arithmetic. Raises
    `ModelError`.
    """
    place = choose_device(device)
    path = Path(source)
    # A model's own Python code is never run.
    where: dict[str, Any] = {
        "pretrained_model_name_or_path": str(source),
        "trust_remote_code": False,
    }
    more: dict[str, Any] = {}
    if path.is_file():
        for module in ("gguf", "accelerate"):
            if importlib.util.find_spec(module) is None:
                raise ModelError(
                    f"a GGUF file under torch needs {module}; install it with `{EXTRA}`"
                )
        where |= {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
        more["quantization_config"] = transformers.GgufConfig(dequantize=True)
    elif path.exists() and not (path / "config.json").is_file():
        raise ModelError(f"{path} has no config.json; give a folder that save_pretrained wrote")
    try:
        with _silence():
            config = transformers.AutoConfig.from_pretrained(**where)
            text_config = config.get_text_config()
            refuse_unsuitable(text_config, str(source))
            kind = choose_dtype(dtype, place, text_config)
            tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                **where, dtype=kind, **more
            )
    except ModelError:
        raise
    except Exception as error:
        # transformers raises several types: OSError, ValueError, KeyError, SafetensorError, ...
        if not path.exists():
            raise ModelError(
                f"{source}: no such file or folder, and as a model of the hub it can't be loaded "
                f"({first_line(error)}); give the path of a model, or connect to the hub"
            ) from error
        raise ModelError(
            f"{source}: transformers can't load it ({first_line(error)}); give a folder with "
            "config.json, weights and tokenizer, a GGUF file, or a hub id"
        ) from error
    return model.to(place).eval(), tokenizer, _name(tokenizer, path)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Within the context, keep warnings, retries and progress bars of the libraries from the
    terminal."""
    log: Any = transformers.utils.logging
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    hub = logging.getLogger("huggingface_hub")
    hub_level = hub.level
    hub.setLevel(logging.CRITICAL)
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        hub.setLevel(hub_level)
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()


def first_line(error: Exception) -> str:
    """What an error of another library says first, or its name if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def refuse_unsuitable(config: Any, source: str) -> None:
    """Raise `ModelError` for models whose memory is not one cell for each token."""
    kind = config.model_type
    remedy = "use its GGUF file with --backend llamacpp"
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{source} ({kind}) is not a decoder-only language model; choose one")
    types = set(getattr(config, "layer_types", None) or ())
    if types - _LAYER_TYPES:
        other = ", ".join(sorted(types - _LAYER_TYPES))
        raise ModelError(
            f"{source} ({kind}) has layers of type {other}, whose memory can't be shared between "
            f"branches token by token; {remedy}"
        )


def refuse_stateful(model: Any, source: str) -> None:
    """Raise `ModelError` for a recurrent or hybrid model."""
    if getattr(model, "_is_stateful", False):
        raise ModelError(
            f"{source} ({model.config.model_type}) keeps a running state in place of one cell for "
            "each token, so its branches can't share them; use its GGUF file with --backend "
            "llamacpp"
        )


def architecture(config: Any) -> str:
    """llama.cpp's name of the architecture, by which heads know their model."""
    kind: str = config.model_type
    return {"mistral": "llama", "gemma3_text": "gemma3"}.get(kind, kind.replace("_", ""))


def _name(tokenizer: Any, path: Path) -> str:
    if not path.is_file():
        return path.name
    from gguf import GGUFReader

    field = GGUFReader(path).get_field("general.name")
    if field is None or not field.data:
        return path.stem
    return model_name(bytes(field.parts[field.data[0]]).partition(b"\0")[0], path.stem)
