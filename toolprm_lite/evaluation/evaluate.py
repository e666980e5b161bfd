"""Runs strategies on problems with known answers, and compares them.

A run's folder keeps the answers (`runs`): a stopped run continues there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from toolprm_lite.evaluation import summary as figures
from toolprm_lite.evaluation import toolalpaca
from toolprm_lite.evaluation.bfcl_results import OfficialChecker, write_results
from toolprm_lite.evaluation.markdown import markdown
from toolprm_lite.evaluation.rewards import RewardSettings, identity, judge_names, open_reward
from toolprm_lite.evaluation.runs import Column, RunFolder, slug
from toolprm_lite.evaluation.strategies import Comparison, Strategy
from toolprm_lite.files import locked, replace_file
from toolprm_lite.search.config import SearchConfig
from toolprm_lite.search.searcher import Searcher
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tasks.sources import SourceSettings

Record = dict[str, Any]
Answers = dict[str, list[dict[str, Record]]]
"""By strategy, seed and problem."""

Watch = Callable[[int, int], AbstractContextManager[Callable[[], None]]]
"""Called with the number of problems to run, and of those that are answered already; gives what is
called after each problem. Wraps the asking, so that it sees an interrupt."""

_BFCL_MODEL = "MadeAgents_Hammer2.1-0.5b"  # whose handler reads JSON lists
# No answer depends on these: they are in a strategy's name, or change nothing.
_NOT_RECORDED = ("strategy", "beams", "expand", "samples", "doubt", "trace")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSettings:
    """How problems are asked.

    Attributes:
        source: where the problems are from, for the record and the title.
        strategies: what is compared; empty is the usual ones, with every head there is.
        search: what all searches have in common; its sizes are those of the usual strategies.
        budget: whole responses in a pool of the usual strategies.
        seeds: how many seeds, from `search.seed` on, strategies that draw are run with.
        rewards: where rewards are found.
    """

    source: SourceSettings
    strategies: tuple[Strategy, ...] = ()
    search: SearchConfig = field(default_factory=SearchConfig)
    budget: int = 16
    seeds: int = 1
    rewards: RewardSettings = field(default_factory=RewardSettings)

    def sizes(self) -> dict[str, Any]:
        """The sizes of strategies that don't name theirs, for `Strategy.parse`."""
        return {
            "beams": self.search.beams,
            "expand": self.search.expand,
            "samples": self.budget,
            "doubt": self.search.doubt,
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a run has found: the summary in JSON's types, and as a text in Markdown."""

    summary: Record
    text: str


@contextmanager
def unwatched(todo: int, answered: int) -> Iterator[Callable[[], None]]:
    """A `Watch` that shows nothing."""
    yield lambda: None


def evaluate(
    searcher: Searcher,
    problems: Sequence[Problem],
    folder: Path,
    settings: EvalSettings,
    *,
    official: OfficialChecker | None = None,
    watch: Watch = unwatched,
) -> Evaluation:
    """Run all strategies on the problems, and write the answers and their summary into `folder`.

    `official` judges all answers a second time. Problems of BFCL are also written in BFCL's own
    layout, and those of ToolAlpaca get Hammer's figures. Raises `ConfigError` when the folder holds
    answers of other settings or another run is writing to it, `DatasetError` when it holds
    something else, `HeadError` for a reward that is not there.
    """
    with asking(searcher, folder, settings) as (run, comparison):
        answers = answer_all(run, problems, comparison, watch)
        summary = figures.summarise(problems, answers, official)
        if settings.source.source == "toolalpaca":
            _add_f1(summary, problems, answers)
        if settings.source.source == "bfcl":
            _write_bfcl(run, problems, comparison.columns)
        text = write_summary(run, summary, settings.source)
    return Evaluation(summary, text)


@contextmanager
def asking(
    searcher: Searcher, folder: Path, settings: EvalSettings
) -> Iterator[tuple[RunFolder, Comparison]]:
    """The run's folder, locked against other runs, and what runs the strategies; within it the
    rewards are open."""
    base, rewards_from = settings.search, settings.rewards
    with locked(folder, folder=True, nested=True), ExitStack() as stack:
        asked = settings.strategies or usual_strategies(searcher, settings)
        names = dict.fromkeys(s.reward for s in asked if s.reward is not None)
        rewards = {
            name: open_reward(name, searcher, rewards_from, base.call_format, stack)
            for name in names
        }
        comparison = Comparison(searcher, list(dict.fromkeys(asked)), rewards, base, settings.seeds)
        recorded = run_settings(settings)
        recorded["rewards"] = {
            name: identity(reward, rewards_from) for name, reward in rewards.items()
        }
        yield RunFolder(folder, recorded), comparison


def run_settings(settings: EvalSettings) -> Record:
    """What answers depend on, but for the rewards."""
    depends = settings.search.to_json()
    for name in _NOT_RECORDED:
        del depends[name]
    source = settings.source
    return {
        "source": source.name,
        "split": source.split if Path(source.source).is_dir() else None,
        **settings.rewards.model.identity(),
        **depends,
        "seeds": settings.seeds,
    }


def usual_strategies(searcher: Searcher, settings: EvalSettings) -> tuple[Strategy, ...]:
    """What is compared where nothing is named."""
    judges = judge_names(searcher, settings.rewards, settings.search.call_format)
    names = ["greedy", "majority"]
    names += [f"{kind}:{judge}" for kind in ("best-of-n", "weighted-vote") for judge in judges]
    names += [f"{kind}:{judge}" for kind in ("step-beam", "doubt") for judge in judges or ["auto"]]
    return tuple(Strategy.parse(name, **settings.sizes()) for name in names)


def answer_all(
    run: RunFolder, problems: Sequence[Problem], comparison: Comparison, watch: Watch
) -> Answers:
    """Compute what the folder has no answer to; all answers of these strategies."""
    columns = [column for group in comparison.columns.values() for column in group]
    todo = sum(len(run.known(columns, problem.id)) < len(columns) for problem in problems)
    with watch(todo, len(problems) - todo) as advance:
        run.fill(problems, columns, comparison.ask, advance)
    return {
        name: [run.answers(column) for column in group]
        for name, group in comparison.columns.items()
    }


def write_summary(run: RunFolder, summary: Record, source: SourceSettings) -> str:
    """Write summary.json and summary.md into the run's folder. Returns the text of the latter."""
    text = markdown(summary, f"{source.source}: {run.settings['model']}")
    record = {"settings": run.settings, **summary}
    replace_file(
        run.folder / "summary.json", f"{json.dumps(record, indent=1, allow_nan=False)}\n".encode()
    )
    replace_file(run.folder / "summary.md", text.encode())
    return text


def _write_bfcl(
    run: RunFolder, problems: Sequence[Problem], asked: Mapping[str, Sequence[Column]]
) -> None:
    for strategy, columns in asked.items():
        for column in columns:
            found = run.answers(column)
            pairs = [(each, found[each.id]) for each in problems if each.id in found]
            several = f"-seed-{column.seed}" if len(columns) > 1 else ""
            write_results(run.folder / "bfcl" / f"{slug(strategy)}{several}", _BFCL_MODEL, pairs)


def _add_f1(summary: Record, problems: Sequence[Problem], answers: Answers) -> None:
    for row in summary["strategies"]:
        functions, arguments = toolalpaca.Counts(), toolalpaca.Counts()
        for problem, found in product(problems, answers[row["strategy"]]):
            record = found.get(problem.id)
            if record is None:
                continue
            calls = record["calls"] if record.get("complete") else None
            one, other = toolalpaca.count(calls, problem.answers)
            functions, arguments = functions + one, arguments + other
        row["f1"] = {
            "function": functions.f1,
            "argument": arguments.f1,
            "mean": (functions.f1 + arguments.f1) / 2,
        }
