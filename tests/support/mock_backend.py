"""A model whose next-token distribution is known exactly: a weighted set of responses.

It checks what a real backend only trusts: every sequence's positions run on without a gap, forks
copy what their source holds, and cells are counted and never more than there are.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from toolprm_lite._core import top_k
from toolprm_lite.backends.base import (
    RESPONSE_ROOM,
    Batch,
    Float32Array,
    MaskArray,
    ModelInfo,
    Output,
    Prefill,
    SequenceOp,
    common_prefix,
    no_room_for_prompt,
    prompt_too_long,
)
from toolprm_lite.errors import NoRoom
from toolprm_lite.special_texts import SpecialTexts

MERGES = [
    b"[]", b'[{"', b"name", b'": "', b'", "', b"arguments", b'": {"', b'"}}]', b'"}}', b'"}', b"}}",
    b'": ', b"}]", b'", ', b"<tool_call>", b"</tool_call>",
]  # fmt: skip
Tree = dict[tuple[int, ...], dict[int, float]]  # next tokens by path, with their weights
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


def shared_tokens(first: Sequence[int], second: Sequence[int]) -> int:
    return common_prefix(np.array(first, np.int32), np.array(second, np.int32))


def state_of(path: Sequence[int]) -> Float32Array:
    """The hidden state at the last token of a response's path."""
    seed = zlib.crc32(repr(list(path)).encode())
    return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)


