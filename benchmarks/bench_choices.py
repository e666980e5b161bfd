"""Sets of choices decoded as one tree, against the same search that draws them.

    python benchmarks/bench_choices.py --model model.gguf --sizes 2,4,8,16,30 --json out.json

One question is asked with more and more tools, and of a tool with larger and larger enums, each
time with and without `choices`: the same prompt, draws and reward, in turn, after a warm-up. Times
are what the search spends behind the prompt, as medians with their quartiles.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from typing import Any

from toolprm_lite import SearchConfig, Searcher, SearchResult

CITIES = (
    "Oslo Paris Rome Lima Cairo Tokyo Quito Berlin Madrid London Dublin Prague Vienna Warsaw "
    "Athens Lisbon Zagreb Ankara Tehran Riyadh Delhi Dhaka Hanoi Manila Seoul Havana Bogota "
    "Nairobi Accra Tunis"
)
TOPICS = (
    "forecast history alerts tides pollen ozone radar wind humidity pressure sunrise sunset moon "
    "snow storm flood fire quake drought visibility dew frost heat lightning rainfall river lake "
    "glacier volcano aurora"
)
MOST = 30


def tool(name: str, city: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"city": city}, "required": ["city"]}
    return {"name": name, "description": name.replace("_", " "), "parameters": parameters}


def names(size: int) -> list[dict[str, Any]]:
    return [tool(f"get_weather_{topic}", {"type": "string"}) for topic in TOPICS.split()[:size]]


def enum(size: int) -> list[dict[str, Any]]:
    return [tool("get_weather", {"type": "string", "enum": CITIES.split()[:size]})]


SETS = {"names": names, "enum": enum}


def spent(result: SearchResult) -> float:
    """Milliseconds behind the prompt."""
    return sum(result.stats.ms[phase] for phase in ("decode", "core", "reward"))


def figures(results: Sequence[SearchResult]) -> dict[str, Any]:
    times = [spent(result) for result in results]
    quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    stats = results[0].stats
    return {
        "steps": stats.steps,
        "decode_tokens": stats.decode_tokens,
        "forced_tokens": stats.forced_tokens,
        "rows_max": stats.rows_max,
        "choice_sets": stats.choice_sets,
        "ms": quartiles[1],
        "ms_quartiles": [quartiles[0], quartiles[2]],
        "calls": results[0].calls,
    }


def measure(
    searcher: Searcher, tools: list[dict[str, Any]], args: argparse.Namespace
) -> dict[str, Any]:
    """Figures with and without choices, by their limit."""
    results: dict[int, list[SearchResult]] = {0: [], MOST: []}
    for run in range(args.warmup + args.repeats):
        for choices, kept in results.items():
            config = SearchConfig(
                strategy=args.strategy, beams=args.beams, expand=args.expand, choices=choices,
                constrain=args.constrain, max_tokens=128, max_step_tokens=32, max_text_tokens=16,
            )  # fmt: skip
            question = "Will there be a storm in Rome tomorrow?"
            result = searcher.search(question, tools, config, reward=args.reward)
            if run >= args.warmup:
                kept.append(result)
    return {
        "drawn" if choices == 0 else "whole": figures(kept) for choices, kept in results.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", help="GGUF file or transformers folder; none is the embedded one"
    )
    parser.add_argument("--backend", default="auto", choices=["auto", "llamacpp", "torch"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--sizes", default="2,4,8,16,30")
    parser.add_argument("--strategy", default="step-beam", choices=["step-beam", "doubt"])
    parser.add_argument("--beams", type=int, default=2)
    parser.add_argument("--expand", type=int, default=8)
    parser.add_argument("--reward", default="auto")
    parser.add_argument("--constrain", default="on", choices=["on", "off"])
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    args = parser.parse_args()
    sizes = [int(size) for size in args.sizes.split(",")]
    if not all(1 <= size <= MOST for size in sizes):
        parser.error(f"--sizes must be 1 .. {MOST}")

    found = []
    print("set     size        steps   decoded    forced  rows     ms (quartiles)")
    with Searcher.from_model(args.model, backend=args.backend, threads=args.threads) as searcher:
        for kind, make in SETS.items():
            for size in sizes:
                row = {"set": kind, "size": size, **measure(searcher, make(size), args)}
                found.append(row)
                for way in ("drawn", "whole"):
                    f = row[way]
                    low, high = (round(edge) for edge in f["ms_quartiles"])
                    print(
                        f"{kind:7}{size:5}  {way:6}{f['steps']:5}{f['decode_tokens']:10}"
                        f"{f['forced_tokens']:10}{f['rows_max']:6}{f['ms']:7.0f} ({low}-{high})",
                        flush=True,
                    )
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"model": args.model, "settings": vars(args), "rows": found}, file, indent=1)


if __name__ == "__main__":
    main()
