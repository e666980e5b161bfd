"""What the parts around the model cost in each step: ledger, sampler, masks, head.

    python benchmarks/bench_parts.py [--model model.gguf] [--json]

CPU time of one thread. The model gives its vocabulary and its head; nothing is decoded.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np
from timing import microseconds, table

from toolprm_lite import Searcher
from toolprm_lite._core import KvLedger, draw, top_k
from toolprm_lite.backends.open import open_backend
from toolprm_lite.constraint import Vocabulary
from toolprm_lite.formats import detect_format
from toolprm_lite.reward.base import FEATURES, STEP_KINDS
from toolprm_lite.reward.head import Head
from toolprm_lite.tools import parse_tools

ROWS = (1, 16, 64)
PROMPT = 500
TOP_K = 64
TOOLS = [
    {
        "name": name,
        "description": f"{name} for a place",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer"},
            },
            "required": ["city"],
        },
    }
    for name in ("get_weather", "get_wind", "get_tide")
]


def ledger(rows: int) -> Callable[[], None]:
    """A round of step beam search: every row forks, grows by eight tokens and is dropped."""
    books = KvLedger(rows + 1, 4096, PROMPT)

    def run() -> None:
        branches = [books.fork(0) for _ in range(rows)]
        for _ in range(8):
            for branch in branches:
                books.append(branch)
            books.take_ops()
        for branch in branches:
            books.drop(branch)
        books.take_ops()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="GGUF file or folder; the embedded model without it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=9, help="timed runs of each (default 9)")
    options = parser.parse_args()

    random = np.random.default_rng(0)
    backend = open_backend(options.model)
    size = len(backend.token_bytes)
    form = detect_format(backend.info.chat_template, backend.info.name)
    constraint = Vocabulary.of(backend).constraint(parse_tools(TOOLS), form)
    matcher, _ = constraint.start()
    head = Searcher(backend).reward("auto")

    found: dict[str, dict[str, float]] = {}

    def measure(name: str, run: Callable[[], object], times: int) -> None:
        found[name] = microseconds(run, times, options.repeats)

    for rows in ROWS:
        measure(f"ledger: {rows} rows fork, grow by 8, drop", ledger(rows), 200)
    for rows in ROWS:
        logits = random.standard_normal((rows, size), np.float32) * 4
        masks = np.empty((rows, constraint.words), np.uint32)
        matchers = [constraint.fork(matcher) for _ in range(rows)]
        measure(f"masks: fill {rows} rows", lambda m=matchers, b=masks: constraint.fill(m, b), 50)
        measure(
            f"top {TOP_K} of {rows} rows of {size} logits",
            lambda x=logits, b=masks: top_k(x, b, TOP_K), 5,
        )  # fmt: skip
    tokens, logprobs, _ = top_k(logits[:1], None, TOP_K)
    for draws in ROWS:
        measure(
            f"sampler: {draws} shared draws of one row",
            lambda n=draws: draw(tokens[0], logprobs[0], 1, n, 0.8, TOP_K, 1.0, 0), 200,
        )  # fmt: skip
    if isinstance(head, Head):
        width = backend.info.width * len(head.layers) * (2 if head.pooled else 1)
        for steps in ROWS:
            kinds = random.integers(0, len(STEP_KINDS), steps).astype(np.int8)
            features = random.standard_normal((steps, len(FEATURES)), np.float32)
            hidden = random.standard_normal((steps, width), np.float32)
            measure(
                f"head: {steps} steps of {width} states",
                lambda k=kinds, f=features, h=hidden: head.probabilities(k, f, h), 50,
            )  # fmt: skip
    backend.close()
    print(json.dumps({"microseconds": found}) if options.json else table(found, "us"))


if __name__ == "__main__":
    main()
