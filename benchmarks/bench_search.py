"""What the search costs and brings against greedy decoding, on the same problems in one run.

    python benchmarks/bench_search.py PROBLEMS [--model model.gguf] [--limit 100] [--json]

PROBLEMS is a file of problems, a supervision set, or the folder of BFCL's unpacked wheel, of which
the bring-up problems are taken. Every problem is prefilled once and asked with each strategy in
turn, in an order that rotates. "after the prompt" is all but the prefill; the whole time adds the
prefill that the problem's first strategy paid. Ratios are of each problem's times to greedy's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
from problems import load

from toolprm_lite import SearchConfig, Searcher
from toolprm_lite.evaluation.strategies import POOLED, Strategy

STRATEGIES = ["greedy", "step-beam@2x8", "step-beam@4x16", "doubt@2x8"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("problems", type=Path)
    parser.add_argument("--model", help="GGUF file or folder; the embedded model without it")
    parser.add_argument("--reward", default="auto")
    parser.add_argument("--strategy", action="append", help=f"default {' '.join(STRATEGIES)}")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    names = ["greedy", *(n for n in options.strategy or STRATEGIES if n != "greedy")]
    base = SearchConfig(max_tokens=256, max_step_tokens=64)
    strategies = {name: Strategy.parse(name) for name in names}
    for name, strategy in strategies.items():
        if strategy.kind in POOLED or ":" in name:
            parser.error(f"{name}: give a search, without its reward, which --reward names")
    configs = {name: strategy.config(base) for name, strategy in strategies.items()}
    items = load(options.problems, options.limit)
    behind: dict[str, list[float]] = {name: [] for name in names}
    whole: dict[str, list[float]] = {name: [] for name in names}
    right: dict[str, list[bool]] = {name: [] for name in names}
    counts: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
    with Searcher.from_model(options.model, threads=options.threads) as searcher:
        for name in names:
            first = items[0]
            searcher.search(first.messages, first.tools, configs[name], reward=options.reward)
        for turn, item in enumerate(items):
            searcher.forget()
            shift = turn % len(names)
            prefill = 0.0
            for name in (*names[shift:], *names[:shift]):
                began = time.perf_counter()
                result = searcher.search(
                    item.messages, item.tools, configs[name], reward=options.reward
                )
                took = 1e3 * (time.perf_counter() - began)
                stats = result.stats
                prefill = max(prefill, stats.ms["prefill"])
                behind[name].append(took - stats.ms["prefill"])
                whole[name].append(took - stats.ms["prefill"] + prefill)
                right[name].append(result.complete and bool(item.judge(result.calls)))
                counts[name].append((stats.decode_tokens + stats.forced_tokens, stats.drawn_tokens))

    greedy = np.array(behind["greedy"])
    found = {}
    for name in names:
        own = np.array(behind[name])
        ratio = own / greedy
        found[name] = {
            "problems": len(items),
            "right": statistics.fmean(right[name]),
            "decoded_tokens": statistics.fmean(decoded for decoded, _ in counts[name]),
            "drawn_tokens": statistics.fmean(drawn for _, drawn in counts[name]),
            "median_ms": float(np.median(own)),
            "p95_ms": float(np.quantile(own, 0.95)),
            "median_ms_with_prefill": float(np.median(whole[name])),
            "p95_ms_with_prefill": float(np.quantile(whole[name], 0.95)),
            "ratio_of_medians": float(np.median(own) / np.median(greedy)),
            "median_ratio": float(np.median(ratio)),
            "p95_ratio": float(np.quantile(ratio, 0.95)),
        }
    if options.json:
        print(json.dumps(found))
        return
    print(
        f"{'':24}{'right':>7}{'decoded':>9}{'drawn':>8}{'after the prompt ms, p95':>27}"
        f"{'with it, p95':>17}{'of greedy':>11}{'p95':>7}"
    )
    for name, row in found.items():
        print(
            f"{name:24}{row['right']:7.1%}{row['decoded_tokens']:9.0f}{row['drawn_tokens']:8.0f}"
            f"{row['median_ms']:19.0f}{row['p95_ms']:8.0f}{row['median_ms_with_prefill']:9.0f}"
            f"{row['p95_ms_with_prefill']:8.0f}{row['ratio_of_medians']:10.2f}x"
            f"{row['p95_ratio']:6.2f}x"
        )


if __name__ == "__main__":
    main()
