"""A transformers tokenizer's vocabulary as bytes, as llama.cpp has it for the same model."""

from __future__ import annotations

import json
import re
from typing import Any

from toolprm_lite.errors import ModelError
from toolprm_lite.special_texts import SpecialTexts, is_special

# Tokens that end a response whatever the model's settings call them: llama.cpp's list, so that a
# model has the same vocabulary from a GGUF file and from its folder.
_ENDS = frozenset([
    "</s>", "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>",
    "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "<EOT>", "_<EOT>",
    "<end_of_utterance>", "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "<|fim_repo|>",
    "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
])  # fmt: skip
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


class HfTokens:
    """A model's tokenizer, with what `Backend` says of its tokens; `ends` are those that end a
    response. `size` is the width of the model's logits.

    Raises `ModelError` for a tokenizer whose tokens can't be read as bytes.
    """

    def __init__(self, tokenizer: Any, model: Any, size: int) -> None:
        self._tokenizer: Any = tokenizer
        self.bytes, self.ends = read_vocabulary(tokenizer, size, _named_ends(model, tokenizer))
        self.special_texts = read_special_texts(tokenizer, size)
        self._wants_bos = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]

    def tokenize(self, text: str) -> list[int]:
        """See `Backend.tokenize`."""
        text = text.encode("utf-8", "replace").decode()
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        bos = self._tokenizer.bos_token_id
        if self._wants_bos and bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return tokens

    def close(self) -> None:
        """Let go of the tokenizer."""
        self._tokenizer = None


def read_vocabulary(
    tokenizer: Any, size: int, ends: set[int]
) -> tuple[list[bytes], frozenset[int]]:
    """(the bytes each token writes, the tokens that end a response), as in `Backend`.

    `size` is the width of the model's logits, which may be more than the tokenizer has; `ends` are
    the ends that the model's own settings name. Raises `ModelError` for a tokenizer whose tokens
    can't be read as bytes.
    """
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise ModelError(
            f"{type(tokenizer).__name__} is not a fast tokenizer, whose bytes can be read; load it "
            "with AutoTokenizer.from_pretrained(..., use_fast=True)"
        )
    spec = json.loads(fast.to_str())
    added = {entry["id"]: entry for entry in spec.get("added_tokens", [])}
    names = _decoders(spec.get("decoder"))
    if "ByteLevel" in names:
        table = {character: byte for byte, character in enumerate(_byte_characters())}

        def read(text: str) -> bytes:
            try:
                return bytes(table[character] for character in text)
            except KeyError:
                return text.encode()  # an added token that the file doesn't mark as one
    elif names & {"ByteFallback", "Metaspace", "Replace"}:

        def read(text: str) -> bytes:
            byte = _BYTE.match(text)
            return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode()
    else:
        raise ModelError(
            f"a tokenizer that decodes by {', '.join(sorted(names)) or 'nothing'} is not known; "
            "byte-level BPE and SentencePiece are"
        )
    tokens = [b""] * size
    texts: dict[int, str] = {}
    for text, token in tokenizer.get_vocab().items():
        if token < size:
            entry = added.get(token)
            texts[token] = entry["content"] if entry else text
            if (
                texts[token] != f"[PAD{token}]"
            ):  # padding of a GGUF file's vocabulary, which writes nothing
                tokens[token] = entry["content"].encode() if entry else read(text)
    stops = {token for token in ends if token < size}
    stops |= {token for token, text in texts.items() if text in _ENDS}
    for token in stops:
        tokens[token] = b""
    return tokens, frozenset(stops)


def read_special_texts(tokenizer: Any, size: int) -> SpecialTexts:
    """The tokens that the tokenizer finds by their texts, as in `Backend`."""
    fast = tokenizer.backend_tokenizer
    found = {
        token: added
        for token, added in fast.get_added_tokens_decoder().items()
        if token < size and is_special(added.content, control=added.special)
    }
    normalizer = fast.normalizer
    normalized = normalizer is not None and any(added.normalized for added in found.values())
    return SpecialTexts(
        {added.content: token for token, added in found.items()},
        normalizer.normalize_str if normalized else None,
    )


def chat_template(tokenizer: Any) -> str | None:
    """The tokenizer's template; of several the one for tools."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("tool_use") or template.get("default")
    return template if template is None else str(template)


def _named_ends(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that the model's own settings end a response with."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = set(named if isinstance(named, (list, tuple)) else [named])
    ends.add(tokenizer.eos_token_id)
    return {int(token) for token in ends if token is not None}


def _decoders(decoder: Any) -> set[str]:
    if not decoder:
        return set()
    parts = decoder.get("decoders", [decoder])
    return {part["type"] for part in parts}


def _byte_characters() -> list[str]:
    """The printable stand-in for each byte in byte-level BPE."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [
        chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(256)
    ]
