"""How late an answer comes past its deadline, and what a shorter one costs.

    python benchmarks/bench_deadlines.py PROBLEMS [--model model.gguf] [--limit 100] [--json]

PROBLEMS is a file of problems, a supervision set, or the folder of BFCL's unpacked wheel, of which
the bring-up problems are taken. Deadlines are 0.5, 1 and 2 times the median time that greedy takes
here for a problem from nothing, and 200 ms where the prompt is in the cache already. "late" is the
time past the deadline at which the answer came; "step" the longest model step of the same search,
in which a deadline may fall.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from problems import load

from toolprm_lite import SearchConfig, Searcher, SearchResult
from toolprm_lite.backends.base import Backend
from toolprm_lite.backends.open import open_backend
from toolprm_lite.tasks.problem import Problem

WARM = 200.0  # milliseconds
REACH = "as long as it takes"


class Steps:
    """Times the steps of a backend: batches, and the parts in which a prompt is prefilled."""

    def __init__(self, backend: Backend) -> None:
        self.longest = 0.0
        decode, prefill = backend.decode, backend.prefill

        def timed_decode(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return decode(*arguments)
            finally:
                self._note(began)

        def timed_prefill(
            *arguments: Any, stop: Callable[[], bool] | None = None, **more: Any
        ) -> Any:
            began = time.perf_counter()

            def between() -> bool:
                nonlocal began
                self._note(began)
                began = time.perf_counter()
                return stop is not None and stop()

            try:
                return prefill(*arguments, stop=between, **more)
            finally:
                self._note(began)

        backend.decode = timed_decode  # type: ignore[method-assign]
        backend.prefill = timed_prefill  # type: ignore[method-assign]

    def _note(self, began: float) -> None:
        self.longest = max(self.longest, 1e3 * (time.perf_counter() - began))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("problems", type=Path)
    parser.add_argument("--model", help="GGUF file or folder; the embedded model without it")
    parser.add_argument("--reward", default="auto")
    parser.add_argument("--strategy", default="step-beam", choices=["step-beam", "doubt"])
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--expand", type=int, default=16)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    items = load(options.problems, options.limit)
    backend = open_backend(options.model, threads=options.threads)
    steps = Steps(backend)
    rows: dict[str, list[dict[str, float]]] = {}

    with Searcher(backend) as searcher:

        def ask(item: Problem, **settings: Any) -> tuple[SearchResult, float]:
            config = SearchConfig(max_tokens=256, max_step_tokens=64, **settings)
            steps.longest = 0.0
            began = time.perf_counter()
            result = searcher.search(item.messages, item.tools, config, reward=options.reward)
            return result, 1e3 * (time.perf_counter() - began)

        def note(name: str, item: Problem, deadline: float | None, **settings: Any) -> None:
            result, took = ask(item, deadline_ms=deadline, **settings)
            named = result.complete or bool(result.missing)
            rows.setdefault(name, []).append(
                {
                    "ms": took,
                    "late_ms": 0.0 if deadline is None else max(0.0, took - deadline),
                    "step_ms": steps.longest,
                    "complete": float(result.complete),
                    "complete_or_named": float(named),
                    "right": float(result.complete and bool(item.judge(result.calls))),
                }
            )

        search = {
            "strategy": options.strategy, "beams": options.beams, "expand": options.expand,
        }  # fmt: skip
        ask(items[0], **search)
        for item in items:
            searcher.forget()
            note("greedy", item, None, strategy="greedy")
        median = statistics.median(row["ms"] for row in rows["greedy"])
        for item in items:
            for factor in (0.5, 1.0, 2.0):
                searcher.forget()
                note(f"{factor} x greedy's {median:.0f} ms", item, factor * median, **search)
            searcher.forget()
            note(REACH, item, None, **search)
            note(f"{WARM:.0f} ms, prompt in the cache", item, WARM, **search)

    found = {
        name: {
            "problems": len(row),
            "right": statistics.fmean(each["right"] for each in row),
            "complete": statistics.fmean(each["complete"] for each in row),
            "complete_or_named": statistics.fmean(each["complete_or_named"] for each in row),
            "median_ms": statistics.median(each["ms"] for each in row),
            "most_late_ms": max(each["late_ms"] for each in row),
            "later_than_a_step": sum(each["late_ms"] > each["step_ms"] for each in row),
            "most_later_ms": max(each["late_ms"] - each["step_ms"] for each in row),
            "longest_step_ms": max(each["step_ms"] for each in row),
        }
        for name, row in rows.items()
    }
    if options.json:
        print(json.dumps(found))
        return
    print(
        f"{'':32}{'right':>7}{'complete':>10}{'median ms':>11}{'late, most':>12}"
        f"{'longest step':>14}{'later than a step':>19}"
    )
    for name, row in found.items():
        print(
            f"{name:32}{row['right']:7.0%}{row['complete']:10.0%}{row['median_ms']:11.0f}"
            f"{row['most_late_ms']:12.1f}{row['longest_step_ms']:14.1f}"
            f"{row['later_than_a_step']:9.0f}, {row['most_later_ms']:6.1f} ms"
        )


if __name__ == "__main__":
    main()
