"""Runs the bring-up set of BFCL v4: simple_python_0 .. 99 and multiple_0 .. 49.

Nothing else of BFCL may be looked at while settings are chosen, so this script refuses the rest.
Answers are judged by BFCL's own checker, which comes with the data:

    pip download --no-deps bfcl-eval==2026.3.23 && unzip bfcl_eval-*.whl -d bfcl
    pip install tree_sitter==0.21.3 tree-sitter-java==0.21.0 tree-sitter-javascript==0.21.4
    python benchmarks/bringup_bfcl.py run --data bfcl --model model.gguf --output run.jsonl
    python benchmarks/bringup_bfcl.py compare run.jsonl other.jsonl
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from toolprm_lite import SearchConfig, Searcher, ToolprmError
from toolprm_lite.search.config import CONSTRAIN, STRATEGIES

BRING_UP = {"simple_python": 100, "multiple": 50}
TOKENS = ("decode", "drawn", "forced", "prefill", "reused")
PHASES = ("prefill", "decode", "core", "reward")

Record = dict[str, Any]
Checker = Callable[[Record, list[dict[str, Any]], str], bool]


# The data and its checker


def package_folder(data: Path) -> Path:
    for folder in (data, *data.glob("*/")):
        if (folder / "bfcl_eval" / "data").is_dir():
            return folder
    raise click.ClickException(f"{data}: no bfcl_eval/data in it; unpack the bfcl-eval wheel there")


def read_problems(data: Path, category: str, limit: int | None = None) -> list[Record]:
    """The category's bring-up problems, each with its `ground_truth`."""
    if category not in BRING_UP:
        raise click.ClickException(
            f"{category}: not in the bring-up set ({', '.join(BRING_UP)}); it is not looked at here"
        )
    count = min(limit or BRING_UP[category], BRING_UP[category])
    folder = package_folder(data) / "bfcl_eval" / "data"
    name = f"BFCL_v4_{category}.json"
    problems: list[Record] = []
    for question, answer in zip(
        read_lines(folder / name), read_lines(folder / "possible_answer" / name), strict=False
    ):
        if len(problems) == count:
            break
        expected = f"{category}_{len(problems)}"
        if question["id"] != expected or answer["id"] != expected:
            raise click.ClickException(
                f"{folder / name}: problem {expected} is {question['id']}, its answer "
                f"{answer['id']}; is this bfcl-eval 2026.3.23?"
            )
        problems.append({**question, "ground_truth": answer["ground_truth"]})
    return problems


def read_lines(path: Path) -> Iterator[Record]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise click.ClickException(f"{path}, line {number}: {error}") from None
                yield record
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None


def load_checker(data: Path) -> Checker:
    """BFCL's checker of single responses.

    The package's table of models imports a client library for every vendor; the checker only asks
    it whether a model's names have underscores for dots, so an empty one stands in for it.
    """
    table = ModuleType("bfcl_eval.constants.model_config")
    names = SimpleNamespace(underscore_to_dot=False)
    vars(table)["MODEL_CONFIG_MAPPING"] = defaultdict(lambda: names)
    sys.modules[table.__name__] = table
    sys.path.insert(0, str(package_folder(data)))
    try:
        language = import_module("bfcl_eval.constants.enums").Language.PYTHON
        judge = import_module("bfcl_eval.eval_checker.ast_eval.ast_checker").ast_checker
    except ImportError as error:
        raise click.ClickException(
            f"BFCL's checker can't be imported ({error}); pip install tree_sitter==0.21.3 "
            "tree-sitter-java==0.21.0 tree-sitter-javascript==0.21.4"
        ) from None

    def check(problem: Record, calls: list[dict[str, Any]], category: str) -> bool:
        output = [{call["name"]: call["arguments"]} for call in calls]
        try:
            verdict = judge(
                problem["function"], output, problem["ground_truth"], language, category, "any"
            )
        except (TypeError, KeyError, AttributeError, ValueError):
            return False  # it stumbles over some values of unexpected types
        return bool(verdict["valid"])

    return check


def gold_calls(problem: Record) -> list[dict[str, Any]]:
    """The first right answer; "" among a parameter's values says that it may be left out."""
    schemas = {function["name"]: function["parameters"] for function in problem["function"]}

    def members(allowed: Record, required: Sequence[str] = ()) -> Record:
        return {
            key: first(values)
            for key, values in allowed.items()
            if "" not in values or key in required
        }

    def first(values: list[Any]) -> Any:
        value = values[0]
        if isinstance(value, list):
            return [members(item) if isinstance(item, dict) else item for item in value]
        return members(value) if isinstance(value, dict) else value

    return [
        {"name": name, "arguments": members(allowed, schemas[name].get("required", ()))}
        for call in problem["ground_truth"]
        for name, allowed in call.items()
    ]


# Runs


