"""One model file under both backends: do they answer alike, and does a head judge alike?

    python benchmarks/compare_backends.py problems.jsonl --model model.gguf --head auto --limit 100

Both decode greedily, constrained; a problem agrees when the calls are equal. A head's rewards are
compared over the steps of the answers that were written alike, in the same order.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from toolprm_lite import SearchConfig, Searcher
from toolprm_lite.tasks.loading import load_problems
from toolprm_lite.tasks.matching import responses_equal


def answers(
    backend: str, problems: list[Any], args: argparse.Namespace
) -> tuple[list[Any], list[Any], dict[str, Any]]:
    settings = {"device": args.device, "dtype": args.dtype} if backend == "torch" else {}
    config = SearchConfig(strategy="greedy", max_tokens=args.max_tokens)
    calls, steps, seconds = [], [], []
    with Searcher.from_model(
        args.model, backend=backend, threads=args.threads, **settings
    ) as searcher:
        for number, problem in enumerate(problems, 1):
            result = searcher.search(
                problem.messages, problem.tools, config, reward=args.head or "policy"
            )
            calls.append(result.calls)
            steps.append([(step.kind, step.text, step.reward) for step in result.steps])
            seconds.append(result.stats.ms["total"] / 1e3)
            print(f"\r{backend} {number}/{len(problems)}", end="", flush=True)
    print(f", median {statistics.median(seconds):.2f} s a problem")
    return calls, steps, {"median_s": statistics.median(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", type=Path, nargs="+")
    parser.add_argument("--model")
    parser.add_argument("--head", help="a head's file, or auto; rewards are not compared without")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    problems = load_problems(args.problems)[0][: args.limit]
    ours, our_steps, our_time = answers("torch", problems, args)
    theirs, their_steps, their_time = answers("llamacpp", problems, args)
    equal = [
        responses_equal(mine, other, problem.tools)
        for mine, other, problem in zip(ours, theirs, problems, strict=True)
    ]
    found: dict[str, Any] = {
        "problems": len(problems),
        "agree": sum(equal) / len(equal),
        "torch": our_time,
        "llamacpp": their_time,
    }
    print(f"calls agree on {sum(equal)} of {len(equal)} problems ({found['agree']:.0%})")
    if args.head:
        pairs = np.array(
            [
                (mine[2], other[2])
                for first, second in zip(our_steps, their_steps, strict=True)
                if [step[:2] for step in first] == [step[:2] for step in second]
                for mine, other in zip(first, second, strict=True)
            ]
        )
        found["steps"] = len(pairs)
        found["correlation"] = float(np.corrcoef(pairs.T)[0, 1])
        found["mean_difference"] = float(np.abs(pairs[:, 0] - pairs[:, 1]).mean())
        print(
            f"rewards of {len(pairs)} steps: correlation {found['correlation']:.4f}, mean absolute "
            f"difference {found['mean_difference']:.4f}"
        )
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