class MockBackend:
    """`responses` maps each whole response to its probability; an end-of-generation follows it.

    `by_prompt` has other responses for the prompts that contain its keys. `on_step` is called in
    every model step, with the number of its tokens.
    """

    def __init__(
        self,
        responses: Mapping[str, float],
        *,
        by_prompt: Mapping[str, Mapping[str, float]] | None = None,
        context: int = 4096,
        max_sequences: int = 64,
        max_prompts: int = 16,
        refuse: float = 0.0,
        end: bool = True,
        jitter: float = 0.0,
    ) -> None:
        self.info = ModelInfo(
            "mock", "mock", len(VOCABULARY) + 1, WIDTH, 4, context, max_sequences,
            frozenset([EOG]), max_prompts=max_prompts,
        )  # fmt: skip
        self.token_bytes = [*VOCABULARY, b""]
        self.special_texts = SpecialTexts()
        self.layers: tuple[int, ...] = ()
        self.on_step: Callable[[int], None] = lambda tokens: None
        self.steps = 0
        self.step_tokens: list[int] = []  # of each step but the prompts'
        self.decoded: list[int] = []
        self.prompts: dict[int, list[int]] = {}
        self._prompt_cells = 0
        self._trees: dict[int, Tree] = {}  # of the prompts
        self.prompts_max = 0
        self.cells_max = 0
        self._refuse = np.random.default_rng(0)
        self._refusals = refuse
        self._jitter = jitter
        self._sequences: dict[int, list[int]] = {}
        self._owners: dict[int, int] = {}  # the prompt of each
        self.next = self._tree(responses, end)
        self._by_prompt = {
            key.encode(): self._tree(others, end) for key, others in (by_prompt or {}).items()
        }

    @staticmethod
    def _tree(responses: Mapping[str, float], end: bool) -> Tree:
        tree: Tree = defaultdict(lambda: defaultdict(float))
        for text, weight in responses.items():
            path: tuple[int, ...] = ()
            for token in [*tokenize(text), *([EOG] if end else [])]:
                tree[path][token] += weight
                path = (*path, token)
        return tree

    @property
    def prompt(self) -> list[int]:
        return self.prompts.get(0, [])

    @property
    def prompt_cells(self) -> int:
        return self._prompt_cells

    @property
    def cells(self) -> int:
        """All that are taken, shared ones once."""
        paths = [[*self.prompts[self._owners[s]], *path] for s, path in self._sequences.items()]
        return self._cells([*self.prompts.values(), *paths])

    @staticmethod
    def _cells(paths: Iterable[list[int]]) -> int:
        ordered = sorted(paths)
        return sum(
            len(path) - shared_tokens(before, path)
            for before, path in zip([[], *ordered], ordered, strict=False)
        )

    def tokenize(self, text: str) -> list[int]:
        return tokenize(text)

    def tap(self, layers: Sequence[int]) -> None:
        self.layers = tuple(layers)

    def clear(self) -> None:
        self._sequences = {}
        self._owners = {}
        self.prompts = {}
        self._prompt_cells = 0

    def release(self, prompt: int) -> None:
        self._drop_branches(prompt)
        self.prompts.pop(prompt, None)
        self._prompt_cells = self._cells(self.prompts.values())

    def _drop_branches(self, prompt: int) -> None:
        for sequence in [s for s, owner in self._owners.items() if owner == prompt]:
            del self._owners[sequence], self._sequences[sequence]

    def prefill(
        self,
        tokens: Sequence[int],
        mask: MaskArray | None,
        k: int,
        *,
        prompt: int = 0,
        room: int = RESPONSE_ROOM,
        chunk: int | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Prefill:
        assert 0 <= prompt < self.info.max_prompts
        if len(tokens) + RESPONSE_ROOM > self.info.context:
            raise prompt_too_long(len(tokens), self.info.context)
        others = [held for number, held in self.prompts.items() if number != prompt]
        if others and self._cells([*others, list(tokens)]) + room > self.info.context:
            raise no_room_for_prompt(len(tokens), room, self.info.context)
        self._drop_branches(prompt)
        shared = max(shared_tokens(tokens[:-1], held) for held in [[], *self.prompts.values()])
        held = self.prompts[prompt] = list(tokens[:shared])
        self.prompts_max = max(self.prompts_max, len(self.prompts))
        while len(held) < len(tokens):
            if stop is not None and stop():
                return Prefill(shared, len(held) - shared, None)
            part = tokens[len(held) :][:chunk]
            self.on_step(len(part))
            held += part
            self._prompt_cells = self._cells(self.prompts.values())
        text = b"".join(self.token_bytes[token] for token in tokens) if self._by_prompt else b""
        trees = [tree for key, tree in self._by_prompt.items() if key in text]
        self._trees[prompt] = trees[0] if trees else self.next
        return Prefill(shared, len(tokens) - shared, self._output([(prompt, ())], mask, k, None))

    def decode(self, batch: Batch, masks: MaskArray | None, k: int) -> Output:
        for kind, source, destination in batch.ops.tolist():
            if kind == SequenceOp.FORK:
                assert destination not in self._sequences
                assert source in self._sequences or (source <= 0 and -source in self.prompts)
                self._sequences[destination] = list(self._sequences.get(source, []))
                self._owners[destination] = self._owners.get(source, -source)
            else:
                del self._sequences[source], self._owners[source]
        rows = len(set(batch.sequences.tolist()))
        if rows > 1 and self._refuse.random() < self._refusals:
            raise NoRoom("mock")
        assert len(self._sequences) <= self.info.max_sequences
        paths = []
        for token, position, sequence in zip(
            batch.tokens.tolist(), batch.positions.tolist(), batch.sequences.tolist(), strict=True
        ):
            path = self._sequences[sequence]
            owner = self._owners[sequence]
            assert position == len(self.prompts[owner]) + len(path), "a gap in the KV cache"
            path.append(token)
            paths.append((owner, tuple(path)))
        assert len(batch.logits_at) <= self.info.max_sequences
        assert len(self._sequences) <= self.info.max_sequences
        if paths:
            self.steps += 1
            self.step_tokens.append(len(paths))
            self.on_step(len(paths))
        self.decoded.extend(batch.tokens.tolist())
        if self.info.context - self._prompt_cells < 1000:
            self.cells_max = max(self.cells_max, self.cells)
            assert self.cells_max <= self.info.context
        hidden = None
        if self.layers:
            several = len(self.layers) > 1
            states = [
                np.roll(state_of(paths[at][1]), layer if several else 0)
                for at in batch.hidden_at
                for layer in self.layers
            ]
            hidden = np.array(states, np.float32).reshape(-1, WIDTH * len(self.layers))
        return self._output([paths[at] for at in batch.logits_at], masks, k, hidden)

    def close(self) -> None:
        self.clear()

    def logits(self, path: tuple[int, ...]) -> Float32Array:
        return self._logits(self.next, path)

    def _logits(self, tree: Tree, path: tuple[int, ...]) -> Float32Array:
        logits = np.full(self.info.vocab_size, -30.0, np.float32)
        for token, weight in tree.get(path, {EOG: 1.0}).items():
            logits[token] = np.log(weight)
        return logits

    def _logits_after(self, prompt: int, path: tuple[int, ...]) -> Float32Array:
        return self._logits(self._trees[prompt], path) if self._by_prompt else self.logits(path)

    def _output(
        self,
        paths: list[tuple[int, tuple[int, ...]]],
        masks: MaskArray | None,
        k: int,
        hidden: Float32Array | None,
    ) -> Output:
        logits = np.empty((len(paths), self.info.vocab_size), np.float32)
        for row, (prompt, path) in enumerate(paths):
            logits[row] = self._logits_after(prompt, path)
        if self._jitter:  # kernels whose sums depend on the batch's shape
            logits += np.float32(self._jitter) * np.float32(len(paths) % 3)
        ids, logprobs, entropy = top_k(logits, masks, k)
        return Output(ids, logprobs, entropy, hidden)
