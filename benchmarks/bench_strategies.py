"""Strategies side by side on the held-out problems of a supervision set, by decoded tokens.

    python benchmarks/bench_strategies.py run SET --model model.gguf --output runs
    python benchmarks/bench_strategies.py table runs

Every problem is asked once for each setting, so one prefill serves all of them. The problems are
those of the set's test split as the set shows them (masked, with distractors, some to be
declined): functions that no head fitted to the set has seen. `run` goes on where it has stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from toolprm_lite import SearchConfig, Searcher, SearchResult, Tool
from toolprm_lite.evaluation.matching import responses_equal
from toolprm_lite.evaluation.pool import Drawn, Pool
from toolprm_lite.files import replace_file
from toolprm_lite.reward.head import Head, load_head
from toolprm_lite.supervision.collect import StateReader
from toolprm_lite.tools import parse_tools
from toolprm_lite.training.metrics import bootstrap

# name: (settings, reward). A head is named by its file in --heads; "policy" needs none.
SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "step-beam policy N=2 M=8": ({"beams": 2, "expand": 8}, "policy"),
    "step-beam c-prm N=2 M=8": ({"beams": 2, "expand": 8}, "c-prm"),
    "step-beam toolprm N=1 M=8": ({"beams": 1, "expand": 8}, "toolprm"),
    "step-beam toolprm N=2 M=8": ({"beams": 2, "expand": 8}, "toolprm"),
    "step-beam toolprm N=4 M=16": ({"beams": 4, "expand": 16}, "toolprm"),
}
# Chosen from one recorded pool of whole responses.
POOL = 8
RIVALS = ("orm", "c-prm", "toolprm")
POOLED = (
    "greedy",
    f"majority K={POOL}",
    *(f"best-of-n {rival} K={POOL}" for rival in RIVALS),
    *(f"weighted vote {rival} K={POOL}" for rival in RIVALS),
)
NAMES = (*POOLED, *SETTINGS)


@click.group()
def main() -> None:
    """Strategies side by side on held-out problems."""


@main.command()
@click.argument("folder", metavar="SET", type=click.Path(path_type=Path, exists=True))
@click.option("--model", help="GGUF file; the embedded model without it.")
@click.option("--heads", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--split", default="test", show_default=True)
@click.option("--limit", type=int, help="Problems, from the first.")
@click.option("--threads", type=int)
def run(
    folder: Path,
    model: str | None,
    heads: Path,
    output: Path,
    split: str,
    limit: int | None,
    threads: int | None,
) -> None:
    """Ask the problems of SET's split with every setting."""
    with (folder / "problems.jsonl").open(encoding="utf-8") as file:
        problems = [problem for problem in map(json.loads, file) if problem["split"] == split]
    problems = problems[:limit]
    output.mkdir(parents=True, exist_ok=True)
    loaded = {rival: load_head(heads / f"{rival}.safetensors") for rival in RIVALS}
    with Searcher.from_model(model, threads=threads) as searcher:
        started = time.time()
        for number, problem in enumerate(problems):
            path = output / f"{number:05d}.json"
            record = json.loads(path.read_text()) if path.exists() else {}
            answers = record.setdefault("answers", {})
            if all(name in answers for name in NAMES):
                continue
            record |= {name: problem[name] for name in ("id", "source", "masked", "refusal")}
            record["calls"] = len(problem["answers"])
            answers |= _from_pool(searcher, problem, loaded)
            for name in SETTINGS:
                answers[name] = _ask(searcher, problem, name, heads)
            replace_file(path, json.dumps(record, ensure_ascii=False).encode())
            rate = (time.time() - started) / (number + 1)
            click.echo(f"{number + 1} of {len(problems)} · {rate:.1f} s each", err=True)


