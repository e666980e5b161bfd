"""Files, written whole or not at all, and told apart by their bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, meets the old one or the new one.

    Raises `OSError` with the file's name; what was half written is gone.
    """
    path = path.resolve()
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def digest_of(path: Path) -> str:
    """What tells a file's bytes from others': the beginning of their SHA-256, 16 digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
