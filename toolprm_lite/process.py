"""What a process can't take along: a forked child has neither the threads nor the running
computations of its parent, and a process that ends must not free what a thread still computes with.

Knows nothing of models or searches.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import NoReturn, TypeVar

from toolprm_lite.errors import ModelError

T = TypeVar("T")

_forks = 0  # that this process has behind it since the package was imported
_survivor: threading.Thread | None = None  # the parent's only thread that the child has
_computing: ThreadPoolExecutor | None = None  # one thread


def forks() -> int:
    """The count that an object notes when it is made, for `refuse_inherited`."""
    return _forks


def inherited(made: int) -> bool:
    """Whether what was made when `forks()` was `made` belongs to a parent of this process."""
    return made != _forks


def refuse_inherited(made: int) -> None:
    """Raise `ModelError` for what belongs to a parent of this process."""
    if inherited(made):
        raise ModelError("this model was opened before a fork; open it again in the child process")


def compute(function: Callable[[], T]) -> T:
    """Call a function that may use OpenMP.

    The one thread that a child inherits still counts the OpenMP threads of its parent as its own
    and would wait for them without end, so there the function runs in a new thread.
    """
    if threading.current_thread() is not _survivor:
        return function()
    global _computing
    if _computing is None:
        _computing = ThreadPoolExecutor(1, "toolprm-compute")
    future: Future[T] = _computing.submit(function)
    try:
        return future.result()
    except BaseException:
        while not future.done():  # an interrupt: the computation has not ended yet
            with suppress(KeyboardInterrupt):
                wait([future])
        raise


def sleep_until_exit() -> NoReturn:
    """Stop this thread for the rest of the process, as Python itself does with daemon threads."""
    while True:
        threading.Event().wait()


def _forked() -> None:
    global _forks, _survivor, _computing
    _forks += 1
    _survivor = threading.current_thread()
    _computing = None


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)
