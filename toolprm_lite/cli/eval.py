"""`toolprm-lite eval`: strategies side by side on problems with known answers."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolprm_lite.cli.options import (
    MOST_PROBLEMS,
    Decorator,
    all_of,
    draw_options,
    model_options,
    open_searcher,
    search_config,
    size_options,
)
from toolprm_lite.cli.output import json_line, say, tell, write
from toolprm_lite.cli.progress import progress
from toolprm_lite.errors import ConfigError, HeadError
from toolprm_lite.models import EMBEDDED

if TYPE_CHECKING:
    from toolprm_lite.evaluation.items import Item
    from toolprm_lite.evaluation.runs import Column, RunFolder
    from toolprm_lite.evaluation.strategies import Strategy
    from toolprm_lite.reward.base import Reward
    from toolprm_lite.search.searcher import Searcher

Record = dict[str, Any]

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
            help="Ask N problems, as many of each category, none of the bring-up set.",
        ),
        click.option(
            "--sample-seed",
            type=click.IntRange(0, (1 << 63) - 1),
            default=0,
            show_default=True,
            help="Draws the problems of --sample; --seed draws the responses.",
        ),
        click.option(
            "--skip",
            type=click.IntRange(0, MOST_PROBLEMS),
            default=0,
            metavar="N",
            help="Leave out those that --sample N draws: to read others than were read before.",
        ),
        click.option(
            "--limit",
            type=click.IntRange(1, MOST_PROBLEMS),
            metavar="N",
            help="Ask the first N.",
        ),
    ]
)
seeds_option = click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    metavar="K",
    help="Ask what draws with K seeds, from --seed on, and report the mean.",
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
output_option = click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="The run's folder. A run that was stopped goes on from there.",
)


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
@click.option(
    "--budget",
    type=click.IntRange(1, 1024),
    default=16,
    show_default=True,
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
    source: str, output: Path, strategies: tuple[str, ...], as_json: bool, **values: Any
) -> None:
    """Ask problems with known answers, and compare what strategies make of them.

    The folder gets the settings, a line for each answer with its calls, score and counts, and a
    summary as JSON and Markdown.
    """
    from toolprm_lite.evaluation import summary as figures
    from toolprm_lite.evaluation.strategies import Strategy

    base = search_config(values)
    sizes = {
        "beams": base.beams,
        "expand": base.expand,
        "samples": values["budget"],
        "doubt": base.doubt,
    }
    wanted = [Strategy.parse(text, **sizes) for text in strategies]
    checker = _official(source, values["official"])
    items = read_items(source, values)
    with asking(output, source, values, wanted, sizes) as (run, asked, ask):
        answer_all(run, items, asked, ask)
        answers = collected(run, asked)
        summary = figures.summarise(items, answers, checker)
        if source == "toolalpaca":
            _add_f1(summary, items, answers)
        title = f"{source}: {run.settings['model']}"
        if source == "bfcl":
            _write_official(run, items, asked)
        text = figures.markdown(summary, title)
        write_summary(output, {"settings": run.settings, **summary}, text)
    if as_json:
        write(json_line(summary))
    else:
        tell(text.removesuffix("\n"))


# Problems


def read_items(source: str, values: Mapping[str, Any]) -> list[Item]:
    """The problems that a command's `source_options` name. Raises `ToolprmError`."""
    from toolprm_lite.evaluation import bfcl
    from toolprm_lite.evaluation import items as reading

    data, names = values["data"], values["categories"]
    categories = [name.strip() for name in names.split(",")] if names else None
    if source in ("bfcl", "toolalpaca"):
        if data is None:
            what = "the unpacked bfcl-eval wheel" if source == "bfcl" else "ToolAlpaca's problems"
            raise ConfigError(f"{source} needs --data, the path of {what}")
    elif data is not None:
        raise ConfigError(f"--data goes with bfcl and toolalpaca; {source} is read as it is")
    if source == "bfcl":
        items = bfcl.read_bfcl(data, categories or bfcl.DEFAULT)
        if values["bring_up"]:
            items = [item for item in items if item.bring_up]
    else:
        path = data if source == "toolalpaca" else Path(source)
        if path.is_dir():
            items = reading.read_set(path, values["split"])
        else:
            items, rejected = reading.read_problems(path)
            for reason in rejected:
                say(f"left out: {reason}")
        if categories is not None:
            items = [item for item in items if item.category in categories]
    if values["sample"] is not None:
        fresh = [item for item in items if not item.bring_up] or items
        seen = {item.id for item in reading.sample(fresh, values["skip"], values["sample_seed"])}
        drawn = reading.sample(fresh, values["skip"] + values["sample"], values["sample_seed"])
        items = [item for item in drawn if item.id not in seen]
    elif values["skip"]:
        raise ConfigError("--skip goes with --sample: it leaves out what a smaller sample draws")
    items = items[: values["limit"]]
    if not items:
        raise ConfigError(f"{source}: no problem is left; mend --categories, or the options")
    return items


