"""Many requests on one model: at once against one after the other, memory, and prompt states.

    python benchmarks/bench_many.py PROBLEMS [--model model.gguf] [--threads 1] [--json]

PROBLEMS is a file of problems, a supervision set, or the folder of BFCL's unpacked wheel, of which
the bring-up problems are taken.

- throughput: `--count` problems with tools of their own, by `search` one after the other and by
  `search_many`; then the same questions, all with the tools of the first. Everything is forgotten
  before each run, the two ways take turns, and the first turn is not counted.
- queue: `--callers` threads, each of which asks those problems with their own tools in turn through
  a `SearchQueue`, against the same searches one after the other: time, share of equal answers.
- reuse: questions on `--lists` lists of tools in turn, with and without the cache of prompt states:
  the prompt tokens computed and the seconds of a search whose tools were seen before.
- memory: the process's resident memory after 100 and after `--searches` searches, half of them by
  `search_many`.

Answers count as equal when their calls are.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from problems import load
from timing import spread

from toolprm_lite import SearchConfig, Searcher, SearchQueue, SearchRequest, SearchResult


def resident_mib() -> float:
    """Of this process (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmRSS")


def throughput(searcher: Searcher, requests: list[SearchRequest], repeats: int) -> dict[str, Any]:
    def one_by_one() -> list[SearchResult]:
        return [searcher.search(one.messages, one.tools, one.config) for one in requests]

    ways: dict[str, Callable[[], list[SearchResult]]] = {
        "solo": one_by_one,
        "many": lambda: searcher.search_many(requests),
    }
    found: dict[str, list[SearchResult]] = {}
    wall: dict[str, list[float]] = {way: [] for way in ways}
    processor: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(repeats + 1):
        for way, run in ways.items():
            searcher.forget()
            began, spent = time.perf_counter(), time.process_time()
            found[way] = run()
            if turn:
                wall[way].append(time.perf_counter() - began)
                processor[way].append(time.process_time() - spent)
    report: dict[str, Any] = {"requests": len(requests)}
    for way in ways:
        stats = [result.stats for result in found[way]]
        report[way] = {
            "seconds": spread(wall[way]),
            "processor_seconds": spread(processor[way]),
            "requests_per_second": len(requests) / statistics.median(wall[way]),
            "prefill_tokens": sum(each.prefill_tokens for each in stats),
            "decoded_tokens": sum(each.decode_tokens + each.forced_tokens for each in stats),
        }
    report["speedup"] = spread([a / b for a, b in zip(wall["solo"], wall["many"], strict=True)])
    report["processor_speedup"] = spread(
        [a / b for a, b in zip(processor["solo"], processor["many"], strict=True)]
    )
    pairs = zip(found["solo"], found["many"], strict=True)
    report["equal"] = sum(solo.calls == many.calls for solo, many in pairs) / len(requests)
    return report


def queue(
    searcher: Searcher, requests: list[SearchRequest], callers: int, each: int
) -> dict[str, Any]:
    order = [[(caller + turn) % len(requests) for caller in range(callers)] for turn in range(each)]

    expected: dict[int, SearchResult] = {}
    searcher.forget()
    began = time.perf_counter()
    for place in itertools.chain(*order):
        one = requests[place]
        expected[place] = searcher.search(one.messages, one.tools, one.config)
    seconds_alone = time.perf_counter() - began
    shared = SearchQueue(searcher, length=callers)

    def call(caller: int) -> int:
        equal = 0
        for places in order:
            one = requests[places[caller]]
            found = shared.search(one.messages, one.tools, one.config)
            equal += found.calls == expected[places[caller]].calls
        return equal

    searcher.forget()
    began = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        equal = sum(pool.map(call, range(callers)))
    seconds = time.perf_counter() - began
    asked = callers * each
    return {
        "callers": callers,
        "requests": asked,
        "equal": equal / asked,
        "seconds": seconds,
        "seconds_alone": seconds_alone,
        "speedup": seconds_alone / seconds,
    }


def reuse(searcher: Searcher, requests: list[SearchRequest], rounds: int) -> dict[str, Any]:
    """Each list of tools is asked in turn, `rounds` times after the first."""
    config = SearchConfig(strategy="greedy", max_tokens=1)
    seconds, computed, whole = [], [], []
    for turn in range(rounds + 1):
        for place, one in enumerate(requests):
            other = requests[(place + turn) % len(requests)]  # its question, on these tools
            began = time.perf_counter()
            stats = searcher.search(other.messages, one.tools, config).stats
            if turn:
                seconds.append(time.perf_counter() - began)
                computed.append(stats.prefill_tokens)
                whole.append(stats.prompt_tokens)
    return {
        "lists": len(requests),
        "seconds": spread(seconds),
        "prompt_tokens": statistics.mean(whole),
        "prefill_tokens": statistics.mean(computed),
    }


def memory(searcher: Searcher, requests: list[SearchRequest], count: int) -> dict[str, float]:
    config = SearchConfig(beams=2, expand=4, max_tokens=12)
    short = [replace(one, config=config) for one in requests]
    done, marks = 0, [100, count]
    found = {}
    while marks:
        for one in short:
            searcher.search(one.messages, one.tools, config)
        searcher.search_many(short)
        done += 2 * len(short)
        if done >= marks[0]:
            found[f"mib_at_{marks.pop(0)}"] = resident_mib()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", type=Path)
    parser.add_argument("--model", help="a GGUF file or a transformers folder")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--context", type=int)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--beams", type=int, default=2)
    parser.add_argument("--expand", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lists", type=int, default=8)
    parser.add_argument("--searches", type=int, default=1000)
    parser.add_argument("--callers", type=int, default=16, help="threads of queue (default 16)")
    parser.add_argument("--each", type=int, default=20, help="searches of each (default 20)")
    parser.add_argument("--only", choices=("throughput", "queue", "reuse", "memory"))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    options = {"backend": args.backend, "threads": args.threads, "context": args.context}
    config = SearchConfig(beams=args.beams, expand=args.expand)
    items = load(args.problems, 20 * max(args.count, args.lists))
    seen: dict[str, SearchRequest] = {}
    for item in items:
        key = json.dumps([tool.to_dict() for tool in item.tools], sort_keys=True)
        seen.setdefault(key, SearchRequest(item.messages, item.tools, config))
    requests = list(seen.values())[: max(args.count, args.lists)]
    report: dict[str, Any] = {"model": args.model, "beams": args.beams, "expand": args.expand}

    def say(line: str) -> None:
        if not args.json:
            print(line, flush=True)

    with Searcher.from_model(args.model, **options) as searcher:
        if args.only in (None, "throughput"):
            asked = requests[: args.count]
            first = asked[0].tools
            workloads = {
                "tools_of_their_own": asked,
                "one_list_of_tools": [replace(one, tools=first) for one in asked],
            }
            for name, workload in workloads.items():
                report[name] = found = throughput(searcher, workload, args.repeats)
                say(
                    f"{name}: {found['solo']['requests_per_second']:.2f} searches/s one by one, "
                    f"{found['many']['requests_per_second']:.2f} at once: "
                    f"{found['speedup']['median']:.2f} times "
                    f"({found['speedup']['min']:.2f} .. {found['speedup']['max']:.2f}), "
                    f"processor time {found['processor_speedup']['median']:.2f} times; "
                    f"{found['equal']:.0%} equal answers"
                )
        if args.only in (None, "queue"):
            report["queue"] = found = queue(
                searcher, requests[: args.count], args.callers, args.each
            )
            say(
                f"queue: {found['callers']} threads, {found['requests']} searches in "
                f"{found['seconds']:.0f} s, {found['speedup']:.2f} times as fast as one after the "
                f"other; {found['equal']:.0%} equal answers"
            )
        if args.only in (None, "memory"):
            report["memory"] = memory(searcher, requests[: args.lists], args.searches)
            say(f"memory: {report['memory']}")
    if args.only in (None, "reuse"):
        for name, size in (("with_cache", 256), ("without_cache", 0)):
            with Searcher.from_model(args.model, prompt_cache=size, **options) as searcher:
                found = reuse(searcher, requests[: args.lists], 2)
            report[name] = found
            say(
                f"{name}: {found['lists']} lists of tools in turn, {found['prefill_tokens']:.0f} "
                f"of {found['prompt_tokens']:.0f} prompt tokens computed, "
                f"{found['seconds']['median']:.3f} s a search "
                f"({found['seconds']['min']:.3f} .. {found['seconds']['max']:.3f})"
            )
    if args.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
