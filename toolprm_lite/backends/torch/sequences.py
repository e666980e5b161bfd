"""Prompts and branches in the flat cache: which token is at which place, and who sees it.

A ledger counts the places and knows each token's ancestors. Knows nothing of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from toolprm_lite import _core
from toolprm_lite.backends.base import Int32Array, ModelInfo, SequenceOp, checked_ops
from toolprm_lite.backends.prompts import CachedPrompt, PromptCache, plan_prompt
from toolprm_lite.backends.torch.flat_cache import Placed
from toolprm_lite.errors import ModelError, NoRoom

# Keys and values of a prompt, for each block.
States: TypeAlias = list[tuple[torch.Tensor, torch.Tensor]]


class Sequences:
    """Over the flat cache `flat`, whose cells they share.

    `prompts` are the tokens of the prompts in the context, `cache` the states of others, at most
    `prompt_cache` bytes.
    """

    def __init__(self, flat: Any, info: ModelInfo, prompt_cache: int) -> None:
        self._flat = flat
        self._info = info
        self._cells = info.context
        self.cache: PromptCache[States] = PromptCache(prompt_cache)
        self._begin_empty()

    def clear(self) -> None:
        """Forget all prompts and branches, cached states too."""
        self.cache.clear()
        self._begin_empty()

    def close(self) -> None:
        """Let go of the flat cache and of the cached states."""
        self.cache.clear()
        self._flat = None

    def _begin_empty(self) -> None:
        info = self._info
        self._ledger = _core.KvLedger(info.max_sequences + info.max_prompts, self._cells, 0)
        self.prompts: dict[int, Int32Array] = {}
        self._held: dict[int, int] = {}  # sequences, and the ledger's for them
        self._owners: dict[int, int] = {}  # branches, and the prompt of each
        # The position of each place's token
        self._positions = np.arange(self._cells, dtype=np.int32)

    @property
    def prompt_cells(self) -> int:
        """Cells that prompts hold; what several of them share counts once."""
        ledger = self._ledger
        tips = [ledger.tip(self._held[-number]) for number in self.prompts]
        return int(ledger.ancestor_mask(tips, ledger.end).any(axis=0).sum()) if tips else 0

    # Prompts

    def begin(self, wanted: Int32Array, prompt: int, room: int) -> int:
        """Make the prompt a beginning of `wanted`, and return its length."""
        plan = plan_prompt(
            self.prompts, self.cache, wanted, prompt,
            whole=False, used=self.prompt_cells, room=room, context=self._cells,
        )  # fmt: skip
        self._drop_branches(prompt)
        if plan.keeps_own:
            self._keep(prompt)
        ledger = self._ledger
        held = len(self.prompts.get(prompt, ()))
        if plan.entry is not None:
            self._forget(prompt)
            ledger.settle()
            self._restore(plan.entry, plan.length, prompt)
        elif plan.source == prompt and prompt in self.prompts:
            ledger.shorten(self._held[-prompt], held - plan.length)
        elif plan.length:
            self._forget(prompt)
            source = plan.source
            self._held[-prompt] = ledger.fork(self._held[-source])
            ledger.shorten(self._held[-prompt], len(self.prompts[source]) - plan.length)
        else:
            self._held[-prompt] = ledger.fork(0)
        ledger.take_ops()
        ledger.settle()
        self.prompts[prompt] = wanted[: plan.length]
        return plan.length

    def alone(self, prompt: int) -> bool:
        """Whether the cache holds this prompt and nothing else."""
        return self._ledger.end == self._ledger.used == len(self.prompts[prompt])

    def place_prompt(self, prompt: int, count: int) -> Placed:
        """Room in the cache for the prompt's next `count` tokens."""
        done, alone = len(self.prompts[prompt]), self.alone(prompt)
        self._make_places(count)
        ledger, own = self._ledger, self._held[-prompt]
        begin = ledger.end
        allowed = None
        if alone:  # no mask is needed
            ledger.extend(own, count)
        else:
            cells = [ledger.append(own) for _ in range(count)]
            allowed = ledger.ancestor_mask(cells, ledger.end)
        return self._placed(begin, np.arange(done, done + count), allowed)

    def take_back(self, prompt: int, count: int) -> None:
        """The last `count` tokens that were placed were not computed: their cells hold nothing."""
        self._ledger.shorten(self._held[-prompt], count)

    def extend(self, prompt: int, tokens: Int32Array) -> None:
        """The prompt now holds `tokens`, which were placed."""
        self.prompts[prompt] = tokens

    def release(self, prompt: int) -> None:
        """Free the prompt's cells and drop its branches. Its state may stay in the cache."""
        self._drop_branches(prompt)
        if prompt in self.prompts:
            self._keep(prompt)
            self._forget(prompt)

    def _restore(self, entry: CachedPrompt[States], length: int, prompt: int) -> None:
        """Write the beginning of a cached state back."""
        ledger = self._ledger
        self._make_places(length)
        self._held[-prompt] = ledger.fork(0)
        begin = ledger.end
        ledger.extend(self._held[-prompt], length)
        self._flat.write(begin, entry.state, length)
        self._positions[begin : begin + length] = np.arange(length)

    def _keep(self, prompt: int) -> None:
        """Put a prompt's state into the cache, unless one there can replace it."""
        tokens = self.prompts[prompt]
        if not len(tokens) or self.cache.stands_for(tokens):
            return
        end = self._ledger.end
        (seen,) = self._ledger.ancestor_mask([self._ledger.tip(self._held[-prompt])], end)
        size = self._flat.cell_bytes * len(tokens)
        if size <= self.cache.limit:
            state = self._flat.read(torch.from_numpy(np.flatnonzero(seen)))
            self.cache.put(tokens, state, size)

    def _forget(self, prompt: int) -> None:
        if prompt in self.prompts:
            del self.prompts[prompt]
            self._ledger.drop(self._held.pop(-prompt))

    # Branches

    def carry_out(self, ops: Int32Array) -> None:
        """Forks and drops, in order."""
        for kind, first, second in checked_ops(ops, self._info):
            if kind == SequenceOp.FORK:
                self._fork(first, second)
            elif first in self._held:
                self._ledger.drop(self._held.pop(first))
                del self._owners[first]
        self._ledger.take_ops()

    def make_room(self, branches: Sequence[int]) -> None:
        """See that a token for each of `branches` can be placed.

        Raises `NoRoom`, and `ModelError` for a branch that was never forked.
        """
        for branch in set(branches):
            self._own(branch)
        count = len(branches)
        if self._ledger.used + count > self._cells:
            raise NoRoom(
                f"no free KV cells for {count} tokens in a context of {self._cells}; "
                "free branches, or give a larger --context"
            )
        self._make_places(count)

    def place(self, branches: Sequence[int], positions: Int32Array) -> Placed:
        """Places for a token of each of `branches`, at these positions of theirs."""
        ledger = self._ledger
        begin = ledger.end
        cells = [ledger.append(self._own(branch)) for branch in branches]
        return self._placed(begin, positions, ledger.ancestor_mask(cells, ledger.end))

    def _own(self, branch: int) -> int:
        own = self._held.get(branch)
        if own is None:
            raise ModelError(f"sequence {branch} holds nothing; fork it from the prompt first")
        return own

    def _fork(self, source: int, destination: int) -> None:
        ledger, held = self._ledger, self._held
        if destination in held:
            ledger.drop(held.pop(destination))
        held[destination] = ledger.fork(self._own(source))
        self._owners[destination] = -source if source <= 0 else self._owners[source]

    def _drop_branches(self, prompt: int) -> None:
        for branch in [branch for branch, owner in self._owners.items() if owner == prompt]:
            del self._owners[branch]
            self._ledger.drop(self._held.pop(branch))
        self._ledger.take_ops()  # they are not used

    # Places

    def _placed(self, begin: int, positions: Any, allowed: Any) -> Placed:
        end = self._ledger.end
        self._positions[begin:end] = positions
        return Placed(begin, end, positions, allowed, self._positions[:end])

    def _make_places(self, count: int) -> None:
        """Make sure that `count` places are free at the end."""
        if self._ledger.end + count > self._cells:
            self._compact()

    def _compact(self) -> None:
        """Close the gaps that dropped branches and prompts left."""
        places = np.asarray(self._ledger.compact(), np.int64)
        moved = np.flatnonzero(places != np.arange(len(places)))
        if len(moved):
            first = int(moved[0])
            self._flat.compact(first, torch.from_numpy(places[first:]))
            self._positions[first : len(places)] = self._positions[places[first:]]
