"""What an adapter costs: prefill and steps of a GGUF model with it, over those without it.

    python benchmarks/bench_adapter.py --adapter adapter.gguf --model model.gguf --threads 1

Without --adapter the embedded model's own. Both models are open at once and take turns; a row is
the median of the ratios of neighbours, with the least and the most.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from bench_backends import measure_prefill, measure_steps
from timing import spread

from toolprm_lite.backends.llamacpp import LlamaCppBackend
from toolprm_lite.models import adapter_for, find_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapter", default="auto")
    parser.add_argument("--model", help="GGUF file; the embedded model without it")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--prompt", type=int, default=400, help="tokens of the prompt")
    parser.add_argument("--rows", default="1,8", help="of a step")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    adapter = adapter_for(args.model, args.adapter)
    if adapter is None:
        parser.error("this model has no adapter of its own; give --adapter")
    path = find_model(args.model)
    assert not isinstance(path, str)
    pair = [
        LlamaCppBackend(path, threads=args.threads, context=2048, adapter=file)
        for file in (None, adapter)
    ]
    prompt = np.random.default_rng(0).integers(10, 5000, args.prompt).tolist()
    found: dict[str, list[float]] = {}
    for turn in range(args.repeats):
        ordered = pair if turn % 2 == 0 else pair[::-1]
        times = [measure_prefill(backend, prompt, 1)["ms"] for backend in ordered]
        found.setdefault("prefill", []).append(_ratio(times, turn))
        for rows in map(int, args.rows.split(",")):
            times = [
                measure_steps(backend, rows, prompt, 10, 2, 64)["step_ms"] for backend in ordered
            ]
            found.setdefault(f"step of {rows}", []).append(_ratio(times, turn))
    rows = {name: spread(values) for name, values in found.items()}
    if args.json:
        print(json.dumps(rows))
    else:
        for name, row in rows.items():
            print(f"{name:12} {row['median']:.2f} x ({row['min']:.2f} .. {row['max']:.2f})")


def _ratio(times: list[float], turn: int) -> float:
    """With over without; every second turn the one with the adapter came first."""
    without, with_it = times if turn % 2 == 0 else times[::-1]
    return with_it / without


if __name__ == "__main__":
    main()
