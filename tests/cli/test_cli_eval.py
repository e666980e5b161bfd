"""`eval` and `sweep`: what people see, and that a run stopped and gone on with ends the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("jsonschema")

from support.bfcl_like import question, write_category
from support.commands import assert_error, run
from support.questions import record

QUICK = ["--threads", "1", "--max-tokens", "40", "--budget", "2", "--beams", "1", "--expand", "2"]


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(f"{json.dumps(record(number))}\n" for number in range(4)))
    return path


def test_a_run_has_answers_and_a_summary(problems: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    arguments = ["eval", problems, "--model", tiny_gguf, *QUICK, "--output", output]
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"# {problems}: tiny.gguf")
    assert "| step-beam:auto@1x2 |" in result.stdout
    assert (output / "summary.md").read_text() == result.stdout
    names = {
        "greedy.jsonl", "majority-2.jsonl", "step-beam-auto-1x2.jsonl", "doubt-auto-1x2.jsonl",
    }  # fmt: skip
    assert {path.name for path in (output / "answers").iterdir()} == names
    for name in names:
        lines = (output / "answers" / name).read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == ["p0", "p1", "p2", "p3"]
    settings = json.loads((output / "settings.json").read_text())
    assert (settings["model"], settings["max_tokens"]) == ("tiny.gguf", 40)
    assert settings["rewards"] == {"auto": "policy"}

    again = run(*arguments, "--json")
    assert "4 problems are answered already" in again.stderr
    assert json.loads(again.stdout)["answered"] == 4
    wide, doubt = "step-beam:policy@2x2", "doubt:policy@2x2/0.9"
    more = run(*arguments, *(f"--strategy={name}" for name in ("greedy", wide, doubt, "doubt@1x2")))
    assert all(f"| {name} |" in more.stdout for name in (wide, doubt, "doubt:auto@1x2"))
    assert (output / "answers" / "doubt-policy-2x2-0.9.jsonl").exists()
    assert len((output / "answers" / "greedy.jsonl").read_text().splitlines()) == 4


def test_bfcl_and_its_layout(tiny_gguf: Path, tmp_path: Path) -> None:
    numbers = (99, 100, 101)
    write_category(tmp_path, "simple_python", [question(f"simple_python_{n}") for n in numbers])
    write_category(tmp_path, "irrelevance", [question("irrelevance_0")], None)
    output = tmp_path / "run"
    result = run(
        "eval", "bfcl", "--data", tmp_path, "--categories", "simple_python,irrelevance",
        "--strategy", "greedy", "--model", tiny_gguf, *QUICK, "--output", output,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "simple_python (bring-up) 1, simple_python 2, irrelevance 1" in result.stdout
    folder = output / "bfcl" / "greedy" / "MadeAgents_Hammer2.1-0.5b" / "non_live"
    path = folder / "BFCL_v4_simple_python_result.json"
    assert len(path.read_text().splitlines()) == 3
    result = run(
        "eval", "bfcl", "--data", tmp_path, "--categories", "simple_python", "--bring-up",
        "--strategy", "greedy", "--model", tiny_gguf, *QUICK, "--output", output, "--json",
    )  # fmt: skip
    assert json.loads(result.stdout)["categories"] == {"simple_python (bring-up)": 1}
    result = run(
        "eval", "bfcl", "--data", tmp_path, "--categories", "simple_python", "--limit", "1",
        "--strategy", "majority", "--seeds", "2", "--model", tiny_gguf, *QUICK, "--output", output,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    folders = {path.name for path in (output / "bfcl").iterdir()}
    assert folders == {"greedy", "majority-2-seed-0", "majority-2-seed-1"}


def test_toolalpaca_has_hammers_figures(problems: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    result = run(
        "eval", "toolalpaca", "--data", problems, "--strategy", "greedy", "--model", tiny_gguf,
        *QUICK, "--sample", "2", "--output", tmp_path / "run", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["answered"] == 2
    assert set(summary["strategies"][0]["f1"]) == {"function", "argument", "mean"}


def test_skip_leaves_out_what_a_smaller_sample_draws(
    problems: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    def asked(name: str, *options: str) -> set[str]:
        result = run(
            "eval", problems, "--strategy", "greedy", "--model", tiny_gguf, *QUICK, *options,
            "--output", tmp_path / name,
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        (path,) = (tmp_path / name).glob("**/*.jsonl")
        return {json.loads(line)["id"] for line in path.read_text().splitlines()}

    first = asked("first", "--sample", "1")
    assert len(first) == 1
    assert asked("second", "--sample", "1", "--skip", "1") == asked("both", "--sample", "2") - first
    result = run("eval", problems, "--skip", "1", "--model", tiny_gguf, "--output", tmp_path / "x")
    assert result.exit_code == 2
    assert "--skip goes with --sample" in result.stderr


def test_sample_seed_draws_the_problems_and_seed_the_responses(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(f"{json.dumps(record(number))}\n" for number in range(12)))
    vote = ["--strategy", "majority@1"]

    def asked(name: str, *options: str) -> list[tuple[str, int]]:
        result = run(
            "eval", problems, *vote, "--model", tiny_gguf, *QUICK, "--sample", "3", *options,
            "--output", tmp_path / name,
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        (path,) = (tmp_path / name / "answers").iterdir()
        lines = map(json.loads, path.read_text().splitlines())
        return [(line["id"], line["seed"]) for line in lines]

    first = asked("first")
    names = [name for name, _ in first]
    assert len(names) == 3
    assert asked("seed", "--seed", "5") == [(name, 5) for name in names]
    assert [name for name, _ in asked("sample", "--sample-seed", "5")] != names
    several = asked("first", "--seeds", "3")
    assert sorted(several) == [(name, seed) for name in sorted(names) for seed in range(3)]
    summary = json.loads((tmp_path / "first" / "summary.json").read_text())
    assert (summary["settings"]["seed"], summary["settings"]["seeds"]) == (0, 3)
    assert summary["strategies"][0]["seeds"] == 3


def test_a_second_model_judges(problems: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    result = run(
        "eval", problems, "--strategy", "step-beam:generative@1x2", "--model", tiny_gguf, *QUICK,
        "--context", "2048", "--limit", "1", "--output", output, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    (row,) = json.loads(result.stdout)["strategies"]
    assert row["tokens"]["judge"] > 100
    settings = json.loads((output / "settings.json").read_text())
    assert settings["rewards"] == {"generative": "generative: tiny.gguf"}


def test_a_model_judges_itself(problems: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    def judged(name: str, *judge: str | Path) -> list[dict[str, Any]]:
        result = run(
            "eval", problems, "--strategy", "step-beam:generative@1x2", "--model", tiny_gguf,
            *QUICK, "--context", "2048", "--limit", "1", "--output", tmp_path / name, *judge,
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        (path,) = (tmp_path / name / "answers").iterdir()
        answers = [json.loads(line) for line in path.read_text().splitlines()]
        for answer in answers:
            del answer["stats"]["ms"]
        return answers

    own = judged("own")
    assert own
    assert judged("other", "--judge", tiny_gguf) == own


def test_a_judge_that_cannot_be_opened(problems: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_gguf.read_bytes()[:2000])
    for judge, message in ((broken, "can't be loaded"), (tmp_path / "no.gguf", "no such model")):
        arguments = ["eval", problems, "--strategy", "step-beam:generative", "--judge", judge]
        result = run(*arguments, "--model", tiny_gguf, *QUICK, "--output", tmp_path / "run")
        assert_error(result, str(judge), message)


def test_a_sweep_has_plots_and_contrasts(problems: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "run"
    result = run(
        "sweep", problems, "--model", tiny_gguf, "--threads", "1", "--max-tokens", "40",
        "--beams", "1,4", "--expand", "1,4", "--most", "8", "--reward", "policy", "--limit", "2",
        "--output", output,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "2 problems: right, %" in result.stdout
    found = json.loads((output / "sweep.json").read_text())
    assert [cell["strategy"] for cell in found["grid"]] == [
        "step-beam:policy@1x1", "step-beam:policy@1x4", "step-beam:policy@4x1",
    ]  # fmt: skip
    assert "1x4 over 4x1" in found["contrasts"]
    for name in ("grid.png", "budget.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")


def test_errors_are_one_line(problems: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    def assert_refused(*arguments: str | Path) -> None:
        *given, part = arguments
        quick = ["--model", tiny_gguf, *QUICK, "--output", tmp_path / "run"]
        assert_error(run("eval", *given, *quick), str(part))

    assert_refused("bfcl", "bfcl needs --data")
    assert_refused("bfcl", "--data", tmp_path, "no bfcl_eval/data in it")
    assert_refused(problems, "--data", tmp_path, "--data goes with bfcl")
    assert_refused(problems, "--official", tmp_path, "--official is BFCL's checker")
    assert_refused(problems, "--strategy", "guess", "none of greedy")
    assert_refused(problems, "--categories", "other", "no problem is left")
    assert_refused(problems, "--strategy", "best-of-n:orm", "the reward orm needs --heads")
    assert_refused(problems, "--strategy", "best-of-n:toolprm", "no head ships for this model")
    assert_refused(problems, "--strategy", "best-of-n", "judged by a head")
    (tmp_path / "heads").mkdir()
    assert_refused(
        problems, "--strategy", "best-of-n:orm", "--heads", tmp_path / "heads", "no such head"
    )
    assert_refused(tmp_path / "missing.jsonl", "no such file")
    result = run("sweep", problems, "--beams", "2", "--expand", "4", "--most", "1", "--output", "x")
    assert_error(result, "--most 1 leaves no cell")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    result = run("eval", problems, "--model", tiny_gguf, "--output", tmp_path / "other")
    assert_error(result, "not an evaluation's folder")


def test_heads_are_judges_where_no_strategy_is_named(
    problems: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    heads = tmp_path / "heads"
    heads.mkdir()
    arguments = ["eval", problems, "--model", tiny_gguf, "--heads", heads, "--output"]
    assert_error(run(*arguments, tmp_path / "none"), "no head in it")
    (heads / "mine.safetensors").write_bytes(b"no head")
    assert_error(run(*arguments, tmp_path / "some"), "mine.safetensors")
