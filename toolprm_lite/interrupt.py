"""Ctrl-C ends a command with exit code 130 at any moment.

Python drops a KeyboardInterrupt that is raised within a callback of C code or within a finalizer,
after an "Exception ignored in". Here it is raised again a moment later. This module watches over
the imports, too, so it imports next to nothing.
"""

from __future__ import annotations

import _thread
import signal
import sys

EXIT_CODE = 130

_AGAIN = 0.01  # seconds

_seen = False


def seen() -> bool:
    """Whether Ctrl-C was pressed since `notice`."""
    return _seen


def notice() -> None:
    """From now on no KeyboardInterrupt is lost. Does nothing where the signal is ignored, or
    handled already."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    report = sys.unraisablehook

    def handle(number: int, frame: object) -> None:
        global _seen
        _seen = True
        raise KeyboardInterrupt

    def unraisable(unraised: sys.UnraisableHookArgs) -> None:
        if issubclass(unraised.exc_type, KeyboardInterrupt):
            _raise_soon()
        else:
            report(unraised)

    sys.unraisablehook = unraisable
    signal.signal(signal.SIGINT, handle)


def ignore() -> None:
    """From now on Ctrl-C does nothing: the exit code is decided."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _seen:
        # Python remembers that code in a string, such as a dataclass's, was interrupted, and would
        # end itself by the signal. Other code in a string makes it forget that.
        exec("")


def _raise_soon() -> None:
    """Not at once: it would be raised within the hook, and dropped again."""
    import contextlib
    import threading

    timer = threading.Timer(_AGAIN, _thread.interrupt_main)
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # at exit no thread can be started
        timer.start()
