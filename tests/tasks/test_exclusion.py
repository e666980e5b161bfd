"""Records that a file excludes are left out of a supervision set, and it is said how many."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("jsonschema")

from support.commands import QUICK, assert_error, contents, run
from support.questions import record, write_problems
from toolprm_lite.supervision.dataset import open_set
from toolprm_lite.tasks.exclusion import Exclusions
from toolprm_lite.tasks.loading import load_problems


@pytest.mark.parametrize(
    ("line", "excluded"),
    [
        ("p1", {"a/one.jsonl p1", "b/one.jsonl p1", "two.jsonl p1"}),
        ("  p1 function=book (multiple)  ", {"a/one.jsonl p1", "b/one.jsonl p1", "two.jsonl p1"}),
        ("two.jsonl p1 function=book", {"two.jsonl p1"}),
        ("a/one.jsonl p1", {"a/one.jsonl p1"}),
        ("one.jsonl p1", {"a/one.jsonl p1", "b/one.jsonl p1"}),
        ("ne.jsonl p1", set()),  # a part of a name is none
        ("three.jsonl p1", set()),  # no file of this run
        ("two.jsonl", set()),
        ("two.jsonl p 2", {"two.jsonl p 2"}),  # ids may have spaces
        ("p 2", {"two.jsonl p 2"}),
        ("p", set()),
        ("# p1", set()),
        ("", set()),
    ],
)
def test_what_a_line_excludes(line: str, excluded: set[str], tmp_path: Path) -> None:
    files = {"a/one.jsonl": ["p1", "p2"], "b/one.jsonl": ["p1"], "two.jsonl": ["p1", "p 2"]}
    path = tmp_path / "exclude.txt"
    path.write_text(f"# written by hand\n\n{line}\n")
    found = Exclusions.read(path, list(files))
    lines = {f"{file} {id}": found.line(file, id) for file, ids in files.items() for id in ids}
    assert {name for name, number in lines.items() if number is not None} == excluded
    assert set(lines.values()) <= {None, 3}
    listed = bool(line) and not line.startswith("#")
    assert found.unmatched == ([f"line 3: {line}"] if listed and not excluded else [])


def test_excluded_records_are_rejected_with_the_line(tmp_path: Path) -> None:
    path = write_problems(tmp_path / "problems.jsonl", *map(record, range(3)), {"id": "broken"})
    (tmp_path / "exclude.txt").write_text("p1\nbroken\n")
    excluded = Exclusions.read(tmp_path / "exclude.txt", [path])
    problems, rejected = load_problems([path], excluded)
    assert [problem.id for problem in problems] == ["p0", "p2"]
    assert [(each.kind, each.id, each.line) for each in rejected] == [
        ("excluded", "p1", 2), ("excluded", "broken", 4),
    ]  # fmt: skip
    assert rejected[0].reason.endswith("exclude.txt, line 1")


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    return write_problems(tmp_path / "problems.jsonl", *map(record, range(12)))


def test_a_set_without_the_excluded_records(
    problems: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    exclude = tmp_path / "exclude.txt"
    exclude.write_text("# overlap\nproblems.jsonl p3 function=book\np5\nunknown\nother.jsonl p6\n")
    rejected = tmp_path / "rejected.jsonl"
    arguments = ["collect", problems, "--model", tiny_gguf, *QUICK, "--draws", "1"]
    result = run(*arguments, "--exclude", exclude, "--rejected", rejected, "--output",
                 tmp_path / "set")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    lines = result.stderr.splitlines()
    assert lines[0] == f"{exclude}: 2 records left out; 2 of its 4 lines match no record:"
    assert lines[1:3] == ["  line 4: unknown", "  line 5: other.jsonl p6"]
    assert lines[3] == f"{problems}: 10 problems; 2 left out:"
    assert f"line 4 (p3): excluded by {exclude}, line 2; take that line out to use it" in lines[4]
    found = {problem["id"] for problem in open_set(tmp_path / "set").problems}
    assert found == {f"p{number}" for number in range(12)} - {"p3", "p5"}
    kinds = [json.loads(line)["kind"] for line in rejected.read_text().splitlines()]
    assert kinds == ["excluded", "excluded"]
    before = contents(tmp_path / "set")
    assert_error(run(*arguments, "--output", tmp_path / "set"), "problems 10 where 12 is asked for")
    assert contents(tmp_path / "set") == before


def test_an_exclusion_without_effect_is_an_error(
    problems: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    def assert_refused(
        *parts: str, which: str = "collect", exclude: str | Path = "exclude.txt"
    ) -> None:
        path = tmp_path / exclude
        result = run(which, problems, "--model", tiny_gguf, "--exclude", path, "--output",
                     tmp_path / "out")  # fmt: skip
        assert_error(result, *parts)
        assert not (tmp_path / "out" / "set").exists()

    (tmp_path / "exclude.txt").write_text("unknown\nnone\n")
    assert_refused("none of its 2 lines matches a record")
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    assert_refused("none of its 2 lines matches a record", which="fit")
    (tmp_path / "exclude.txt").write_text("# nothing\n")
    assert_refused("none of its 0 lines matches a record")
    assert_refused("No such file", exclude="missing.txt")
    (tmp_path / "latin.txt").write_bytes("pé1\n".encode("latin-1"))
    assert_refused("not UTF-8 text (byte 1)", exclude="latin.txt")
