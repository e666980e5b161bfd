"""How many threads a model should compute with."""

from __future__ import annotations

import os
from pathlib import Path


def available_cores() -> int:
    """Physical cores this process may use: hyperthreads and more threads than a container's
    quota slow llama.cpp down."""
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:  # not on macOS and Windows
        return max(1, (os.cpu_count() or 2) // 2)
    cores = set()
    for cpu in usable:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text())
        except OSError:
            cores.add(str(cpu))
    count = len(cores)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no quota ("max"), or no cgroup v2
        pass
    return max(1, count)
