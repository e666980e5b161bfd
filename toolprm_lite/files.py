"""Files: read as far as memory allows, written whole or not at all, kept from other runs, and told
apart by their bytes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from io import FileIO
from pathlib import Path
from typing import BinaryIO, TypeAlias

from toolprm_lite.errors import ConfigError

MOST_DEFINITIONS = 64 << 20  # bytes of a file of tools or of a conversation
MOST_PROBLEMS = 1 << 30  # bytes of a file of problems

FileState: TypeAlias = tuple[int, int, int, int]

_PART = 1 << 20
_held: ContextVar[frozenset[Path]] = ContextVar("_held", default=frozenset())
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.ENOSYS)


def read_bounded(source: Path | BinaryIO, most: int) -> bytes:
    """The bytes of a file, or of an open stream, `most` of them.

    Raises `OSError` with errno EFBIG where there are more, as with an endless device.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                _check_size(os.fstat(file.fileno()).st_size, most)
            return read_bounded(file, most)
    data = bytearray()
    while part := source.read(_PART):
        data += part
        _check_size(len(data), most)
    return bytes(data)


def read_text(path: Path, most: int) -> str:
    """The text of a file in UTF-8; raises as `read_bounded` does, and `UnicodeDecodeError`."""
    return read_bounded(path, most).decode("utf-8-sig")


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise OSError(errno.EFBIG, f"it is larger than {most >> 20} MiB, the most that is read")


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, also after a crash.

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


def append(file: FileIO, line: bytes) -> None:
    """Add a line to a file that is open without a buffer. Raises `OSError` with its name.

    Of a line that can't be written whole nothing is left, where the file can be cut.
    """
    begin = os.fstat(file.fileno()).st_size
    try:
        rest = memoryview(line)
        while rest:
            rest = rest[file.write(rest) :]
    except BaseException as error:
        with contextlib.suppress(OSError):
            file.truncate(begin)
        if isinstance(error, OSError):
            error.filename = str(file.name)
        raise


@contextlib.contextmanager
def locked(path: Path, folder: bool = False, nested: bool = False) -> Iterator[None]:
    """Keep other runs from writing to a file, or to a folder, which is made where it is missing.

    Others that ask for the same meanwhile get `ConfigError`; with `nested` the caller may hold the
    lock already. The lock ends with the process, however that ends. Temporary files that a killed
    run left are taken away. On a file system without locks this does nothing. Raises `OSError`
    where it can't be written to.
    """
    path = path.resolve()
    if nested and path in _held.get():
        yield
        return
    place = path if folder else path.with_name(f"{path.name}.lock")
    descriptor = _lock(place, path, folder)
    before = _held.set(_held.get() | {path})
    try:
        for leftover in (path if folder else path.parent).glob("*.partial"):
            if folder or leftover.name.startswith(f"{path.name}."):
                leftover.unlink(missing_ok=True)
        yield
    finally:
        _held.reset(before)
        with contextlib.suppress(OSError):
            if folder:
                place.rmdir()  # if nothing came into it
            else:
                place.unlink()
        os.close(descriptor)


def _lock(place: Path, path: Path, folder: bool) -> int:
    """An open descriptor of `place`, with the lock."""
    if sys.platform == "win32":  # Windows opens no folders and removes no open files
        return os.open(os.devnull, os.O_RDONLY)
    import fcntl

    while True:
        if folder:
            place.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(place, os.O_RDONLY)
        else:
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), place.stat()):
                    return descriptor
            # The run that held it removed the file when it ended: try again.
        except BlockingIOError:
            os.close(descriptor)
            raise ConfigError(
                f"{path}: another run is writing to it; wait until it has ended, or give another "
                "--output"
            ) from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return descriptor
            os.close(descriptor)
            raise
        os.close(descriptor)


def state_of(path: str | Path) -> FileState | None:
    """What changes when a file is written again: device, number, size and time. None of no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. Raises `OSError`."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_PART):
            digest.update(block)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """Identifies a file's bytes: the first 16 digits of their SHA-256. Raises `OSError`."""
    return sha256_of(path)[:16]