def open_output(path: Path, settings: Record) -> dict[str, Record]:
    """The records that the file holds already; a new file begins with the settings."""
    if not path.exists() or path.stat().st_size == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"settings": settings}) + "\n", encoding="utf-8")
        return {}
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):  # a line that was being written when the run broke off
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
        return open_output(path, settings)
    known, records = read_run(path)
    if known != settings:
        differing = [key for key in settings if known.get(key) != settings[key]]
        raise click.ClickException(
            f"{path}: was made with another {', '.join(differing) or 'version'}; "
            "choose another --output"
        )
    return records


def read_run(path: Path) -> tuple[Record, dict[str, Record]]:
    first, *records = read_lines(path)
    if "settings" not in first:
        raise click.ClickException(f"{path}: not an output of this script")
    return first["settings"], {record["id"]: record for record in records}


def answer(
    searcher: Searcher, problem: Record, category: str, config: SearchConfig, check: Checker
) -> Record:
    record: Record = {"id": problem["id"], "category": category}
    try:
        result = searcher.search(problem["question"][0], problem["function"], config)
    except ToolprmError as error:
        return record | {"right": False, "complete": False, "error": str(error), "calls": []}
    return record | {
        "right": check(problem, result.calls, category),
        "complete": result.complete,
        "calls": result.calls,
        "score": result.score,
        "probability": result.probability,
        "stats": asdict(result.stats),
    }


def summarise(records: Sequence[Record]) -> Record:
    """Totals over records: right and complete responses, tokens, and milliseconds by phase."""
    stats = [record["stats"] for record in records if "stats" in record]
    tokens = {kind: sum(each[f"{kind}_tokens"] for each in stats) for kind in TOKENS}
    ms = {phase: sum(each["ms"][phase] for each in stats) for phase in ("total", *PHASES)}
    unclaimed = ms["total"] - sum(ms[phase] for phase in PHASES)
    outside = ms["core"] + ms["reward"] + unclaimed
    return {
        "problems": len(records),
        "right": sum(record["right"] for record in records),
        "complete": sum(record["complete"] for record in records),
        "errors": sum("error" in record for record in records),
        "tokens": tokens,
        "decode_per_drawn": ratio(tokens["decode"], tokens["drawn"]),
        "ms": ms | {"unclaimed": unclaimed},
        "outside_model": ratio(outside, ms["total"]),
    }


def by_category(records: Sequence[Record]) -> dict[str, Record]:
    summaries = {
        category: summarise([each for each in records if each["category"] == category])
        for category in BRING_UP
        if any(each["category"] == category for each in records)
    }
    return summaries | {"all": summarise(records)}


def ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def show(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def print_summaries(summaries: dict[str, Record]) -> None:
    table = Table("", *summaries, box=box.SIMPLE_HEAD, pad_edge=False)

    def row(title: str, cell: Callable[[Record], str]) -> None:
        table.add_row(title, *map(cell, summaries.values()))

    row("right", lambda each: f"{each['right']}/{each['problems']}")
    row("share right", lambda each: show(ratio(each["right"], each["problems"]), ".3f"))
    row("complete", lambda each: f"{each['complete']}/{each['problems']}")
    row("errors", lambda each: str(each["errors"]))
    for kind in TOKENS:
        row(f"{kind} tokens", lambda each, kind=kind: f"{each['tokens'][kind]:,}")  # type: ignore[misc]
    row("decode / drawn", lambda each: show(each["decode_per_drawn"], ".3f"))
    for phase in ("total", *PHASES, "unclaimed"):
        row(f"{phase} ms", lambda each, phase=phase: f"{each['ms'][phase]:,.0f}")  # type: ignore[misc]
    row("outside the model", lambda each: show(each["outside_model"], ".1%"))
    Console().print(table)


def warm_up(searcher: Searcher, config: SearchConfig) -> None:
    """Build what the first search builds, outside the measured times."""
    tool = {"name": "warm_up", "parameters": {"type": "object", "properties": {}}}
    searcher.search("Hello", [tool], config)


# What two runs disagree on


def difference(first: dict[str, Record], second: dict[str, Record]) -> Record:
    """The problems that one of two runs got right and the other not.

    `p` is McNemar's exact two-sided test: how often a fair coin would divide them so unevenly.
    """
    common = [name for name in first if name in second]
    won = [name for name in common if first[name]["right"] and not second[name]["right"]]
    lost = [name for name in common if second[name]["right"] and not first[name]["right"]]
    total, fewer = len(won) + len(lost), min(len(won), len(lost))
    tail = sum(math.comb(total, count) for count in range(fewer + 1)) / 2**total
    return {
        "common": len(common),
        "only_first": won,
        "only_second": lost,
        "p": min(1.0, 2 * tail),
    }


@click.group()
def main() -> None:
    """The bring-up set of BFCL v4."""


@main.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True,
              help="An unpacked bfcl-eval wheel.")  # fmt: skip
