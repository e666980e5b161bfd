"""Collects a supervision set: shows prepared problems to the model, draws responses, labels every
step. Knows neither how problems are prepared nor how steps are labelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from toolprm_lite.errors import ConfigError, ConstraintError, ContextError, ToolsError
from toolprm_lite.files import locked
from toolprm_lite.reward.base import FEATURES, Float32Array
from toolprm_lite.reward.states import StateReader
from toolprm_lite.search.config import SearchConfig
from toolprm_lite.search.searcher import Searcher
from toolprm_lite.search.text import step_value
from toolprm_lite.store import as_json
from toolprm_lite.supervision.annotation import Label, annotate
from toolprm_lite.supervision.dataset import FORMAT, TRAJECTORIES, SetWriter, steps_schema
from toolprm_lite.tasks.matching import MatchRule
from toolprm_lite.tasks.names import fraction
from toolprm_lite.tasks.plan_settings import PlanSettings
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tools import Tool, parse_tools


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectSettings:
    """How to collect.

    Attributes:
        draws: responses drawn for each problem, besides the most likely one.
        temperature: of the draws.
        top_k: tokens a draw may choose among.
        seed: of the draws.
        layers: hidden states to store; empty is a choice in the middle of the model.
        unconstrained_share: of the problems are answered a second time without the constraint.
        max_tokens: longest response.
        max_step_tokens: longest step.
        match: the rule by which a step equals the answer.
        call_format: as in `SearchConfig`.
        shard: problems in a shard, at least.
        plan: how the problems were prepared.
    """

    draws: int = 10
    temperature: float = 0.8
    top_k: int = 64
    seed: int = 0
    layers: tuple[int, ...] = ()
    unconstrained_share: float = 0.1
    max_tokens: int = 256
    max_step_tokens: int = 48
    match: MatchRule = "exact"
    call_format: str = "auto"
    shard: int = 12
    plan: PlanSettings = field(default_factory=PlanSettings)

    def __post_init__(self) -> None:
        if not 1 <= self.draws <= 1024:
            raise ConfigError(f"draws is {self.draws}; it must be 1 .. 1024")
        if not 0 <= self.unconstrained_share <= 1:
            raise ConfigError(
                f"unconstrained_share is {self.unconstrained_share}; it must be 0 .. 1"
            )
        if self.shard < 1:
            raise ConfigError(f"shard is {self.shard}; it must be at least 1")
        self.search(constrained=True)

    def search(self, constrained: bool) -> SearchConfig:
        """The search that draws the responses. Raises `ConfigError`."""
        return SearchConfig(
            samples=self.draws,
            temperature=self.temperature,
            top_k=self.top_k,
            seed=self.seed,
            max_tokens=self.max_tokens,
            max_step_tokens=self.max_step_tokens,
            call_format=self.call_format,
            constrain="on" if constrained else "off",
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a collection is, at the start and after each problem.

    What was there at the start counts as done; `right` counts greedy responses under the
    constraint; `skipped` says why the problem could not be shown, if it could not.
    """

    done: int
    total: int
    steps: int
    right: int
    skipped: str | None = None


@dataclass(slots=True)
class Shard:
    """What is collected for one shard, column by column: `steps` and `trajectories` as a set's
    tables have them, `features` float32 [rows, F] and `states` float32 [rows, layers * width] in
    parts."""

    steps: dict[str, list[Any]]
    trajectories: dict[str, list[Any]]
    features: list[Float32Array]
    states: list[Float32Array]
    rows: int = 0

    @classmethod
    def empty(cls) -> Shard:
        steps = [name for name in steps_schema(0).names if name != "features"]
        return cls({name: [] for name in steps}, {name: [] for name in TRAJECTORIES.names}, [], [])


def middle_layers(blocks: int) -> tuple[int, ...]:
    """Three layers between the middle and three quarters of a model, where states know most about
    values."""
    return tuple(sorted({max(1, round(blocks * share)) for share in (0.46, 0.58, 0.71)}))


def collect_shard(
    searcher: Searcher,
    problems: Sequence[Problem],
    settings: CollectSettings,
    report: Callable[[Shard, bool, str | None], None] = lambda shard, right, skipped: None,
) -> Shard:
    """Let the model answer the problems, and label every step it decides. Writes no file.

    What is collected depends on the model, the problems and the settings alone, so shards can be
    collected in any order and by several processes. After each problem `report` is told of the
    shard so far, whether the greedy response was right, and why the problem was skipped. Raises
    `ConfigError` for layers that the model does not have.
    """
    reader = StateReader(state_layers(searcher, settings))
    shard = Shard.empty()
    searcher.forget()
    for problem in problems:
        right, skipped = False, None
        try:
            right = _roll_out(searcher, problem, reader, settings, shard)
        except (ContextError, ConstraintError, ToolsError) as error:
            skipped = f"{problem.id}: {error}"
        report(shard, right, skipped)
    return shard


