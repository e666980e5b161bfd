"""`toolprm-lite eval`: compare strategies on problems with known answers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolprm_lite.cli.options import (
    MOST_PROBLEMS,
    MOST_SEED,
    Decorator,
    all_of,
    draw_options,
    model_options,
    model_settings,
    number_option,
    open_searcher,
    output_folder,
    search_config,
    size_options,
)
from toolprm_lite.cli.output import print_message, print_text, write
from toolprm_lite.cli.progress import progress
from toolprm_lite.errors import ConfigError
from toolprm_lite.json_lines import json_line

if TYPE_CHECKING:
    from toolprm_lite.evaluation.bfcl_results import OfficialChecker
    from toolprm_lite.evaluation.evaluate import EvalSettings, Watch
    from toolprm_lite.tasks.problem import Problem
    from toolprm_lite.tasks.sources import SourceSettings

_EPILOG = """\b
Examples:
  toolprm-lite eval bfcl --data bfcl/ --sample 200 --output runs/bfcl
  toolprm-lite eval toolalpaca --data toolalpaca.jsonl --output runs/alpaca
  toolprm-lite eval problems.jsonl --output runs/mine \\
      --strategy greedy --strategy majority@8 --strategy step-beam:toolprm@4x16

\b
Strategies, as KIND[:REWARD][@SIZE][/DOUBT]:
  greedy  majority[@K]  best-of-n[:REWARD][@K]
  weighted-vote[:REWARD][@K]  step-beam[:REWARD][@NxM]  doubt[:REWARD][@NxM][/T]
Rewards: auto, policy, toolprm, c-prm, orm, or the name of any file in --heads;
  generative is a second model that answers + or -.
"""

source_options = all_of(
    [
        click.option(
            "--data",
            type=click.Path(path_type=Path),
            metavar="PATH",
            help="Of bfcl the unpacked bfcl-eval wheel, of toolalpaca the file.",
        ),
        click.option(
            "--split",
            type=click.Choice(["train", "validation", "test"]),
            default="test",
            show_default=True,
            help="Whose problems, of a supervision set.",
        ),
        click.option(
            "--categories",
            metavar="A,B",
            show_default="Python's and irrelevance",
            help="Of BFCL; or the sources of other problems, all without it.",
        ),
        click.option(
            "--bring-up",
            is_flag=True,
            help="Of BFCL only simple_python_0 .. 99 and multiple_0 .. 49.",
        ),
        click.option(
            "--sample",
            type=click.IntRange(1, MOST_PROBLEMS),
            metavar="N",
            help="Use N problems, as many of each category, none of the bring-up set.",
        ),
        number_option(
            "--sample-seed",
            0,
            0,
            MOST_SEED,
            help="Draws the problems of --sample; --seed draws the responses.",
        ),
        click.option(
            "--skip",
            type=click.IntRange(0, MOST_PROBLEMS),
            default=0,
            metavar="N",
            help="Leave out those that --sample N draws: to use others than before.",
        ),
        click.option(
            "--limit",
            type=click.IntRange(1, MOST_PROBLEMS),
            metavar="N",
            help="Use the first N.",
        ),
    ]
)
seeds_option = number_option(
    "--seeds",
    1,
    1,
    1000,
    metavar="K",
    help="Run what draws with K seeds, from --seed on, and report the mean.",
)
reward_options: Decorator = all_of(
    [
        click.option(
            "--heads",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            metavar="DIR",
            help="Heads by name: toolprm.safetensors, c-prm.safetensors, …",
        ),
        click.option(
            "--judge",
            metavar="PATH",
            show_default="the model itself",
            help="The second model of the reward generative.",
        ),
    ]
)
output_option = output_folder("The run's folder. A stopped run continues there.")


@click.command(name="eval", epilog=_EPILOG)
@click.argument("source", metavar="bfcl|toolalpaca|PROBLEMS.jsonl|SET")
@output_option
@source_options
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    metavar="NAME",
    show_default="greedy, majority, best-of-n, weighted-vote, step-beam, doubt",
    help="What to compare; give it several times.",
)
@size_options
@number_option(
    "--budget",
    16,
    1,
    1024,
    metavar="K",
    help="Whole responses in the pool of majority, best-of-n and weighted-vote.",
)
@reward_options
@click.option(
    "--official",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="The unpacked bfcl-eval wheel, whose checker judges all answers a second time.",
)
@model_options
@draw_options
@seeds_option
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
def eval(
    source: str,
    output: Path,
    strategies: tuple[str, ...],
    official: Path | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Run strategies on problems with known answers, and compare them.

    The folder gets the settings, a line for each answer with its calls, score and counts, and a
    summary as JSON and Markdown.
    """
    from toolprm_lite.evaluation.evaluate import evaluate
    from toolprm_lite.evaluation.strategies import Strategy
    from toolprm_lite.files import locked

    settings = eval_settings(source, values)
    asked = tuple(Strategy.parse(text, **settings.sizes()) for text in strategies)
    settings = replace(settings, strategies=asked)
    checker = _official(source, official)
    problems = read_problems(settings.source)
    with locked(output, folder=True), open_searcher(values) as searcher:
        found = evaluate(
            searcher, problems, output, settings, official=checker, watch=asking(output)
        )
    if as_json:
        write(json_line(found.summary))
    else:
        print_text(found.text.removesuffix("\n"))


def eval_settings(source: str, values: Mapping[str, Any]) -> EvalSettings:
    """The settings among a command's parameters, without strategies. Raises `ConfigError`."""
    from toolprm_lite.evaluation.evaluate import EvalSettings
    from toolprm_lite.evaluation.rewards import RewardSettings
    from toolprm_lite.tasks.sources import SourceSettings

    names = values["categories"]
    return EvalSettings(
        source=SourceSettings(
            source=source,
            data=values["data"],
            split=values["split"],
            categories=tuple(name.strip() for name in names.split(",")) if names else (),
            bring_up=values["bring_up"],
            sample=values["sample"],
            sample_seed=values["sample_seed"],
            skip=values["skip"],
            limit=values["limit"],
        ),
        search=search_config(values),
        budget=values.get("budget", 16),
        seeds=values["seeds"],
        rewards=RewardSettings(
            heads=values["heads"], judge=values["judge"], model=model_settings(values)
        ),
    )


def read_problems(source: SourceSettings) -> list[Problem]:
    """The problems to ask; says what is left out. Raises `ToolprmError`."""
    from toolprm_lite.tasks.sources import read_source

    return read_source(source, lambda reason: print_message(f"left out: {reason}"))


def asking(folder: Path) -> Watch:
    """Shows how far a run is: a bar on a terminal, else a line now and then. Ends with exit code
    130 by Ctrl-C."""

    @contextlib.contextmanager
    def watch(todo: int, answered: int) -> Iterator[Callable[[], None]]:
        if answered:
            print_message(f"{folder}: {answered} problems are answered already")
        visible = sys.stderr.isatty() and todo > 1
        with progress(todo, visible, plain=True) as (advance, note):
            try:
                yield advance
            except KeyboardInterrupt:
                note("stopped; the same command continues there")
                raise click.exceptions.Exit(130) from None

    return watch


def _official(source: str, package: Path | None) -> OfficialChecker | None:
    if package is None:
        return None
    if source != "bfcl":
        raise ConfigError("--official is BFCL's checker; leave it out for other problems")
    from toolprm_lite.evaluation.bfcl_results import load_checker

    return load_checker(package)
