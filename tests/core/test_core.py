"""The parts of the core that are used alone: selection, draws, the ledger."""

from __future__ import annotations

import json
import math
import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolprm_lite import _core


def reference_top_k(row: np.ndarray, allowed: np.ndarray, k: int):
    logits = row.astype(np.float64)
    logprobs = logits - np.logaddexp.reduce(logits)
    order = [t for t in np.lexsort((np.arange(len(row)), -logits)) if allowed[t]][:k]
    return order, logprobs[order], -(np.exp(logprobs) * logprobs).sum()


@pytest.mark.parametrize("vocabulary", [1, 31, 32, 33, 511, 1000, 49152])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("k", [1, 7, 64])
def test_top_k(vocabulary: int, masked: bool, k: int) -> None:
    rng = np.random.default_rng(vocabulary + k)
    rows = 3
    logits = (rng.standard_normal((rows, vocabulary)) * 5).astype(np.float32)
    logits[0] = np.round(logits[0])  # ties
    allowed = rng.random((rows, vocabulary)) < 0.3 if masked else np.ones_like(logits, bool)
    if masked:
        allowed[2] = False
    padded = np.zeros((rows, (vocabulary + 31) // 32 * 32), np.uint8)
    padded[:, :vocabulary] = allowed
    masks = np.packbits(padded, axis=1, bitorder="little").view(np.uint32)
    tokens, logprobs, entropy = _core.top_k(logits, masks if masked else None, k)
    assert tokens.shape == logprobs.shape == (rows, k)
    for row in range(rows):
        expected, values, spread = reference_top_k(logits[row], allowed[row], k)
        count = len(expected)
        assert tokens[row, :count].tolist() == expected
        assert (tokens[row, count:] == -1).all()
        assert np.isneginf(logprobs[row, count:]).all()
        np.testing.assert_allclose(logprobs[row, :count], values, atol=2e-5)
        assert entropy[row] == pytest.approx(spread, abs=1e-4)


def test_top_k_of_extreme_logits() -> None:
    logits = np.array([[1e4, -1e4, 0.0, -np.inf]], np.float32)
    tokens, logprobs, entropy = _core.top_k(logits, None, 4)
    assert tokens.tolist() == [[0, 2, 1, -1]]
    assert logprobs[0, 0] == pytest.approx(0.0, abs=1e-6)
    assert entropy[0] == pytest.approx(0.0, abs=1e-6)
    assert np.isfinite(logprobs[0, :3]).all()


def test_top_k_refuses_wrong_shapes() -> None:
    logits = np.zeros((2, 40), np.float32)
    for masks in (np.zeros((1, 2), np.uint32), np.zeros((2, 1), np.uint32)):
        with pytest.raises(ValueError, match="masks"):
            _core.top_k(logits, masks, 4)
    with pytest.raises(ValueError, match="logits"):
        _core.top_k(logits[0], None, 4)
    with pytest.raises(ValueError, match="k must"):
        _core.top_k(logits, None, 0)


def draw(probabilities: list[float], draws: int, **settings: float) -> Counter[int]:
    values = np.log(np.array(probabilities, np.float32))
    options = {"path": 7, "temperature": 1.0, "top_k": 64, "top_p": 1.0, "seed": 0, **settings}
    tokens = np.arange(len(values), dtype=np.int32) + 100
    return Counter(_core.draw(tokens, values, draws=draws, **options).tolist())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.25, 0.15, 0.07, 0.03]),
        ({"temperature": 0.5}, [p * p / 0.3408 for p in (0.5, 0.25, 0.15, 0.07, 0.03)]),
        ({"top_k": 2}, [2 / 3, 1 / 3]),
        ({"top_p": 0.76}, [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9]),
        ({"top_p": 0.5}, [1.0]),
        ({"temperature": 0.0}, [1.0]),
    ],
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_draws_follow_the_distribution(options, expected: list[float], seed: int) -> None:
    draws = 20_000
    counts = draw([0.5, 0.25, 0.15, 0.07, 0.03], draws, seed=seed, **options)
    assert set(counts) <= set(range(len(expected)))
    chi_square = sum((counts[i] - p * draws) ** 2 / (p * draws) for i, p in enumerate(expected))
    assert chi_square < 23.5  # 4 degrees of freedom, once in 10,000