# Running


def _judges(heads: Path | None) -> list[str]:
    """The names of a folder's heads, ToolPRM first. Raises `HeadError` where it has none."""
    if heads is None:
        return []
    names = sorted(path.stem for path in heads.glob("*.safetensors"))
    if not names:
        raise HeadError(f"{heads}: no head in it; give --heads the folder that `train` wrote")
    return sorted(names, key=lambda name: name != "toolprm")


@contextlib.contextmanager
def asking(
    output: Path,
    source: str,
    values: Mapping[str, Any],
    strategies: Sequence[Strategy],
    sizes: Mapping[str, Any],
) -> Iterator[
    tuple[
        RunFolder,
        dict[str, list[Column]],
        Callable[[Item, Sequence[Column]], Mapping[Column, Record]],
    ]
]:
    """The run's folder, kept from other runs, the columns of its strategies (without any: the usual
    ones), and what asks problems."""
    from toolprm_lite.evaluation.runs import RunFolder
    from toolprm_lite.evaluation.strategies import Contest, Strategy
    from toolprm_lite.files import locked
    from toolprm_lite.models import weights_of
    from toolprm_lite.reward.head import Head

    base = search_config(values)
    with (
        locked(output, folder=True),
        open_searcher(values) as searcher,
        contextlib.ExitStack() as stack,
    ):
        asked = list(strategies)
        if not asked:
            judges = _judges(values["heads"])
            if not judges and isinstance(searcher.reward("auto", base.call_format), Head):
                judges = ["auto"]
            usual = ["greedy", "majority"]
            for kind in ("best-of-n", "weighted-vote"):
                usual += [f"{kind}:{judge}" for judge in judges]
            for kind in ("step-beam", "doubt"):
                usual += [f"{kind}:{judge}" for judge in judges or ["auto"]]
            asked = [Strategy.parse(text, **sizes) for text in usual]
        asked = list(dict.fromkeys(asked))
        names = list(dict.fromkeys(s.reward for s in asked if s.reward is not None))
        rewards = {name: _reward(name, searcher, values, stack) for name in names}
        depends = asdict(base)
        for name in ("strategy", "beams", "expand", "samples", "doubt", "trace"):
            del depends[name]
        settings = {
            "source": source if source in ("bfcl", "toolalpaca") else Path(source).name,
            "split": values["split"] if Path(source).is_dir() else None,
            **weights_of(values["model"]),
            "backend": values["backend"],
            "dtype": values["dtype"],
            **depends,
            "seeds": values["seeds"],
            "rewards": {name: _identity(reward, values) for name, reward in rewards.items()},
        }
        contest = Contest(searcher, asked, rewards, base, values["seeds"])
        yield RunFolder(output, settings), contest.columns, contest.ask


def answer_all(
    run: RunFolder,
    items: Sequence[Item],
    asked: Mapping[str, Sequence[Column]],
    ask: Callable[[Item, Sequence[Column]], Mapping[Column, Record]],
) -> None:
    """Ask what the folder has no answer to. Ends with exit code 130 by Ctrl-C."""
    columns = [column for group in asked.values() for column in group]
    todo = sum(len(run.known(columns, item.id)) < len(columns) for item in items)
    visible = sys.stderr.isatty()
    if todo < len(items):
        say(f"{run.folder}: {len(items) - todo} problems are answered already")
    with progress(todo, visible and todo > 1, plain=True) as (advance, note):
        try:
            run.fill(items, columns, ask, advance)
        except KeyboardInterrupt:
            note("stopped; the same command goes on from there")
            raise click.exceptions.Exit(130) from None


