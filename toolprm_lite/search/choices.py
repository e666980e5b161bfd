"""The tokens that write the choices of a step, as one tree. Knows the tokenizer and the constraint;
what is decoded, and when, is the core's business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from toolprm_lite._core import StepSearch
from toolprm_lite.backends.base import MaskArray
from toolprm_lite.backends.encoder import Encoder

if TYPE_CHECKING:
    from toolprm_lite.constraint import Constraint, Matcher
    from toolprm_lite.search.loop import Masks

UNMASKED = -1  # what a batch calls a row whose choices alone say what is allowed


class Choices:
    """Writes the choices of searches in one model's tokens."""

    def __init__(self, token_bytes: Sequence[bytes], encode: Encoder) -> None:
        self._token_bytes = token_bytes
        self._encode = encode

    def plant(self, search: StepSearch, masks: Masks | None) -> None:
        """Give every branch that stands before choices the tokens that write them.

        A text has many tokenizations; the tokenizer's own is taken, and where the constraint forces
        tokens, those. The matchers behind them are kept in `masks.planted`.
        """
        for branch, context, choices in search.take_choices():
            constraint, matcher = None, None
            if masks is not None:
                constraint, matcher = masks.constraint, masks.matchers[branch]
            tree = _Tree(self._encode, self._token_bytes, constraint, context, choices)
            tree.grow(matcher)
            first = search.set_choices(branch, tree.parents, tree.tokens, tree.forced, tree.ends)
            if masks is not None:
                masks.planted |= {first - place: known for place, known in tree.matchers.items()}

    def narrow(self, search: StepSearch, allowed: MaskArray | None, rows: int) -> MaskArray | None:
        """Leave the rows of the batch that stand before choices nothing else; `allowed` are their
        masks so far."""
        if not search.narrowed:
            return allowed
        if allowed is None:
            words = (len(self._token_bytes) + 31) // 32
            allowed = np.full((rows, words), ~np.uint32(0))
        search.narrow(allowed)
        return allowed


@dataclass
class _Tree:
    """`choices` and their `context` are those of `StepSearch.take_choices`, the lists those of
    `set_choices`; `matchers` are by place in them."""

    encode: Encoder
    token_bytes: Sequence[bytes]
    constraint: Constraint | None
    context: bytes
    choices: list[tuple[bytes, int]]
    parents: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    ends: list[int] = field(init=False)
    matchers: dict[int, Matcher] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ends = [-1] * len(self.choices)
        self._paths: list[dict[int, int]] = [{} for _ in self.choices]

    def grow(self, matcher: Matcher | None) -> None:
        """Plant everything; `matcher` stands where the tree does."""
        # (node, matcher, what leads to it, choices that begin with that)
        ahead = [(0, matcher, b"", list(range(len(self.choices))))]
        while ahead:
            node, matcher, written, choices = ahead.pop()
            for token, group in self._groups(node, written, choices).items():
                text = written + self.token_bytes[token]
                longest = max(len(self.choices[choice][0]) for choice in group)
                run: list[int] = []
                follower = None
                if self.constraint is not None and matcher is not None:
                    if not self.constraint.allows(matcher, token):
                        continue
                    follower = self.constraint.fork(matcher)
                    run = self.constraint.advance(follower, token)
                child = self._add(node, token, False)
                for forced in run:
                    if len(text) > longest:  # one behind the end tells that there are more
                        break
                    child = self._add(child, forced, True)
                    text += self.token_bytes[forced]
                if follower is not None:
                    self.matchers[child - 1] = follower
                group = [c for c in group if self.choices[c][0].startswith(text[:longest])]
                ahead.append((child, follower, text, group))

    def _groups(self, node: int, written: bytes, choices: Sequence[int]) -> dict[int, list[int]]:
        """Choices by their next token; those whose body ends here are noted."""
        groups: dict[int, list[int]] = {}
        for choice in choices:
            text, body = self.choices[choice]
            token = self._next(choice, written)
            if token is not None and len(written) + len(self.token_bytes[token]) <= body:
                groups.setdefault(token, []).append(choice)
            elif token is not None or len(written) >= len(text):
                self.ends[choice] = node
        return groups

    def _add(self, parent: int, token: int, forced: bool) -> int:
        self.parents.append(parent)
        self.tokens.append(token)
        self.forced.append(forced)
        return len(self.tokens)

    def _next(self, choice: int, written: bytes) -> int | None:
        """The token that goes on with a choice; None behind its end, or where tokens can't write
        it."""
        text = self.choices[choice][0]
        if len(written) >= len(text):
            return None
        path = self._paths[choice]
        if len(written) not in path:
            context = (self.context + written).decode("utf-8", "replace")
            place = len(written)
            for token in self.encode.behind(context, text[place:].decode()):
                if not text.startswith(self.token_bytes[token], place):
                    return None
                path[place] = token
                place += len(self.token_bytes[token])
        return path.get(len(written))
