"""A mock model that judges by + and -."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from support.mock_backend import MockBackend
from toolprm_lite._core import top_k
from toolprm_lite.backends.base import Batch, MaskArray, Output, Prefill, check_prompt
from toolprm_lite.errors import NoRoom

PLUS, MINUS = ord("+"), ord("-")


class JudgeBackend(MockBackend):
    """Logits are random numbers that follow from all tokens before them, the prompt's too; or,
    where `likes` is given, + is as much likelier than - as it says of the text. Tokens are
    bytes."""

    def __init__(self, likes: Callable[[str], float] | None = None, **settings: Any) -> None:
        super().__init__({}, **settings)
        self.texts: list[str] = []
        self.prefills: list[Prefill] = []
        self.closed = False
        self._likes = likes

    def tokenize(self, text: str) -> list[int]:
        self.texts.append(text)
        return list(text.encode())

    def prefill(self, tokens: Sequence[int], mask: MaskArray | None, k: int) -> Prefill:
        check_prompt(np.array(tokens, np.int32), self.info)
        self.prefills.append(super().prefill(tokens, mask, k))
        return self.prefills[-1]

    def decode(self, batch: Batch, masks: MaskArray | None, k: int) -> Output:
        if len(self.prompt) + len(batch.tokens) > self.info.context:
            none = np.empty(0, np.int32)
            super().decode(Batch(batch.ops, none, none, none, none, none), None, k)
            raise NoRoom("mock")
        return super().decode(batch, masks, k)

    def close(self) -> None:
        self.closed = True

    def _output(self, paths: Any, mask: Any, k: int, hidden: Any) -> Output:
        logits = np.empty((len(paths), self.info.vocab_size), np.float32)
        for row, (_, path) in enumerate(paths):
            tokens = [*self.prompt, *path]
            random = np.random.default_rng(zlib.crc32(repr(tokens).encode()))
            logits[row] = 3 * random.standard_normal(logits.shape[1])
            if self._likes is not None:
                text = b"".join(self.token_bytes[token] for token in tokens).decode()
                logits[row, PLUS] = logits[row, MINUS] + self._likes(text)
        return Output(*top_k(logits, mask, k), hidden)
