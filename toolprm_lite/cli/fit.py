"""`toolprm-lite fit`: from problems to reward heads and their report, by the other commands."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolprm_lite.cli.collect import (
    collect_options,
    collect_settings,
    problem_files,
    tell_plan,
    tell_usable,
    watching,
)
from toolprm_lite.cli.options import (
    MOST_PROBLEMS,
    model_options,
    model_settings,
    number_option,
    open_searcher,
    output_folder,
)
from toolprm_lite.cli.output import print_message, print_text
from toolprm_lite.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from toolprm_lite.training.doubt import Measured
    from toolprm_lite.training.fit import Stage

_EPILOG = """\b
Example:
  toolprm-lite fit problems.jsonl --model model.gguf --output heads/
"""

_NEEDS = ("pyarrow", "jsonschema", "torch", "matplotlib")


@click.command(epilog=_EPILOG)
@problem_files
@output_folder("Where set/, heads/, report/ and doubt/ go. A stopped run continues there.")
@number_option("--epochs", 30, 1, 10000, help="Of each fit, at most.")
@number_option(
    "--doubt-problems",
    60,
    0,
    MOST_PROBLEMS,
    metavar="N",
    help="Validation problems that are searched to choose the threshold of doubt; 0 chooses none.",
)
@model_options
@collect_options
def fit(
    problems: tuple[Path, ...], output: Path, epochs: int, doubt_problems: int, **values: Any
) -> None:
    """Fit a model's reward heads to PROBLEMS: collect, train all rivals, judge them, choose the
    threshold of doubt.

    The problems are as in `toolprm-lite collect`.
    """
    for package in _NEEDS:  # reported now, not after hours of collecting
        if importlib.util.find_spec(package) is None:
            raise TrainingError(f"fitting needs {package}: pip install 'toolprm_lite[train]'")
    if values["as_is"]:
        raise ConfigError("--as-is makes every problem one for testing; leave it out to fit heads")
    from toolprm_lite.cli.eval import asking
    from toolprm_lite.cli.eval_reward import tell_judged
    from toolprm_lite.cli.train import tell_trained, training
    from toolprm_lite.training import fit as fitting
    from toolprm_lite.training.doubt import DoubtSettings

    weights = model_settings(values).identity()
    prepare, collect = collect_settings(values)
    settings = fitting.FitSettings(
        prepare=prepare,
        collect=collect,
        limit=values["limit"],
        rejected=values["rejected"],
        weights=weights,
        epochs=epochs,
        doubt=DoubtSettings(problems=doubt_problems),
    )
    steps = 4 if doubt_problems else 3

    def begins(stage: Stage, folder: Path, done: bool) -> None:
        number = _STAGES.index(stage) + 1
        print_message(f"{number} of {steps}: {_fitted_to(stage, folder, done)}")

    files = fitting.fit(
        problems,
        output,
        settings,
        lambda: open_searcher(values),
        fitting.FitWatch(
            begins=begins,
            usable=tell_usable,
            planned=lambda usable, plan: tell_plan(usable, plan, values["limit"]),
            collecting=watching,
            training=training,
            trained=tell_trained,
            judged=tell_judged,
            asking=asking(output / "doubt"),
            measured=_tell_measured,
        ),
    )
    model = "" if values["model"] is None else f" --model {values['model']}"
    print_text(f"use it: toolprm-lite search{model} --reward {files['toolprm']}")


_STAGES: tuple[Stage, ...] = ("collect", "train", "judge", "doubt")


def _fitted_to(stage: Stage, folder: Path, done: bool) -> str:
    if stage == "collect":
        return f"collecting into {folder}"
    if stage == "train" and done:
        return f"the heads in {folder} are fitted to this set already"
    if stage == "train":
        return f"training into {folder}"
    if stage == "judge":
        return f"judging on the test split, into {folder}"
    if done:
        return "the threshold of doubt is chosen already"
    return f"choosing the threshold of doubt on the validation split, into {folder}"


def _tell_measured(measured: Sequence[Measured]) -> None:
    from toolprm_lite.training.doubt import choose_doubt

    if not len(measured[0].right):
        print_message("no validation problem could be searched; the threshold is the default")
        return
    chosen = choose_doubt(measured)
    for each in measured:
        mark = "  <- chosen" if each is chosen else ""
        right, tokens = each.right.mean(), each.tokens.mean()
        print_text(f"doubt {each.doubt:4.2f}: {right:6.1%} right, {tokens:8.1f} tokens{mark}")
