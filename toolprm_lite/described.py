"""Errors as messages: of the package's own errors what they say, of others their name and place."""

from __future__ import annotations

import errno
import shutil
import traceback
from pathlib import Path

from toolprm_lite.errors import ToolprmError

_LONGEST = 2000  # characters of a message
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PACKAGE = Path(__file__).parent


def described(error: Exception) -> str:
    """An error in one line: what it says, and of an unexpected one its name and place."""
    if isinstance(error, ToolprmError):
        return one_line(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        full = _room_left(error.filename) if error.errno in _FULL else ""
        return f"{error.filename}: {error.strerror}{full}"
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if _PACKAGE in path.parents:
            place = f" (at {path.relative_to(_PACKAGE.parent)}:{line})"
    return f"{type(error).__name__}: {one_line(error)}{place}"


def _room_left(path: str) -> str:
    """What to say of a disk that is full, or of a file that may grow no further."""
    file = Path(path)
    try:
        if path == "stdout" or (file.exists() and not file.is_file()):
            return ""
        free = shutil.disk_usage(file.parent).free
    except OSError:
        return ""
    return f", {free / 1e6:.0f} MB are free; make room and run the same command again"


def one_line(error: Exception) -> str:
    """An error's message without line breaks, of bounded length."""
    text = " ".join(str(error).split("\n"))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
