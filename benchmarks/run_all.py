"""Runs the benchmarks one after the other and makes one table of them.

    python benchmarks/run_all.py --data BFCL --model model.gguf --output results/

BFCL is the folder of the unpacked bfcl-eval wheel. Each benchmark's result is a JSON file in the
output folder; one that is there already is not run again. The table is `results/table.md`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

Row = tuple[str, str, str]  # what, how much, spread


@dataclass(frozen=True)
class Benchmark:
    name: str
    arguments: list[str]
    rows: Callable[[Any], Iterator[Row]]


def _spread(row: dict[str, float], digits: int = 1) -> str:
    return f"{row['min']:,.{digits}f} .. {row['max']:,.{digits}f}"


def segmenter(found: Any) -> Iterator[Row]:
    own = found["growing_ms"]["segmenter"]
    yield "a call of 300 tokens, read after each", f"{own['median']:.3f} ms", _spread(own, 3)
    for name, row in found["growing_ms"].items():
        if name != "segmenter":
            yield f"… by {name}", f"{row['median'] / own['median']:,.0f} x", ""
    fork = found["fork_ns"]
    yield "fork of a segmenter's state", f"{fork['median']:.0f} ns", _spread(fork, 0)


def parts(found: Any) -> Iterator[Row]:
    for name, row in found["microseconds"].items():
        yield name, f"{row['median']:,.1f} us", _spread(row)


def cli(found: Any) -> Iterator[Row]:
    for name, row in found["milliseconds"].items():
        yield name, f"{row['median']:,.0f} ms", _spread(row, 0)


def deadlines(found: Any) -> Iterator[Row]:
    for name, row in found.items():
        yield (
            f"deadline: {name}",
            f"{row['median_ms']:,.0f} ms, {row['right']:.0%} right",
            f"{row['later_than_a_step']} of {row['problems']} later than a step",
        )


def search(found: Any) -> Iterator[Row]:
    for name, row in found.items():
        yield (
            f"{name}: {row['right']:.0%} right, {row['decoded_tokens']:,.0f} tokens",
            f"{row['median_ms']:,.0f} ms after the prompt, {row['ratio_of_medians']:.2f} x greedy",
            f"p95 {row['p95_ms']:,.0f} ms; with the prompt {row['median_ms_with_prefill']:,.0f}, "
            f"{row['p95_ms_with_prefill']:,.0f} ms",
        )


def many(found: Any) -> Iterator[Row]:
    for name in ("tools_of_their_own", "one_list_of_tools"):
        row = found[name]
        yield (
            f"{row['requests']} requests at once / one by one, {name.replace('_', ' ')}",
            f"{row['speedup']['median']:.2f} x as fast, {row['equal']:.0%} equal",
            f"{row['speedup']['min']:.2f} .. {row['speedup']['max']:.2f}",
        )
    row = found["queue"]
    yield (
        f"{row['callers']} threads, {row['requests']} searches in a queue / one by one",
        f"{row['speedup']:.2f} x as fast, {row['equal']:.0%} equal",
        "",
    )
    for name, size in found["memory"].items():
        yield f"resident memory {name.removeprefix('mib_')} searches", f"{size:,.0f} MiB", ""
    for name in ("with_cache", "without_cache"):
        row = found[name]
        yield (
            f"{row['lists']} lists of tools in turn, {name.replace('_', ' ')} of prompt states",
            f"{1e3 * row['seconds']['median']:,.0f} ms, {row['prefill_tokens']:,.0f} of "
            f"{row['prompt_tokens']:,.0f} tokens",
            f"{1e3 * row['seconds']['min']:,.0f} .. {1e3 * row['seconds']['max']:,.0f} ms",
        )


def draws(found: Any) -> Iterator[Row]:
    for name, row in found.items():
        yield (
            f"{name}, independent / shared: tokens",
            f"{row['token_ratio']['median']:.1f} x",
            _spread(row["token_ratio"]),
        )
        yield "… time", f"{row['time_ratio']['median']:.1f} x", _spread(row["time_ratio"])


def usual_way(found: Any) -> Iterator[Row]:
    for name, values in found["ratios"].items():
        ordered = sorted(values)
        yield (
            f"{name} way / ours, after the prompt",
            f"{statistics.median(ordered):.1f} x",
            f"{ordered[0]:.1f} .. {ordered[-1]:.1f}",
        )


def token_beam(found: Any) -> Iterator[Row]:
    for name, row in found.items():
        yield (
            f"beam over {name}: {row['right']:.0%} right, {row['decoded_tokens']:,.0f} tokens",
            f"{row['ms']['median']:,.0f} ms",
            _spread(row["ms"], 0),
        )


def benchmarks(options: argparse.Namespace) -> list[Benchmark]:
    model = ["--model", options.model] if options.model else []
    threads = ["--threads", str(options.threads)] if options.threads else []
    data = str(options.data)
    return [
        Benchmark("bench_segmenter", [], segmenter),
        Benchmark("bench_parts", model, parts),
        Benchmark("bench_cli", [*model, *threads], cli),
        Benchmark("bench_search", [data, *model, *threads, "--limit", str(options.limit)], search),
        Benchmark(
            "bench_usual_way", [data, *model, *threads, "--limit", str(options.few)], usual_way
        ),
        Benchmark("bench_draws", [data, *model, *threads], draws),
        Benchmark("bench_token_beam", [data, *model, *threads], token_beam),
        Benchmark(
            "bench_deadlines", [data, *model, *threads, "--limit", str(options.limit)], deadlines
        ),
        Benchmark("bench_many", [data, *model, *threads], many),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="BFCL")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", help="GGUF file; the embedded model without it")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--limit", type=int, default=100, help="problems (default 100)")
    parser.add_argument("--few", type=int, default=5, help="problems of the usual way (default 5)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the benchmarks' files")
    options = parser.parse_args()
    chosen = benchmarks(options)
    names = [benchmark.name for benchmark in chosen]
    unknown = sorted({*(options.only or names)} - {*names})
    if unknown:
        parser.error(f"--only {', '.join(unknown)}: the benchmarks are {', '.join(names)}")
    options.output.mkdir(parents=True, exist_ok=True)
    lines = [f"| {platform.machine()}, Python {platform.python_version()} | median | spread |"]
    lines.append("|---|--:|--:|")
    for benchmark in chosen:
        if options.only and benchmark.name not in options.only:
            continue
        path = options.output / f"{benchmark.name}.json"
        if not path.is_file():
            print(f"{benchmark.name} …", file=sys.stderr, flush=True)
            command = [
                sys.executable,
                HERE / f"{benchmark.name}.py",
                *benchmark.arguments,
                "--json",
            ]
            done = subprocess.run(command, stdout=subprocess.PIPE)
            if done.returncode:
                sys.exit(
                    f"{benchmark.name} ended with {done.returncode}; fix that and run it again"
                )
            record = {"arguments": benchmark.arguments, "found": json.loads(done.stdout)}
            path.write_text(json.dumps(record))
        record = json.loads(path.read_bytes())
        if record.get("arguments") != benchmark.arguments:
            parser.error(f"{path} was measured with other arguments; give another --output")
        found = record["found"]
        lines.append(f"| **{benchmark.name}** | | |")
        lines += [f"| {what} | {value} | {range} |" for what, value, range in benchmark.rows(found)]
    text = "\n".join(lines) + "\n"
    (options.output / "table.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
