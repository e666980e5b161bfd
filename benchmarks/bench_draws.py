"""Shared draws against independent ones: K whole responses to one question, on one prompt.

    python benchmarks/bench_draws.py PROBLEMS [--model model.gguf] [--limit 20] [--json]

PROBLEMS is a file of problems, a supervision set, or the folder of BFCL's unpacked wheel, of which
the bring-up problems are taken.

- shared: one search for K responses; draws that agree are one row.
- independent: K searches for one response each, with seeds of their own. They share the prompt's
  cells, and every model step takes the rows of all of them.

Both draw from the same distribution under the same constraint. The prompt is in the cache before
either begins. The two take turns in going first.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from problems import load
from timing import spread

from toolprm_lite import SearchConfig, Searcher, SearchRequest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("problems", type=Path)
    parser.add_argument("--model", help="GGUF file or folder; the embedded model without it")
    parser.add_argument("--draws", type=int, nargs="+", default=[4, 16], metavar="K")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    items = load(options.problems, options.limit)
    base = SearchConfig(strategy="best-of-n", samples=1, max_tokens=256, max_step_tokens=64)
    report: dict[str, Any] = {}
    with Searcher.from_model(options.model, threads=options.threads) as searcher:
        for draws in options.draws:
            times: list[float] = []
            tokens: list[float] = []
            taken: list[float] = []
            for turn, item in enumerate(items):
                together = SearchRequest(item.messages, item.tools, replace(base, samples=draws))
                apart = [
                    SearchRequest(item.messages, item.tools, replace(base, seed=1000 * turn + n))
                    for n in range(draws)
                ]
                searcher.search(item.messages, item.tools, replace(base, max_tokens=1))
                seconds, decoded = {}, {}
                for requests in ([together], apart) if turn % 2 else (apart, [together]):
                    began = time.perf_counter()
                    results = searcher.search_many(requests)
                    name = "shared" if requests == [together] else "independent"
                    seconds[name] = time.perf_counter() - began
                    decoded[name] = sum(
                        each.stats.decode_tokens + each.stats.forced_tokens for each in results
                    )
                times.append(seconds["independent"] / seconds["shared"])
                tokens.append(decoded["independent"] / decoded["shared"])
                taken.append(1e3 * seconds["shared"])
            report[f"{draws} draws"] = {
                "problems": len(items),
                "time_ratio": spread(times),
                "token_ratio": spread(tokens),
                "shared_ms": spread(taken),
            }
    if options.json:
        print(json.dumps(report))
        return
    for name, row in report.items():
        print(
            f"{name}: independent ones decode {row['token_ratio']['median']:.1f} x the tokens "
            f"({row['token_ratio']['min']:.1f} .. {row['token_ratio']['max']:.1f}) and take "
            f"{row['time_ratio']['median']:.1f} x as long ({row['time_ratio']['min']:.1f} .. "
            f"{row['time_ratio']['max']:.1f})"
        )


if __name__ == "__main__":
    main()
