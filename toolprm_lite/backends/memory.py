"""Memory, estimated before it is allocated: a system grants more than it has, and kills processes
later."""

from __future__ import annotations

import os
from pathlib import Path

from toolprm_lite.errors import ModelError

_SHARE = 0.9  # of what is available; the rest is for all else that a search needs


def check_memory(cells: int, cell_bytes: int, available: int | None) -> None:
    """Raise `ModelError` where a context of so many cells needs more than there is.

    `cell_bytes` is what one cell takes. `available` is in bytes; None is unknown.
    """
    if available is None:
        return
    room = int(_SHARE * available)
    needed = cells * cell_bytes
    if needed <= room:
        return
    fitting = room // max(1, cell_bytes) // 256 * 256
    remedy = f"give --context {fitting}" if fitting else "choose a smaller model"
    raise ModelError(
        f"a context of {cells} needs some {_size(needed)} of memory, and {_size(available)} are "
        f"available; {remedy}"
    )


def available_memory() -> int | None:
    """Bytes that this process can take before the machine, or its container, has none left."""
    found = [_system(), *(_group(*names) for names in _GROUPS)]
    return min((size for size in found if size is not None), default=None)


# Of the container: limit and use in cgroup v2, and in v1.
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def _system() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return 1024 * int(value.split()[0])
    except (OSError, ValueError, IndexError):
        pass
    try:  # not Linux: what is installed
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _group(limit: str, used: str, statistics: str) -> int | None:
    try:
        most, now = int(Path(limit).read_text()), int(Path(used).read_text())
        for line in Path(statistics).read_text().splitlines():
            name, _, value = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file"):  # given back when it is needed
                now -= int(value)
                break
        return max(0, most - now)
    except (OSError, ValueError):  # no such group, or no limit ("max")
        return None


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
