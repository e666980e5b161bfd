"""How fast the segmenter reads, and what a fork costs.

python benchmarks/bench_segmenter.py [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

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
    fork = {key: 1 / value for key, value in forks.items()}

    if options.json:
        print(json.dumps({"read_mb_per_s": reading, "fork_ns": fork}))
        return
    print(f"{'response':16}{'bytes':>8}{'MB/s median':>14}{'min':>8}{'max':>8}   (CPU time)")
    for name, row in reading.items():
        print(
            f"{name:16}{row['bytes']:8.0f}{row['median']:14.0f}{row['min']:8.0f}{row['max']:8.0f}"
        )
    print(f"fork of a state: {fork['median']:.1f} ns ({fork['max']:.1f} .. {fork['min']:.1f})")


if __name__ == "__main__":
    main()
