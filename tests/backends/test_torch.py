"""The torch backend against separate full forward passes, and against transformers' own greedy."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.backend_steps import (
    VOCAB,
    batch,
    dense,
    grow_random_tree,
    log_softmax,
    random_tokens,
)
from toolprm_lite import SearchConfig, Searcher, _core
from toolprm_lite.backends.base import Batch, SequenceOp
from toolprm_lite.errors import ConfigError, ContextError, ModelError, NoRoom

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from transformers import AutoTokenizer  # noqa: E402

from support.tiny_hf import tiny_hf, tiny_tokenizer, write_tiny_hf  # noqa: E402
from toolprm_lite.backends.torch import TorchBackend, device_memory  # noqa: E402
from toolprm_lite.backends.torch.device_top_k import device_top_k  # noqa: E402
from toolprm_lite.backends.torch.hf_models import choose_device, choose_dtype  # noqa: E402
from toolprm_lite.backends.torch.sequences import Sequences  # noqa: E402

PLAIN = ["llama", "qwen2", "qwen3"]
KINDS = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text"]
TOOL = {
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Oslo", "Paris"]}},
        "required": ["city"],
    },
}


def opened(kind: str = "qwen2", **settings: Any) -> TorchBackend:
    return TorchBackend(tiny_hf(kind), tiny_tokenizer(), name=kind, **settings)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_hf("qwen2")


@pytest.fixture
def backend(model: Any) -> Iterator[TorchBackend]:
    made = TorchBackend(model, tiny_tokenizer(), name="tiny", context=256)
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_hf(tmp_path_factory.mktemp("hf") / "tiny-qwen2")


def whole(model: Any, tokens: list[int], layers: tuple[int, ...] = ()) -> tuple[Any, Any]:
    """Log-probabilities of the next token and the last token's states, by a plain forward pass."""
    with torch.inference_mode():
        output = model(torch.tensor([tokens]), output_hidden_states=True, use_cache=False)
    states = [output.hidden_states[layer][0, -1].numpy() for layer in layers]
    return log_softmax(output.logits[0, -1].numpy()), np.concatenate(states) if states else None


