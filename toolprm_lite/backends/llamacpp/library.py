"""llama-cpp-python: imported, checked, and its log. Knows nothing of models."""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections import deque
from typing import Any

from toolprm_lite.errors import ModelError
from toolprm_lite.terminal import visible

TESTED_VERSION = "0.3.36"

# Required functions; older releases of llama-cpp-python lack some of these.
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

# llama.cpp has one log for the whole process, and a thread may be in its callback at any time: it
# is made once. The last errors explain a failed load.
_log_errors: deque[str] = deque(maxlen=4)
_log_callback: Any = None
_verbose = False


def load_library(verbose: bool) -> Any:
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


def meta_text(read: Any, handle: Any, key: str, most: int) -> bytes | None:
    """A value of metadata, its first `most` bytes up to a null byte; None where there is none of
    that key. `read` is llama.cpp's function for what the handle is of."""
    buffer = ctypes.create_string_buffer(most + 1)
    length = read(handle, key.encode(), buffer, len(buffer))
    return buffer.value if length >= 0 else None


def forget_log() -> None:
    """Called before what `log_reason` shall explain."""
    _log_errors.clear()


def log_reason() -> str:
    """llama.cpp's first recent error, in brackets, or nothing."""
    return f" (llama.cpp: {_log_errors[0]})" if _log_errors else ""
