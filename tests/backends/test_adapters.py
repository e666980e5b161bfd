"""Adapters in both backends: the same change of the weights, and clear errors for wrong files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from support.commands import assert_error, run
from support.heads import random_head
from support.tiny_hf import write_tiny_hf
from support.tiny_model import TinyLlama
from toolprm_lite import Searcher
from toolprm_lite.backends.adapters import AdapterCard, read_card
from toolprm_lite.backends.llamacpp import LlamaCppBackend
from toolprm_lite.backends.torch import TorchBackend
from toolprm_lite.backends.torch.adapter import halved, interleaved, read_adapter
from toolprm_lite.backends.torch.hf_models import load_model
from toolprm_lite.errors import HeadError, ModelError
from toolprm_lite.reward.head import Head
from toolprm_lite.tuning.adapter_files import (
    GGUF_FILE,
    PEFT_FILE,
    PEFT_SETTINGS,
    with_digest,
    write_adapter,
)
from toolprm_lite.tuning.lora import attach, state_of

PROMPT = list(range(40, 80))
CARD = AdapterCard(
    name="tiny-tools", digest="", model="tiny llama", architecture="llama",
    prompt="signatures-short", notes={"about": "made"},
)  # fmt: skip


@pytest.fixture(scope="module")
def adapter(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random adapter of the tiny model, of rank 4 and scale 2."""
    return random_adapter(tiny_gguf, tmp_path_factory.mktemp("adapter"), CARD)


def random_adapter(model_path: Path, folder: Path, card: AdapterCard) -> Path:
    model, _, _ = load_model(model_path, "cpu", "float32")
    adapters = attach(model, 4, 2.0)
    random = np.random.default_rng(0)
    state = state_of(adapters)
    for name, value in state.items():
        value.copy_(value.new_tensor(random.normal(size=tuple(value.shape)) * 0.05))
        assert name[-2:] in (".a", ".b")
    write_adapter(folder, with_digest(card, state), state, 4, 2.0, model.config)
    return folder


def logprobs(backend: Any) -> Any:
    output = backend.prefill(PROMPT, None, 352).output
    backend.close()
    order = np.argsort(output.top_ids[0])
    return output.top_logprobs[0][order]


def test_both_backends_compute_the_same_with_it(tiny_gguf: Path, adapter: Path) -> None:
    plain = logprobs(LlamaCppBackend(tiny_gguf, threads=1))
    quantised = logprobs(LlamaCppBackend(tiny_gguf, threads=1, adapter=adapter / GGUF_FILE))
    assert np.abs(plain - quantised).max() > 0.5  # it changes something
    for file in (GGUF_FILE, PEFT_FILE):
        merged = logprobs(TorchBackend.load(tiny_gguf, dtype="float32", adapter=adapter / file))
        assert np.abs(merged - quantised).max() < 0.02


def test_a_qwen_model_has_rows_in_the_same_order(tmp_path: Path) -> None:
    """Under llama.cpp its rows are not reordered; a folder takes what was written for it."""
    folder = write_tiny_hf(tmp_path / "model", "qwen2")
    card = replace(CARD, model="model", architecture="qwen2")
    files = random_adapter(folder, tmp_path / "adapter", card)
    found = [
        logprobs(TorchBackend.load(folder, dtype="float32", adapter=files / file))
        for file in (GGUF_FILE, PEFT_FILE)
    ]
    np.testing.assert_array_equal(*found)


def test_reordering_is_undone() -> None:
    rows = np.arange(48).reshape(16, 3)
    assert not np.array_equal(interleaved(rows, 2), rows)
    np.testing.assert_array_equal(halved(interleaved(rows, 2), 2), rows)
    assert interleaved(np.arange(8), 1).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_the_model_names_it_and_prompts_as_it_was_trained(tiny_gguf: Path, adapter: Path) -> None:
    with Searcher.from_model(tiny_gguf, adapter=adapter / GGUF_FILE) as searcher:
        assert searcher.info.adapter.startswith("tiny-tools@")
        assert searcher.prompt_style().name == "signatures-short"
        assert searcher.prompt_style("schemas").name == "schemas"
    with Searcher.from_model(tiny_gguf, adapter="none") as searcher:
        assert searcher.info.adapter == ""
        assert searcher.prompt_style().name == "signatures"


