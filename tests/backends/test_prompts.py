"""Several prompts in one backend, and the states of those that are not in use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from support.backend_steps import VOCAB, batch, dense, log_softmax, random_tokens
from support.tiny_model import TinyLlama
from toolprm_lite import SearchConfig, Searcher, SearchRequest
from toolprm_lite.backends.base import Backend, SequenceOp
from toolprm_lite.backends.open import open_backend
from toolprm_lite.backends.prompts import PromptCache, most_shared
from toolprm_lite.errors import ConfigError, ContextError, ModelError, NoRoom

# Logits small enough for float16 in llama.cpp's cache, see test_llamacpp.
EXACT = {"attention_scale": 0.02, "logit_scale": 0.5}
CONTEXT = 512

Expected = Callable[[list[int]], npt.NDArray[np.float64]]
Opened = Callable[..., tuple[Backend, Expected]]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyLlama, Path]:
    model = TinyLlama(**EXACT)
    return model, model.write(tmp_path_factory.mktemp("exact") / "exact.gguf")


@pytest.fixture(params=["llamacpp", "qwen2", "static qwen2", "mistral", "gemma3_text"])
def opened(request: Any, exact: tuple[TinyLlama, Path]) -> Iterator[Opened]:
    """Opens a backend, and gives what the model says by itself."""
    made: list[Backend] = []

    def open_one(**settings: Any) -> tuple[Backend, Expected]:
        settings = {"context": CONTEXT, **settings}
        if request.param == "llamacpp":
            pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
            from toolprm_lite.backends.llamacpp import LlamaCppBackend

            model, path = exact
            made.append(LlamaCppBackend(path, threads=1, **settings))
            return made[-1], lambda tokens: log_softmax(model.forward(tokens)[0][-1])
        torch = pytest.importorskip("torch", reason="torch is not installed")
        pytest.importorskip("transformers", reason="transformers is not installed")
        from support.tiny_hf import tiny_hf, tiny_tokenizer
        from toolprm_lite.backends.torch import TorchBackend

        way, _, kind = request.param.rpartition(" ")
        reference = tiny_hf(kind)
        backend = TorchBackend(reference, tiny_tokenizer(), **settings)
        backend._model.static = way == "static"  # what a GPU replays, computed here on the CPU
        made.append(backend)

        def alone(tokens: list[int]) -> npt.NDArray[np.float64]:
            with torch.inference_mode():
                logits = reference(torch.tensor([tokens]), use_cache=False).logits[0, -1]
            return log_softmax(logits.numpy())

        return made[-1], alone

    yield open_one
    for backend in made:
        backend.close()


def agree(output: Any, *expected: npt.NDArray[np.float64]) -> None:
    np.testing.assert_allclose(dense(output), np.stack(expected), atol=1e-4)


# In the context


def test_branches_see_their_own_prompt_only(opened: Opened) -> None:
    backend, alone = opened()
    prompts = [random_tokens(60, seed=1), random_tokens(45, seed=2), random_tokens(30, seed=3)]
    for number, tokens in enumerate(prompts):
        result = backend.prefill(tokens, None, VOCAB, prompt=number)
        assert (result.reused_tokens, result.prefill_tokens) == (0, len(tokens))
        agree(result.output, alone(tokens))
    assert backend.prompt_cells == 135
    forks = [(SequenceOp.FORK, -n, n + 1) for n in range(3)]
    tails = [random_tokens(4 + n, seed=10 + n) for n in range(3)]
    rows = [(n + 1, tails[n], len(prompts[n])) for n in (1, 0, 2)]
    output = backend.decode(batch(rows, forks), None, VOCAB)
    agree(output, *(alone(prompts[n] + tails[n]) for n in (1, 0, 2)))
    # One has ended, and another takes its number while the others continue.
    backend.release(1)
    assert backend.prompt_cells == 90
    other = random_tokens(50, seed=4)
    agree(backend.prefill(other, None, VOCAB, prompt=1).output, alone(other))
    step = batch([(1, [5], 64), (2, [6, 7], 50), (3, [8], 36)], [(SequenceOp.FORK, -1, 2)])
    output = backend.decode(step, None, VOCAB)
    agree(
        output,
        alone([*prompts[0], *tails[0], 5]),
        alone([*other, 6, 7]),
        alone([*prompts[2], *tails[2], 8]),
    )
    # A prompt that is prefilled again drops its own branches, and no others.
    backend.prefill([*prompts[0][:50], 9], None, 1)
    agree(
        backend.decode(batch([(3, [9], 37)]), None, VOCAB),
        alone([*prompts[2], *tails[2], 8, 9]),
    )


def test_prompts_share_the_cells_of_their_beginning(opened: Opened) -> None:
    backend, alone = opened()
    shared = random_tokens(80, seed=5)
    first, second = shared + random_tokens(20, seed=6), shared + random_tokens(30, seed=7)
    backend.prefill(first, None, 1, prompt=0)
    result = backend.prefill(second, None, VOCAB, prompt=1)
    assert (result.reused_tokens, result.prefill_tokens) == (80, 30)
    agree(result.output, alone(second))
    assert backend.prompt_cells == 130
    # The same prompt again shares all but the token whose logits are wanted.
    assert backend.prefill(second, None, 1, prompt=2).reused_tokens == 109
    assert backend.prompt_cells == 131
    backend.release(0)
    backend.release(2)
    assert backend.prompt_cells == 110
    step = batch([(1, [3, 4], 110)], [(SequenceOp.FORK, -1, 1)])
    agree(backend.decode(step, None, VOCAB), alone([*second, 3, 4]))


def test_random_prompts_and_branches(opened: Opened) -> None:
    """Everything there is at once, for so long that cells and places are used again and again."""
    backend, alone = opened(context=256, max_sequences=8, max_prompts=3, prompt_cache=1 << 22)
    random = np.random.default_rng(8)
    lists = [random_tokens(int(random.integers(20, 60)), seed=20 + n) for n in range(5)]
    prompts: dict[int, list[int]] = {}
    branches: dict[int, tuple[int, list[int]]] = {}  # prompt, and the tokens after it
    decoded = 0
    for step in range(60):
        if len(prompts) < 3 and random.random() < 0.6:
            number = next(n for n in range(3) if n not in prompts)
            question = random_tokens(int(random.integers(1, 9)), seed=step)
            tokens = lists[random.integers(5)] + question
            chunk = None if step % 2 else 16
            result = backend.prefill(tokens, None, VOCAB, prompt=number, room=60, chunk=chunk)
            agree(result.output, alone(tokens))
            prompts[number] = tokens
        elif prompts and random.random() < 0.3:
            number = int(random.choice(list(prompts)))
            backend.release(number)
            del prompts[number]
            branches = {b: held for b, held in branches.items() if held[0] != number}
        ops = []
        for branch in list(branches):
            if random.random() < 0.2 or len(branches[branch][1]) > 10:
                ops.append((SequenceOp.DROP, branch, 0))
                del branches[branch]
        for _ in range(2):
            free = [b for b in range(1, 9) if b not in branches]
            if prompts and free:
                source = int(random.choice([*(-p for p in prompts), *branches]))
                held = branches.get(source) or (-source, [])
                ops.append((SequenceOp.FORK, source, free[0]))
                branches[free[0]] = (held[0], list(held[1]))
        rows = []
        for branch, (number, tail) in branches.items():
            if random.random() < 0.8:
                new = random_tokens(int(random.integers(1, 3)), seed=1000 + 10 * step + branch)
                rows.append((branch, new, len(prompts[number]) + len(tail)))
                tail += new
        output = backend.decode(batch(rows, ops), None, VOCAB)
        if rows:
            paths = [prompts[branches[b][0]] + branches[b][1] for b, *_ in rows]
            agree(output, *map(alone, paths))
            decoded += len(rows)
    assert decoded > 80


def test_hidden_states_with_another_prompt(opened: Opened) -> None:
    backend, _ = opened()
    backend.tap((1, 2))
    prompt, tail = random_tokens(40, seed=1), random_tokens(3, seed=2)
    step = batch([(1, tail, 40)], [(SequenceOp.FORK, 0, 1)], hidden_at=[0, 2])
    first = backend.prefill(prompt, None, 1).output
    expected = backend.decode(step, None, 1).hidden
    backend.clear()
    backend.prefill(random_tokens(70, seed=3), None, 1, prompt=1)
    again = backend.prefill(prompt, None, 1).output
    assert first is not None and again is not None  # noqa: PT018
    np.testing.assert_allclose(again.hidden, first.hidden, atol=1e-4)
    np.testing.assert_allclose(backend.decode(step, None, 1).hidden, expected, atol=1e-4)


def test_no_room_with_other_prompts_changes_nothing(opened: Opened) -> None:
    backend, alone = opened(context=256)
    first, second = random_tokens(120, seed=1), random_tokens(100, seed=2)
    backend.prefill(first, None, 1)
    backend.decode(batch([(1, [7], 120)], [(SequenceOp.FORK, 0, 1)]), None, 1)
    with pytest.raises(NoRoom, match="100 tokens and 40 cells"):
        backend.prefill(second, None, 1, prompt=1, room=40)
    with pytest.raises(ContextError, match="300 tokens"):
        backend.prefill(random_tokens(300, seed=3), None, 1, prompt=1)
    with pytest.raises(ModelError, match="prompt 16"):
        backend.prefill(second, None, 1, prompt=16)
    assert backend.prompt_cells == 120
    agree(backend.decode(batch([(1, [8], 121)]), None, VOCAB), alone([*first, 7, 8]))
    agree(backend.prefill(second, None, VOCAB, prompt=1, room=30).output, alone(second))


def test_a_stopped_prefill_continues_with_other_prompts(opened: Opened) -> None:
    backend, alone = opened()
    first, second = random_tokens(100, seed=1), random_tokens(90, seed=2)
    backend.prefill(first, None, 1)
    answers = iter([False, False, True])
    cut = backend.prefill(second, None, 1, prompt=1, chunk=20, stop=lambda: next(answers))
    assert (cut.output, cut.reused_tokens, cut.prefill_tokens) == (None, 0, 40)
    assert backend.prompt_cells == 140
    agree(
        backend.decode(batch([(1, [7], 100)], [(SequenceOp.FORK, 0, 1)]), None, VOCAB),
        alone([*first, 7]),
    )
    rest = backend.prefill(second, None, VOCAB, prompt=1)
    assert (rest.reused_tokens, rest.prefill_tokens) == (40, 50)
    agree(rest.output, alone(second))


# Beside it


@pytest.mark.parametrize("whole", [False, True])
def test_lists_of_tools_in_turn_are_computed_once(opened: Opened, whole: bool) -> None:
    backend, alone = opened()
    lists = [random_tokens(100, seed=n) for n in range(4)]
    for turn in range(3):
        for place, tools in enumerate(lists):
            question = [] if whole else random_tokens(10, seed=100 + 10 * turn + place)
            prompt = tools + question
            result = backend.prefill(prompt, None, VOCAB)
            assert result.reused_tokens == (0 if turn == 0 else 99 if whole else 100)
            agree(result.output, alone(prompt))
            step = batch([(1, [turn], len(prompt))], [(SequenceOp.FORK, 0, 1)])
            agree(backend.decode(step, None, VOCAB), alone([*prompt, turn]))
    assert backend.prompt_cells == len(prompt)  # what is not in use takes none
    backend.clear()
    assert backend.prefill(lists[0], None, 1).reused_tokens == 0


def test_the_least_recently_used_state_goes_first(opened: Opened) -> None:
    backend, _ = opened()
    cache = backend._sequences.cache  # type: ignore[attr-defined]
    lists = [random_tokens(100, seed=n) for n in range(4)]
    backend.prefill(lists[0], None, 1)
    backend.release(0)
    cache.limit = 2 * cache.bytes + cache.bytes // 2  # two of them, and a half
    backend.prefill(lists[1], None, 1)
    backend.release(0)
    assert backend.prefill(lists[0], None, 1).reused_tokens == 99
    backend.prefill(lists[2], None, 1)  # the state of 1 goes, when that of 2 comes
    backend.release(0)
    assert len(cache) == 2
    assert backend.prefill(lists[0], None, 1).reused_tokens == 99
    assert backend.prefill(lists[1], None, 1).reused_tokens == 0
    assert cache.bytes <= cache.limit
    none, _ = opened(prompt_cache=0)
    none.prefill(lists[0], None, 1)
    none.prefill(lists[1], None, 1)
    assert none.prefill(lists[0], None, 1).reused_tokens == 0


def test_a_state_may_go_while_it_is_read_back(opened: Opened) -> None:
    backend, alone = opened()
    cache = backend._sequences.cache  # type: ignore[attr-defined]
    lists = [random_tokens(100, seed=n) for n in (10, 11)]
    for prompt in (*lists, *lists):
        got = backend.prefill(prompt, None, VOCAB)
        agree(got.output, alone(prompt))
        cache.limit = cache.bytes or cache.limit  # one of them: the other makes way for it
    assert got.reused_tokens == 99
    assert len(cache) == 1


def test_a_state_comes_back_to_the_bit(opened: Opened) -> None:
    backend, _ = opened()
    backend.tap((1,))
    prompt, other = random_tokens(100, seed=1), random_tokens(100, seed=2)
    step = batch([(1, [3, 4, 5], 102)], [(SequenceOp.FORK, 0, 1)])
    longer = [*prompt, 8, 9]
    outputs = []
    for between in (False, True):
        backend.clear()
        backend.prefill(prompt, None, 1)
        if between:
            backend.prefill(other, None, 1)
        outputs.append(
            [backend.prefill(longer, None, VOCAB).output, backend.decode(step, None, VOCAB)]
        )
    for mine, theirs in zip(*outputs, strict=True):
        assert mine is not None and theirs is not None  # noqa: PT018
        np.testing.assert_array_equal(dense(mine), dense(theirs))
        np.testing.assert_array_equal(mine.hidden, theirs.hidden)


def test_a_recurrent_model_keeps_states_of_several_lists(tiny_mamba_gguf: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    from toolprm_lite.backends.llamacpp import LlamaCppBackend

    made = LlamaCppBackend(tiny_mamba_gguf, threads=1, context=512)
    fresh = LlamaCppBackend(tiny_mamba_gguf, threads=1, context=512)
    lists = [random_tokens(100, seed=n) for n in range(3)]
    for turn in range(4):
        for tools in lists:
            prompt = [*tools, turn, 7]
            result = made.prefill(prompt, None, VOCAB)
            # The second question shows where the prompts differ, the third continues from there.
            assert result.reused_tokens == (100 if turn >= 2 else 0)
            fresh.clear()
            expected = fresh.prefill(prompt, None, VOCAB).output
            np.testing.assert_allclose(dense(result.output), dense(expected), atol=1e-4)
    made.prefill([*lists[0], 9], None, 1, prompt=1)
    rows = [(1, [5], len(prompt)), (2, [6], 101)]
    step = batch(rows, [(SequenceOp.FORK, 0, 1), (SequenceOp.FORK, -1, 2)])
    both = dense(made.decode(step, None, VOCAB))
    for row, tokens in zip(both, ([*prompt, 5], [*lists[0], 9, 6]), strict=True):
        fresh.clear()
        np.testing.assert_allclose(
            row, dense(fresh.prefill(tokens, None, VOCAB).output)[0], atol=1e-4
        )
    made.close()
    fresh.close()


def ints(*values: int) -> npt.NDArray[np.int32]:
    return np.array(values, np.int32)


def test_the_cache_keeps_one_of_akin_prompts() -> None:
    cache: PromptCache[str] = PromptCache(100)
    cache.put(ints(1, 2, 3, 4), "first", 40)
    assert cache.best(ints(1, 2, 3, 9), False)[0] == 3
    assert cache.best(ints(1, 2, 3, 9), True) == (0, None)
    assert cache.stands_for(ints(1, 2, 7, 8))
    assert not cache.stands_for(ints(1, 2, 7, 8, 9))
    cache.put(ints(1, 2, 7, 8, 9), "second", 50)  # shares half of the first
    assert (len(cache), cache.bytes) == (1, 50)
    cache.put(ints(5, 6), "third", 50)
    cache.put(ints(8, 8), "fourth", 50)
    assert [cache.best(ints(n, 6, 0), False)[0] for n in (1, 5)] == [0, 2]
    cache.put(ints(3, 3), "too large", 101)
    assert (len(cache), cache.bytes) == (2, 100)
    cache.put(ints(8, 8), "anew", 60)
    assert (len(cache), cache.bytes) == (1, 60)
    held = {0: ints(1, 2, 3), 1: ints(1, 2, 4), 2: ints(1, 2)}
    assert most_shared(held, ints(1, 2, 4, 5), 0, False) == (3, 1)
    assert most_shared(held, ints(1, 2, 5), 1, False) == (2, 1)
    assert most_shared(held, ints(1, 2, 5), 1, True) == (2, 2)
    assert most_shared({}, ints(1), 3, False) == (0, 3)


# Whole searches


def tools_of(name: str) -> list[dict[str, Any]]:
    schema = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Paris"]}}}
    return [{"name": name, "description": name * 5, "parameters": {**schema, "required": ["city"]}}]


def test_search_many_on_a_real_cache(opened: Opened) -> None:
    """A random model's answers say little, but the same alone and at once."""
    config = SearchConfig(
        strategy="step-beam", beams=2, expand=3, max_tokens=40, tool_choice="required"
    )
    asked = [
        SearchRequest(f"Call {name}", tools_of(name), config)
        for name in ("weather", "clock", "news", "weather", "traffic", "clock")
    ]
    backend, _ = opened(context=8192)
    searcher = Searcher(backend)
    alone = [searcher.search(one.messages, one.tools, one.config) for one in asked]
    many = searcher.search_many(asked)
    assert [result.calls for result in many] == [result.calls for result in alone]
    assert all(result.complete for result in many)
    assert many[3].stats.reused_tokens > many[3].stats.prefill_tokens
    tight, _ = opened(context=max(r.stats.prompt_tokens for r in alone) + 250)
    again = Searcher(tight).search_many(asked)
    assert [result.calls for result in again] == [result.calls for result in alone]


@pytest.mark.parametrize("size", [-1, 1.5, True])
def test_the_caches_size_is_checked(size: Any, tiny_gguf: Path) -> None:
    with pytest.raises(ConfigError, match="prompt_cache"):
        open_backend(tiny_gguf, prompt_cache=size)
