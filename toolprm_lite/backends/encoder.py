"""Text within a response as the model usually writes it. Knows neither masks nor searches."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_TEXTS_KEPT = 4096


class Encoder:
    """Tokenizes text that stands within a response: without BOS and without the space that
    SentencePiece models put before a text."""

    _MARK = "\x02"  # https://github.com/guidance-ai/llguidance uses the same guard

    def __init__(self, token_bytes: Sequence[bytes], tokenize: Callable[[str], list[int]]) -> None:
        self._token_bytes = token_bytes
        self._tokenize = tokenize
        self._cache: dict[str, list[int]] = {}
        self._guard: list[int] | None = None
        written = b"".join(token_bytes[token] for token in tokenize("a"))
        if written.endswith(b" a") or written.endswith("▁a".encode()):
            self._guard = tokenize(self._MARK)
        # What stands before every text: BOS, or nothing.
        self._before = len(tokenize(""))
        self.special_tokens: dict[str, int] = {}
        self.special_tokens = self._find_special_tokens()
        self._special = frozenset(self.special_tokens.values())

    def behind(self, context: str, text: str) -> list[int]:
        """The tokens of `text` where it stands behind `context`; its own where one token would hold
        parts of both."""
        tokens = self(context + text)
        left = len(context.encode())
        for place, token in enumerate(tokens):
            if left <= 0:
                return tokens[place:] if left == 0 else self(text)
            left -= len(self._token_bytes[token])
        return self(text)

    def __call__(self, text: str) -> list[int]:
        found = self._cache.get(text)
        if found is None:
            found = self._encode(text)
            if not self._special.isdisjoint(found):  # text that looks like a special token
                pieces = re.split(r"(?<=[<\[])", text)
                found = [token for piece in pieces for token in self._encode(piece)]
            if len(self._cache) >= _TEXTS_KEPT:
                self._cache.clear()
            self._cache[text] = found
        return found

    def _encode(self, text: str) -> list[int]:
        if not text:
            return []
        if self._guard is not None:
            tokens = self._tokenize(self._MARK + text)
            count = len(self._guard)
            if tokens[:count] == self._guard:
                return tokens[count:]
        return self._tokenize(text)[self._before :]

    def _find_special_tokens(self) -> dict[str, int]:
        """Control tokens and markers, such as <|im_start|> and <tool_call>.

        No mask allows them within text or JSON. They are found by their look, and by staying one
        token whatever stands before them.
        """
        look = re.compile(rb"<[^\s<>()]{2,}>|<s>|\[/?[A-Z_]{3,}\]")
        special: dict[str, int] = {}
        for token, written in enumerate(self._token_bytes):
            if written[:1] in (b"<", b"[") and look.fullmatch(written):
                text = written.decode(errors="ignore")
                if self._encode("a" + text)[-1:] == [token]:
                    special[text] = token
        return special
