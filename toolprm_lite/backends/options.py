"""The numbers that a model is opened with, and their ranges."""

from __future__ import annotations

import os

from toolprm_lite.backends.base import RESPONSE_ROOM
from toolprm_lite.checks import check_integer

_MOST_CELLS = 1 << 24  # no model was trained on more
_MOST_LAYERS = 4096
_MOST_CACHE = 1 << 20  # MiB


def check_options(
    *,
    gpu_layers: int = 0,
    threads: int | None = None,
    context: int | None = None,
    prompt_cache: int = 0,
) -> None:
    """Raise `ConfigError` for a number out of its range; `prompt_cache` is in MiB.

    More threads than the machine has processors wait for each other, with some models without end.
    """
    check_integer("gpu_layers", gpu_layers, -1, _MOST_LAYERS)
    check_integer("prompt_cache", prompt_cache, 0, _MOST_CACHE)
    if threads is not None:
        check_integer("threads", threads, 1, os.cpu_count() or 1)
    if context is not None:
        check_integer("context", context, 2 * RESPONSE_ROOM, _MOST_CELLS)
