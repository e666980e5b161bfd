"""One shard of a supervision set: shows its problems to the model, draws responses, labels every
step. Knows no files, nor how problems are prepared or steps are labelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from toolprm_lite.errors import ConfigError, ConstraintError, ContextError, ToolsError
from toolprm_lite.reward.base import Float32Array
from toolprm_lite.reward.states import StateReader
from toolprm_lite.search.searcher import Searcher
from toolprm_lite.search.text import step_value
from toolprm_lite.supervision.annotation import Label, annotate
from toolprm_lite.supervision.collect_settings import CollectSettings
from toolprm_lite.supervision.dataset import TRAJECTORIES, steps_schema
from toolprm_lite.tasks.matching import MatchRule
from toolprm_lite.tasks.names import fraction
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tools import Tool, parse_tools


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


def collect_shard(
    searcher: Searcher,
    problems: Sequence[Problem],
    settings: CollectSettings,
    report: Callable[[Shard, bool, str | None], None] = lambda shard, right, skipped: None,
) -> Shard:
    """Let the model answer the problems, and label every step it decides. Writes no file.

    What is collected depends on the model, the problems and the settings alone, so shards can be
    collected in any order and by several processes. After each problem `report` gets the
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


def middle_layers(blocks: int) -> tuple[int, ...]:
    """Three layers between the middle and three quarters of a model, where states know most about
    values."""
    return tuple(sorted({max(1, round(blocks * share)) for share in (0.46, 0.58, 0.71)}))


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
        records = none | {"trajectories": records["trajectories"]}
    steps = [
        _Decided(
            found.step.kind,
            found.step.call,
            found.step.function,
            found.step.argument,
            step_value(found.step),
            previous,
            goes_on,
        )
        for found, previous, goes_on in zip(
            records["steps"], records["previous"].tolist(), records["goes_on"], strict=True
        )
    ]
    answers = problem.answers
    if match == "bfcl" and problem.possible is not None:
        answers = problem.possible
    labels = annotate(steps, answers, tools, match)
    _add_steps(shard, problem, constrained, records, labels)

    greedy_right = False
    for drawn in records["trajectories"]:
        last, complete = drawn.last_step if steps else -1, drawn.finished
        right = complete and last >= 0 and steps[last].kind == "TOTAL_FINISH" and labels[last].local
        greedy_right |= constrained and drawn.greedy and right
        row = (
            problem.id, constrained, last, drawn.draws, drawn.greedy, complete, right, drawn.fate,
            drawn.tokens,
        )  # fmt: skip
        for name, value in zip(shard.trajectories, row, strict=False):
            shard.trajectories[name].append(value)
        shard.trajectories["text"].append(drawn.text.decode("utf-8", "replace"))
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
    for found, label in zip(records["steps"], labels, strict=True):
        step = found.step
        columns["kind"].append(step.kind)
        columns["call"].append(-1 if step.call is None else step.call)
        columns["function"].append(step.function)
        columns["argument"].append(step.argument)
        value = None
        if step.value is not None:
            value = step.value.decode("utf-8", "replace")
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
