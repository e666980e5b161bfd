"""Files: bounded reads, whole writes, and outputs that one run at a time writes to."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from toolprm_lite.errors import ConfigError
from toolprm_lite.files import append, locked, read_bounded, state_of


def test_reading_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert read_bounded(path, 100) == b"x" * 100
    for source in (path, Path("/dev/zero")):
        with pytest.raises(OSError, match="larger than 0 MiB"):
            read_bounded(source, 99)


@pytest.mark.parametrize("folder", [False, True])
def test_a_second_run_is_refused(folder: bool, tmp_path: Path) -> None:
    path = tmp_path / "output"
    with locked(path, folder):
        with (
            pytest.raises(ConfigError, match=r"output: another run is writing to it"),
            locked(path, folder),
        ):
            pass
        with locked(tmp_path / "another", folder):
            pass
    with locked(path, folder):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", [False, True])
def test_the_lock_of_a_killed_run_is_void(folder: bool, tmp_path: Path) -> None:
    path = tmp_path / "output"
    script = (
        "import os, pathlib, signal\n"
        "from toolprm_lite.files import locked\n"
        f"path = pathlib.Path({str(path)!r})\n"
        f"with locked(path, {folder}):\n"
        f"    part = (path if {folder} else path.parent) / f'output.1.partial'\n"
        "    part.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert len(list(tmp_path.rglob("*"))) == 2
    with locked(path, folder):
        assert not list(tmp_path.rglob("*.partial"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_folder_outlives_the_lock(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b", folder=True):
        (tmp_path / "a" / "b" / "file").touch()
    assert (tmp_path / "a" / "b" / "file").exists()


@contextmanager
def small_files() -> Iterator[None]:
    """No file may grow beyond 1000 bytes, for less than a test: pytest may write to one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_of_a_line_without_room_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    with small_files(), path.open("ab", buffering=0) as file:
        append(file, b"x" * 700 + b"\n")
        with pytest.raises(OSError, match="File too large") as caught:
            append(file, b"y" * 700 + b"\n")
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"x" * 700 + b"\n"


def test_the_state_of_a_file_changes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert state_of(path) is None
    path.write_text("one")
    before = state_of(path)
    assert before is not None
    assert state_of(path) == before
    os.utime(path, ns=(0, 0))
    assert state_of(path) != before