def collect(
    searcher: Searcher,
    plan: Sequence[Problem],
    folder: Path,
    settings: CollectSettings,
    report: Callable[[Progress], None] = lambda progress: None,
    limit: int | None = None,
    weights: Mapping[str, Any] | None = None,
) -> None:
    """Collect the set of `plan` into `folder`, going on where an earlier run has stopped.

    A shard depends on its own problems alone, so an interrupted collection ends as the same set.
    With `limit` it ends with the shard that holds the plan's problem of that number; a later run
    may go further. `weights` tells the model's file and precision from others of the same model: a
    set holds rollouts of one. Raises `ConfigError` for layers that the model hasn't got,
    `DatasetError` when `folder` holds something else, `OSError` when it can't be written. `folder`
    is kept from other runs.
    """
    with locked(folder, folder=True, nested=True):
        _collect(searcher, plan, folder, settings, report, limit, weights or {})


def _collect(
    searcher: Searcher,
    plan: Sequence[Problem],
    folder: Path,
    settings: CollectSettings,
    report: Callable[[Progress], None],
    limit: int | None,
    weights: Mapping[str, Any],
) -> None:
    layers = state_layers(searcher, settings)
    writer = SetWriter(folder)
    manifest = _manifest(searcher, layers, settings, weights, len(plan))
    writer.begin(manifest, [problem.to_dict() for problem in plan])
    shards = list(split_shards(plan, settings.shard))
    wanted, total = 0, 0
    while wanted < len(shards) and (limit is None or total < limit):
        total += len(shards[wanted])
        wanted += 1
    missing = []
    done = steps = right = 0
    for number in range(wanted):
        if writer.has(number):
            counts = writer.counts(number)
            done, steps, right = done + len(shards[number]), steps + counts[0], right + counts[1]
        else:
            missing.append(number)
    report(Progress(done, total, steps, right))

    def told(shard: Shard, was_right: bool, skipped: str | None) -> None:
        nonlocal done, right
        done += 1
        right += was_right
        report(Progress(done, total, steps + shard.rows, right, skipped))

    for number in missing:
        shard = collect_shard(searcher, shards[number], settings, told)
        steps += shard.rows
        _write(writer, number, shard, layers, searcher.info.width)
    if wanted == len(shards):
        writer.finish()


def state_layers(searcher: Searcher, settings: CollectSettings) -> tuple[int, ...]:
    """The layers whose states are stored. Raises `ConfigError` for those that are not there."""
    info = searcher.info
    layers = settings.layers or middle_layers(info.layers)
    if len(set(layers)) < len(layers) or not all(0 <= layer <= info.layers for layer in layers):
        raise ConfigError(
            f"layers are {', '.join(map(str, layers))}; they must be different ones of "
            f"0 .. {info.layers}, for {info.name} has {info.layers} blocks"
        )
    return layers


def _manifest(
    searcher: Searcher,
    layers: tuple[int, ...],
    settings: CollectSettings,
    weights: Mapping[str, Any],
    problems: int,
) -> dict[str, Any]:
    info = searcher.info
    recorded = {key: value for key, value in asdict(settings).items() if key != "layers"}
    return {
        "format": FORMAT,
        "model": {
            "name": info.name,
            "architecture": info.architecture,
            "width": info.width,
            "layers": info.layers,
            "vocabulary": searcher.vocabulary_hash,
        },
        "weights": dict(weights),
        "call_format": searcher.call_format(settings.call_format).name,
        "layers": list(layers),
        "pooled": True,
        "features": list(FEATURES),
        "settings": as_json(recorded),
        "problems": problems,
        "complete": False,
    }


def split_shards(plan: Sequence[Problem], size: int) -> Iterator[list[Problem]]:
    """Parts of at least `size` problems; those of one tool list stay together, for their prompts
    share a beginning."""
    shard: list[Problem] = []
    for problem in plan:
        if len(shard) >= size and problem.tools != shard[-1].tools:
            yield shard
            shard = []
        shard.append(problem)
    if shard:
        yield shard


