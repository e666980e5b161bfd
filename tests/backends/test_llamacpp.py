"""The llama.cpp backend against a numpy model, a fresh decode, and llama.cpp's own greedy."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from support.backend_steps import (
    VOCAB,
    batch,
    dense,
    grow_random_tree,
    log_softmax,
    random_tokens,
)
from support.llama_greedy import llama_greedy
from support.tiny_model import TOOL_CALL, TinyLlama, vocabulary
from toolprm_lite import SearchConfig, Searcher
from toolprm_lite.backends.base import Batch, SequenceOp
from toolprm_lite.backends.llamacpp import LlamaCppBackend, native, tap
from toolprm_lite.backends.llamacpp import backend as backend_module
from toolprm_lite.errors import ConfigError, ContextError, ModelError, NoRoom, TemplateWarning

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

# One thread throughout: results are the same, and llama.cpp's threads wait for each other by
# spinning, which takes a hundred times as long where another process uses the cores.
# Attention and logits small enough for float16 in the KV cache to stay under 1e-4; a wrong mask
# changes them by 1e-2.
EXACT = {"attention_scale": 0.02, "logit_scale": 0.5}


@pytest.fixture(scope="module")
def exact_model() -> TinyLlama:
    return TinyLlama(**EXACT)


@pytest.fixture(scope="module")
def exact_gguf(exact_model: TinyLlama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exact_model.write(tmp_path_factory.mktemp("exact") / "exact.gguf")


@pytest.fixture
def backend(exact_gguf: Path) -> Iterator[LlamaCppBackend]:
    made = LlamaCppBackend(exact_gguf, threads=1, context=256)
    yield made
    made.close()


# What the model says about itself


def test_info_and_token_bytes(tiny_gguf: Path) -> None:
    made = LlamaCppBackend(tiny_gguf, threads=1, context=512, max_sequences=7)
    info = made.info
    assert (info.architecture, info.vocab_size, info.width, info.layers) == ("llama", VOCAB, 64, 3)
    assert (info.context, info.max_sequences) == (512, 7)
    assert (info.bos_token, info.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert "<|im_start|>" in (info.chat_template or "")
    expected = vocabulary(VOCAB)[0]
    assert info.eog_tokens == {expected.index(b"<|im_end|>")}
    expected[expected.index(b"<|im_end|>")] = b""
    assert list(made.token_bytes) == expected
    made.close()


@pytest.mark.parametrize(
    "text",
    ["", "hello", '{"name": "f"}', f"<|im_start|>user\né{TOOL_CALL}", "a\0b", "日本語 🙂"],
)
def test_tokenize_keeps_every_byte(backend: LlamaCppBackend, text: str) -> None:
    tokens = backend.tokenize(text)
    assert b"".join(backend.token_bytes[token] for token in tokens) == text.encode()


def test_tokenize_recognises_special_tokens(backend: LlamaCppBackend) -> None:
    special = vocabulary(VOCAB)[0].index(TOOL_CALL.encode())
    assert backend.tokenize(TOOL_CALL) == [special]


def test_tokenize_survives_unpaired_surrogates(backend: LlamaCppBackend) -> None:
    assert backend.tokenize("a\ud800b") == backend.tokenize("a?b")


# Exactness


def test_prefill_agrees_with_numpy(backend: LlamaCppBackend, exact_model: TinyLlama) -> None:
    prompt = random_tokens(120, seed=1)
    logits, _ = exact_model.forward(prompt)
    output = backend.prefill(prompt, None, VOCAB).output
    expected = log_softmax(logits[-1])
    np.testing.assert_allclose(dense(output)[0], expected, atol=1e-4)
    entropy = -(np.exp(expected) * expected).sum()
    np.testing.assert_allclose(output.entropy, [entropy], atol=1e-4)


@pytest.mark.parametrize("callback_only", [False, True])
@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_hidden_states_agree_with_numpy(
    backend: LlamaCppBackend,
    exact_model: TinyLlama,
    monkeypatch: pytest.MonkeyPatch,
    layer: int,
    callback_only: bool,
) -> None:
    if callback_only:
        monkeypatch.setattr(tap, "LAYER_INPUT_ARCHITECTURES", frozenset())
    prompt, branch = random_tokens(30, seed=2), random_tokens(5, seed=3)
    _, states = exact_model.forward(prompt + branch)
    backend.tap([layer])
    hidden = backend.prefill(prompt, None, 1).output.hidden
    assert hidden is not None
    assert hidden.shape == (1, 64)
    np.testing.assert_allclose(hidden[0], states[layer, len(prompt) - 1], atol=1e-4)
    # logits at the end only, states in the middle too
    step = batch([(1, branch, len(prompt))], [(SequenceOp.FORK, 0, 1)], hidden_at=[1, 2, 4])
    hidden = backend.decode(step, None, 1).hidden
    assert hidden is not None
    np.testing.assert_allclose(hidden, states[layer][[31, 32, 34]], atol=1e-4)
    backend.tap([])
    assert backend.prefill(prompt, None, 1).output.hidden is None


@pytest.mark.parametrize("callback_only", [False, True])
def test_several_layers_are_side_by_side(
    backend: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch, callback_only: bool
) -> None:
    if callback_only:
        monkeypatch.setattr(tap, "LAYER_INPUT_ARCHITECTURES", frozenset())
    prompt, branch = random_tokens(20, seed=6), random_tokens(4, seed=7)
    step = batch([(1, branch, 20)], [(SequenceOp.FORK, 0, 1)], hidden_at=[0, 3])

    def states(*layers: int) -> npt.NDArray[np.float32]:
        backend.tap(layers)
        backend.prefill(prompt, None, 1)
        hidden = backend.decode(step, None, 1).hidden
        assert hidden is not None
        return hidden

    np.testing.assert_array_equal(
        states(2, 0, 1), np.concatenate([states(2), states(0), states(1)], axis=1)
    )
    backend.tap([1, 2])
    backend.prefill(prompt, None, 1)
    last = batch([(1, branch, 20)], [(SequenceOp.FORK, 0, 1)], hidden_at=[])
    none = backend.decode(last, None, 1).hidden
    assert none is not None
    assert none.shape == (0, 128)
    backend.tap([])


@pytest.mark.parametrize("callback_only", [False, True])
def test_other_layers_cost_no_prompt(
    backend: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch, callback_only: bool
) -> None:
    if callback_only:
        monkeypatch.setattr(tap, "LAYER_INPUT_ARCHITECTURES", frozenset())
    prompt = random_tokens(20, seed=8)
    backend.tap([1])
    backend.clear()
    backend.prefill(prompt, None, 1)
    backend.tap([2, 0])
    again = backend.prefill(prompt, None, 1)
    assert (again.reused_tokens, again.prefill_tokens) == (19, 1)
    backend.tap([])


@pytest.mark.parametrize("callback_only", [False, True])
def test_hidden_states_of_a_prompt_longer_than_a_physical_batch(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, callback_only: bool
) -> None:
    if callback_only:
        monkeypatch.setattr(tap, "LAYER_INPUT_ARCHITECTURES", frozenset())
    monkeypatch.setattr(native, "BATCH", 256)
    monkeypatch.setattr(native, "UBATCH", 64)
    whole = LlamaCppBackend(tiny_gguf, threads=1, context=1024)
    model, prompt = TinyLlama(), random_tokens(600, seed=4)
    _, states = model.forward(prompt)
    for layer in (1, 3):
        whole.tap([layer])
        hidden = whole.prefill(prompt, None, 1).output.hidden
        assert hidden is not None
        np.testing.assert_allclose(hidden[0], states[layer, -1], atol=2e-2)
        step = batch([(1, prompt[400:600], 400)], hidden_at=[0, 63, 64, 130, 199])
        whole.prefill(prompt[:400], None, 1)
        fork = batch([], [(SequenceOp.FORK, 0, 1)])
        assert whole.decode(fork, None, 4).top_ids.shape == (0, 4)
        hidden = whole.decode(step, None, 1).hidden
        np.testing.assert_allclose(hidden, states[layer][[400, 463, 464, 530, 599]], atol=2e-2)
    whole.close()


def test_tap_changes_no_logits(backend: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = random_tokens(40, seed=5)
    step = batch([(1, [7], 40), (2, [8], 40)], [(SequenceOp.FORK, 0, 1), (SequenceOp.FORK, 0, 2)])

    def logprobs(*layers: int) -> npt.NDArray[np.float32]:
        backend.tap(layers)
        backend.clear()  # so that the prompt is decoded whole each time
        prefilled = dense(backend.prefill(prompt, None, VOCAB).output)
        return np.concatenate([prefilled, dense(backend.decode(step, None, VOCAB))])

    plain = logprobs()
    for layer in (0, 1, 3):
        np.testing.assert_array_equal(logprobs(layer), plain)
    monkeypatch.setattr(tap, "LAYER_INPUT_ARCHITECTURES", frozenset())
    for layer in (1, 2):
        np.testing.assert_array_equal(logprobs(layer), plain)
    np.testing.assert_array_equal(logprobs(), plain)


def test_masks_choose_among_allowed_tokens(backend: LlamaCppBackend) -> None:
    prompt, allowed = random_tokens(20, seed=6), [3, 31, 32, 351]
    mask = np.zeros((1, (VOCAB + 31) // 32), np.uint32)
    for token in allowed:
        mask[0, token // 32] |= np.uint32(1) << np.uint32(token % 32)
    free = dense(backend.prefill(prompt, None, VOCAB).output)[0]
    output = backend.prefill(prompt, mask, 6).output
    best = sorted(allowed, key=lambda token: -free[token])
    assert output.top_ids.tolist() == [[*best, -1, -1]]
    np.testing.assert_allclose(output.top_logprobs[0, :4], free[best], atol=1e-3)
    assert np.isneginf(output.top_logprobs[0, 4:]).all()


# Forks, drops, and cells used again


def test_random_tree_agrees_with_numpy(exact_gguf: Path, exact_model: TinyLlama) -> None:
    made = LlamaCppBackend(exact_gguf, threads=1, context=256, max_sequences=9)
    prompt, decoded = random_tokens(150, seed=7), 0
    for tokens, logprobs in grow_random_tree(made, prompt, 60, seed=8, vocab=VOCAB):
        expected = log_softmax(exact_model.forward(tokens)[0][-1])
        np.testing.assert_allclose(logprobs, expected, atol=1e-4)
        decoded += 1
    assert decoded > 150  # rows of 1 to 3 tokens in 106 cells: freed ones were used again
    made.close()


def test_random_tree_agrees_with_a_fresh_decode(smollm2_path: Path) -> None:
    made = LlamaCppBackend(smollm2_path, threads=1, context=512, max_sequences=9)
    fresh = LlamaCppBackend(smollm2_path, threads=1, context=512)
    vocab = made.info.vocab_size
    prompt = made.tokenize("<|im_start|>user\nList three rivers.<|im_end|>\n")
    worst = []
    for tokens, logprobs in grow_random_tree(made, prompt, 5, seed=9, vocab=vocab):
        fresh.clear()
        expected = dense(fresh.prefill(tokens, None, vocab).output, vocab)[0]
        # Kernels of another batch shape round activations otherwise.
        likely = expected > -10
        worst.append(float(np.abs(logprobs - expected)[likely].max()))
        first, second = np.partition(expected, -2)[-2:][::-1]
        if first - second > 0.5:
            assert int(logprobs.argmax()) == int(expected.argmax())
    assert len(worst) >= 10
    # Quantised kernels round otherwise in another batch; a wrong cache moves several nats.
    assert max(worst) < 1.0
    assert np.median(worst) < 0.5
    made.close()
    fresh.close()


def test_prefill_reuses_a_shared_beginning(
    backend: LlamaCppBackend, exact_model: TinyLlama
) -> None:
    first = random_tokens(100, seed=10)
    table = [
        (first, 0),
        (first, 99),  # the last token is decoded again, for its logits
        ([*first[:60], 5, 6, 7], 60),
        (first[:40], 39),
        (first[:40] + first[60:90], 40),
        ([9, *first], 0),
    ]
    for prompt, reused in table:
        result = backend.prefill(prompt, None, VOCAB)
        assert (result.reused_tokens, result.prefill_tokens) == (reused, len(prompt) - reused)
        expected = log_softmax(exact_model.forward(prompt)[0][-1])
        np.testing.assert_allclose(dense(result.output)[0], expected, atol=1e-4)


@pytest.mark.parametrize("size", [1, 7, 64, 100, 1000])
def test_prefill_in_parts_is_prefill_at_once(backend: LlamaCppBackend, size: int) -> None:
    prompt = random_tokens(150, seed=40)
    backend.tap([2])
    backend.clear()
    whole = backend.prefill(prompt, None, VOCAB).output
    for kept in (0, 33):
        backend.clear()
        if kept:
            backend.prefill([*prompt[:kept], 5], None, 1)
        asked = 0

        def stop() -> bool:
            nonlocal asked
            asked += 1
            return False

        parts = backend.prefill(prompt, None, VOCAB, chunk=size, stop=stop)
        assert (parts.reused_tokens, parts.prefill_tokens) == (kept, 150 - kept)
        assert asked == -(-(150 - kept) // size)
        np.testing.assert_allclose(dense(parts.output), dense(whole), atol=1e-4)
        np.testing.assert_allclose(parts.output.hidden, whole.hidden, atol=1e-4)
    backend.tap([])


def test_a_prefill_that_was_stopped_is_gone_on_with(
    backend: LlamaCppBackend, exact_model: TinyLlama
) -> None:
    prompt = random_tokens(150, seed=41)
    expected = log_softmax(exact_model.forward(prompt)[0][-1])
    backend.clear()
    for parts in range(3):
        answers = iter([False] * parts + [True])
        cut = backend.prefill(prompt, None, 1, chunk=30, stop=lambda answers=answers: next(answers))
        # What an earlier one put there is reused: 30 tokens of the first, 60 more of the second.
        assert cut.output is None
        assert (cut.reused_tokens, cut.prefill_tokens) == ((0, 0), (0, 30), (30, 60))[parts]
    other = backend.prefill([*prompt[:70], 3], None, VOCAB)
    assert other.reused_tokens == 70
    rest = backend.prefill(prompt, None, VOCAB, chunk=64, stop=lambda: False)
    assert rest.reused_tokens == 70
    np.testing.assert_allclose(dense(rest.output)[0], expected, atol=1e-4)


def test_a_recurrent_model_continues_a_stopped_prefill(tiny_mamba_gguf: Path) -> None:
    made = LlamaCppBackend(tiny_mamba_gguf, threads=1, context=512)
    prompt = random_tokens(150, seed=42)
    whole = dense(made.prefill(prompt, None, VOCAB).output)
    made.clear()
    answers = iter([False, False, True])
    cut = made.prefill(prompt, None, 1, chunk=40, stop=lambda: next(answers))
    assert (cut.output, cut.prefill_tokens) == (None, 80)
    rest = made.prefill(prompt, None, VOCAB, chunk=40)
    assert (rest.reused_tokens, rest.prefill_tokens) == (80, 70)
    np.testing.assert_allclose(dense(rest.output), whole, atol=1e-4)
    made.close()


def test_prefill_drops_branches(backend: LlamaCppBackend) -> None:
    prompt = random_tokens(100, seed=11)
    for _ in range(5):  # each time 100 of the 156 free cells
        backend.prefill(prompt, None, 1)
        backend.decode(batch([(1, prompt, 100)], [(SequenceOp.FORK, 0, 1)]), None, 1)


def test_recurrent_model_forks_and_goes_back_to_a_checkpoint(tiny_mamba_gguf: Path) -> None:
    made = LlamaCppBackend(tiny_mamba_gguf, threads=1, context=512)
    fresh = LlamaCppBackend(tiny_mamba_gguf, threads=1, context=512)
    shared = random_tokens(100, seed=12)
    table = [
        ([*shared, 1, 2], 0),
        ([*shared, 1, 2, 3], 102),  # continues where the last prompt ended
        ([*shared, 4, 5], 0),  # can't go back; learns where prompts part
        ([*shared, 6], 100),
        ([*shared[:90], 7], 0),
    ]
    for prompt, reused in table:
        result = made.prefill(prompt, None, VOCAB)
        assert result.reused_tokens == reused
        fresh.clear()
        expected = fresh.prefill(prompt, None, VOCAB).output
        np.testing.assert_allclose(dense(result.output), dense(expected), atol=1e-4)
    forks = [(SequenceOp.FORK, 0, 1), (SequenceOp.FORK, 0, 2)]
    made.decode(batch([(1, [11], 91), (2, [12], 91)], forks), None, VOCAB)
    step = batch([(3, [13, 14], 92), (2, [15], 92)], [(SequenceOp.FORK, 1, 3)])
    rows = dense(made.decode(step, None, VOCAB))
    for row, tail in zip(rows, ([11, 13, 14], [12, 15]), strict=True):
        fresh.clear()
        expected = fresh.prefill([*shared[:90], 7, *tail], None, VOCAB).output
        np.testing.assert_allclose(row, dense(expected)[0], atol=1e-4)
    with pytest.raises(ModelError, match="can't be read"):
        made.tap([1])
    made.close()
    fresh.close()


# No room


def test_no_room_leaves_everything_as_it_was(
    backend: LlamaCppBackend, exact_model: TinyLlama
) -> None:
    prompt = random_tokens(200, seed=13)
    tails = {1: random_tokens(20, seed=14), 2: random_tokens(20, seed=15)}
    backend.prefill(prompt, None, 1)
    forks = [(SequenceOp.FORK, 0, 1), (SequenceOp.FORK, 0, 2)]
    backend.decode(batch([(s, tail, 200) for s, tail in tails.items()], forks), None, 1)
    more = {1: random_tokens(10, seed=16), 3: random_tokens(10, seed=17)}
    full = [(1, more[1], 220), (3, more[3], 220)]
    with pytest.raises(NoRoom, match="for 20 tokens in a context of 256"):  # 16 are free
        backend.decode(batch(full, [(SequenceOp.FORK, 2, 3)]), None, 1)
    # the fork was carried out, so the same tokens go in once something is dropped: first row 3
    part = backend.decode(batch(full[1:]), None, VOCAB)
    retry = backend.decode(batch(full[:1], [(SequenceOp.DROP, 3, 0)]), None, VOCAB)
    for output, tokens in (
        (part, prompt + tails[2] + more[3]),
        (retry, prompt + tails[1] + more[1]),
    ):
        expected = log_softmax(exact_model.forward(tokens)[0][-1])
        np.testing.assert_allclose(dense(output)[0], expected, atol=1e-4)


def test_no_room_when_the_batch_is_split_in_physical_batches(
    exact_gguf: Path, exact_model: TinyLlama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "UBATCH", 16)
    made = LlamaCppBackend(exact_gguf, threads=1, context=256)
    prompt, tail = random_tokens(200, seed=18), random_tokens(70, seed=19)
    made.prefill(prompt, None, 1)
    with pytest.raises(NoRoom):
        made.decode(batch([(1, tail, 200)], [(SequenceOp.FORK, 0, 1)]), None, 1)
    # nothing of the first physical batches is left: all 56 cells are free
    output = made.decode(batch([(1, tail[:56], 200)]), None, VOCAB)
    expected = log_softmax(exact_model.forward(prompt + tail[:56])[0][-1])
    np.testing.assert_allclose(dense(output)[0], expected, atol=1e-4)
    made.close()


def test_more_rows_than_one_step_takes_is_no_room(exact_gguf: Path) -> None:
    made = LlamaCppBackend(exact_gguf, threads=1, context=256, max_sequences=2, max_prompts=1)
    made.prefill([1, 2], None, 1)
    step = batch([(1, [1, 2, 3, 4], 2)], [(SequenceOp.FORK, 0, 1)], every=True)
    with pytest.raises(NoRoom, match="in parts"):
        made.decode(step, None, 1)
    made.close()


def test_prompt_that_leaves_no_room(backend: LlamaCppBackend) -> None:
    short = random_tokens(50, seed=20)
    before = dense(backend.prefill(short, None, VOCAB).output)
    with pytest.raises(ContextError, match=r"300 tokens.*256.*--context"):
        backend.prefill(random_tokens(300, seed=21), None, 1)
    with pytest.raises(ContextError, match="241"):
        backend.prefill(random_tokens(241, seed=21), None, 1)
    with pytest.raises(ContextError, match="empty"):
        backend.prefill([], None, 1)
    backend.prefill(random_tokens(240, seed=21), None, 1)
    after = dense(backend.prefill(short, None, VOCAB).output)
    np.testing.assert_allclose(after, before, atol=1e-4)


# Wrong input


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (batch([(0, [1], 3)]), "sequences 0 to 0"),
        (batch([(200, [1], 3)]), "sequences 200"),
        (batch([(1, [1], 9)], [(SequenceOp.FORK, 0, 1)]), "could not decode"),
        (batch([(1, [100000], 3)], [(SequenceOp.FORK, 0, 1)]), "invalid token"),
        (batch([], [(SequenceOp.FORK, 0, 0)]), "fork"),
        (batch([], [(SequenceOp.FORK, 500, 1)]), "fork"),
        (batch([], [(SequenceOp.DROP, 0, 0)]), "drop"),
        (batch([], [(7, 0, 0)]), "unknown"),
    ],
)
def test_wrong_batches_are_refused(backend: LlamaCppBackend, step: Batch, message: str) -> None:
    backend.prefill([1, 2, 3], None, 1)
    with pytest.raises(ModelError, match=message):
        backend.decode(step, None, 1)
    backend.prefill([1, 2, 3, 4], None, 1)


def test_fork_into_a_live_sequence_replaces_it(
    backend: LlamaCppBackend, exact_model: TinyLlama
) -> None:
    prompt = random_tokens(20, seed=22)
    backend.prefill(prompt, None, 1)
    backend.decode(batch([(1, [5, 6, 7], 20)], [(SequenceOp.FORK, 0, 1)]), None, 1)
    output = backend.decode(batch([(1, [8], 20)], [(SequenceOp.FORK, 0, 1)]), None, VOCAB)
    expected = log_softmax(exact_model.forward([*prompt, 8])[0][-1])
    np.testing.assert_allclose(dense(output)[0], expected, atol=1e-4)


@pytest.mark.parametrize("layer", [-1, 4])
def test_layers_out_of_range(backend: LlamaCppBackend, layer: int) -> None:
    with pytest.raises(ModelError, match="0 to 3"):
        backend.tap([layer])


def test_files_that_are_no_model(
    tiny_gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a model")
    empty = tmp_path / "empty.gguf"
    empty.touch()
    for path, message in [
        (tmp_path / "none.gguf", "does not exist"),
        (tmp_path, "is a folder"),
        (text, "is not a GGUF file"),
        (empty, "is not a GGUF file"),
    ]:
        with pytest.raises(ModelError, match=message) as caught:
            LlamaCppBackend(path)
        assert str(path) in str(caught.value)
    data = tiny_gguf.read_bytes()
    for length in [4, 5, 24, 100, 1000, 5000, 20000, 100000, len(data) // 2, len(data) - 1]:
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(data[:length])
        with pytest.raises(ModelError, match=r"can't be loaded.*download it again"):
            LlamaCppBackend(cut)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_settings_out_of_range(tiny_gguf: Path) -> None:
    for settings, message in [
        ({"max_sequences": 0}, "between 1 and 252"),
        ({"max_sequences": 253}, "between 1 and 252"),
        ({"max_sequences": 256, "max_prompts": 1}, "between 1 and 255"),
        ({"max_prompts": 0}, "at least 1"),
    ]:
        with pytest.raises(ModelError, match=message):
            LlamaCppBackend(tiny_gguf, **settings)
    for settings, message in [
        ({"context": 8}, "context is 8; it must be an integer 32 .. "),
        ({"context": (1 << 32) + 100}, "context is 4294967396; it must be"),
        ({"context": 10**20}, "context is 100000000000000000000; it must be"),
        ({"context": 10**5000}, "context is an integer of thousands of digits"),
        ({"threads": 0}, "threads is 0; it must be an integer 1 .. "),
        ({"threads": 1000}, "threads is 1000; it must be an integer 1 .. "),
        ({"gpu_layers": -7}, "gpu_layers is -7; it must be an integer -1 .. "),
        ({"gpu_layers": 1 << 31}, "gpu_layers is 2147483648; it must be"),
    ]:
        with pytest.raises(ConfigError, match=message):
            LlamaCppBackend(tiny_gguf, **settings)


def test_a_context_that_does_not_fit_is_refused_before_it_is_taken(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 3 blocks of 2 heads of 16 wide keys and values in float16; scores of 4 heads, and a mask
    cell = 2 * 3 * 2 * 2 * 16 + 4 * 512 * 5
    monkeypatch.setattr(backend_module, "available_memory", lambda: 2048 * cell)
    LlamaCppBackend(tiny_gguf, threads=1, context=1792).close()
    with pytest.raises(ModelError, match=r"context of 4096 needs some .* give --context 1792$"):
        LlamaCppBackend(tiny_gguf, threads=1, context=4096)
    monkeypatch.setattr(backend_module, "available_memory", lambda: 100 * cell)
    with pytest.raises(ModelError, match="choose a smaller model"):
        LlamaCppBackend(tiny_gguf, threads=1)
    monkeypatch.setattr(backend_module, "available_memory", lambda: None)
    LlamaCppBackend(tiny_gguf, threads=1, context=4096).close()


def test_missing_package(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(ModelError, match=r"toolprm_lite\[llamacpp\]"):
        LlamaCppBackend(tiny_gguf)


def test_release_without_a_needed_function(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(llama_cpp, "llama_memory_seq_cp")
    with pytest.raises(ModelError, match=r"lacks llama_memory_seq_cp; .*llama-cpp-python=="):
        LlamaCppBackend(tiny_gguf)


def test_closed_model_says_so(tiny_gguf: Path) -> None:
    made = LlamaCppBackend(tiny_gguf)
    made.close()
    made.close()
    for call in (
        lambda: made.prefill([1], None, 1),
        lambda: made.tokenize("a"),
        lambda: made.token_bytes,
        lambda: made.tap([1]),
    ):
        with pytest.raises(ModelError, match="closed"):
            call()


def test_log_is_silent_unless_asked(tiny_gguf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    LlamaCppBackend(tiny_gguf).close()
    assert capfd.readouterr().err == ""
    LlamaCppBackend(tiny_gguf, threads=1, verbose=True).close()
    assert "llama" in capfd.readouterr().err


# llama.cpp's own greedy


@pytest.mark.parametrize(
    "question", ["What is the capital of France?", "Write a JSON object with two keys."]
)
def test_greedy_is_llama_cpps_own(smollm2_path: Path, question: str) -> None:
    made = LlamaCppBackend(smollm2_path, threads=1, context=512)
    prompt = made.tokenize(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
    expected = llama_greedy(smollm2_path, prompt, 40, threads=1)
    output = made.prefill(prompt, None, 1).output
    tokens: list[int] = []
    while True:
        tokens.append(int(output.top_ids[0, 0]))
        if len(tokens) == 40 or tokens[-1] in made.info.eog_tokens:
            break
        ops = [(SequenceOp.FORK, 0, 1)] if len(tokens) == 1 else []
        step = batch([(1, tokens[-1:], len(prompt) + len(tokens) - 1)], ops)
        output = made.decode(step, None, 1)
    assert tokens == expected
    made.close()


def test_a_searcher_that_is_forgotten_frees_its_model(tiny_gguf: Path) -> None:
    tool = {"name": "go", "parameters": {"type": "object", "properties": {}}}
    searcher = Searcher(LlamaCppBackend(tiny_gguf, threads=1, context=1024))
    searcher.search("go", [tool], SearchConfig(strategy="greedy", max_tokens=8))  # with its masks
    backend = weakref.ref(searcher.engine.backend)
    assert backend() is not None
    del searcher
    gc.collect()
    assert backend() is None


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (b"\xff\xfe\x1b[31mred\n\x9b", "\ufffd\ufffd [31mred \ufffd"),
        (b"one\0two", "one"),
        (b"", "odd"),
        (b"\n", "odd"),
        (b"n" * 3_000_000, "n" * 200),
    ],
    ids=["bytes", "null", "empty", "space", "long"],
)
def test_names_in_files_are_read_as_visible_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bytes, name: str
) -> None:
    path = write_with(tmp_path, monkeypatch, "general.name", written)
    made = LlamaCppBackend(path, context=64)
    assert made.info.name == name
    made.close()


def write_with(folder: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: bytes) -> Path:
    """The tiny model with other bytes in its metadata."""
    usual = gguf.GGUFWriter.add_string

    def add_string(self: gguf.GGUFWriter, name: str, text: str) -> None:
        usual(self, name, value if name == key else text)

    monkeypatch.setattr(gguf.GGUFWriter, "add_string", add_string)
    return TinyLlama().write(folder / "odd.gguf")


@pytest.mark.parametrize(
    "template",
    [b"{{ '\xff\xfe' }}", b"\xff" * 3_000_000, b"{{ 1/0 }}", b"{% for\0 %}", b"x" * 3_000_000],
    ids=["bytes", "long bytes", "error", "null", "long"],
)
def test_templates_in_files_end_in_a_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: bytes
) -> None:
    path = write_with(tmp_path, monkeypatch, "tokenizer.chat_template", template)
    tool = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    config = SearchConfig(max_tokens=2, beams=1, expand=1)
    with Searcher(LlamaCppBackend(path, context=2048)) as searcher:
        with pytest.warns(TemplateWarning, match="chat template failed.*ChatML is used instead"):
            result = searcher.search("Hi", [tool], config)
        assert result.stats.prompt_tokens > 50