# The flat tree


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_random_tree_agrees_with_full_forward_passes(
    kind: str, static: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = {"sliding_window": 96} if static and kind not in PLAIN else {}
    reference = tiny_hf(kind, **windows)
    made = TorchBackend(reference, tiny_tokenizer(), context=96, max_sequences=9)
    made._model.static = static  # what a GPU replays, computed here on the CPU
    compactions = []
    compact = Sequences._compact
    monkeypatch.setattr(Sequences, "_compact", lambda self: (compactions.append(1), compact(self)))
    prompt, decoded = random_tokens(30, seed=1), 0
    for tokens, logprobs in grow_random_tree(made, prompt, 40, seed=2, vocab=VOCAB):
        expected, _ = whole(reference, tokens)
        np.testing.assert_allclose(logprobs, expected, atol=1e-4)
        decoded += 1
    assert decoded > 100
    assert compactions
    assert bool(made._model.steps) == static
    made.close()


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_agree_with_full_forward_passes(kind: str, static: bool) -> None:
    windows = {"sliding_window": 128} if static and kind not in PLAIN else {}
    reference = tiny_hf(kind, **windows)
    made = TorchBackend(reference, tiny_tokenizer(), context=128)
    made._model.static = static
    made.tap((2, 0, 1))
    prompt, first, second = (random_tokens(n, seed=n) for n in (40, 5, 3))
    output = made.prefill(prompt, None, 1).output
    assert output.hidden is not None
    np.testing.assert_allclose(output.hidden[0], whole(reference, prompt, (2, 0, 1))[1], atol=1e-4)
    forks = [(SequenceOp.FORK, 0, 1), (SequenceOp.FORK, 0, 2)]
    step = batch([(2, first, 40), (1, second, 40)], forks, hidden_at=[1, 4, 7])
    hidden = made.decode(step, None, 1).hidden
    assert hidden is not None
    paths = [prompt + first[:2], prompt + first, prompt + second]
    for row, tokens in zip(hidden, paths, strict=True):
        np.testing.assert_allclose(row, whole(reference, tokens, (2, 0, 1))[1], atol=1e-4)
    made.close()


def test_last_layer_is_the_state_before_the_final_norm(backend: TorchBackend, model: Any) -> None:
    backend.tap((3,))
    prompt = random_tokens(9, seed=3)
    hidden = backend.prefill(prompt, None, 1).output.hidden
    with torch.inference_mode():
        normed = model.model.norm(torch.from_numpy(hidden))
    np.testing.assert_allclose(normed.numpy()[0], whole(model, prompt, (3,))[1], atol=1e-4)


def test_prompts_longer_than_one_pass(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolprm_lite.backends.torch.backend._PREFILL", 16)
    made = TorchBackend(model, tiny_tokenizer(), context=256)
    prompt = random_tokens(75, seed=4)
    output = made.prefill(prompt, None, VOCAB).output
    np.testing.assert_allclose(dense(output)[0], whole(model, prompt)[0], atol=1e-4)


@pytest.mark.parametrize("kind", ["qwen2", "mistral", "gemma3_text"])
def test_prefill_reuses_a_shared_beginning(kind: str) -> None:
    reference, made = tiny_hf(kind), opened(kind, context=256)
    first = random_tokens(100, seed=10)
    table = [
        (first, 0),
        (first, 99),
        ([*first[:60], 5, 6, 7], 60),
        (first[:40], 39),
        (first[:40] + first[60:90], 40),
        ([9, *first], 0),
    ]
    for prompt, reused in table:
        result = made.prefill(prompt, None, VOCAB)
        assert (result.reused_tokens, result.prefill_tokens) == (reused, len(prompt) - reused)
        expected, _ = whole(reference, prompt)
        np.testing.assert_allclose(dense(result.output)[0], expected, atol=1e-4)
    made.clear()
    assert made.prefill(first, None, 1).reused_tokens == 0


@pytest.mark.parametrize("kind", ["qwen2", "gemma2"])
def test_prefill_in_parts_is_prefill_at_once(kind: str) -> None:
    made = opened(kind, context=256)
    prompt = random_tokens(150, seed=40)
    expected = dense(made.prefill(prompt, None, VOCAB).output)
    for size in (1, 40, 64):
        made.clear()
        parts = made.prefill(prompt, None, VOCAB, chunk=size)
        np.testing.assert_allclose(dense(parts.output), expected, atol=1e-4)
    made.clear()
    answers = iter([False, False, True])
    cut = made.prefill(prompt, None, 1, chunk=40, stop=lambda: next(answers))
    assert (cut.output, cut.reused_tokens, cut.prefill_tokens) == (None, 0, 80)
    rest = made.prefill(prompt, None, VOCAB, chunk=64)
    assert (rest.reused_tokens, rest.prefill_tokens) == (80, 70)
    np.testing.assert_allclose(dense(rest.output), expected, atol=1e-4)
    made.close()


def test_no_room_leaves_everything_as_it_was(backend: TorchBackend, model: Any) -> None:
    prompt = random_tokens(200, seed=13)
    tails = {1: random_tokens(20, seed=14), 2: random_tokens(20, seed=15)}
    backend.prefill(prompt, None, 1)
    forks = [(SequenceOp.FORK, 0, 1), (SequenceOp.FORK, 0, 2)]
    backend.decode(batch([(s, tail, 200) for s, tail in tails.items()], forks), None, 1)
    more = {1: random_tokens(10, seed=16), 3: random_tokens(10, seed=17)}
    full = [(1, more[1], 220), (3, more[3], 220)]
    with pytest.raises(NoRoom, match="for 20 tokens in a context of 256"):
        backend.decode(batch(full, [(SequenceOp.FORK, 2, 3)]), None, 1)
    part = backend.decode(batch(full[1:]), None, VOCAB)
    retry = backend.decode(batch(full[:1], [(SequenceOp.DROP, 3, 0)]), None, VOCAB)
    for output, tokens in (
        (part, prompt + tails[2] + more[3]),
        (retry, prompt + tails[1] + more[1]),
    ):
        np.testing.assert_allclose(dense(output)[0], whole(model, tokens)[0], atol=1e-4)


def test_an_interrupted_step_is_not_attended_to(
    backend: TorchBackend, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = random_tokens(20, seed=5)
    backend.prefill(prompt, None, 1)
    step = batch([(1, [1, 2], 20)], [(SequenceOp.FORK, 0, 1)])
    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", lambda **_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            backend.decode(step, None, 1)
    output = backend.prefill(prompt, None, VOCAB).output
    np.testing.assert_allclose(dense(output)[0], whole(model, prompt)[0], atol=1e-4)


def test_greedy_is_transformers_own(backend: TorchBackend, model: Any) -> None:
    for seed in range(20):
        prompt = random_tokens(10 + seed, seed=seed)
        ids = torch.tensor([prompt])
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        expected = made[0, len(prompt) :].tolist()
        token = int(backend.prefill(prompt, None, 1).output.top_ids[0, 0])
        tokens = [token]
        ops = [(SequenceOp.FORK, 0, 1)]
        for place in range(11):
            output = backend.decode(batch([(1, [token], len(prompt) + place)], ops), None, 1)
            token, ops = int(output.top_ids[0, 0]), []
            tokens.append(token)
        assert tokens == expected


# The likeliest tokens


@pytest.mark.parametrize("masked", [False, True])
def test_device_top_k_is_the_cores(masked: bool) -> None:
    random = np.random.default_rng(6)
    logits = (4 * random.normal(size=(9, 101))).astype(np.float32)
    logits[3, 7] = -np.inf
    masks = None
    if masked:
        masks = random.integers(0, 2**32, size=(9, 4), dtype=np.uint32)
        masks[2] = [1 << 5, 0, 0, 1 << 4]  # two tokens: the rest of the row is padding
        masks[4] = 0
    ours = device_top_k(torch.from_numpy(logits), masks, 12)
    for mine, core in zip(ours, _core.top_k(logits, masks, 12), strict=True):
        assert mine.dtype == core.dtype
        np.testing.assert_allclose(mine, core, atol=2e-5)


@pytest.mark.parametrize("k", [4, 400])
def test_static_steps_choose_as_others_do(backend: TorchBackend, k: int) -> None:
    prompt = random_tokens(8, seed=7)
    forks = [(SequenceOp.FORK, 0, branch) for branch in (1, 2, 3)]
    step = batch([(1, [5, 6], 8), (2, [7], 8), (3, [9], 8)], forks, hidden_at=[1, 3])
    masks = np.random.default_rng(8).integers(0, 2**32, size=(3, VOCAB // 32), dtype=np.uint32)
    backend.tap((1, 2))
    outputs = []
    for static in (False, True):
        backend._model.static = static
        backend.prefill(prompt, None, 1)
        outputs.append(backend.decode(step, masks, k))
    for name in ("top_ids", "top_logprobs", "entropy", "hidden"):
        mine, other = (getattr(output, name) for output in outputs)
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine, other, atol=1e-4)


def test_masks_choose_among_allowed_tokens(backend: TorchBackend) -> None:
    prompt = random_tokens(8, seed=7)
    plain = backend.prefill(prompt, None, VOCAB).output
    mask = np.zeros((1, VOCAB // 32), np.uint32)
    mask[0, 3] = 0b1010
    output = backend.prefill(prompt, mask, 4).output
    assert sorted(output.top_ids[0, :2].tolist()) == [97, 99]
    assert output.top_ids[0, 2:].tolist() == [-1, -1]
    np.testing.assert_allclose(
        output.top_logprobs[0, :2], dense(plain)[0, output.top_ids[0, :2]], atol=1e-5
    )


# The vocabulary


def test_a_gguf_file_is_the_same_model_under_both_backends(tiny_gguf: Path) -> None:
    llamacpp = pytest.importorskip("toolprm_lite.backends.llamacpp")
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    pytest.importorskip("gguf")
    other = llamacpp.LlamaCppBackend(tiny_gguf, threads=1, context=256)
    made = TorchBackend.load(tiny_gguf, device="cpu", dtype="float32", context=256)
    assert list(made.token_bytes) == list(other.token_bytes)
    for name in ("name", "architecture", "vocab_size", "width", "layers", "eog_tokens"):
        assert getattr(made.info, name) == getattr(other.info, name)
    assert made.info.chat_template == other.info.chat_template
    text = "<|im_start|>user\nIs it \t warm in Zürich?\ud83d<|im_end|>\n"
    assert made.tokenize(text) == other.tokenize(text)
    for backend in (made, other):
        backend.tap((1, 2))
    tokens = random_tokens(40, seed=8)
    mine, theirs = (one.prefill(tokens, None, VOCAB).output for one in (made, other))
    np.testing.assert_allclose(dense(mine), dense(theirs), atol=5e-2)
    np.testing.assert_allclose(mine.hidden, theirs.hidden, atol=2e-2)
    made.close()
    other.close()


def test_sentencepiece_like_vocabularies() -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    from toolprm_lite.backends.torch.hf_tokens import read_vocabulary

    words = ["<unk>", "<s>", "</s>", "<0x0A>", "<0xE2>", "▁", "▁the", "é"]
    core = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[]))
    core.add_special_tokens(["<s>", "</s>", "<end_of_turn>"])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    tokens, ends = read_vocabulary(PreTrainedTokenizerFast(tokenizer_object=core), 10, {2})
    assert tokens == [
        b"<unk>", b"<s>", b"", b"\n", b"\xe2", b" ", b" the", "é".encode(), b"", b"",
    ]  # fmt: skip
    assert ends == {2, 8}
    words = ["a", "</s>", "[PAD2]", "[PAD9]", "Ġa"]  # as in Qwen's: an end that is a plain token
    plain = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[]))
    plain.decoder = decoders.ByteLevel()
    tokens, ends = read_vocabulary(PreTrainedTokenizerFast(tokenizer_object=plain), 6, {4})
    assert tokens == [b"a", b"", b"", b"[PAD9]", b"", b""]
    assert ends == {1, 4}
    core.decoder = decoders.WordPiece()
    with pytest.raises(ModelError, match="WordPiece is not known"):
        read_vocabulary(PreTrainedTokenizerFast(tokenizer_object=core), 10, {2})


# Models that the application holds, and whole searches


def test_an_applications_model_is_left_as_it_was(model: Any) -> None:
    before = model.config._attn_implementation
    ids = torch.tensor([random_tokens(12, seed=9)])
    with torch.inference_mode():
        plain = model(ids).logits
    searcher = Searcher.from_model(model, tokenizer=tiny_tokenizer())
    config = SearchConfig(
        strategy="step-beam", beams=2, expand=4, max_tokens=48, tool_choice="required"
    )
    result = searcher.search("Weather in Oslo?", [TOOL], config, reward="policy")
    assert result.stats.steps
    assert model.config._attn_implementation == before
    assert not any(module._forward_pre_hooks for module in model.modules())
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, plain)
    searcher.close()


def test_a_folder_searches_as_the_object_does(model: Any, folder: Path) -> None:
    config = SearchConfig(beams=2, expand=4, max_tokens=48, seed=3, tool_choice="required")
    held = Searcher.from_model(model, tokenizer=AutoTokenizer.from_pretrained(folder))
    read = Searcher.from_model(folder, device="cpu", dtype="float32")
    results = [s.search("Weather in Oslo?", [TOOL], config, reward="policy") for s in (held, read)]
    assert results[0].text == results[1].text
    assert results[0].stats.decode_tokens == results[1].stats.decode_tokens
    assert held.vocabulary_hash == read.vocabulary_hash
    assert read.info.name == "tiny-qwen2"
    assert read.info.architecture == "qwen2"


def test_objects_and_paths_are_not_mixed(model: Any, folder: Path, tiny_gguf: Path) -> None:
    with pytest.raises(ConfigError, match="needs its tokenizer"):
        Searcher.from_model(model)
    with pytest.raises(ConfigError, match="not with a path"):
        Searcher.from_model(folder, tokenizer=tiny_tokenizer())
    with pytest.raises(ConfigError, match="gpu_layers is for llamacpp"):
        Searcher.from_model(folder, gpu_layers=3)
    with pytest.raises(ConfigError, match="device and dtype are for the torch"):
        Searcher.from_model(tiny_gguf, device="cpu")


# Models that can't be driven


def test_architectures_are_tried_out_or_refused() -> None:
    stable = TorchBackend(tiny_hf("stablelm"), tiny_tokenizer(), context=128)
    assert stable.info.architecture == "stablelm"
    with pytest.raises(ModelError, match=r"bloom.*(other logits|branch by branch).*llamacpp"):
        TorchBackend(tiny_hf("bloom", n_head=4), tiny_tokenizer(), context=128)
    with pytest.raises(ModelError, match=r"mamba.*linear_attention.*llamacpp"):
        TorchBackend(tiny_hf("mamba"), tiny_tokenizer(), context=128)
    hybrid = {"layer_types": ["conv", "full_attention", "conv"], "block_dim": 64}
    with pytest.raises(ModelError, match=r"lfm2.*layers of type conv"):
        TorchBackend(tiny_hf("lfm2", **hybrid), tiny_tokenizer(), context=128)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (batch([(0, [1], 3)]), "sequences 0 to 0"),
        (batch([(200, [1], 3)]), "sequences 200"),
        (batch([(1, [1], 3)]), "sequence 1 holds nothing"),
        (batch([(1, [100000], 3)], [(SequenceOp.FORK, 0, 1)]), "invalid token"),
        (batch([], [(SequenceOp.FORK, 0, 0)]), "fork"),
        (batch([], [(SequenceOp.FORK, 5, 1)]), "sequence 5 holds nothing"),
        (batch([], [(SequenceOp.DROP, 0, 0)]), "drop"),
        (batch([], [(7, 0, 0)]), "unknown"),
    ],
)
def test_wrong_batches_are_refused(backend: TorchBackend, step: Batch, message: str) -> None:
    backend.prefill([1, 2, 3], None, 1)
    with pytest.raises(ModelError, match=message):
        backend.decode(step, None, 1)
    backend.prefill([1, 2, 3, 4], None, 1)


