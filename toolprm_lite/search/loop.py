"""The inner loop of one search, as a generator: it asks for model steps and is given what came out.
The core says what to decode, the constraint what is allowed, the reward what a step is worth. It
knows neither the backend nor other searches."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from toolprm_lite._core import StepInResponse, StepSearch
from toolprm_lite.backends.base import Batch, MaskArray, Output, Prefill, check_finite
from toolprm_lite.process import native_work
from toolprm_lite.reward.base import (
    FEATURES,
    CandidateStep,
    Reward,
    StepBatch,
    checked_rewards,
)
from toolprm_lite.reward.margin import Margin
from toolprm_lite.search import clock
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
    buffer: MaskArray = field(init=False)

    def __post_init__(self) -> None:
        self.buffer = np.empty((16, self.constraint.words), np.uint32)

    def fill(self, branches: list[int]) -> MaskArray:
        """Masks for the next tokens of `branches`, uint32 [branches, words]."""
        if len(self.buffer) < len(branches):
            self.buffer = np.empty((2 * len(branches), self.constraint.words), np.uint32)
        masks = self.buffer[: len(branches)]
        with native_work:
            self.constraint.fill([self.matchers[branch] for branch in branches], masks)
        return masks

    def follow(self, search: StepSearch) -> None:
        """Advance with the branches the search has made, and give it the tokens forced on them."""
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


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared search. Its results are read from `search` afterwards.

    `top_k` is how many of a distribution's tokens it wants; `working_set` the cells that it mostly
    fills behind its prompt; `margin` what its best response must be above the greedy one.
    """

    search: StepSearch
    reward: Reward
    prompt: list[int]
    constraint: Constraint | None
    top_k: int
    margin: Margin
    working_set: int


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """The prompt's prefill; the answer is a `Prefill`. `mask` is that of the first token."""

    tokens: list[int]
    mask: MaskArray | None


@dataclass(frozen=True, slots=True)
class RowsRequest:
    """A model step; the answer is its `Output`, None where there was no room for it, or what
    forbids it. `width` is how many of a distribution's tokens are wanted."""

    batch: Batch
    masks: MaskArray | None
    width: int


ModelRequest: TypeAlias = PromptRequest | RowsRequest | None
Answer: TypeAlias = Prefill | Output | Stop | None


def model_requests(prepared: Prepared, timing: Timing) -> Generator[ModelRequest, Answer, None]:
    """A search to its end, as what it asks of a model, one after the other: the prompt, then model
    steps; None means that a round has ended. `timing` gets the steps and the reward's part."""
    search, constraint = prepared.search, prepared.constraint
    masks = None
    forced: list[int] = []
    if constraint is not None:
        masks = Masks(constraint)
        masks.matchers[0], forced = constraint.start()
    first_mask = masks.fill([0]) if masks is not None and not forced else None
    prefill = yield PromptRequest(prepared.prompt, first_mask)
    assert isinstance(prefill, Prefill)
    if prefill.output is None:
        search.stop()
    elif forced:
        search.start_forced(forced)
    else:
        first = prefill.output
        check_finite(first)
        search.start(first.top_ids, first.top_logprobs, first.entropy)

    while not search.done:
        if masks is not None:
            masks.follow(search)
        else:
            while search.take_new():
                pass
        rows = search.next_batch()
        if rows is None:
            began = clock.now()
            steps = _step_batch(search)
            if len(steps.kinds):
                search.keep(checked_rewards(prepared.reward, steps))
                timing.reward += clock.now() - began
                timing.reward_calls += 1
            else:
                search.keep(np.empty(0, np.float32))
            yield None
            continue
        allowed = masks.fill(rows.branches) if masks is not None else None
        batch = Batch(
            rows.ops, rows.tokens, rows.positions, rows.sequences, rows.logits_at, rows.hidden_at
        )
        output = yield RowsRequest(batch, allowed, prepared.top_k)
        if isinstance(output, str):
            search.stop()
        elif output is None:
            search.no_room()
        else:
            assert isinstance(output, Output)
            timing.steps += len(batch.tokens) > 0
            check_finite(output)
            search.observe(output.top_ids, output.top_logprobs, output.entropy, output.hidden)


def _step_batch(search: StepSearch) -> StepBatch:
    inputs = search.reward_inputs()
    states = inputs.states

    def candidates() -> list[CandidateStep]:
        return [_candidate(found) for found in search.pending()]

    hidden = states if states.shape[1] else None
    columns = FEATURES[: inputs.features.shape[1]]  # the certainty alone, or all
    return StepBatch(inputs.kinds, inputs.features, hidden, candidates, columns)


def _candidate(found: StepInResponse) -> CandidateStep:
    step = found.step
    return CandidateStep(
        kind=step.kind,
        call=step.call,
        function=step.function,
        argument=step.argument,
        value=step_value(step),
        text=step_text(step),
        response=found.response.decode("utf-8", "replace"),
    )