def collected(
    run: RunFolder, asked: Mapping[str, Sequence[Column]]
) -> dict[str, list[dict[str, Record]]]:
    """The folder's answers by strategy, seed and problem."""
    return {name: [run.answers(column) for column in columns] for name, columns in asked.items()}


def _reward(
    name: str, searcher: Searcher, values: Mapping[str, Any], stack: contextlib.ExitStack
) -> Reward | str:
    if name == "policy":
        return name
    form = values["call_format"]
    if name == "generative":
        from toolprm_lite.evaluation.generative import GenerativeReward

        judge = GenerativeReward.open(
            values["judge"] or values["model"],
            backend=values["backend"],
            gpu_layers=values["gpu_layers"],
            device=values["device"],
            dtype=values["dtype"],
            threads=values["threads"],
            context=values["context"],
            verbose=values["verbose"],
        )
        stack.callback(judge.close)
        return judge
    heads = values["heads"]
    path = None if heads is None else heads / f"{name}.safetensors"
    if name == "auto" or (name == "toolprm" and (path is None or not path.exists())):
        reward = searcher.reward("auto", form)
        if name == "toolprm" and reward.name == "policy":
            raise HeadError("no head ships for this model; give --heads, a folder with one")
        return reward
    if path is None:
        raise HeadError(f"the reward {name} needs --heads, a folder with {name}.safetensors")
    return searcher.reward(path, form)


def _identity(reward: Reward | str, values: Mapping[str, Any]) -> str:
    """What tells one reward from another: the bytes of a head, the name of a judge."""
    from toolprm_lite.files import digest_of
    from toolprm_lite.reward.head import Head

    if isinstance(reward, str):
        return reward
    if isinstance(reward, Head):
        return digest_of(Path(reward.source))
    if reward.name == "generative":
        return f"generative: {Path(values['judge'] or values['model'] or EMBEDDED).name}"
    return reward.name


# Results


def write_summary(folder: Path, summary: Record, text: str) -> None:
    """Write summary.json and summary.md into the run's folder."""
    from toolprm_lite.files import replace_file

    replace_file(
        folder / "summary.json", f"{json.dumps(summary, indent=1, allow_nan=False)}\n".encode()
    )
    replace_file(folder / "summary.md", text.encode())


def _official(source: str, package: Path | None) -> Any:
    if package is None:
        return None
    if source != "bfcl":
        raise ConfigError("--official is BFCL's checker; leave it out for other problems")
    from toolprm_lite.evaluation.bfcl import load_checker

    return load_checker(package)


def _write_official(
    run: RunFolder, items: Sequence[Item], asked: Mapping[str, Sequence[Column]]
) -> None:
    from toolprm_lite.evaluation.bfcl import write_results
    from toolprm_lite.evaluation.runs import slug

    for strategy, columns in asked.items():
        for column in columns:
            found = run.answers(column)
            pairs = [(item, found[item.id]) for item in items if item.id in found]
            several = f"-seed-{column.seed}" if len(columns) > 1 else ""
            folder = run.folder / "bfcl" / f"{slug(strategy)}{several}"
            write_results(folder, "MadeAgents_Hammer2.1-0.5b", pairs)


def _add_f1(
    summary: Record, items: Sequence[Item], answers: Mapping[str, Sequence[Mapping[str, Record]]]
) -> None:
    from toolprm_lite.evaluation.toolalpaca import Counts, count

    for row in summary["strategies"]:
        functions, arguments = Counts(), Counts()
        for item, found in product(items, answers[row["strategy"]]):
            record = found.get(item.id)
            if record is None:
                continue
            calls = record["calls"] if record.get("complete") else None
            one, other = count(calls, item.answers or ())
            functions, arguments = functions + one, arguments + other
        row["f1"] = {
            "function": functions.f1,
            "argument": arguments.f1,
            "mean": (functions.f1 + arguments.f1) / 2,
        }
