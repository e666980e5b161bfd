"""The inner loop: the core says what to decode, the constraint what is allowed, the backend what
comes out, the reward what it is worth. Knows nothing of prompts or results."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from toolprm_lite._core import Step as CoreStep
from toolprm_lite._core import StepSearch
from toolprm_lite.backends.base import Backend, Batch, MaskArray, Prefill
from toolprm_lite.backends.encoder import Encoder
from toolprm_lite.errors import NoRoom
from toolprm_lite.reward.base import CandidateStep, Reward, StepBatch
from toolprm_lite.search import limits as outside
from toolprm_lite.search.choices import UNMASKED, plant
from toolprm_lite.search.limits import STEP_TOKENS, Limits
from toolprm_lite.search.result import Stop
from toolprm_lite.search.text import step_text, step_value

if TYPE_CHECKING:
    from toolprm_lite.constraint import Constraint, Matcher


@dataclass(slots=True)
class Timing:
    """Seconds of wall clock by phase."""

    prefill: float = 0.0
    decode: float = 0.0
    core: float = 0.0
    reward: float = 0.0
    reward_calls: int = 0
    steps: int = 0


@dataclass(slots=True)
class Masks:
    """The constraint's place in every live branch, and one buffer for all their masks."""

    constraint: Constraint
    matchers: dict[int, Matcher] = field(default_factory=dict)
    planted: dict[int, Matcher] = field(default_factory=dict)  # of choices, see `plant`
    buffer: MaskArray = field(init=False)

    def __post_init__(self) -> None:
        self.buffer = np.empty((16, self.constraint.words), np.uint32)

    def fill(self, branches: list[int]) -> MaskArray:
        """Masks for the next tokens of `branches`, uint32 [branches, words]."""
        if len(self.buffer) < len(branches):
            self.buffer = np.empty((2 * len(branches), self.constraint.words), np.uint32)
        masks = self.buffer[: len(branches)]
        self.constraint.fill([self._matcher(branch) for branch in branches], masks)
        return masks

    def _matcher(self, branch: int) -> Matcher | None:
        if branch == UNMASKED:
            return None
        return self.matchers[branch] if branch > UNMASKED else self.planted[branch]

    def follow(self, search: StepSearch) -> None:
        """Advance with the branches the search has made, and tell it the tokens forced on them."""
        constraint, matchers = self.constraint, self.matchers
        while fresh := search.take_new():
            for branch, parent, token in fresh:
                matchers[branch] = matcher = constraint.fork(matchers[parent])
                forced = constraint.advance(matcher, token)
                if forced:
                    search.set_forced(branch, forced)
            live = set(search.live())
            for branch in [known for known in matchers if known not in live]:
                del matchers[branch]


def run(
    search: StepSearch,
    backend: Backend,
    reward: Reward,
    prompt: list[int],
    constraint: Constraint | None,
    top_k: int,
    limits: Limits,
    timing: Timing,
    encode: Encoder | None = None,
) -> Generator[None, None, tuple[Prefill, Stop | None]]:
    """Search to the end, or to the first model step that `limits` forbid, and give way after every
    round. `search` is fresh; what it found is asked of it afterwards. `encode` is for a search that
    knows choices."""
    clock = outside.clock
    started = clock()
    waited = 0.0
    stopped: Stop | None = None

    def stop() -> bool:
        nonlocal stopped
        stopped = limits.reached()
        return stopped is not None

    masks = None
    forced: list[int] = []
    if constraint is not None:
        masks = Masks(constraint)
        masks.matchers[0], forced = constraint.start()
    first_mask = masks.fill([0]) if masks is not None and not forced else None
    prefill = Prefill(0, 0, None)
    if not stop():  # else the last prompt may stay
        began = clock()
        chunk = None if limits.ends is None else STEP_TOKENS
        prefill = backend.prefill(prompt, first_mask, top_k, chunk=chunk, stop=stop)
        timing.prefill = clock() - began
        if prefill.output is not None:
            timing.prefill = prefill.output.model_seconds
    output = prefill.output
    if output is None:
        search.stop()
    elif forced:
        search.start_forced(forced)
    else:
        search.start(output.top_ids, output.top_logprobs, output.entropy)

    while not search.done:
        if masks is not None:
            masks.follow(search)
        else:
            while search.take_new():
                pass
        if encode is not None:
            plant(search, encode, backend.token_bytes, masks)
        rows = search.next_batch()
        if rows is None:
            began = clock()
            batch = _step_batch(search)
            if len(batch.kinds):
                search.keep(reward.score(batch))
                timing.reward += clock() - began
                timing.reward_calls += 1
            else:
                search.keep(np.empty(0, np.float32))
            began = clock()
            yield
            waited += clock() - began
            continue
        if (stopped := limits.reached(search)) is not None:
            search.stop()
            continue
        *arrays, branches = rows
        allowed = masks.fill(branches) if masks is not None else None
        if search.narrowed:
            if allowed is None:
                words = (backend.info.vocab_size + 31) // 32
                allowed = np.full((len(branches), words), 0xFFFFFFFF, np.uint32)
            search.narrow(allowed)
        try:
            output = backend.decode(Batch(*arrays), allowed, max(top_k, search.choice_width))
        except NoRoom:
            search.no_room()
            continue
        timing.decode += output.model_seconds
        timing.steps += 1
        search.observe(output.top_ids, output.top_logprobs, output.entropy, output.hidden)
    timing.core = clock() - started - timing.prefill - timing.decode - timing.reward - waited
    return prefill, stopped


def _step_batch(search: StepSearch) -> StepBatch:
    kinds, features, hidden = search.features()

    def candidates() -> list[CandidateStep]:
        return [_candidate(step, response) for step, response in search.pending()]

    return StepBatch(kinds, features, hidden, candidates)


def _candidate(step: CoreStep, response: bytes) -> CandidateStep:
    return CandidateStep(
        kind=step.kind,
        call=step.call,
        function=step.function,
        argument=step.argument,
        value=step_value(step, response),
        text=step_text(step, response),
        response=response.decode("utf-8", "replace"),
    )
