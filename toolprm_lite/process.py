"""Forks and the end of the process: a forked child has neither the threads nor the running
computations of its parent, and a process that ends must not free what a thread still computes with.

Knows nothing of models or searches.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import NoReturn, Protocol, TypeVar
from weakref import WeakSet

from toolprm_lite.errors import ModelError

T = TypeVar("T")

_forks = 0  # of this process since the package was imported
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

    The one thread that a forked child inherits still counts the OpenMP threads of its parent as its
    own and would wait for them without end, so there the function runs in a new thread.
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


class _NativeWork:
    """`with native_work`: code outside Python that a thread must not be in when the process ends,
    because the C++ runtime is destroyed then.

    The end of the process waits until no daemon thread is in it, and a thread that comes to it
    afterwards stops there.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._changed = threading.Condition()
        # By thread, how often it has entered. Without the main thread: it can't be in native work
        # while it ends the process, and an interrupt might leave a wrong number, or the lock
        # locked.
        self._threads: dict[threading.Thread, int] = {}
        self._ending = False

    def __enter__(self) -> None:
        thread = threading.current_thread()
        if thread is threading.main_thread():
            return
        with self._changed:
            if not self._ending:
                self._threads[thread] = self._threads.get(thread, 0) + 1
                return
        _sleep_until_exit()

    def __exit__(self, *unused: object) -> None:
        thread = threading.current_thread()
        if thread is threading.main_thread():
            return
        with self._changed:
            if thread in self._threads:
                self._threads[thread] -= 1
                if not self._threads[thread]:
                    del self._threads[thread]
                    self._changed.notify_all()

    def pause(self) -> None:
        """Called within, where the thread may stop for good: between two model steps."""
        if self._ending and threading.current_thread() is not threading.main_thread():
            with self._changed:
                self._threads.pop(threading.current_thread(), None)
                self._changed.notify_all()
            _sleep_until_exit()

    def forget(self) -> None:
        """In a forked child: none of the threads is here."""
        self._begin()

    def end(self) -> None:
        """Wait for those within, and let no other in."""
        with self._changed:
            self._ending = True
            while self._threads:
                self._changed.wait()


native_work = _NativeWork()


def _sleep_until_exit() -> NoReturn:
    """Stop this thread, as Python itself does with daemon threads when the process ends."""
    while True:
        threading.Event().wait()


_at_exit: WeakSet[Freed] = WeakSet()


class Freed(Protocol):
    """Something outside Python that is freed once."""

    def free(self) -> None: ...


def free_at_exit(owner: Freed) -> None:
    """Free `owner` when the process ends and no thread is at native work."""
    _at_exit.add(owner)


@atexit.register
def _exit() -> None:
    native_work.end()
    for owner in list(_at_exit):
        owner.free()


def _forked() -> None:
    global _forks, _survivor, _computing
    _forks += 1
    _survivor = threading.current_thread()
    _computing = None
    native_work.forget()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)