def test_a_tapped_context_keeps_it(tiny_gguf: Path, adapter: Path) -> None:
    """A tap may make a new context, in which the adapter must be switched on again."""
    backend = LlamaCppBackend(tiny_gguf, threads=1, adapter=adapter / GGUF_FILE)
    backend.tap([0, 2, 3])
    before = logprobs(LlamaCppBackend(tiny_gguf, threads=1, adapter=adapter / GGUF_FILE))
    assert np.abs(logprobs(backend) - before).max() < 1e-3


@pytest.mark.parametrize("backend", ["llamacpp", "torch"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "no such adapter file"),
        ("folder", "is a folder"),
        ("text", "neither a GGUF nor a safetensors file"),
        ("truncated", "not an adapter that fits|not a whole adapter"),
        ("header", "not an adapter that fits|not a whole adapter"),
        ("model", "not an adapter that fits|but no LoRA adapter"),
        ("other", "was trained for another model, and the model is tiny llama"),
        ("architecture", "qwen2|arch mismatch"),
    ],
)
def test_wrong_adapters_are_refused(
    backend: Any, change: str, message: str, tiny_gguf: Path, adapter: Path, tmp_path: Path
) -> None:
    file = tmp_path / "x.gguf"
    whole = (adapter / GGUF_FILE).read_bytes()
    if change == "folder":
        file.mkdir()
    elif change == "text":
        file.write_text("hello, this is no adapter")
    elif change == "truncated":
        file.write_bytes(whole[: len(whole) // 2])
    elif change == "header":
        file.write_bytes(whole[:100])
    elif change == "model":
        file.write_bytes(tiny_gguf.read_bytes())
    elif change == "other":
        card = replace(CARD, model="another model")
        file = random_adapter(tiny_gguf, tmp_path / "other", card) / GGUF_FILE
    elif change == "architecture":
        card = replace(CARD, architecture="qwen2")
        file = random_adapter(tiny_gguf, tmp_path / "other", card) / GGUF_FILE
    with pytest.raises(ModelError, match=message) as raised:
        Searcher.from_model(tiny_gguf, backend=backend, adapter=file)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize("backend", ["llamacpp", "torch"])
def test_an_adapter_of_another_width_is_refused(
    backend: Any, adapter: Path, tmp_path: Path
) -> None:
    wider = TinyLlama(width=128, heads=8, kv_heads=4).write(tmp_path / "wide.gguf")
    with pytest.raises(
        ModelError, match=r"not an adapter that fits|it was trained for another one"
    ):
        Searcher.from_model(wider, backend=backend, adapter=adapter / GGUF_FILE)


def test_an_adapter_that_does_not_fit_changes_no_weight(tiny_gguf: Path, adapter: Path) -> None:
    model, _, _ = load_model(tiny_gguf, "cpu", "float32")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = read_adapter(adapter / GGUF_FILE, "tiny llama", model.config)
    last = max(found.parts)
    a, b = found.parts[last]
    wrong = replace(found, parts={**found.parts, last: (a, b[:-1])})
    with pytest.raises(ModelError, match="it was trained for another one"):
        wrong.merge(model)
    for name, value in model.state_dict().items():
        assert (value == before[name]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_rslora": True}, "use_rslora"),
        ({"use_dora": True, "bias": "all"}, "use_dora, bias"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"lora_alpha": float("nan")}, "not finite"),
        ({"r": 0}, "with r and lora_alpha"),
    ],
)
def test_what_is_no_plain_lora_is_refused(
    changes: dict[str, Any], message: str, tiny_gguf: Path, adapter: Path, tmp_path: Path
) -> None:
    (tmp_path / PEFT_FILE).write_bytes((adapter / PEFT_FILE).read_bytes())
    settings = json.loads((adapter / PEFT_SETTINGS).read_text())
    (tmp_path / PEFT_SETTINGS).write_text(json.dumps({**settings, **changes}))
    with pytest.raises(ModelError, match=message):
        Searcher.from_model(tiny_gguf, backend="torch", adapter=tmp_path / PEFT_FILE)