def test_fork_into_a_live_sequence_replaces_it(backend: TorchBackend, model: Any) -> None:
    prompt = random_tokens(20, seed=22)
    backend.prefill(prompt, None, 1)
    forks = [(SequenceOp.FORK, 0, 1), (SequenceOp.FORK, 0, 2)]
    backend.decode(batch([(1, [5, 6, 7], 20), (2, [8], 20)], forks), None, 1)
    step = batch([(1, [9], 21)], [(SequenceOp.FORK, 2, 1)])
    output = backend.decode(step, None, VOCAB)
    np.testing.assert_allclose(dense(output)[0], whole(model, [*prompt, 8, 9])[0], atol=1e-4)


def test_batches_without_tokens(backend: TorchBackend) -> None:
    backend.tap((1,))
    backend.prefill([1, 2, 3], None, 1)
    output = backend.decode(batch([], [(SequenceOp.FORK, 0, 1)]), None, 5)
    assert output.top_ids.shape == (0, 5)
    assert output.hidden is not None
    assert output.hidden.shape == (0, 64)


def test_prompts_without_room_and_wrong_settings(backend: TorchBackend, model: Any) -> None:
    with pytest.raises(ContextError, match=r"300 tokens.*256.*--context"):
        backend.prefill(random_tokens(300, seed=21), None, 1)
    with pytest.raises(ContextError, match="empty"):
        backend.prefill([], None, 1)
    with pytest.raises(ModelError, match="outside the vocabulary"):
        backend.prefill([400], None, 1)
    with pytest.raises(ModelError, match="layers are 0 to 3"):
        backend.tap((4,))
    with pytest.raises(ConfigError, match=r"context is 8; it must be an integer 32 \.\. "):
        TorchBackend(model, tiny_tokenizer(), context=8)
    with pytest.raises(ModelError, match="must be at least"):
        TorchBackend(model, tiny_tokenizer(), max_sequences=0)
    backend.close()
    with pytest.raises(ModelError, match="closed"):
        backend.tokenize("x")