def _from_pool(
    searcher: Searcher, problem: Mapping[str, Any], heads: Mapping[str, Head]
) -> dict[str, dict[str, Any]]:
    tools = parse_tools(problem["tools"])
    layers = tuple(sorted({layer for head in heads.values() for layer in head.layers}))
    config = SearchConfig(strategy="best-of-n", samples=POOL)
    record = searcher.record(problem["messages"], tools, config, StateReader(layers))
    pool = Pool(record, layers)
    stats = record["stats"]
    right = [responses_equal(r.calls, problem["answers"], tools) for r in pool.responses]

    def answer(drawn: Drawn | None, scoring_ms: float = 0.0) -> dict[str, Any]:
        return {
            "right": drawn is not None and responses_equal(drawn.calls, problem["answers"], tools),
            "any_right": any(right),
            "probability": None,
            "calls": None if drawn is None else drawn.calls,
            "decoded": stats.decode_tokens + stats.forced_tokens,
            "drawn": stats.drawn_tokens,
            "steps": stats.steps,
            "ms": {**stats.ms, "reward": scoring_ms},
        }

    answers = {f"majority K={POOL}": answer(pool.majority())}
    for rival, head in heads.items():
        started = time.perf_counter()
        scores = pool.scores(head)
        spent = 1e3 * (time.perf_counter() - started)
        answers[f"best-of-n {rival} K={POOL}"] = answer(pool.best(scores), spent)
        answers[f"weighted vote {rival} K={POOL}"] = answer(pool.best(scores, weighted=True), spent)
    greedy = searcher.search(
        problem["messages"], tools, SearchConfig(strategy="greedy"), reward="policy"
    )
    answers["greedy"] = _told(greedy, problem, tools)
    return answers


def _ask(searcher: Searcher, problem: Mapping[str, Any], name: str, heads: Path) -> dict[str, Any]:
    settings, reward = SETTINGS[name]
    scorer = reward if reward == "policy" else str(heads / f"{reward}.safetensors")
    tools = parse_tools(problem["tools"])
    result = searcher.search(problem["messages"], tools, SearchConfig(**settings), reward=scorer)
    return _told(result, problem, tools)


def _told(result: SearchResult, problem: Mapping[str, Any], tools: list[Tool]) -> dict[str, Any]:
    candidates = [result.calls, *(other.calls for other in result.alternatives if other.complete)]
    right = [responses_equal(calls, problem["answers"], tools) for calls in candidates]
    return {
        "right": bool(result.complete and right[0]),
        "any_right": any(right),
        "probability": result.probability,
        "calls": result.calls,
        "decoded": result.stats.decode_tokens + result.stats.forced_tokens,
        "drawn": result.stats.drawn_tokens,
        "steps": result.stats.steps,
        "ms": result.stats.ms,
    }


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--json", "as_json", is_flag=True)
def table(folder: Path, as_json: bool) -> None:
    """Accuracy and decoded tokens of each setting, over the problems that all have answered."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise click.ClickException(f"{folder}: no answers; run this script's run first")
    names = [name for name in NAMES if all(name in record["answers"] for record in records)]
    numbers = np.arange(len(records))
    tokens = _column(records, "greedy", "decoded").sum()
    decode = _decode_ms(records, "greedy").sum()
    greedy = _column(records, "greedy", "right")
    rows = []
    for name in names:
        right = _column(records, name, "right")
        seconds = [record["answers"][name]["ms"]["reward"] for record in records]
        rows.append(
            {
                "setting": name,
                "right": right.mean(),
                "interval": bootstrap(right, numbers),
                "gain": (right - greedy).mean(),
                "gain_interval": bootstrap(right - greedy, numbers),
                "any_right": _column(records, name, "any_right").mean(),
                "decoded": _column(records, name, "decoded").sum() / tokens,
                "decode_time": _decode_ms(records, name).sum() / decode,
                "reward_share": sum(seconds) / _decode_ms(records, name).sum(),
            }
        )
    if as_json:
        click.echo(json.dumps({"problems": len(records), "settings": rows}))
        return
    shown = Table(title=f"{len(records)} problems", box=box.SIMPLE)
    shown.add_column("setting")
    for heading in (
        "right", "95%", "over greedy", "95%", "a beam right", "tokens", "time", "reward / decode",
    ):  # fmt: skip
        shown.add_column(heading, justify="right")
    for row in rows:
        low, high = row["interval"]
        least, most = row["gain_interval"]
        shown.add_row(
            row["setting"],
            f"{row['right']:.1%}",
            f"{low:.1%} .. {high:.1%}",
            f"{100 * row['gain']:+.1f}",
            f"{100 * least:+.1f} .. {100 * most:+.1f}",
            f"{row['any_right']:.1%}",
            f"{row['decoded']:.2f} x",
            f"{row['decode_time']:.2f} x",
            f"{row['reward_share']:.1%}",
        )
    Console(highlight=False, width=140).print(shown)


def _column(records: list[dict[str, Any]], name: str, key: str) -> Any:
    return np.array([record["answers"][name][key] for record in records], float)


def _decode_ms(records: list[dict[str, Any]], name: str) -> Any:
    return np.array([record["answers"][name]["ms"]["decode"] for record in records])


if __name__ == "__main__":
    main()
