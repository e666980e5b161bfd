"""Text as the model usually writes it, without special tokens but those of a prompt's template.
Knows neither masks nor searches."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property

from toolprm_lite.special_texts import SpecialTexts

_TEXTS_KEPT = 4096


class Encoder:
    """Tokenizes prompts in pieces, and text within a response: without BOS, without
    the space that SentencePiece models put before a text, and without special tokens.

    `special` are those that `tokenize` finds by their texts.
    """

    _MARK = "\x02"  # https://github.com/guidance-ai/llguidance uses the same guard

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        tokenize: Callable[[str], list[int]],
        special: SpecialTexts | None = None,
    ) -> None:
        self._token_bytes = token_bytes
        self._tokenize = tokenize
        self._added = special or SpecialTexts()
        self._cache: dict[str, list[int]] = {}

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Control tokens and markers, such as <|im_start|> and <tool_call>, by their texts.

        No mask allows them within text or JSON.
        """
        return {**self._look_special(), **self._added.tokens}

    def prompt(self, pieces: Sequence[str]) -> list[int]:
        """The tokens of a prompt that `render_prompt` gave."""
        tokens = self._tokenize(pieces[0])
        for piece in pieces[1:]:
            tokens += self._encode(piece)
        return tokens

    def __call__(self, text: str) -> list[int]:
        found = self._cache.get(text)
        if found is None:
            found = [token for piece in self._special.split(text) for token in self._encode(piece)]
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

    @cached_property
    def _special(self) -> SpecialTexts:
        return SpecialTexts(self.special_tokens, self._added.normalize)

    @cached_property
    def _guard(self) -> list[int] | None:
        """What the guard is, where text gets a space in front."""
        written = b"".join(self._token_bytes[token] for token in self._tokenize("a"))
        spaced = written.endswith(b" a") or written.endswith("▁a".encode())
        return self._tokenize(self._MARK) if spaced else None

    @cached_property
    def _before(self) -> int:
        """The tokens before every text: BOS, or none."""
        return len(self._tokenize(""))

    def _look_special(self) -> dict[str, int]:
        """Special tokens by their look, and by staying one token whatever precedes them: not
        all vocabularies say which they are."""
        look = re.compile(rb"<[^\s<>()]{2,}>|<s>|\[/?[A-Z_]{3,}\]")
        special: dict[str, int] = {}
        for token, written in enumerate(self._token_bytes):
            if written[:1] in (b"<", b"[") and look.fullmatch(written):
                text = written.decode(errors="ignore")
                if self._encode("a" + text)[-1:] == [token]:
                    special[text] = token
        return special
