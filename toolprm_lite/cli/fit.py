"""`toolprm-lite fit`: from problems to reward heads and their report, by the other commands."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import click

from toolprm_lite.cli.collect import collect_options, gather, problem_files
from toolprm_lite.cli.options import model_options
from toolprm_lite.cli.output import say, tell
from toolprm_lite.cli.train import MEMBERS, RIVALS, train
from toolprm_lite.errors import ConfigError, TrainingError

_EPILOG = """\b
Example:
  toolprm-lite fit problems.jsonl --model model.gguf --output heads/
"""

_NEEDS = ("pyarrow", "jsonschema", "torch", "matplotlib")


@click.command(epilog=_EPILOG)
@problem_files
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Where set/, heads/ and report/ go. A run that was stopped goes on from there.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1, 10000),
    default=30,
    show_default=True,
    help="Of each fit, at most.",
)
@model_options
@collect_options
@click.pass_context
def fit(
    run: click.Context, /, problems: tuple[Path, ...], output: Path, epochs: int, **values: Any
) -> None:
    """Fit a model's reward heads to PROBLEMS: collect, train all rivals, judge them.

    The problems are as in `toolprm-lite collect`.
    """
    for package in _NEEDS:  # told now, not after hours of collecting
        if importlib.util.find_spec(package) is None:
            raise TrainingError(f"fitting needs {package}: pip install 'toolprm_lite[train]'")
    if values["as_is"]:
        raise ConfigError("--as-is makes every problem one for testing; leave it out to fit heads")
    from toolprm_lite.files import locked, replace_file

    run.with_resource(locked(output, folder=True))
    supervision, heads = output / "set", output / "heads"
    files = [heads / f"{name}.safetensors" for name in RIVALS]
    say(f"1 of 3: collecting into {supervision}")
    gather(problems, supervision, values)

    from toolprm_lite.cli.eval_reward import eval_reward

    record = output / "fit.json"
    told = {"epochs": epochs, "seed": values["seed"], "set": _digest(supervision)}
    if all(file.exists() for file in files) and _read(record) == told:
        say(f"2 of 3: the heads in {heads} are fitted to this set already")
    else:
        say(f"2 of 3: training into {heads}")
        run.invoke(
            train,
            sets=(str(supervision),),
            output=heads,
            rival="all",
            layers=None,
            label=None,
            seed=values["seed"],
            epochs=epochs,
            members=MEMBERS,
            about=None,
        )
        replace_file(record, json.dumps(told, indent=1).encode() + b"\n")
    say(f"3 of 3: judging on the test split, into {output / 'report'}")
    run.invoke(
        eval_reward,
        sets=(str(supervision),),
        heads=tuple(map(str, files)),
        split="test",
        output=output / "report",
        as_json=False,
    )
    model = "" if values["model"] is None else f" --model {values['model']}"
    tell(f"use it: toolprm-lite search{model} --reward {files[0]}")


def _digest(folder: Path) -> str:
    """Of the set's parts that heads depend on; the states follow from them."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.parquet")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    digest.update((folder / "problems.jsonl").read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
