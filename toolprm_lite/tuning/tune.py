"""Trains an adapter: passes over trees of examples, checks on validation, a state to resume from.

On the CPU everything that is random depends on the settings and the step's number alone: a run that
was stopped and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from toolprm_lite.errors import TrainingError
from toolprm_lite.tuning.lora import LoraLinear, load_state, parameters_of, state_of
from toolprm_lite.tuning.settings import TuneSettings
from toolprm_lite.tuning.state import Check, TuneState
from toolprm_lite.tuning.trees import Tree, losses, pack

_WARM_UP = 0.05  # of all steps
_CLIP = 1.0  # norm of the gradient
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # AdamW's state of a parameter


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the training is: `step` of `steps` at most, of them `done` in this run, with `tokens`
    in `seconds`; `loss` is the running mean, nats a token."""

    step: int
    steps: int
    done: int
    tokens: int
    seconds: float
    loss: float


def steps_of(trees: Sequence[Tree], number: int, settings: TuneSettings) -> list[list[Tree]]:
    """The trees of one pass in random order, at most `source_tokens` of a source, as many for each
    step as make `batch` responses."""
    shuffled = list(trees)
    random.Random(f"{settings.plan.seed}:order:{number}").shuffle(shuffled)
    steps: list[list[Tree]] = [[]]
    taken: Counter[str] = Counter()
    for tree in shuffled:
        source = tree.examples[0].source
        if settings.source_tokens is not None and taken[source] >= settings.source_tokens:
            continue
        taken[source] += tree.tokens
        if sum(len(t.examples) for t in steps[-1]) >= settings.batch:
            steps.append([])
        steps[-1].append(tree)
    return [step for step in steps if step]


def check(model: Any, trees: Sequence[Tree], step: int) -> Check:
    """Loss and exact responses on `trees`."""
    found: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    with torch.no_grad():
        for tree in trees:
            packed = pack(tree)
            nats, likeliest = losses(model, packed)
            for number, example in enumerate(tree.examples):
                own = packed.owner == number
                found[example.source].append(
                    (float(nats.cpu()[own].sum()), bool(likeliest.cpu()[own].all()))
                )
    every = [pair for pairs in found.values() for pair in pairs]
    if not every:
        raise TrainingError(
            "no validation problem fits; give more problems, or a larger --most-tokens"
        )
    loss, exact = _means(every)
    by_source = {source: (*_means(pairs), len(pairs)) for source, pairs in sorted(found.items())}
    return Check(step, loss, exact, by_source)


def _means(pairs: Sequence[tuple[float, bool]]) -> tuple[float, float]:
    return sum(p[0] for p in pairs) / len(pairs), sum(p[1] for p in pairs) / len(pairs)


class Tuner:
    """A training that can be stopped after every step.

    `model` is in evaluation mode and stays there: dropout would make steps differ. `steps` are all
    of it, in order; `validation` the trees that checks look at.
    """

    def __init__(
        self,
        model: Any,
        adapters: dict[str, LoraLinear],
        steps: Sequence[Sequence[Tree]],
        validation: Sequence[Tree],
        settings: TuneSettings,
    ) -> None:
        self._model = model
        self._adapters = adapters
        self._steps = steps
        self._validation = validation
        self._settings = settings
        self._parameters = list(parameters_of(adapters))
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
        )
        # Checks at the end of each part of a pass, and at the very end.
        every = max(1, math.ceil(len(steps) / (settings.passes * settings.checks)))
        self._checked_after = {*range(every, len(steps), every), len(steps)}
        self.step = 0
        self.updating = False
        """Whether a step is being applied: the weights are then of no step."""
        self.checks: list[Check] = []
        self.best: Mapping[str, torch.Tensor] = state_of(adapters)

    @property
    def done(self) -> bool:
        """Whether all steps are done, or no check was better for as long as patience has it."""
        if self.step >= len(self._steps):
            return True
        best = min(range(len(self.checks)), key=lambda n: self.checks[n].loss, default=0)
        return len(self.checks) - 1 - best >= self._settings.patience

    @property
    def _check_due(self) -> bool:
        """Whether the weights of now are to be checked; a run may have been stopped before it."""
        if not self.checks:
            return True
        return self.step in self._checked_after and self.checks[-1].step != self.step

    def run(self, watch: Callable[[Progress | Check], None]) -> Iterator[None]:
        """Train; yields after each step, for the caller to keep the state when it likes."""
        if self._check_due:
            self._check(watch)
        started, tokens, mean, before = time.monotonic(), 0, math.nan, self.step
        while not self.done:
            trees = self._steps[self.step]
            loss = self._one_step(trees)
            tokens += sum(tree.tokens for tree in trees)
            mean = loss if math.isnan(mean) else 0.95 * mean + 0.05 * loss
            if self._check_due:
                self._check(watch)
            seconds = time.monotonic() - started
            watch(Progress(self.step, len(self._steps), self.step - before, tokens, seconds, mean))
            yield

    def state(self) -> TuneState:
        """What `resume` continues from; copies, which later steps leave as they are."""
        moments = self._optimizer.state_dict()["state"]
        names = [f"{name}.{part}" for name in self._adapters for part in ("a", "b")]
        return TuneState(
            step=self.step,
            checks=list(self.checks),
            weights=state_of(self._adapters),
            best=self.best,
            moments={
                f"{name}.{key}": moments[number][key].detach().cpu().clone()
                for number, name in enumerate(names)
                if number in moments
                for key in _MOMENTS
            },
        )

    def resume(self, state: TuneState) -> None:
        """Continue from a state of the same training. Raises `TrainingError` for another one's."""
        shapes = {name: value.shape for name, value in self.best.items()}
        for part in (state.weights, state.best):
            if {name: value.shape for name, value in part.items()} != shapes:
                raise TrainingError("it is the state of another model or rank")
        if not 0 <= state.step <= len(self._steps):
            raise TrainingError(f"it has {state.step} steps of {len(self._steps)}")
        load_state(self._adapters, state.weights)
        names = [f"{name}.{part}" for name in self._adapters for part in ("a", "b")]
        current = self._optimizer.state_dict()
        current["state"] = {
            number: {key: state.moments[f"{name}.{key}"] for key in _MOMENTS}
            for number, name in enumerate(names)
            if f"{name}.step" in state.moments
        }
        self._optimizer.load_state_dict(current)
        self.step, self.checks, self.best = state.step, list(state.checks), state.best

    def _one_step(self, trees: Sequence[Tree]) -> float:
        """One step of the optimizer; the mean loss of a token."""
        total = len(self._steps)
        warm = min(1.0, (self.step + 1) / (1 + _WARM_UP * total))
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * warm * (1 - self.step / total)
        targets = sum(tree.targets for tree in trees)
        whole = 0.0
        for tree in trees:
            found, _ = losses(self._model, pack(tree))
            loss = found.sum() / targets
            torch.autograd.backward(loss)
            whole += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, _CLIP)
        if not math.isfinite(whole) or not math.isfinite(float(norm)):
            raise TrainingError(
                f"the loss of step {self.step + 1} is not finite; give a smaller --learning-rate, "
                "or --dtype float32"
            )
        self.updating = True
        self._optimizer.step()
        self.step += 1
        self.updating = False
        self._optimizer.zero_grad(set_to_none=True)
        return whole

    def _check(self, watch: Callable[[Progress | Check], None]) -> None:
        found = check(self._model, self._validation, self.step)
        if not self.checks or found.loss < min(c.loss for c in self.checks):
            self.best = state_of(self._adapters)
        self.checks.append(found)
        watch(found)
