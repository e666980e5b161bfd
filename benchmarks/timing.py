"""What the benchmarks share: a timed function, and a table of what it took."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def microseconds(run: Callable[[], object], times: int, repeats: int) -> dict[str, float]:
    """CPU time of one call: `repeats` measurements of `times` calls each, after one to warm up."""
    run()
    taken = []
    for _ in range(repeats):
        begin = time.process_time()
        for _ in range(times):
            run()
        taken.append(1e6 * (time.process_time() - begin) / times)
    return spread(taken)


def table(rows: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """The rows as text, each with its median and spread."""
    width = max(len(name) for name in rows)
    lines = [f"{'':{width}}{unit + ' median':>14}{'min':>12}{'max':>12}"]
    for name, row in rows.items():
        lines.append(f"{name:{width}}{row['median']:14.1f}{row['min']:12.1f}{row['max']:12.1f}")
    return "\n".join(lines)