def test_draws_of_one_path_are_independent_of_another() -> None:
    pairs: Counter[tuple[int, int]] = Counter()
    values = np.log(np.array([0.5, 0.5], np.float32))
    tokens = np.array([3, 9], np.int32)
    args = {"temperature": 1.0, "top_k": 2, "top_p": 1.0, "seed": 5}
    first = _core.draw(tokens, values, path=1, draws=10_000, **args)
    second = _core.draw(tokens, values, path=2, draws=10_000, **args)
    pairs.update(zip(first.tolist(), second.tolist(), strict=True))
    chi_square = sum((pairs[a, b] - 2500) ** 2 / 2500 for a in (0, 1) for b in (0, 1))
    assert chi_square < 21.1  # 3 degrees of freedom, once in 10,000


def test_a_draw_keeps_its_token_when_others_move() -> None:
    values = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    tokens = np.array([5, 6, 7, 8], np.int32)
    args = {"path": 1, "draws": 5000, "temperature": 1.0, "top_k": 4, "top_p": 1.0, "seed": 5}
    before = tokens[_core.draw(tokens, values, **args)]
    order = [1, 0, 3, 2]
    shifted = (values + np.float32(1e-3) * np.arange(4, dtype=np.float32))[order]
    after = tokens[order][_core.draw(tokens[order], shifted, **args)]
    assert (before == after).mean() > 0.995


def test_nothing_to_draw_from() -> None:
    empty = np.array([], np.int32)
    assert _core.draw(empty, empty.astype(np.float32), 0, 3, 1.0, 4, 1.0, 0).tolist() == [-1] * 3


class Model:
    """The ledger as one would write it without caring for speed: a path for each sequence."""

    def __init__(self, prompt: int) -> None:
        self.paths: dict[int, list[int]] = {0: []}
        self.prompt = prompt

    def living(self) -> set[int]:
        return {cell for path in self.paths.values() for cell in path}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_ledger_agrees_with_a_plain_one(data: st.DataObject) -> None:
    cells, prompt, sequences = 40, 5, 6
    ledger = _core.KvLedger(sequences, cells, prompt)
    model = Model(prompt)
    cache = [f"prompt{i}" for i in range(prompt)]  # what a flat cache would hold, by place
    written: dict[int, str] = {}
    for number in range(data.draw(st.integers(1, 60))):
        action = data.draw(
            st.sampled_from(
                ["fork", "append", "append", "append", "shorten", "drop", "settle", "compact"]
            )
        )
        others = [s for s in model.paths if s != 0]
        if action == "fork":
            source = data.draw(st.sampled_from(sorted(model.paths)))
            made = ledger.fork(source)
            assert (made == -1) == (len(others) == sequences)
            if made != -1:
                assert made not in model.paths
                model.paths[made] = list(model.paths[source])
                assert ledger.take_ops().tolist() == [[0, source, made]]
        elif action == "append" and others:
            sequence = data.draw(st.sampled_from(others))
            full = prompt + len(model.living()) == cells
            cell = ledger.append(sequence)
            assert (cell == -1) == full
            if cell != -1:
                assert cell not in model.living()
                model.paths[sequence].append(cell)
                written[cell] = f"token{number}"
                place = ledger.place(cell)
                cache += [""] * (place + 1 - len(cache))
                cache[place] = written[cell]
        elif action == "shorten" and others:
            sequence = data.draw(st.sampled_from(others))
            path = model.paths[sequence]
            count = data.draw(st.integers(0, len(path)))
            ledger.shorten(sequence, count)
            del path[len(path) - count :]
        elif action == "settle":
            ledger.settle()
            last = max((ledger.place(cell) for cell in model.living()), default=prompt - 1)
            assert ledger.end == last + 1
        elif action == "drop" and others:
            sequence = data.draw(st.sampled_from(others))
            ledger.drop(sequence)
            del model.paths[sequence]
            assert ledger.take_ops().tolist() == [[1, sequence, 0]]
        elif action == "compact":
            old = ledger.compact().tolist()
            assert len(old) == len(set(old)) == prompt + len(model.living())
            cache = [cache[place] for place in old]
            assert ledger.end == len(cache)
        assert ledger.used == prompt + len(model.living())
        for sequence, path in model.paths.items():
            if not path:
                continue
            assert ledger.tip(sequence) == path[-1]
            (mask,) = ledger.ancestor_mask([path[-1]], len(cache))
            seen = [text for text, bit in zip(cache, mask, strict=True) if bit]
            expected = {*(f"prompt{i}" for i in range(prompt)), *(written[c] for c in path)}
            assert len(seen) == len(expected)
            assert set(seen) == expected


