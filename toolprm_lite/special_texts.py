"""Special tokens' texts inside untrusted text: mark them before a template renders, cut them after.

A tokenizer turns the text of a special token into that token anywhere. In a question or
a tool's description it must stay text. So untrusted strings get an invisible mark where they hold
such a text, or could be one part of it, and the rendered prompt is cut at the marks that matter.
Tokenized piece by piece, no piece holds the text. Knows neither templates nor tokenizers.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

# Lone surrogates: no valid text holds one, so marks can't be confused with what a user wrote.
_MARK = "\udc00"  # cut here if a special token's text would lie around it
_CUT = "\udc01"  # cut here
_MARKS = re.compile("[\udc00\udc01]")

# What JSON Schema and chat templates look up by name. These keys are never marked.
_STRUCTURE = frozenset([
    "type", "function", "name", "description", "parameters", "arguments", "properties", "required",
    "items", "enum", "const", "default", "title", "format", "pattern", "examples", "nullable",
    "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "additionalProperties",
    "anyOf", "oneOf", "allOf", "not", "$ref", "$defs", "definitions", "return", "id",
])  # fmt: skip


def is_special(text: str, control: bool) -> bool:
    """Whether a token that a tokenizer matches by its text (an added token) counts as special.

    All control tokens do. Of the others, user-defined ones, markers such as <tool_call> do; runs
    of white space and plain words, which some vocabularies add for efficiency, are text.
    """
    return len(text) > 1 and (control or re.search(r"[^\w\s]", text) is not None)


def is_mark(character: str) -> bool:
    """Whether this is one of the marks."""
    return _MARKS.fullmatch(character) is not None


class SpecialTexts:
    """The special tokens of a vocabulary by their texts, each of two or more characters.

    `normalize` is what the tokenizer does to text before it looks for them, if it does anything.
    """

    def __init__(
        self,
        tokens: Mapping[str, int] | None = None,
        normalize: Callable[[str], str] | None = None,
    ) -> None:
        self.tokens: dict[str, int] = {
            text: token for text, token in (tokens or {}).items() if len(text) > 1
        }
        texts = self.tokens
        self._lengths: dict[str, list[int]] = {}
        for text in texts:
            lengths = self._lengths.setdefault(text[0], [])
            if len(text) not in lengths:
                lengths.append(len(text))
        self._longest = max(map(len, texts), default=0)
        self._beginnings = {text[:n] for text in texts for n in range(1, len(text))}
        self._endings = {text[n:] for text in texts for n in range(1, len(text))}
        self._firsts_in = _one_of(text[0] for text in texts).finditer
        self._edge_in = _one_of(c for text in texts for c in (text[0], text[-1])).search
        self.normalize = normalize if texts else None
        self._normalized: SpecialTexts | None = None
        if normalize is not None and texts:
            self._normalized = SpecialTexts({normalize(text): n for text, n in texts.items()})

    def mark(self, value: Any, gaps: frozenset[str] = frozenset()) -> Any:
        """A copy of an untrusted string, or of the strings in a JSON value, with marks.

        `gaps` are those of `gaps_of`. Unpaired surrogates become "?".
        """
        if isinstance(value, str):
            plain = value.isascii() and not gaps and self.normalize is None
            if plain and self._edge_in(value) is None:  # nearly all strings
                return value
            return self._mark(value, gaps)
        if isinstance(value, (dict, Mapping)):
            return {
                key if key in _STRUCTURE else self.mark(key, gaps): self.mark(each, gaps)
                for key, each in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.mark(each, gaps) for each in value]
        return value

    def cut(self, text: str) -> list[str]:
        """The pieces of rendered text, without marks; joined they are the text."""
        parts = _MARKS.split(text)
        if len(parts) == 1:
            return parts
        places: list[int] = []
        place = 0
        for part in parts[:-1]:
            place += len(part)
            places.append(place)
        kinds = _MARKS.findall(text)
        cuts = {place for place, kind in zip(places, kinds, strict=True) if kind == _CUT}
        text = "".join(parts)
        for begin, end in self._found(text):
            inside = bisect_right(places, begin)
            if inside < len(places) and places[inside] < end:
                cuts.add(places[inside])
        borders = [0, *sorted(cuts - {0, len(text)}), len(text)]
        return [text[a:b] for a, b in pairwise(borders)]

    def split(self, text: str) -> list[str]:
        """The pieces of an untrusted text, none of which holds a special token's text."""
        return self.cut(self._mark(text, frozenset()))

    def gaps_of(self, literals: Iterable[str]) -> frozenset[str]:
        """The texts that would complete a special token between two of a template's literals, such
        as "tool_call" between "<" and ">"."""
        before: set[str] = set()
        behind: set[str] = set()
        for literal in literals:
            for length in range(1, min(self._longest, len(literal) + 1)):
                before |= {literal[-length:]} & self._beginnings
                behind |= {literal[:length]} & self._endings
        return frozenset(
            text[len(left) : len(text) - len(right)]
            for text in (self.tokens if before and behind else ())
            for left in before
            for right in behind
            if len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right)
        )

    def _mark(self, text: str, gaps: frozenset[str]) -> str:
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()
        places = self._places(text, gaps)
        if self.normalize is not None and self._normalized is not None:
            written = self.normalize(text)
            if written != text and len(self._normalized._places(written, gaps)) > len(places):
                return _CUT.join(["", *text, ""])
        if not places:
            return text
        borders = [0, *sorted(places), len(text)]
        return _MARK.join(text[a:b] for a, b in pairwise(borders))

    def _places(self, text: str, gaps: frozenset[str]) -> set[int]:
        """Where marks belong: inside every special text, at both ends of the text inside what
        could be a part of one, and inside a gap's text."""
        places: set[int] = set()
        if gaps and text.strip() in gaps:
            places.add(len(text) - len(text.lstrip()) + 1)
        if self._edge_in(text) is None:
            return places
        places |= {begin + 1 for begin, _ in self._found(text)}
        # Templates trim what they are given.
        for begin in {0, len(text) - len(text.lstrip())}:
            for length in range(1, min(self._longest, len(text) - begin + 1)):
                if text[begin : begin + length] in self._endings:
                    places.add(begin + (length > 1))
        for end in {len(text), len(text.rstrip())}:
            for length in range(1, min(self._longest, end + 1)):
                if text[end - length : end] in self._beginnings:
                    places.add(end - length + 1)
        return places

    def _found(self, text: str) -> Iterator[tuple[int, int]]:
        """Begin and end of every special text, overlapping ones too, by their begin."""
        for match in self._firsts_in(text):
            begin = match.start()
            for length in self._lengths[match[0]]:
                if text[begin : begin + length] in self.tokens:
                    yield begin, begin + length


def _one_of(characters: Iterable[str]) -> re.Pattern[str]:
    distinct = re.escape("".join(sorted(set(characters))))
    return re.compile(f"[{distinct}]" if distinct else "(?!)")
