"""The model's vocabulary: what each token writes, and the tokens of a text."""

from __future__ import annotations

import ctypes
from typing import Any

from toolprm_lite.special_texts import SpecialTexts, is_special


class Vocabulary:
    """Of a llama.cpp model, which must outlive it. `handle` is llama.cpp's pointer to it; `ends`
    are the tokens that end a response."""

    def __init__(self, llama: Any, model: Any) -> None:
        self._llama = llama
        self.handle: Any = llama.llama_model_get_vocab(model)
        self.size = int(llama.llama_vocab_n_tokens(self.handle))
        is_eog = llama.llama_vocab_is_eog
        self.ends = frozenset(t for t in range(self.size) if is_eog(self.handle, t))
        self._buffer = ctypes.create_string_buffer(256)

    def read_bytes(self) -> list[bytes]:
        """The bytes each token writes; special tokens as their text, end-of-generation as b""."""
        return [b"" if token in self.ends else self._piece(token) for token in range(self.size)]

    def special_texts(self) -> SpecialTexts:
        """The tokens that `tokenize` finds by their texts."""
        llama = self._llama
        control = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN
        found: dict[str, int] = {}
        for token in range(self.size):
            kind = llama.llama_vocab_get_attr(self.handle, token)
            if kind & (control | llama.LLAMA_TOKEN_ATTR_USER_DEFINED):
                try:
                    text = self._piece(token).decode()
                except UnicodeDecodeError:
                    continue  # no text can hold it
                if is_special(text, control=bool(kind & control)):
                    found.setdefault(text, token)
        return SpecialTexts(found)

    def tokenize(self, text: str) -> list[int]:
        """See `LlamaCppBackend.tokenize`."""
        llama, vocab = self._llama, self.handle
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = llama.llama_tokenize(vocab, data, len(data), buffer, room, False, True)
            if count >= 0:
                break
            room = -count
        tokens: list[int] = buffer[:count]
        bos = llama.llama_vocab_bos(vocab)
        if llama.llama_vocab_get_add_bos(vocab) and bos >= 0 and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return tokens

    def text(self, token: int) -> str:
        """A token's text as the file has it; a negative token has none."""
        if token < 0:
            return ""
        text: bytes | None = self._llama.llama_vocab_get_text(self.handle, token)
        return (text or b"").decode("utf-8", "replace")

    def _piece(self, token: int) -> bytes:
        """The bytes that a token writes, a special token's text."""
        piece_of, size = self._llama.llama_token_to_piece, len(self._buffer)
        length = piece_of(self.handle, token, self._buffer, size, 0, True)
        if length < 0:
            self._buffer = ctypes.create_string_buffer(-length)
            length = piece_of(self.handle, token, self._buffer, -length, 0, True)
        return memoryview(self._buffer)[:length].tobytes()
