"""How fast the segmenter reads, what a fork costs, and what re-parsing a growing text costs.

    pip install jiter partial-json-parser
    python benchmarks/bench_segmenter.py [--json]

The compared libraries are partial parsers: after every token they read the whole response so far.
They are left out where they are not installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from toolprm_lite._core import Segmenter

TOOLS = [
    {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "note": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1},
                "places": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}},
                        "additionalProperties": False,
                    },
                },
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    }
]

NOTE = (
    "The user would like to know whether it is going to rain tomorrow afternoon, and how windy "
    "it'll be around the harbour; please answer in one short sentence."
)
RESPONSES = {
    "short call": [{"city": "Paris", "unit": "celsius", "days": 5}],
    "long string": [{"city": "San Francisco, California", "note": NOTE}],
    "nested numbers": [
        {"city": "X", "places": [{"lat": 37.7749 + i, "lon": -122.4194 + i} for i in range(8)]}
    ],
    "ten calls": [{"city": f"City {i}", "days": i + 1} for i in range(10)],
}


def measure(run: Callable[[], int], unit: float, repeats: int) -> dict[str, float]:
    """Median and spread over `repeats` runs of unit / second, after one to warm up."""
    run()
    rates = []
    for _ in range(repeats):
        begin = time.process_time()
        run()
        rates.append(unit / (time.process_time() - begin))
    return {"median": statistics.median(rates), "min": min(rates), "max": max(rates)}


TOKENS = 300
TOKEN_BYTES = 4  # about what a token of a call holds


def growing_call() -> list[bytes]:
    """A call of 300 tokens, token by token."""
    places = [{"lat": 37.7749 + i, "lon": -122.4194 + i} for i in range(60)]
    arguments = {"city": "San Francisco", "note": NOTE, "places": places}
    text = json.dumps([{"name": "get_weather", "arguments": arguments}]).encode()
    text = text[: TOKENS * TOKEN_BYTES]
    return [text[i : i + TOKEN_BYTES] for i in range(0, len(text), TOKEN_BYTES)]


def partial_parsers() -> dict[str, Callable[[bytes], Any]]:
    found: dict[str, Callable[[bytes], Any]] = {}
    try:
        import jiter

        found["jiter"] = partial(jiter.from_json, partial_mode="trailing-strings")
    except ImportError:
        pass
    try:
        import partial_json_parser

        found["partial-json-parser"] = lambda text: partial_json_parser.loads(text.decode())
    except ImportError:
        pass
    return found


def measure_growing(segmenter: Segmenter, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of CPU time to follow the call, token by token. The search feeds the segmenter
    in the core; through Python there is a call for each token, as for the parsers."""
    tokens = growing_call()

    def feed() -> int:
        for _ in range(100):
            reader = segmenter.copy()
            for token in tokens:
                reader.feed(token)
        return 0

    def parse(loads: Callable[[bytes], Any]) -> int:
        text = b""
        for token in tokens:
            text += token
            loads(text)
        return 0

    whole = b"".join(tokens)
    rates = {
        "segmenter": measure(lambda: segmenter.scan(whole, 1000, TOKEN_BYTES), 1000 / 1e3, repeats),
        "segmenter, through Python": measure(feed, 100 / 1e3, repeats),
    }
    for name, loads in partial_parsers().items():
        rates[name] = measure(partial(parse, loads), 1 / 1e3, repeats)
    return {
        name: {"median": 1 / rate["median"], "min": 1 / rate["max"], "max": 1 / rate["min"]}
        for name, rate in rates.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=9, help="timed runs of each (default 9)")
    options = parser.parse_args()

    segmenter = Segmenter(json.dumps(TOOLS))
    reading = {}
    for name, calls in RESPONSES.items():
        listed = [{"name": "get_weather", "arguments": arguments} for arguments in calls]
        text = json.dumps(listed).encode()
        check = segmenter.copy()
        check.feed(text)
        assert check.finished, check.death
        times = max(1, 4_000_000 // len(text))
        rate = measure(lambda t=text, n=times: segmenter.scan(t, n), len(text) * times / 1e6,
                       options.repeats)  # fmt: skip
        reading[name] = {"bytes": len(text), **rate}
    copies = 2_000_000
    forks = measure(lambda: segmenter.copy_states(copies), copies / 1e9, options.repeats)
    fork = {
        "median": 1 / forks["median"], "min": 1 / forks["max"], "max": 1 / forks["min"],
    }  # fmt: skip

    growing = measure_growing(segmenter, options.repeats)

    if options.json:
        print(json.dumps({"read_mb_per_s": reading, "fork_ns": fork, "growing_ms": growing}))
        return
    print(f"{'response':16}{'bytes':>8}{'MB/s median':>14}{'min':>8}{'max':>8}   (CPU time)")
    for name, row in reading.items():
        print(
            f"{name:16}{row['bytes']:8.0f}{row['median']:14.0f}{row['min']:8.0f}{row['max']:8.0f}"
        )
    print(f"fork of a state: {fork['median']:.1f} ns ({fork['min']:.1f} .. {fork['max']:.1f})")
    print(f"\n{TOKENS} tokens, read after each{'ms median':>14}{'min':>9}{'max':>9}   x segmenter")
    for name, row in growing.items():
        ratio = row["median"] / growing["segmenter"]["median"]
        print(f"{name:28}{row['median']:14.3f}{row['min']:9.3f}{row['max']:9.3f}{ratio:14.0f}")


if __name__ == "__main__":
    main()