def test_a_models_own_code_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    asked: dict[str, Any] = {}
    for name in ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM"):
        kind = getattr(transformers, name)
        usual = kind.from_pretrained

        def recorded(*args: Any, _name: str = name, _usual: Any = usual, **options: Any) -> Any:
            asked[_name] = options.get("trust_remote_code")
            return _usual(*args, **options)

        monkeypatch.setattr(kind, "from_pretrained", recorded)
    TorchBackend.load(folder).close()
    assert asked == dict.fromkeys(("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM"), False)


def test_a_folder_with_code_of_its_own_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "own"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="transformers can't load it"):
        TorchBackend.load(copy)
    assert not (tmp_path / "ran").exists()


def test_a_hub_id_that_can_not_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = "organisation/name: no such file or folder, and as a model of the hub"
    with pytest.raises(ModelError, match=message):
        TorchBackend.load("organisation/name")


def test_sources_that_are_no_model(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        TorchBackend.load(tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    with pytest.raises(ModelError, match="transformers can't load it"):
        TorchBackend.load(broken)
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(ModelError, match="transformers can't load it"):
        TorchBackend.load(garbage)
    with pytest.raises(ConfigError, match="threads is 0"):
        TorchBackend.load(folder, threads=0)
    with pytest.raises(ModelError, match="dtype is 'int8'"):
        TorchBackend.load(folder, dtype="int8")
    with pytest.raises(ModelError, match="device is 'quantum'"):
        TorchBackend.load(folder, device="quantum")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_a_gpu_that_is_not_there(folder: Path) -> None:
    with pytest.raises(ModelError, match="sees no CUDA GPU; use cpu"):
        TorchBackend.load(folder, device="cuda")


def test_dtype_on_a_cpu_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_hf("qwen2").config
    cpu = choose_device("cpu")
    for ratio, expected in ((2.0, torch.bfloat16), (0.9, torch.float32)):
        seconds = {torch.float32: ratio, torch.bfloat16: 1.0}
        monkeypatch.setattr(
            "toolprm_lite.backends.torch.hf_models._seconds_of_product",
            lambda dtype, *_, seconds=seconds: seconds[dtype],
        )
        assert choose_dtype("auto", cpu, config) == expected
    assert choose_dtype("float16", cpu, config) == torch.float16


def test_missing_packages_name_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("toolprm_lite.backends.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"needs transformers; .*toolprm_lite\[torch\]"):
        Searcher.from_model(folder)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
def test_a_gpu_agrees_with_the_cpu(folder: Path) -> None:
    tokens = random_tokens(60, seed=30)
    outputs = []
    for device in ("cpu", "cuda"):
        made = TorchBackend.load(folder, device=device, dtype="float32", context=256)
        made.tap((1, 2))
        made.prefill(tokens, None, 1)
        forks = [(SequenceOp.FORK, 0, 1), (SequenceOp.FORK, 0, 2)]
        step = batch([(1, [5, 6], 60), (2, [7], 60)], forks)
        outputs.append(made.decode(step, None, VOCAB))
        made.close()
    np.testing.assert_allclose(dense(outputs[1]), dense(outputs[0]), atol=1e-3)
    np.testing.assert_allclose(outputs[1].hidden, outputs[0].hidden, atol=1e-3)


def test_a_context_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_hf("qwen2")
    config = model.config
    cell = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads
    cell *= config.hidden_size // config.num_attention_heads
    monkeypatch.setattr(device_memory, "available_memory", lambda: 1024 * cell)
    TorchBackend(model, tiny_tokenizer(), context=896).close()
    with pytest.raises(ModelError, match=r"context of 1024 needs some .* give --context 768$"):
        TorchBackend(model, tiny_tokenizer(), context=1024)
