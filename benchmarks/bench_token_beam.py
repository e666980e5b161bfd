"""The beam over tokens against the beam over steps, on the same problems in one run.

    python benchmarks/bench_token_beam.py PROBLEMS [--model model.gguf] [--limit 20] [--json]

PROBLEMS is a file of problems, a supervision set, or the folder of BFCL's unpacked wheel, of which
the bring-up problems are taken. Both work under the same token masks; the model is opened once for
each. The times leave out the prompt's prefill, which both need.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from problems import load
from request import PROMPT, as_request
from timing import spread
from token_beam import TokenBeamSearch

from toolprm_lite import SearchConfig, Searcher
from toolprm_lite.backends.base import Backend
from toolprm_lite.backends.open import open_backend
from toolprm_lite.tasks.problem import Problem

MAX_TOKENS = 256

Found = tuple[float, int, bool]  # milliseconds, decoded tokens, right


def by_tokens(backend: Backend, item: Problem, beams: int) -> Found:
    search = TokenBeamSearch(backend, beams, max_tokens=MAX_TOKENS)
    began = time.perf_counter()
    responses = search.run(as_request(backend, item.messages, item.tools))
    seconds = time.perf_counter() - began - search.prefill_seconds
    complete = bool(responses) and responses[0].complete
    return 1e3 * seconds, search.decoded, complete and bool(item.judge(responses[0].calls))


def by_steps(searcher: Searcher, item: Problem, config: SearchConfig, reward: str) -> Found:
    began = time.perf_counter()
    result = searcher.search(item.messages, item.tools, config, reward=reward)
    took = 1e3 * (time.perf_counter() - began) - result.stats.ms["prefill"]
    decoded = result.stats.decode_tokens + result.stats.forced_tokens
    return took, decoded, result.complete and bool(item.judge(result.calls))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("problems", type=Path)
    parser.add_argument("--model", help="GGUF file or folder; the embedded model without it")
    parser.add_argument("--reward", default="auto", help="of the beam over steps (default auto)")
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--expand", type=int, default=8)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    items = load(options.problems, options.limit)
    steps = SearchConfig(
        strategy="step-beam", beams=options.beams, expand=options.expand, max_tokens=MAX_TOKENS,
        prompt=PROMPT,
    )  # fmt: skip
    backend = open_backend(options.model, threads=options.threads)
    with Searcher.from_model(options.model, threads=options.threads) as searcher:
        ways = {
            f"tokens@{options.beams}": lambda item: by_tokens(backend, item, options.beams),
            f"steps@{options.beams}x{options.expand}": lambda item: by_steps(
                searcher, item, steps, options.reward
            ),
        }
        found: dict[str, list[Found]] = {name: [] for name in ways}
        for way in ways.values():
            way(items[0])
        for turn, item in enumerate(items):
            for name in sorted(ways, reverse=turn % 2 == 0):
                found[name].append(ways[name](item))
    backend.close()
    report = {
        name: {
            "problems": len(items),
            "right": statistics.fmean(right for _, _, right in rows),
            "decoded_tokens": statistics.fmean(decoded for _, decoded, _ in rows),
            "ms": spread([took for took, _, _ in rows]),
        }
        for name, rows in found.items()
    }
    if options.json:
        print(json.dumps(report))
        return
    for name, row in report.items():
        print(
            f"{name:14} {row['right']:6.1%} right, {row['decoded_tokens']:6.0f} tokens, "
            f"{row['ms']['median']:7.0f} ms behind the prompt "
            f"({row['ms']['min']:.0f} .. {row['ms']['max']:.0f})"
        )


if __name__ == "__main__":
    main()