def test_the_ledger_takes_back() -> None:
    ledger = _core.KvLedger(2, 10, 4)
    sequence = ledger.fork(0)
    for _ in range(6):
        assert ledger.append(sequence) >= 0
    assert ledger.append(sequence) == -1
    ledger.shorten(sequence, 4)
    assert ledger.used == 6
    assert ledger.append(sequence) >= 0
    assert not ledger.extend(sequence, 4)
    assert ledger.used == 7
    assert ledger.extend(sequence, 3)
    with pytest.raises(ValueError, match="ledger"):
        _core.KvLedger(2, 3, 4)


def test_a_ledger_may_be_limited_for_a_time() -> None:
    ledger = _core.KvLedger(4, 20, 5)
    first, second = ledger.fork(0), ledger.fork(0)
    assert ledger.extend(first, 5)
    ledger.limit(2, 10)
    assert (ledger.fork(0), ledger.append(second)) == (-1, -1)
    ledger.limit(1, 7)  # less than is taken: nothing is taken away
    assert (ledger.used, ledger.append(first), ledger.fork(first)) == (10, -1, -1)
    ledger.shorten(first, 4)
    assert ledger.append(second) >= 0
    ledger.drop(second)
    ledger.limit(4, 20)
    assert ledger.fork(first) > 0
    assert ledger.extend(first, 14)


def test_entropy_is_in_nats() -> None:
    _, _, entropy = _core.top_k(np.zeros((1, 64), np.float32), None, 1)
    assert entropy[0] == pytest.approx(math.log(64), rel=1e-5)


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("{", "not a JSON list"),
        ("{}", "not a JSON list"),
        ('[{"parameters": {}}]', "tool 1 has no name"),
        ('[{"name": "f"}, {"name": "f"}]', "f: two tools"),
        ('[{"name": "f", "parameters": {"$ref": "#/$defs/x"}}]', "f: .*points at nothing"),
        ('[{"name": "f", "parameters": {"$ref": "http://x"}}]', "f: .*not a reference"),
        ('[{"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "x"}}}}]',
         "f: type 'x'"),
        ('[{"name": "f", "parameters": {"$ref": "#"}}]', "f: .*leads to itself"),
        ('[{"name": "f", "parameters": {"type": "string"}}]', "f: .*never be an object"),
    ],
)  # fmt: skip
def test_unusable_tools_are_named(tools: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.Segmenter(tools)


def test_schemas_that_refer_to_themselves_end() -> None:
    loops = [
        {"allOf": [{"$ref": "#"}]},
        {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#/properties/a"}]}}},
    ]
    for parameters in loops:
        segmenter = _core.Segmenter(json.dumps([{"name": "f", "parameters": parameters}]))
        segmenter.feed(b'[{"name": "f", "arguments": {"a": {"b": [1]}}}]')
        assert segmenter.dead or segmenter.finished


@pytest.mark.skipif("TOOLPRM_EXPECT_SANITIZER" not in os.environ, reason="not a sanitizer run")
def test_the_sanitized_build_is_the_one_tested() -> None:
    assert "sanitize" in _core.__file__
