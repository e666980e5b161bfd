"""`toolprm-lite tune`: an adapter from files of problems with known answers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolprm_lite.cli.collect import (
    plan_options,
    prepare_options,
    problem_files,
    tell_plan,
    tell_usable,
)
from toolprm_lite.cli.options import (
    MOST_PROBLEMS,
    MOST_SEED,
    about_option,
    all_of,
    call_format_option,
    device_option,
    dtype_option,
    given,
    model_option,
    number_option,
    output_folder,
    prompt_option,
)
from toolprm_lite.cli.output import print_message, print_text
from toolprm_lite.cli.progress import PLAIN_SECONDS, duration
from toolprm_lite.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from toolprm_lite.tuning.estimate import Estimate
    from toolprm_lite.tuning.state import Check
    from toolprm_lite.tuning.tune import Progress

_EPILOG = """\b
Example:
  toolprm-lite tune problems.jsonl --model model.gguf --output adapter/
  toolprm-lite search --model model.gguf --adapter adapter/adapter.gguf ...
"""
_MOST_ABOUT = 256 << 10  # bytes


# The defaults are those of `TuneSettings`, which is slow to import.
@click.command(epilog=_EPILOG)
@problem_files
@output_folder(
    "Where the adapter goes, as GGUF and safetensors, with its card. A stopped run continues there."
)
@model_option
@device_option
@dtype_option
@click.option("--threads", type=int, show_default="as torch is set", help="Threads to train with.")
@click.option("--name", default="adapter", show_default=True, help="Of the adapter, on its card.")
@number_option("--rank", 16, 1, 1024, help="Of the changes; twice the rank is twice the size.")
@click.option("--learning-rate", default=1e-3, show_default=True, help="At the beginning.")
@number_option("--passes", 3, 1, 1000, help="Over the problems, each with other masks and tools.")
@number_option("--batch", 8, 1, 1 << 20, help="Responses of one step, at least.")
@number_option(
    "--most-tokens", 1280, 1, 1 << 17, help="Longest prompt and response; computed at once."
)
@click.option(
    "--source-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="all",
    help="Tokens of one source in a pass, at most; each pass draws other problems.",
)
@click.option(
    "--decline-share",
    default=0.12,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of the problems that are answered without a call, at most.",
)
@all_of(plan_options(refusal_share=0.05, joined_share=0.1))
@number_option("--seed", 0, 0, MOST_SEED, help="Of it all.")
@number_option(
    "--check-problems", 200, 1, MOST_PROBLEMS, help="Validation problems of a check, at most."
)
@number_option("--patience", 4, 1, 1000, help="Checks without a better loss, then it ends.")
@call_format_option
@prompt_option("signatures-short")
@all_of(prepare_options)
@about_option("adapter's card")
def tune(problems: tuple[Path, ...], output: Path, about: Path | None, **values: Any) -> None:
    """Train an adapter (LoRA) of a model on PROBLEMS, so that it calls functions better.

    The problems are as in `toolprm-lite collect`. Loss is taken of the response alone; validation
    problems, of functions that no training problem calls, say when to stop.
    """
    try:
        from toolprm_lite.tuning.run import TuneSources, Watch
        from toolprm_lite.tuning.run import tune as train
        from toolprm_lite.tuning.settings import TuneSettings
    except ImportError as error:
        raise TrainingError(
            f"tuning needs {error.name}: pip install 'toolprm_lite[train]'"
        ) from error
    from toolprm_lite.files import locked, read_text
    from toolprm_lite.models import weights_of
    from toolprm_lite.supervision.prepare import PrepareSettings
    from toolprm_lite.tasks.plan_settings import PlanSettings

    plan = PlanSettings(**given(PlanSettings, values))
    settings = TuneSettings(**given(TuneSettings, values), plan=plan)
    try:
        values["name"].encode()
    except UnicodeEncodeError:
        raise ConfigError(f"the name {values['name']!r} is no text; give another --name") from None
    sources = TuneSources(
        problems=problems,
        prepare=PrepareSettings(**given(PrepareSettings, values)),
        weights=weights_of(values["model"]),
        about=None if about is None else read_text(about, _MOST_ABOUT),
        **given(TuneSources, values),
    )
    watch = Watch(
        usable=tell_usable,
        plan=lambda usable, plan: tell_plan(usable, plan, None),
        estimate=_tell_estimate,
        resumed=lambda step: print_message(f"{output}: {step} steps are done already"),
        progress=_progress(),
    )
    try:
        with locked(output, folder=True):
            file = train(sources, settings, output, watch)
    except KeyboardInterrupt:
        print_message(f"stopped; the same command continues in {output}")
        raise click.exceptions.Exit(130) from None
    model = "" if values["model"] is None else f" --model {values['model']}"
    print_text(f"use it: toolprm-lite search{model} --adapter {file}")


def _tell_estimate(estimate: Estimate) -> None:
    sources = ", ".join(f"{source} {count}" for source, count in sorted(estimate.sources.items()))
    print_message(
        f"{estimate.examples} examples ({sources}), {estimate.tokens} tokens"
        + (f"; {estimate.left_out} are too long and left out" if estimate.left_out else "")
    )
    print_message(
        f"{estimate.trained} weights to train; some {estimate.memory / 1e9:.1f} GB of memory, "
        f"{duration(estimate.seconds)}"
    )


def _progress() -> Callable[[Progress | Check], None]:
    """Prints every check, and a line of progress at intervals."""
    shown = time.monotonic()

    def show(now: Progress | Check) -> None:
        nonlocal shown
        from toolprm_lite.tuning.state import Check

        if isinstance(now, Check):
            print_message(
                f"step {now.step}: validation loss {now.loss:.3f} nats a response, "
                f"{now.exact:.1%} exact"
            )
        elif time.monotonic() - shown >= (2.0 if sys.stderr.isatty() else PLAIN_SECONDS):
            shown = time.monotonic()
            rate = now.tokens / max(now.seconds, 1e-9)
            done = max(1, now.done)
            left = now.seconds / done * (now.steps - now.step)
            print_message(
                f"{now.step}/{now.steps} · loss {now.loss:.3f} · {rate:.0f} tokens/s · "
                f"{duration(left)} left"
            )

    return show
