"""A model whose next-token distribution is known exactly: a weighted set of responses.

It checks what a real backend only trusts: every sequence's positions run on without a gap, forks
copy what their source holds, and cells are counted.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from toolprm_lite._core import top_k
from toolprm_lite.backends.base import (
    Batch,
    Float32Array,
    MaskArray,
    ModelInfo,
    Output,
    Prefill,
    SequenceOp,
)
from toolprm_lite.errors import NoRoom

MERGES = [
    b"[]", b'[{"', b"name", b'": "', b'", "', b"arguments", b'": {"', b'"}}]', b'"}}', b'"}', b"}}",
    b'": ', b"}]", b'", ', b"<tool_call>", b"</tool_call>",
]  # fmt: skip
VOCABULARY = [bytes([byte]) for byte in range(256)] + MERGES
EOG = len(VOCABULARY)
WIDTH = 8


def tokenize(text: str) -> list[int]:
    """Greedy longest match."""
    data = text.encode()
    tokens = []
    while data:
        best = max(
            (token for token, word in enumerate(VOCABULARY) if data.startswith(word)),
            key=lambda token: len(VOCABULARY[token]),
        )
        tokens.append(best)
        data = data[len(VOCABULARY[best]) :]
    return tokens


def state_of(path: Sequence[int]) -> Float32Array:
    """The hidden state at the last token of a response's path."""
    seed = zlib.crc32(repr(list(path)).encode())
    return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)


class MockBackend:
    """`responses` maps each whole response to its probability; an end-of-generation follows it.

    `on_step` is called in every model step, with the number of its tokens.
    """

    def __init__(
        self,
        responses: Mapping[str, float],
        *,
        context: int = 4096,
        max_sequences: int = 64,
        refuse: float = 0.0,
        end: bool = True,
        jitter: float = 0.0,
    ) -> None:
        self.info = ModelInfo(
            "mock", "mock", len(VOCABULARY) + 1, WIDTH, 4, context, max_sequences, frozenset([EOG])
        )
        self.token_bytes = [*VOCABULARY, b""]
        self.layers: tuple[int, ...] = ()
        self.on_step: Callable[[int], None] = lambda tokens: None
        self.steps = 0
        self.decoded: list[int] = []
        self.prompt: list[int] = []
        self.cells_max = 0
        self._refuse = np.random.default_rng(0)
        self._refusals = refuse
        self._jitter = jitter
        self._sequences: dict[int, list[int]] = {}
        self.next: dict[tuple[int, ...], dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for text, weight in responses.items():
            path: tuple[int, ...] = ()
            for token in [*tokenize(text), *([EOG] if end else [])]:
                self.next[path][token] += weight
                path = (*path, token)

    def tokenize(self, text: str) -> list[int]:
        return tokenize(text)

    def tap(self, layers: Sequence[int]) -> None:
        self.layers = tuple(layers)

    def clear(self) -> None:
        self._sequences = {}
        self.prompt = []

    def prefill(
        self,
        tokens: Sequence[int],
        mask: MaskArray | None,
        k: int,
        *,
        chunk: int | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Prefill:
        self._sequences = {}
        shared = 0
        while shared < min(len(tokens) - 1, len(self.prompt)) and (
            tokens[shared] == self.prompt[shared]
        ):
            shared += 1
        self.prompt = list(tokens[:shared])
        while len(self.prompt) < len(tokens):
            if stop is not None and stop():
                return Prefill(shared, len(self.prompt) - shared, None)
            part = tokens[len(self.prompt) :][:chunk]
            self.on_step(len(part))
            self.prompt += part
        return Prefill(shared, len(tokens) - shared, self._output([()], mask, k, None))

    def decode(self, batch: Batch, masks: MaskArray | None, k: int) -> Output:
        for kind, source, destination in batch.ops.tolist():
            if kind == SequenceOp.FORK:
                assert destination not in self._sequences
                self._sequences[destination] = list(self._sequences.get(source, []))
                assert source == 0 or source in self._sequences
            else:
                del self._sequences[source]
        rows = len(set(batch.sequences.tolist()))
        if rows > 1 and self._refuse.random() < self._refusals:
            raise NoRoom("mock")
        assert len(self._sequences) <= self.info.max_sequences
        paths = []
        forks = batch.forks.tolist()
        for place, (token, position, sequence) in enumerate(
            zip(
                batch.tokens.tolist(), batch.positions.tolist(), batch.sequences.tolist(),
                strict=True,
            )
        ):  # fmt: skip
            path = self._sequences[sequence]
            assert position == len(self.prompt) + len(path), "a gap in the KV cache"
            path.append(token)
            paths.append(tuple(path))
            while forks and forks[0][0] == place:
                _, source, destination = forks.pop(0)
                assert destination not in self._sequences
                self._sequences[destination] = list(self._sequences[source])
        assert not forks
        assert len(batch.logits_at) <= self.info.max_sequences
        assert len(self._sequences) <= self.info.max_sequences
        self.steps += 1
        self.on_step(len(paths))
        self.decoded.extend(batch.tokens.tolist())
        if self.info.context - len(self.prompt) < 1000:
            held = {
                tuple(path[:n])
                for path in self._sequences.values()
                for n in range(1, len(path) + 1)
            }
            self.cells_max = max(self.cells_max, len(self.prompt) + len(held))
        hidden = None
        if self.layers:
            several = len(self.layers) > 1
            states = [
                np.roll(state_of(paths[at]), layer if several else 0)
                for at in batch.hidden_at
                for layer in self.layers
            ]
            hidden = np.array(states, np.float32).reshape(-1, WIDTH * len(self.layers))
        return self._output([paths[at] for at in batch.logits_at], masks, k, hidden)

    def close(self) -> None:
        self._sequences = {}

    def logits(self, path: tuple[int, ...]) -> Float32Array:
        logits = np.full(self.info.vocab_size, -30.0, np.float32)
        for token, weight in self.next.get(path, {EOG: 1.0}).items():
            logits[token] = np.log(weight)
        return logits

    def _output(
        self,
        paths: list[tuple[int, ...]],
        masks: MaskArray | None,
        k: int,
        hidden: Float32Array | None,
    ) -> Output:
        logits = np.empty((len(paths), self.info.vocab_size), np.float32)
        for row, path in enumerate(paths):
            logits[row] = self.logits(path)
        if self._jitter:  # kernels whose sums depend on the batch's shape
            logits += np.float32(self._jitter) * np.float32(len(paths) % 3)
        ids, logprobs, entropy = top_k(logits, masks, k)
        return Output(ids, logprobs, entropy, hidden)
