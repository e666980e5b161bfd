"""Ctrl-C, which ends a command with exit code 130 at whatever moment it comes.

Python drops a KeyboardInterrupt that is raised within a callback of C code or within a finalizer,
after an "Exception ignored in". Within `noticed` it is raised again a moment later. This module
imports nothing heavy: it watches over the imports, too.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

EXIT_CODE = 130

_AGAIN = 0.01  # seconds

_seen = False


def seen() -> bool:
    """Whether Ctrl-C was pressed within `noticed`."""
    return _seen


@contextmanager
def noticed() -> Iterator[None]:
    """Within it no KeyboardInterrupt is lost; behind it the signal is ignored, until the process
    ends. Does nothing where the signal is ignored or handled already."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    report = sys.unraisablehook

    def handle(number: int, frame: FrameType | None) -> None:
        global _seen
        _seen = True
        raise KeyboardInterrupt

    def unraisable(unraised: Any) -> None:
        if not issubclass(unraised.exc_type, KeyboardInterrupt):
            report(unraised)
            return
        # Not at once: it would be raised here, and dropped again.
        timer = threading.Timer(_AGAIN, _thread.interrupt_main)
        timer.daemon = True
        with suppress(RuntimeError):  # at exit no thread can be started
            timer.start()

    sys.unraisablehook = unraisable
    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