def test_bfloat16_is_read(tiny_gguf: Path, adapter: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load, save

    tensors = {k: v.to(torch.bfloat16) for k, v in load((adapter / PEFT_FILE).read_bytes()).items()}
    (tmp_path / PEFT_FILE).write_bytes(save(tensors))
    (tmp_path / PEFT_SETTINGS).write_bytes((adapter / PEFT_SETTINGS).read_bytes())
    found = logprobs(TorchBackend.load(tiny_gguf, dtype="float32", adapter=tmp_path / PEFT_FILE))
    exact = logprobs(TorchBackend.load(tiny_gguf, dtype="float32", adapter=adapter / PEFT_FILE))
    assert 0 < np.abs(found - exact).max() < 0.2


def test_a_head_is_used_with_its_adapter_only(tiny_gguf: Path, adapter: Path) -> None:
    with Searcher.from_model(tiny_gguf, adapter=adapter / GGUF_FILE) as searcher:
        head = random_head(searcher, 0, False, "last")
        identity = searcher.info.adapter
        with pytest.raises(HeadError, match=f"with no adapter, and it is used with {identity}"):
            searcher.reward(head)
        fitted = replace(head.card, model=replace(head.card.model, adapter=identity))
        own = Head(fitted, head.weights)
        assert searcher.reward(own) is own
    with (
        Searcher.from_model(tiny_gguf, adapter="none") as searcher,
        pytest.raises(HeadError, match=f"with {identity}, and it is used with none"),
    ):
        searcher.reward(own)


def test_safetensors_are_for_torch_and_need_their_settings(
    tiny_gguf: Path, adapter: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"llama\.cpp needs the adapter as GGUF"):
        Searcher.from_model(tiny_gguf, adapter=adapter / PEFT_FILE)
    alone = tmp_path / PEFT_FILE
    alone.write_bytes((adapter / PEFT_FILE).read_bytes())
    with pytest.raises(ModelError, match=PEFT_SETTINGS):
        Searcher.from_model(tiny_gguf, backend="torch", adapter=alone)
    alone.write_bytes(alone.read_bytes()[:-10])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        Searcher.from_model(tiny_gguf, backend="torch", adapter=alone)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "this version"),
        ('{"format": 2}', "this version"),
        ('{"format": 1}', "has no name, digest"),
        (replace(CARD, prompt="x").to_json(), "prompt is 'x'"),
        (replace(CARD, notes=1).to_json(), "has no notes"),  # type: ignore[arg-type]
    ],
)
def test_wrong_cards_are_refused(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_card(text, Path("a.gguf"))


def test_an_adapter_without_a_card_is_used(tiny_gguf: Path, adapter: Path, tmp_path: Path) -> None:
    """Such as one that llama.cpp's own script has converted."""
    from safetensors.numpy import load, save

    tensors = load((adapter / PEFT_FILE).read_bytes())
    (tmp_path / PEFT_FILE).write_bytes(save(tensors))
    settings = json.loads((adapter / PEFT_SETTINGS).read_text())
    (tmp_path / PEFT_SETTINGS).write_text(json.dumps({**settings, "lora_alpha": 8}))
    with Searcher.from_model(
        tiny_gguf, backend="torch", adapter=tmp_path / PEFT_FILE, dtype="float32"
    ) as searcher:
        assert searcher.info.adapter.startswith("adapter_model@")
        assert searcher.prompt_style().name == "signatures"


def test_the_command_says_what_is_wrong(tiny_gguf: Path, tmp_path: Path) -> None:
    file = tmp_path / "no.gguf"
    tools = tmp_path / "tools.json"
    tools.write_text('[{"name": "f"}]')
    result = run("search", "x", "--tools", tools, "--model", tiny_gguf, "--adapter", file)
    assert_error(result, "no.gguf: no such adapter file")
