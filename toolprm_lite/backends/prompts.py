"""The policy of prompt reuse, the same for all backends: what a new prompt shares with the prompts
in the context, and with the states of those that no search uses any more.

A search over many cells costs more: every token attends to all of them, though a mask hides most.
So only prompts in use are in the model's context. The states of others are kept outside of it, as
what the backend can read out and write back. Knows tokens and sizes, nothing of the states.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from toolprm_lite.backends.base import Int32Array, common_prefix, no_room_for_prompt

State = TypeVar("State")

CACHE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class CachedPrompt(Generic[State]):
    """The state after `tokens`, int32 [tokens]."""

    tokens: Int32Array
    state: State
    bytes: int


class PromptCache(Generic[State]):
    """States of prompts, together at most `limit` bytes; the least recently used one goes first.

    Two prompts are similar when they share half of one: they have the same tools, mostly, and
    another question. Of these one is kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._entries: OrderedDict[bytes, CachedPrompt[State]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        self._entries.clear()
        self.bytes = 0

    def best(self, prompt: Int32Array, whole: bool) -> tuple[int, CachedPrompt[State] | None]:
        """How many tokens at the beginning of `prompt` the best state has, and that state.

        `whole`: a state can't be cut, so all of it must be a beginning of `prompt`.
        """
        most, found = 0, None
        for entry in self._entries.values():
            shared = common_prefix(entry.tokens, prompt)
            if shared > most and (not whole or shared == len(entry.tokens)):
                most, found = shared, entry
        return most, found

    def touch(self, entry: CachedPrompt[State]) -> None:
        """Mark it as used now; call this before anything is put, while it is still here."""
        self._entries.move_to_end(entry.tokens.tobytes())

    def stands_for(self, prompt: Int32Array) -> bool:
        """Whether there is a state similar to `prompt`; it then counts as used now."""
        for entry in list(self._entries.values()):
            if 2 * common_prefix(entry.tokens, prompt) >= len(prompt):
                self.touch(entry)
                return True
        return False

    def put(self, tokens: Int32Array, state: State, size: int) -> None:
        """Keep a state of `size` bytes; those that it can replace are dropped."""
        for key, entry in list(self._entries.items()):
            if 2 * common_prefix(entry.tokens, tokens) >= len(entry.tokens):
                self._remove(key)
        if size > self.limit:
            return
        while self.bytes + size > self.limit:
            self._remove(next(iter(self._entries)))
        self._entries[tokens.tobytes()] = CachedPrompt(tokens.copy(), state, size)
        self.bytes += size

    def _remove(self, key: bytes) -> None:
        self.bytes -= self._entries.pop(key).bytes


def most_shared(
    prompts: Mapping[int, Int32Array], prompt: Int32Array, own: int, whole: bool
) -> tuple[int, int]:
    """How many tokens at the beginning of `prompt` one of `prompts` has, and which; `own` is taken
    rather than an equally good other. `whole` as in `PromptCache.best`."""
    most, found = 0, own
    for number in sorted(prompts, key=lambda number: number != own):
        shared = common_prefix(prompts[number], prompt)
        if shared > most and (not whole or shared == len(prompts[number])):
            most, found = shared, number
    return most, found


@dataclass(frozen=True, slots=True)
class PromptPlan(Generic[State]):
    """How to make a prompt's sequence a beginning of the wanted tokens.

    `length` tokens come from `entry`, a cached state, or else from the prompt `source`, which may
    be the prompt itself. `keeps_own`: put the prompt's own state into the cache before. `parted` is
    how many tokens the wanted prompt shares with one that can't be cut there, 0 where all can.
    """

    length: int
    source: int
    entry: CachedPrompt[State] | None
    keeps_own: bool
    parted: int


def plan_prompt(
    prompts: Mapping[int, Int32Array],
    cache: PromptCache[State],
    wanted: Int32Array,
    number: int,
    *,
    whole: bool,
    used: int,
    room: int,
    context: int,
) -> PromptPlan[State]:
    """The plan for the prompt of this number. `whole`: states can't be cut. `used` cells of the
    `context` hold prompts, and `room` must stay free beside them.

    Raises `NoRoom` where other prompts leave too little.
    """
    # At most all but one: the last token is always decoded, for its logits.
    beginning = wanted[:-1]
    shared, source = most_shared(prompts, beginning, number, whole)
    own = prompts.get(number, beginning[:0])
    from_own = common_prefix(own, beginning)
    cells = used - (len(own) - from_own) + len(wanted) - shared
    if cells + room > context and len(prompts) > (number in prompts):
        raise no_room_for_prompt(len(wanted), room, context)
    cached, entry = cache.best(beginning, whole)
    if entry is not None and cached > shared:
        cache.touch(entry)
    else:
        entry = None
    parted = max(from_own, cache.best(beginning, False)[0]) if whole else 0
    keeps_own = 2 * from_own < len(own) and not cache.stands_for(own)
    return PromptPlan(max(shared, cached if entry else 0), source, entry, keeps_own, parted)
