"""Kills commands at random moments, and sees that the last resume ends as if nothing had happened.

    python tests/faults.py --kills 100

kills `collect`, `eval` and `search --input` a hundred times each, on a tiny random model. Every
command is started again after each kill, continues where the last one stopped, and starts from
nothing when it has ended. What each of these rounds leaves must equal what an undisturbed
run leaves: nothing lost, nothing twice.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.commands import COMMAND
from support.questions import write_questions
from support.tiny_model import TinyLlama

_PATIENCE = 300.0  # seconds that an undisturbed run may take


def collected(folder: Path) -> Any:
    """All files of a set, to the byte."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def evaluated(folder: Path) -> Any:
    """The summary but for its times, and who was asked what, in order."""
    summary = json.loads((folder / "summary.json").read_text())
    for row in summary["strategies"]:
        del row["ms"]
    asked = {
        path.name: [json.loads(line)["id"] for line in path.read_text().splitlines()]
        for path in sorted((folder / "answers").iterdir())
    }
    return summary, asked


def searched(path: Path) -> Any:
    """The answers in order, without what depends on the clock or on what was cached before."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [(record["id"], record["calls"], record["complete"]) for record in records]


@dataclass(frozen=True, slots=True)
class Kind:
    """A command that can be resumed, with the answers it gives."""

    name: str
    options: tuple[str, ...]
    read: Callable[[Path], Any]
    from_input: bool = False

    def arguments(self, problems: Path, model: Path, output: Path) -> list[str]:
        source = ["--input", str(problems)] if self.from_input else [str(problems)]
        fixed = ["--model", str(model), "--threads", "1", "--max-tokens", "40"]
        return [self.name, *source, "--output", str(output), *fixed, *self.options]

    def traces(self, output: Path) -> int:
        """Bytes and files that are there: they change when the command writes."""
        paths = [output, *output.rglob("*")] if output.is_dir() else [output]
        found = 0
        for path in paths:
            try:
                found += 1 + path.stat().st_size
            except FileNotFoundError:
                continue
        return found


KINDS = (
    Kind(
        "collect",
        ("--draws", "2", "--shard", "1", "--layers", "1", "--max-tools", "2", "--group", "1",
         "--unconstrained-share", "0.5"),
        collected,
    ),
    Kind("eval", ("--budget", "2", "--strategy", "greedy", "--strategy", "majority"), evaluated),
    Kind("search", ("--strategy", "greedy"), searched, from_input=True),
)  # fmt: skip


@dataclass(slots=True)
class Figures:
    """What a campaign has done."""

    kills: int = 0
    during_work: int = 0  # after the command's first byte of output
    rounds: int = 0
    differences: list[str] = field(default_factory=list)


def campaign(
    kind: Kind, kills: int, folder: Path, model: Path, problems: Path, rng: random.Random
) -> Figures:
    """Kill the command so often, at moments from its start to its end."""
    whole = folder / "whole"
    started = time.monotonic()
    finish(kind.arguments(problems, model, whole))
    seconds = time.monotonic() - started
    expected = kind.read(whole)
    figures = Figures()
    output = folder / "round-0"
    while figures.kills < kills:
        before = kind.traces(output)
        process = subprocess.Popen(
            [*COMMAND, *kind.arguments(problems, model, output)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        if rng.random() < 0.7:  # during its work; else at any time, also at the start
            while process.poll() is None and kind.traces(output) == before:
                time.sleep(0.002)
            time.sleep(rng.random() * min(0.5, seconds / 4))
        else:
            time.sleep(rng.random() * seconds)
        alive = process.poll() is None
        process.kill()
        _, said = process.communicate()
        if alive:
            figures.kills += 1
            figures.during_work += kind.traces(output) != before
            continue
        figures.rounds += 1
        if process.returncode != 0:
            figures.differences.append(f"{kind.name}: exit code {process.returncode}: {said!r}")
        else:
            compare(kind, output, expected, figures)
        output = folder / f"round-{figures.rounds}"
    finish(kind.arguments(problems, model, output))
    figures.rounds += 1
    compare(kind, output, expected, figures)
    return figures


def compare(kind: Kind, output: Path, expected: Any, figures: Figures) -> None:
    if kind.read(output) != expected:
        figures.differences.append(f"{kind.name}: {output} differs from an undisturbed run's")
    litter = [path.name for path in output.parent.glob(f"{output.name}.*")]
    litter += [path.name for path in output.rglob("*.partial")] if output.is_dir() else []
    extra = [name for name in litter if not name.endswith(".settings.json")]
    if extra:
        figures.differences.append(f"{kind.name}: {output} leaves {', '.join(extra)}")


def finish(arguments: list[str]) -> str:
    """Run the command to its end; return what it said."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=_PATIENCE)
    if done.returncode != 0:
        raise AssertionError(f"exit code {done.returncode}: {done.stderr}")
    return done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="of each command")
    parser.add_argument("--problems", type=int, default=40, help="that each command answers")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", choices=[kind.name for kind in KINDS])
    options = parser.parse_args()
    rng = random.Random(options.seed)
    failed = False
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = TinyLlama().write(folder / "tiny.gguf")
        problems = write_questions(folder / "problems.jsonl", options.problems)
        for kind in KINDS:
            if options.only not in (None, kind.name):
                continue
            home = folder / kind.name
            home.mkdir()
            figures = campaign(kind, options.kills, home, model, problems, rng)
            print(
                f"{kind.name}: {figures.kills} kills, {figures.during_work} while it wrote; "
                f"{figures.rounds} rounds ended, {len(figures.differences)} differences",
                flush=True,
            )
            for difference in figures.differences:
                print(f"  {difference}", flush=True)
            failed |= bool(figures.differences)
    sys.exit(failed)


if __name__ == "__main__":
    main()
# ADD from support.questions import question, write_questions
