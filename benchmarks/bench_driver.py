"""Time outside the model of a lone search, of this checkout against another one.

    python benchmarks/bench_driver.py --against PATH [--pairs 15] [--json]

PATH is another checkout with its core built in place. Each run searches the same problems with a
tiny random model, whose steps cost next to nothing, in a process of its own; runs alternate. The
figure of a run is the median over its searches of the total less prefill and decode, for each
model step; printed are the medians over the runs and the median ratio of a pair.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Run in both checkouts, so it uses only what both versions of the package have.
MEASURE = """
import json, statistics, sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[2])  # this checkout's tests
from support.made_problems import problems
from support.tiny_model import TinyLlama
from toolprm_lite import SearchConfig, Searcher

def judge(steps):
    return [0.5 + 0.4 * (len(step.response) % 7) / 7 for step in steps]

config = SearchConfig(strategy=sys.argv[1], beams=2, expand=4, max_tokens=64)
with tempfile.TemporaryDirectory() as folder:
    path = TinyLlama().write(Path(folder) / "tiny.gguf")
    with Searcher.from_model(path, threads=1, context=4096) as searcher:
        found = []
        for problem in problems(30):
            result = searcher.search(problem.question, problem.tools, config, reward=judge)
            ms = result.stats.ms
            outside = ms["total"] - ms["prefill"] - ms["decode"]
            found.append(outside / max(1, result.stats.steps))
print(json.dumps(statistics.median(found[5:])))
"""


def measure(checkout: Path, strategy: str) -> float:
    """Milliseconds outside the model for each model step."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, strategy, str(ROOT / "tests")],
        cwd=checkout, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--against", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--strategy", action="append")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    found = {}
    for strategy in options.strategy or ["greedy", "step-beam"]:
        pairs = []
        for turn in range(options.pairs):
            order = [ROOT, options.against.resolve()]
            times = {path: measure(path, strategy) for path in (order if turn % 2 else order[::-1])}
            pairs.append((times[order[0]], times[order[1]]))
        ratios = sorted(here / there for here, there in pairs)
        found[strategy] = {
            "ms_a_step": statistics.median(here for here, _ in pairs),
            "ms_a_step_against": statistics.median(there for _, there in pairs),
            "ratio": statistics.median(ratios),
            "ratio_spread": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        }
    if options.json:
        print(json.dumps(found))
        return
    for strategy, row in found.items():
        low, high = row["ratio_spread"]
        print(
            f"{strategy:12} {row['ms_a_step']:.3f} ms a step, against "
            f"{row['ms_a_step_against']:.3f} ms: {row['ratio']:.2f} x ({low:.2f} .. {high:.2f})"
        )


if __name__ == "__main__":
    main()
