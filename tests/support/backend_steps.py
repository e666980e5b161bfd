"""Batches and random trees for the tests of backends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toolprm_lite.backends.base import Backend, Batch, Output, SequenceOp

VOCAB = 352  # of the tiny models

Rows = Sequence[tuple[int, Sequence[int], int]]


def ints(values: Any) -> npt.NDArray[np.int32]:
    return np.asarray(values, np.int32)


def batch(
    rows: Rows,
    ops: Sequence[tuple[int, int, int]] = (),
    hidden_at: Sequence[int] | None = None,
    every: bool = False,
) -> Batch:
    """A batch of (sequence, tokens, position of the first); logits at each row's last token, or
    at every token."""
    tokens, positions, sequences, ends = [], [], [], []
    for sequence, row, first in rows:
        tokens += row
        positions += range(first, first + len(row))
        sequences += [sequence] * len(row)
        ends.append(len(tokens) - 1)
    logits_at = range(len(tokens)) if every else ends
    return Batch(
        ops=ints(ops).reshape(-1, 3),
        tokens=ints(tokens),
        positions=ints(positions),
        sequences=ints(sequences),
        logits_at=ints(logits_at),
        hidden_at=ints(logits_at if hidden_at is None else hidden_at),
    )


def dense(output: Output, vocab: int = VOCAB) -> npt.NDArray[np.float32]:
    """An output with k = vocab as a table in the order of the vocabulary, [rows, vocab]."""
    table = np.empty((len(output.top_ids), vocab), np.float32)
    np.put_along_axis(table, output.top_ids.astype(np.int64), output.top_logprobs, axis=1)
    return table


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def random_tokens(count: int, seed: int, top: int = VOCAB - 4) -> list[int]:
    values: list[int] = np.random.default_rng(seed).integers(0, top, count).tolist()
    return values


def grow_random_tree(
    backend: Backend, prompt: list[int], steps: int, seed: int, vocab: int
) -> Iterator[tuple[list[int], npt.NDArray[np.float32]]]:
    """Decode a random tree; yields each decoded row's tokens from the start and its output.

    Branches are forked from the prompt and from each other, dropped, and their numbers and cells
    taken again.
    """
    random = np.random.default_rng(seed)
    backend.prefill(prompt, None, 1)
    branches: dict[int, list[int]] = {}
    for _ in range(steps):
        ops: list[tuple[int, int, int]] = []
        for sequence in list(branches):
            if random.random() < 0.15 or len(branches[sequence]) > len(prompt) + 12:
                ops.append((SequenceOp.DROP, sequence, 0))
                del branches[sequence]
        while len(branches) < 6 and random.random() < 0.8:
            source = int(random.choice([0, *branches]))
            free = [s for s in range(1, backend.info.max_sequences + 1) if s not in branches]
            new = int(random.choice(free))
            ops.append((SequenceOp.FORK, source, new))
            branches[new] = list(branches.get(source, prompt))
        chosen = [s for s in branches if random.random() < 0.8]
        random.shuffle(chosen)
        rows = [
            (s, random.integers(0, vocab, random.integers(1, 4)).tolist(), len(branches[s]))
            for s in chosen
        ]
        output = backend.decode(batch(rows, ops), None, vocab)
        table = dense(output, vocab)
        for row, (sequence, tokens, _) in enumerate(rows):
            branches[sequence] += tokens
            yield list(branches[sequence]), table[row]