@click.option("--model", help="A model's path or name; left out, the embedded model.")
@click.option("--strategy", type=click.Choice(STRATEGIES), default="step-beam", show_default=True)
@click.option("--beams", type=int, default=SearchConfig().beams, show_default=True)
@click.option("--expand", type=int, default=SearchConfig().expand, show_default=True)
@click.option("--samples", type=int, default=SearchConfig().samples, show_default=True)
@click.option("--constrain", type=click.Choice(CONSTRAIN), default="auto", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--limit", type=click.IntRange(1), help="Problems of each category.")
@click.option("--categories", default=",".join(BRING_UP), show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="JSON Lines; a run that broke off is gone on with.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def run(
    data: Path,
    model: str | None,
    strategy: Any,
    beams: int,
    expand: int,
    samples: int,
    constrain: Any,
    seed: int,
    limit: int | None,
    categories: str,
    output: Path,
    as_json: bool,
) -> None:
    """Answer the problems and judge the answers."""
    chosen = [name.strip() for name in categories.split(",")]
    problems = [(name, each) for name in chosen for each in read_problems(data, name, limit)]
    check = load_checker(data)
    try:
        config = SearchConfig(
            strategy=strategy,
            beams=beams,
            expand=expand,
            samples=samples,
            constrain=constrain,
            seed=seed,
        )
        settings = {"model": Path(model).name if model else None, **asdict(config)}
        records = open_output(output, settings)
        open_problems = [(name, each) for name, each in problems if each["id"] not in records]
        if open_problems:
            with Searcher.from_model(model) as searcher, output.open("a", encoding="utf-8") as file:
                warm_up(searcher, config)
                errors = Console(stderr=True)
                for category, problem in track(open_problems, strategy, console=errors):
                    record = answer(searcher, problem, category, config, check)
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
                    file.flush()
                    records[record["id"]] = record
    except ToolprmError as error:
        raise click.ClickException(str(error)) from None
    summaries = by_category([records[each["id"]] for _, each in problems])
    if as_json:
        click.echo(json.dumps({"settings": settings, "categories": summaries}))
    else:
        print_summaries(summaries)


@main.command()
@click.argument("files", nargs=-1, required=True,
                type=click.Path(exists=True, dir_okay=False, path_type=Path))  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def compare(files: Sequence[Path], as_json: bool) -> None:
    """Set several outputs side by side, and what each two disagree on."""
    paths = {chr(ord("A") + place): path for place, path in enumerate(files)}
    read = {name: read_run(path) for name, path in paths.items()}
    runs = {name: records for name, (_, records) in read.items()}
    summaries = {name: by_category(list(records.values())) for name, records in runs.items()}
    differences = [
        {"first": first, "second": second, **difference(runs[first], runs[second])}
        for first, second in itertools.combinations(runs, 2)
    ]
    if as_json:
        described = {
            name: {"path": str(path), "settings": read[name][0], "categories": summaries[name]}
            for name, path in paths.items()
        }
        click.echo(json.dumps({"runs": described, "differences": differences}))
        return
    console = Console()
    varied = varied_settings([settings for settings, _ in read.values()])
    for name, path in paths.items():
        settings = read[name][0]
        console.print(name, path, *(f"{key}={settings.get(key)}" for key in varied))
    columns = ("complete", "decode", "/ drawn", "seconds", "outside")
    table = Table("", *BRING_UP, *columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for name, each in summaries.items():
        whole = each["all"]
        table.add_row(
            name,
            *(f"{each[c]['right']}/{each[c]['problems']}" if c in each else "-" for c in BRING_UP),
            f"{whole['complete']}/{whole['problems']}",
            f"{whole['tokens']['decode']:,}",
            show(whole["decode_per_drawn"], ".3f"),
            f"{whole['ms']['total'] / 1e3:,.1f}",
            show(whole["outside_model"], ".1%"),
        )
    console.print(table)
    for pair in differences:
        first, second = pair["first"], pair["second"]
        console.print(f"{first} and {second}: {pair['common']} problems, p = {pair['p']:.3f}")
        for name, which in ((first, "only_first"), (second, "only_second")):
            console.print(f"  right only in {name}: {len(pair[which])} {' '.join(pair[which])}")


def varied_settings(settings: Sequence[Record]) -> list[str]:
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({json.dumps(each.get(key)) for each in settings}) > 1]


@main.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
def gold(data: Path) -> None:
    """Show that the checker accepts the right answers, and neither nothing nor wrong ones."""
    check = load_checker(data)
    for category in BRING_UP:
        problems = read_problems(data, category)
        answers = [gold_calls(problem) for problem in problems]
        accepted = sum(map(check, problems, answers, [category] * len(problems)))
        empty = sum(check(problem, [], category) for problem in problems)
        others = answers[1:] + answers[:1]
        wrong = sum(map(check, problems, others, [category] * len(problems)))
        click.echo(
            f"{category}: of {len(problems)}, right answers accepted {accepted}, "
            f"empty {empty}, those of the next problem {wrong}"
        )


if __name__ == "__main__":
    main()