def _roll_out(
    searcher: Searcher,
    problem: Problem,
    reader: StateReader,
    settings: CollectSettings,
    shard: Shard,
) -> bool:
    """Add a problem's rollouts to the shard. Returns whether the greedy response was right."""
    tools = parse_tools(problem.tools, problem.id)
    modes = [True]
    if fraction(f"{settings.seed}/{problem.id}") < settings.unconstrained_share:
        modes.append(False)
    right = False
    rolled = []
    for constrained in modes:
        config = settings.search(constrained)
        rolled.append((constrained, searcher.record(problem.messages, tools, config, reader)))
    for constrained, records in rolled:
        right |= _add(shard, problem, tools, constrained, records, settings.match)
    return right


def _add(
    shard: Shard,
    problem: Problem,
    tools: list[Tool],
    constrained: bool,
    records: dict[str, Any],
    match: MatchRule,
) -> bool:
    if records["states"].shape[1] == 0:  # all ended before a boundary token was decoded
        none = {
            name: records[name][:0] for name in records if name not in ("trajectories", "stats")
        }
        records = none | {"trajectories": [(-1, *rest) for _, *rest in records["trajectories"]]}
    steps = [
        _Decided(
            step.kind,
            step.call,
            step.function,
            step.argument,
            step_value(step, text),
            previous,
            goes_on,
        )
        for (step, text), previous, goes_on in zip(
            records["steps"], records["previous"].tolist(), records["goes_on"], strict=True
        )
    ]
    answers = problem.answers
    if match == "bfcl" and problem.possible is not None:
        answers = problem.possible
    labels = annotate(steps, answers, tools, match)
    _add_steps(shard, problem, constrained, records, labels)

    greedy_right = False
    for last, draws, greedy, complete, fate, tokens, text in records["trajectories"]:
        right = complete and last >= 0 and steps[last].kind == "TOTAL_FINISH" and labels[last].local
        greedy_right |= constrained and greedy and right
        row = (problem.id, constrained, last, draws, greedy, complete, right, fate, tokens)
        for name, value in zip(shard.trajectories, row, strict=False):
            shard.trajectories[name].append(value)
        shard.trajectories["text"].append(text.decode("utf-8", "replace"))
    return greedy_right


def _add_steps(
    shard: Shard,
    problem: Problem,
    constrained: bool,
    records: dict[str, Any],
    labels: Sequence[Label],
) -> None:
    count = len(labels)
    columns = shard.steps
    columns["problem"] += [problem.id] * count
    columns["constrained"] += [constrained] * count
    columns["step"] += range(count)
    columns["row"] += range(shard.rows, shard.rows + count)
    for name in ("previous", "tokens", "draws"):
        columns[name] += records[name].tolist()
    columns["greedy"] += records["greedy"]
    columns["goes_on"] += records["goes_on"]
    for (step, text), label in zip(records["steps"], labels, strict=True):
        columns["kind"].append(step.kind)
        columns["call"].append(-1 if step.call is None else step.call)
        columns["function"].append(step.function)
        columns["argument"].append(step.argument)
        value = None
        if step.kind == "ARG_VALUE":
            value = text[step.begin : step.end].decode("utf-8", "replace")
        columns["value"].append(value)
        columns["boundary"].append(step.boundary)
        columns["local"].append(label.local)
        columns["viable"].append(label.viable)
    shard.features.append(records["features"])
    shard.states.append(records["states"])
    shard.rows += count


@dataclass(frozen=True, slots=True)
class _Decided:
    """A step as `annotate` reads it."""

    kind: str
    call: int | None
    function: str | None
    argument: str | None
    value: Any
    previous: int
    goes_on: bool


def _write(
    writer: SetWriter, number: int, shard: Shard, layers: tuple[int, ...], width: int
) -> None:
    names = [f"boundary.{layer}" for layer in layers] + [f"pooled.{layer}" for layer in layers]
    features = np.concatenate([*shard.features, np.empty((0, len(FEATURES)), np.float32)])
    states = np.concatenate(
        [part for part in shard.states if part.size]
        or [np.empty((0, len(names) * width), np.float32)]
    )
    limit = np.finfo(np.float16).max
    halves = np.clip(states, -limit, limit).astype(np.float16)
    tensors = {
        name: np.ascontiguousarray(halves[:, place * width : (place + 1) * width])
        for place, name in enumerate(names)
    }
    writer.write(number, shard.steps, shard.trajectories, tensors, features)
