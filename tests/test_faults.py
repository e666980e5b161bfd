"""Kills, full disks, files that vanish, two runs on one output: nothing lost, nothing twice.

`python tests/faults.py` kills a hundred times; here it is a few.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("jsonschema")

from faults import KINDS, Kind, campaign, finish
from support.commands import COMMAND
from support.questions import write_questions

each_kind = pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    return write_questions(tmp_path / "problems.jsonl", 12)


@each_kind
def test_kills(kind: Kind, problems: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    figures = campaign(kind, 3, tmp_path, tiny_gguf, problems, random.Random(seed))
    assert not figures.differences, seed
    assert figures.kills == 3


def started(kind: Kind, arguments: list[str], output: Path) -> subprocess.Popen[str]:
    """The command, once it has begun to write answers."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    answers = {"collect": "shard-00000.parquet", "eval": "answers/greedy.jsonl"}
    path = output / answers[kind.name] if kind.name in answers else output
    while not path.exists() or path.stat().st_size == 0:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return process


@each_kind
def test_two_runs_and_an_input_that_vanishes(kind: Kind, tiny_gguf: Path, tmp_path: Path) -> None:
    problems = write_questions(tmp_path / "problems.jsonl", 40)
    whole, output = tmp_path / "whole", tmp_path / "output"
    finish(kind.arguments(problems, tiny_gguf, whole))
    arguments = kind.arguments(problems, tiny_gguf, output)
    process = started(kind, arguments, output)
    process.send_signal(signal.SIGSTOP)  # else it may end before the second has started
    second = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)
    assert process.poll() is None
    problems.unlink()
    process.send_signal(signal.SIGCONT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert second.returncode == 2
    last = second.stderr.splitlines()[-1]
    assert last == (
        f"Error: {output}: another run is writing to it; wait until it has ended, or give another "
        "--output"
    )
    assert kind.read(output) == kind.read(whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@each_kind
def test_a_full_disk(
    kind: Kind, problems: Path, tiny_gguf: Path, small_disk: Path, tmp_path: Path
) -> None:
    whole, output = tmp_path / "whole", small_disk / "output"
    finish(kind.arguments(problems, tiny_gguf, whole))
    arguments = kind.arguments(problems, tiny_gguf, output)
    for _ in range(2):
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120)
        assert done.returncode == 2, done.stderr
        last = done.stderr.splitlines()[-1]
        assert last.startswith(f"Error: {output}"), done.stderr
        assert "No space left on device, 0 MB are free; make room and run the same" in last
        assert "Traceback" not in done.stderr
    grown = ["mount", "-o", "remount,size=100m", str(small_disk)]
    subprocess.run(grown, check=True)
    finish(arguments)
    assert kind.read(output) == kind.read(whole)


@pytest.mark.parametrize("kind", KINDS[1:], ids=["eval", "search"])  # collect's is another's test
def test_files_that_may_grow_no_further(
    kind: Kind, problems: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    whole, output = tmp_path / "whole", tmp_path / "output"
    finish(kind.arguments(problems, tiny_gguf, whole))
    arguments = kind.arguments(problems, tiny_gguf, output)
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=120, preexec_fn=limit
    )
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    finish(arguments)
    assert kind.read(output) == kind.read(whole)
