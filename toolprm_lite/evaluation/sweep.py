"""The budget study as a run: every number of beams kept and of draws, on the same problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from toolprm_lite.errors import ConfigError
from toolprm_lite.evaluation import budget
from toolprm_lite.evaluation import summary as figures
from toolprm_lite.evaluation.evaluate import (
    EvalSettings,
    Record,
    Watch,
    answer_all,
    asking,
    unwatched,
    write_summary,
)
from toolprm_lite.evaluation.plots import write_study
from toolprm_lite.evaluation.strategies import Strategy
from toolprm_lite.search.searcher import Searcher
from toolprm_lite.tasks.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSettings:
    """What is swept.

    Attributes:
        beams: the numbers of beams kept.
        expand: the numbers of draws for each beam and step.
        most: leaves out cells of a larger product; None is all.
        reward: what judges steps, by name.
        others: strategies to compare the grid with.
        evaluation: how problems are run; its strategies are not read.

    Raises `ConfigError` where no cell is left.
    """

    beams: tuple[int, ...] = (1, 2, 4, 8, 16)
    expand: tuple[int, ...] = (1, 2, 4, 8, 16)
    most: int | None = None
    reward: str = "auto"
    others: tuple[Strategy, ...] = field(default_factory=lambda: (Strategy.parse("greedy"),))
    evaluation: EvalSettings

    def __post_init__(self) -> None:
        if not self.grid():
            raise ConfigError(f"--most {self.most} leaves no cell; give a larger one")

    def grid(self) -> list[Strategy]:
        """The cells, cheapest first."""
        pairs = budget.cells(self.beams, self.expand, self.most)
        return [Strategy.parse(f"step-beam:{self.reward}@{n}x{m}") for n, m in pairs]


def sweep(
    searcher: Searcher,
    problems: Sequence[Problem],
    folder: Path,
    settings: SweepSettings,
    *,
    watch: Watch = unwatched,
) -> Record:
    """Search the problems with every N and M: the study, in JSON's types (`budget.study`).

    The folder gets what `evaluate` writes, sweep.json and two plots. Raises as `evaluate` does, and
    `DatasetError` where no answer can be judged.
    """
    grid = settings.grid()
    asked = replace(settings.evaluation, strategies=(*settings.others, *grid))
    with asking(searcher, folder, asked) as (run, contest):
        answers = answer_all(run, problems, contest, watch)
        fresh = [problem for problem in problems if not problem.bring_up] or problems
        found = budget.study(answers, [problem.id for problem in fresh], list(map(str, grid)))
        write_summary(run, figures.summarise(problems, answers), asked.source)
        write_study(folder, found)
    return found
