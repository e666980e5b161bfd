"""Several searches on one context: who is admitted, and whose rows go into the next model step.

A search is admitted, in the order of arrival, when the context has cells for its prompt and for
what it mostly needs after it. From then on it takes part in every model step, unless there are more
rows than one step takes: then those go first that have waited longest. One that finds no cells for
a row waits. Where the one admitted first would have to wait, the last is put back: its cells are
free, and it continues later from where it stopped. So the first always makes progress, in the end
with the whole context to itself, as a search alone would.

A prompt whose search was the last to end stays in the context, so that the next search reuses what
it shares with it.

Knows searches and cells, nothing of messages or results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from toolprm_lite.backends.base import (
    RESPONSE_ROOM,
    Backend,
    Batch,
    Output,
    Prefill,
    SequenceOp,
)
from toolprm_lite.errors import ContextError, NoRoom
from toolprm_lite.search import clock
from toolprm_lite.search.job import Ended, Job
from toolprm_lite.search.limits import STEP_TOKENS
from toolprm_lite.search.loop import Answer, Prepared, PromptRequest, RowsRequest, model_requests
from toolprm_lite.search.merge import merged_batch, ops_array

_STEP_TOKENS = 512  # of one model step, where no deadline makes it smaller

_NOTHING = Output(
    np.empty((0, 1), np.int32), np.empty((0, 1), np.float32), np.empty(0, np.float32), None
)  # the answer to a batch without rows


class Scheduler:
    """Not thread-safe: the caller must have the model to itself.

    `arrived` says whether there are jobs that have not been added yet: a prompt is interrupted for
    them. `own` is what ends one job alone when it is raised for that job; anything else ends all of
    them and is raised.
    """

    def __init__(self, backend: Backend) -> None:
        self.arrived: Callable[[], bool] = bool
        self.own: type[BaseException] = Exception
        self._backend = backend
        self._waiting: deque[Job] = deque()
        self._live: list[Job] = []  # in the order in which they were admitted
        self._begin()

    def _begin(self) -> None:
        info = self._backend.info
        self._sequences = list(range(info.max_sequences, 0, -1))  # that are free, the next one last
        self._prompts = list(range(info.max_prompts - 1, -1, -1))
        self._prompt_cells = 0
        self._tapped: tuple[int, ...] = ()
        self._ops: list[tuple[int, int, int]] = []  # to carry out with the next model step
        self._steps = 0

    @property
    def busy(self) -> bool:
        """Whether there is a job that has not ended."""
        return bool(self._waiting or self._live)

    def add(self, job: Job) -> None:
        """Let a job wait for its turn."""
        self._waiting.append(job)

    def step(self) -> None:
        """At most one model step of rows, and before it prompts of jobs that can begin: where a job
        has a deadline, one part of one prompt."""
        if len(self._live) == 1 and not self._waiting:
            (job,) = self._live
            if isinstance(job.request, RowsRequest):
                job.stopped = job.limits.reached(job.search)
                if job.stopped is None:
                    self._decode_alone(job)
                else:
                    self._advance(job, job.stopped)
                return
        self._stop_waiting()
        self._stop_live()
        self._admit()
        self._stop_live()
        for job in list(self._live):
            if job.waits_for_room:
                self._advance(job, _NOTHING)
        while len(self._live) > 1 and self._live[0].waits_for_room:
            self._put_back(self._live[-1])
            self._advance(self._live[0], _NOTHING)
        chosen = self._choose()
        if len(chosen) == 1 and len(self._live) == 1:
            self._decode_alone(chosen[0])
        elif chosen:
            self._decode(chosen)

    def fail(self, error: BaseException) -> None:
        """End all jobs with an error that is not one job's own."""
        jobs = [*self._live, *self._waiting]
        self._waiting.clear()
        self._forget_live()
        for job in jobs:
            self._fail_one(job, error)

    def abandon(self) -> None:
        """Drop all jobs: nobody waits for their results any more."""
        self._waiting.clear()
        for job in list(self._live):
            self._leave(job)

    def _stop_waiting(self) -> None:
        for job in list(self._waiting):
            job.stopped = job.limits.reached()
            if job.stopped is None:
                continue
            self._waiting.remove(job)
            if job.begun:
                self._advance(job, job.stopped)
            else:
                conclude(job, None, self.own)

    def _forget_live(self) -> None:
        """Empty the context after an error, whatever it may hold."""
        if self._live:
            self._live.clear()
            with suppress(Exception):  # the error at hand says why
                self._backend.clear()
            self._begin()

    def _fail_one(self, job: Job, error: BaseException) -> None:
        with suppress(self.own):  # of a callback that the caller has added
            job.future.set_exception(error)

    def _stop_live(self) -> None:
        for job in list(self._live):
            if isinstance(job.request, RowsRequest):
                job.stopped = job.limits.reached(job.search)
                if job.stopped is not None:
                    self._advance(job, job.stopped)

    @property
    def _timed(self) -> bool:
        return any(job.limits.ends is not None for job in [*self._live, *self._waiting])

    # Admission

    def _admit(self) -> None:
        for job in self._live:
            if isinstance(job.request, PromptRequest):
                self._go_on_with_prompt(job)
                return
        while self._waiting and self._prompts:
            job = self._waiting[0]
            if not self._prepare(job):
                continue
            layers = job.layers
            if not self._live:
                try:
                    if layers:  # else they stay: another tap may cost the cached prompts
                        self._backend.tap(layers)
                except self.own as error:  # such as a layer that the model does not have
                    self._waiting.popleft()
                    self._fail_one(job, error)
                    continue
                self._tapped = layers
            elif layers and layers != self._tapped:
                return
            self._waiting.popleft()
            self._live.append(job)
            job.prompt = self._prompts.pop()
            job.prompt_begun = job.renumbered = job.has_all_room = False
            job.sequences = {0: -job.prompt}
            self._go_on_with_prompt(job)
            if self._timed or (self._waiting and self._waiting[0] is job):
                return

    def _prepare(self, job: Job) -> bool:
        """See that the next job can be admitted; else it has ended."""
        if job.prepared is not None:
            return True
        job.started = clock.now()
        try:
            prepared = job.prepare()
            if prepared is not None:
                job.layers = tuple(prepared.reward.layers)
                job.requests = model_requests(prepared, job.timing)
                job.request = next(job.requests)
        except self.own as error:
            self._waiting.popleft()
            self._fail_one(job, error)
            return False
        if prepared is None:
            self._waiting.popleft()
            conclude(job, None, self.own)
            return False
        job.prepared = prepared
        return True

    def _go_on_with_prompt(self, job: Job) -> None:
        """Prefill; one part of the prompt at a time where another job has a deadline or is to be
        ended, and where jobs arrive."""
        request, prompt, prepared = job.request, job.prompt, job.prepared
        assert isinstance(request, PromptRequest)
        assert prompt is not None
        assert prepared is not None
        others = [other for other in self._live if other is not job]
        in_parts = any(other.limits.ends is not None for other in [*others, *self._waiting])
        asked = 0

        def stop() -> bool:
            nonlocal asked
            asked += 1
            job.stopped = job.limits.reached()
            if job.stopped is not None or asked == 1:
                return job.stopped is not None
            stopped = (other.limits.reached() for other in [*others, *self._waiting])
            return in_parts or self.arrived() or any(stopped)

        room = RESPONSE_ROOM
        if others:
            room = sum(other.cells for other in others)
            room += max(prepared.working_set, job.cells_max)
        began = clock.now()
        try:
            part = self._backend.prefill(
                request.tokens, request.mask, prepared.top_k, prompt=prompt, room=room,
                chunk=STEP_TOKENS if self._timed else None, stop=stop,
            )  # fmt: skip
        except (ContextError, NoRoom) as error:
            if others and isinstance(error, NoRoom):
                self._put_back(job)
            else:
                self._leave(job)
                self._fail_one(job, error)
            return
        except Exception as error:
            self._fail_at_prompt(job, error)
            return
        self._prompt_cells = self._backend.prompt_cells
        spent = clock.now() - began
        job.timing.prefill += spent if part.output is None else part.output.model_seconds
        reused = 0 if job.prompt_begun else part.reused_tokens
        job.prompt_begun = True
        job.prefill = Prefill(
            job.prefill.reused_tokens + reused,
            job.prefill.prefill_tokens + part.prefill_tokens,
            part.output,
        )
        if part.output is None and job.stopped is None:
            return
        if not job.begun:
            job.begun = True
            self._advance(job, job.prefill)
        else:
            self._advance(job, job.stopped or _NOTHING)

    def _fail_at_prompt(self, job: Job, error: Exception) -> None:
        """End a job for whose prompt the model failed. What others had in the context may be gone
        with it, so they begin there again."""
        others = [other for other in self._live if other is not job]
        self._forget_live()
        for other in reversed(others):
            other.prompt = None
            self._forget_cells(other)
            self._waiting.appendleft(other)
        self._fail_one(job, error)

    def _put_back(self, job: Job) -> None:
        """Let an admitted job wait again, without a cell in the context."""
        self._forget_cells(job)
        self._leave(job)
        self._waiting.appendleft(job)

    @staticmethod
    def _forget_cells(job: Job) -> None:
        if job.begun:
            assert job.prepared is not None
            job.search.forget_cells()
            job.request = PromptRequest(job.prepared.prompt, None)

    def _leave(self, job: Job) -> None:
        """Free what an admitted job holds. The last one's prompt stays in the context, and its
        branches with it, until the next job takes over its number."""
        if job.prompt is None:
            return
        self._live.remove(job)
        if self._live:
            self._carry_out()
            self._backend.release(job.prompt)
            self._prompt_cells = self._backend.prompt_cells
            self._prompts = sorted([*self._prompts, job.prompt], reverse=True)
            self._sequences += [number for own, number in job.sequences.items() if own > 0]
        else:
            self._ops = []
            self._sequences = list(range(self._backend.info.max_sequences, 0, -1))
            self._prompts.append(job.prompt)
        job.prompt = None

    # Model steps

    @property
    def _step_tokens(self) -> int:
        return STEP_TOKENS if self._timed else _STEP_TOKENS

    def _advance(self, job: Job, answer: Answer) -> None:
        """Let a job continue to its next rows, or to its end."""
        assert job.requests is not None
        if job.prompt is not None:
            self._give_room(job)
        began, reward = clock.now(), job.timing.reward
        try:
            request = job.requests.send(answer)
            while request is None:
                job.listen()
                request = job.requests.send(None)
        except StopIteration:
            job.listen()
            self._leave(job)
            conclude(job, job.prepared, self.own)
            return
        except self.own as error:
            self._leave(job)
            self._fail_one(job, error)
            return
        finally:
            job.timing.core += clock.now() - began - (job.timing.reward - reward)
        assert isinstance(request, RowsRequest)
        job.request = request
        job.cells_max = max(job.cells_max, job.cells)
        for kind, first, second in request.batch.ops.tolist():
            if kind == SequenceOp.FORK:
                number = job.sequences[second] = self._sequences.pop()
                job.renumbered |= number != second
                self._ops.append((kind, job.sequences[first], number))
            else:
                number = job.sequences.pop(first)
                self._sequences.append(number)
                self._ops.append((kind, number, 0))

    def _give_room(self, job: Job) -> None:
        """What is free the job may take. Of a lone one this does not change from step to step."""
        alone = len(self._live) == 1 and not self._waiting
        if alone and job.has_all_room:
            return
        job.has_all_room = alone
        taken = self._prompt_cells + sum(other.cells for other in self._live)
        job.search.set_room(
            cells=job.search.cells + max(0, self._backend.info.context - taken),
            sequences=job.search.sequences + len(self._sequences),
            batch_tokens=self._step_tokens,
            waits=len(self._live) > 1,
        )

    def _choose(self) -> list[Job]:
        """The jobs whose rows go into the next step: those first that have waited longest."""
        ready = [
            job
            for job in self._live
            if isinstance(job.request, RowsRequest) and not job.waits_for_room
        ]
        chosen: list[Job] = []
        tokens = rows = 0
        for job in sorted(ready, key=lambda job: job.stepped):
            batch = job.rows.batch
            tokens += len(batch.tokens)
            rows += len(batch.logits_at)
            if chosen and (tokens > self._step_tokens or rows > self._backend.info.max_sequences):
                tokens -= len(batch.tokens)
                rows -= len(batch.logits_at)
                continue
            chosen.append(job)
        return chosen

    def _carry_out(self) -> None:
        """The sequence operations so far, without a model step."""
        if self._ops:
            none = np.empty(0, np.int32)
            ops, self._ops = self._ops, []
            self._backend.decode(Batch(ops_array(ops), none, none, none, none, none), None, 1)

    def _decode_alone(self, job: Job) -> None:
        """A step of the only job: its rows as they are, where its sequences kept their numbers."""
        request = job.rows
        batch = request.batch
        if job.renumbered:
            batch, _ = merged_batch(self._ops, [job])
        elif self._ops or len(batch.ops):
            batch = Batch(
                ops_array(self._ops), batch.tokens, batch.positions, batch.sequences,
                batch.logits_at, batch.hidden_at,
            )  # fmt: skip
        self._ops = []
        began = clock.now()
        try:
            output = self._backend.decode(batch, request.masks, request.width)
        except NoRoom:
            self._advance(job, None)
            return
        job.timing.decode += output.model_seconds
        job.timing.core += clock.now() - began - output.model_seconds
        self._steps += 1
        job.stepped = self._steps
        self._advance(job, output)

    def _decode(self, chosen: list[Job]) -> None:
        batch, masks = merged_batch(self._ops, chosen)
        self._ops = []
        width = max(job.rows.width for job in chosen)
        began = clock.now()
        try:
            output = self._backend.decode(batch, masks, width)
        except NoRoom:  # more than one step takes
            if len(chosen) > 1:
                self._decode(chosen[: len(chosen) // 2])
            else:
                self._advance(chosen[0], None)
            return
        outside_model = clock.now() - began - output.model_seconds
        self._steps += 1
        row = state = 0
        for job in chosen:
            own, k = job.rows.batch, job.rows.width
            share = len(own.tokens) / len(batch.tokens)
            rows = slice(row, row + len(own.logits_at))
            states = slice(state, state + len(own.hidden_at))
            row, state = rows.stop, states.stop
            job.timing.decode += share * output.model_seconds
            job.timing.core += share * outside_model
            job.stepped = self._steps
            self._advance(
                job,
                Output(
                    output.top_ids[rows, :k],
                    output.top_logprobs[rows, :k],
                    output.entropy[rows],
                    None if output.hidden is None else output.hidden[states],
                ),
            )


def conclude(job: Job, prepared: Prepared | None, own: type[BaseException]) -> None:
    """Make the result of a job that has ended. `own` as in `Scheduler`."""
    seconds = clock.now() - job.started if prepared is not None else 0.0
    try:
        result = job.conclude(Ended(prepared, job.prefill, job.stopped, job.timing, seconds))
    except own as error:
        with suppress(own):  # of a callback that the caller has added
            job.future.set_exception(error)
    else:
        with suppress(own):
            job.future.set_result(result)
