"""The lock on a searcher's model, which one search, or one queue, uses at a time.

A stream keeps the model even while it is not read. A reader that waits for the model then waits for
itself, so that is refused: by the same thread, and by tasks and threads that were started with the
reader's context, since the reader mostly waits for them.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

from toolprm_lite.errors import ToolprmError
from toolprm_lite.process import forks, inherited, refuse_inherited
from toolprm_lite.search.limits import Limits
from toolprm_lite.search.result import Stop


class Hold:
    """One holder of the model, from `acquire` to `release`."""

    def __init__(self) -> None:
        self.reader: threading.Thread | None = None  # that used the model last
        self.released = False


_holds: ContextVar[tuple[Hold, ...]] = ContextVar("toolprm_holds", default=())


class ModelLock:
    """A lock that no context waits for while it holds it. Any thread may release it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hold: Hold | None = None
        self._forks = forks()

    def acquire(self, hold: Hold, limits: Limits) -> Stop | None:
        """Wait for the model: None when `hold` has it, else what came before. Called within the
        `try` whose `finally` releases `hold`, because an interrupt may come right after it.

        Raises `ToolprmError` where the caller holds it, `ModelError` in a forked child.
        """
        self.check()
        stopped = limits.acquire(self._lock)
        if stopped is None:
            self._hold = hold
            self.mark()
        return stopped

    def mark(self) -> None:
        """Note that the caller's context is the one at work with the model."""
        self.refuse_inherited()
        hold = self._hold
        assert hold is not None
        hold.reader = threading.current_thread()
        known = _holds.get()
        if hold not in known:
            _holds.set((*(other for other in known if not other.released), hold))

    def release(self, hold: Hold) -> None:
        """Let others have the model, if `hold` has it."""
        hold.reader, hold.released = None, True
        if self._hold is hold and not self.inherited:
            self._hold = None
            self._lock.release()

    def check(self, *, blocks: bool = True) -> None:
        """Raise what `acquire` raises. `blocks` says whether the wait would stop the whole thread;
        else only the task waits, and another task of the thread may let the model go."""
        self.refuse_inherited()
        hold = self._hold
        if hold is None:
            return
        deadlocked = hold in _holds.get()
        if blocks and hold.reader is threading.current_thread():
            # A pool's thread may have read a stream that another thread continues.
            deadlocked = deadlocked or hold.reader is threading.main_thread() or _in_event_loop()
        if deadlocked:
            raise ToolprmError(
                "a stream that this thread or task reads still holds the model; read it to its "
                "end, or close it first (nor can a reward search with the model that it judges)"
            )

    @property
    def inherited(self) -> bool:
        """Whether this process was forked since, so that the model is its parent's."""
        return inherited(self._forks)

    def refuse_inherited(self) -> None:
        """Raise `ModelError` in a forked child."""
        refuse_inherited(self._forks)

    def locked(self) -> bool:
        """Whether the model is in use."""
        return self._lock.locked()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
