"""The commands that collect and fit: what people see, and that no interrupt loses or mixes work."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("jsonschema")

from support.commands import COMMAND, QUICK, assert_error, contents, run
from support.heads import make_head
from support.questions import record, write_problems
from toolprm_lite import Searcher, store
from toolprm_lite.cli import collect as command
from toolprm_lite.reward.base import FEATURES
from toolprm_lite.reward.head import FittedModel
from toolprm_lite.reward.head_file import load_head, save_head
from toolprm_lite.supervision.collect_settings import CollectSettings
from toolprm_lite.supervision.dataset import open_set
from toolprm_lite.tasks import masking
from toolprm_lite.tasks.plan_settings import PlanSettings


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    return write_problems(tmp_path / "problems.jsonl", *map(record, range(20)))


def test_defaults_are_those_of_the_settings() -> None:
    given = {parameter.name: parameter.default for parameter in command.collect.params}
    for settings in (CollectSettings(), PlanSettings()):
        for name in settings.__slots__:
            if name not in ("plan", "fractions", "layers"):
                assert given[name] == getattr(settings, name), name


def test_collecting(problems: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    arguments = ["collect", problems, "--output", tmp_path / "set", "--model", tiny_gguf, *QUICK]
    result = run(*arguments)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr.count("\n") == 3, result.stderr
    first, plan, last = result.stderr.splitlines()
    assert first == f"{problems}: 20 problems"
    assert re.fullmatch(
        r"plan: 20 problems \(\d+ train, \d+ validation, \d+ test\); \d+ masked, \d+ to decline, "
        r"0 with several calls",
        plan,
    )
    assert re.fullmatch(
        rf"{tmp_path}/set: 20 problems, \d+ steps · greedy right \d+% · [\d.]+ s", last
    )
    found = open_set(tmp_path / "set")
    assert found.manifest["complete"]
    assert found.manifest["layers"] == [1]
    assert found.manifest["settings"]["plan"]["group"] == 6
    assert len(found.problems) == 20
    before = contents(tmp_path / "set")
    again = run(*arguments)
    assert again.exit_code == 0
    assert "20 of 20 problems are there already" in again.stderr
    assert contents(tmp_path / "set") == before


def test_options_reach_the_settings(problems: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    given = {
        "draws": 3, "temperature": 0.5, "top_k": 9, "seed": 4, "unconstrained_share": 0.3,
        "max_tokens": 30, "max_step_tokens": 20, "match": "bfcl", "call_format": "hermes",
        "prompt": "signatures+1", "shard": 3,
    }  # fmt: skip
    planned = {"mask_share": 0.2, "refusal_share": 0.3, "multi_share": 0.9, "joined_share": 0.1,
               "max_tools": 2, "group": 1}  # fmt: skip
    options = [
        part
        for name, value in (given | planned).items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    result = run(
        "collect", problems, "--output", tmp_path / "set", "--model", tiny_gguf, "--layers", "1,3",
        "--limit", "1", "--threads", "1", *options,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    manifest = open_set(tmp_path / "set").manifest
    settings = manifest["settings"]
    plan = settings.pop("plan")
    assert settings == given
    assert plan.pop("fractions") == [0.7, 0.15, 0.15]
    assert plan == planned | {"seed": 4}
    assert manifest["layers"] == [1, 3]
    assert manifest["call_format"] == "hermes"
    assert not manifest["complete"]
    assert "of these the first: 1 problems" in result.stderr


def test_what_is_left_out_is_reported(tiny_gguf: Path, tmp_path: Path) -> None:
    tools = record(0)["tools"]
    path = write_problems(
        tmp_path / "mixed.jsonl",
        *map(record, range(3)),
        {"id": "blank", "query": "?", "tools": tools},
        *(
            record(0, id=f"lost{n}", answers=[{"name": "lost", "arguments": {}}])
            for n in range(4)
        ),
        record(
            1,
            id="corrected",
            answers=[{"name": "bookb", "arguments": {"city": "Paris", "seats": "1"}}],
        ),
        record(2, id="guess", answers=[{"name": "bookc", "arguments": {"city": "Tokyo"}}]),
        record(3, id="half", answers=[{"name": "bookd", "arguments": {"city": "\ud800Paris"}}]),
    )  # fmt: skip
    listed = tmp_path / "left-out.jsonl"
    arguments = ["collect", path, "--model", tiny_gguf, *QUICK, "--rejected", listed]
    result = run(*arguments, "--output", tmp_path / "set")
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert lines[0] == f"{path}: 4 problems, 1 of them corrected; 7 left out:"
    text = "\n".join(lines)
    assert text.count("(lost") == 2
    assert "… and 2 more of function" in text
    assert "line 4 (blank): no answers; add" in text
    assert "guess: the conversation does not contain the value of bookc: city; give --keep" in text
    assert "half: half of a surrogate pair" in text
    reasons = [json.loads(line) for line in listed.read_text().splitlines()]
    assert len(reasons) == 7
    assert [r["id"] for r in reasons if r["kind"] == "unsupported"] == ["guess"]
    assert all(r["file"] == str(path) and r["reason"] and r["fix"] for r in reasons)
    kept = run(*arguments, "--output", tmp_path / "kept", "--keep-unsupported")
    assert "5 problems, 1 of them corrected; 6 left out:" in kept.stderr
    assert "guess" in {problem["id"] for problem in open_set(tmp_path / "kept").problems}


def test_a_long_prompt_is_skipped_and_named(tiny_gguf: Path, tmp_path: Path) -> None:
    long = record(3, query="Book 3 seats in Paris " * 200)
    path = write_problems(tmp_path / "problems.jsonl", record(1), long)
    result = run("collect", path, "--output", tmp_path / "set", "--model", tiny_gguf, *QUICK)
    assert result.exit_code == 0
    assert "skipped: p3: " in result.stderr
    assert "1 skipped" in result.stderr


@pytest.fixture
def broken(tmp_path: Path, problems: Path) -> dict[str, Path]:
    lost = [{"name": "lost", "arguments": {}}]
    return {
        "missing": tmp_path / "missing.jsonl",
        "empty": write_problems(tmp_path / "empty.jsonl"),
        "json": write_problems(tmp_path / "json.jsonl", record(0), "{"),
        "answers": write_problems(
            tmp_path / "answers.jsonl", {k: v for k, v in record(0).items() if k != "answers"}
        ),
        "functions": write_problems(tmp_path / "functions.jsonl", record(0, answers=lost)),
        "good": problems,
    }


@pytest.mark.parametrize(
    ("name", "options", "messages"),
    [
        ("missing", [], ["missing.jsonl: no such file"]),
        ("empty", [], ["empty.jsonl: the file is empty"]),
        ("json", [], ["json.jsonl: not JSON", "line 2"]),
        ("answers", [], ["answers.jsonl: no problem can be used, 1 are left out"]),
        ("functions", [], ["functions.jsonl: no problem can be used"]),
        ("good", ["--model", "nowhere.gguf"], ["nowhere.gguf: no such model file"]),
        ("good", ["--draws", "0"], ["--draws"]),
        ("good", ["--layers", "1,x"], ["--layers", "give layers as in 11,14,17"]),
        ("good", ["--layers", "1,1"], ["layers are 1, 1"]),
        ("good", ["--layers", "44"], ["layers are 44", "3 blocks"]),
        ("good", ["--temperature", "-1"], ["temperature is -1"]),
        ("good", ["--top-k", "0"], ["top_k is 0"]),
        ("good", ["--max-tokens", "0"], ["max_tokens is 0"]),
        ("good", ["--mask-share", "2"], ["--mask-share"]),
        ("good", ["--match", "none"], ["--match"]),
        ("good", ["--limit", "0"], ["--limit"]),
        ("good", ["--rejected", "/nowhere/x.jsonl"], ["/nowhere/x.jsonl: No such file"]),
    ],
)
@pytest.mark.parametrize("which", ["collect", "fit"])
def test_errors_are_one_line(
    which: str,
    name: str,
    options: list[str],
    messages: list[str],
    broken: dict[str, Path],
    tiny_gguf: Path,
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    result = run(which, broken[name], "--output", output, "--model", tiny_gguf, *options)
    assert_error(result, *messages)
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--draws", "3"], "settings.draws 2 where 3 is asked for"),
        (["--seed", "3"], "seed 0 where 3 is asked for"),
        (["--layers", "2"], "layers [1] where [2] is asked for"),
        (["--mask-share", "1"], "mask_share 0.5 where 1.0 is asked for"),
    ],
)
def test_a_set_of_other_settings(
    options: list[str], message: str, problems: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    arguments = ["collect", problems, "--output", tmp_path / "set", "--model", tiny_gguf, *QUICK]
    assert run(*arguments, "--limit", "1").exit_code == 0
    before = contents(tmp_path / "set")
    assert_error(run(*arguments, *options), message, "another --output")
    write_problems(problems, *map(record, range(10, 30)))
    assert_error(run(*arguments), "other problems")
    assert contents(tmp_path / "set") == before


def test_names_that_cannot_be_masked(
    problems: Path, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masking, "_LENGTHS", (2, 2))
    monkeypatch.setattr(masking, "_LETTERS", "q")
    arguments = ["collect", problems, "--model", tiny_gguf, *QUICK, "--limit", "1"]
    arguments += ["--mask-share", "1", "--max-tools", "2", "--group", "1"]
    # ten strings for four names: those that are drawn twice are drawn again
    monkeypatch.setattr(masking, "_SIGNS", "0123456789")
    assert run(*arguments, "--output", tmp_path / "set").exit_code == 0
    for problem in open_set(tmp_path / "set").problems:
        names = [tool["name"] for tool in problem["tools"]]
        names += problem["tools"][0]["parameters"]["properties"]
        assert len(set(names)) == len(names)
        assert all(re.fullmatch(r"q\d", name) for name in names)
    monkeypatch.setattr(masking, "_SIGNS", "01")
    result = run(*arguments, "--output", tmp_path / "other")
    assert_error(result, "unique random names", "use another seed, or don't mask it")
    assert not (tmp_path / "other").exists()


# Interrupts


def start(arguments: list[str], folder: Path, **more: Any) -> subprocess.Popen[bytes]:
    """The command, when its first shard is there."""
    process = subprocess.Popen([*COMMAND, *arguments], **more)
    deadline = time.monotonic() + 60
    while not (folder / "shard-00000.parquet").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return process


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return write_problems(tmp_path / "many.jsonl", *map(record, range(150)))


def test_ctrl_c(many: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    arguments = [
        "collect", str(many), "--output", str(folder), "--model", str(tiny_gguf), *QUICK,
    ]  # fmt: skip
    process = start(arguments, folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 130
    assert stdout == b""
    last = stderr.decode().splitlines()[-1]
    assert re.fullmatch(
        r"stopped at \d+ of \d+ problems; the same command continues there, only the shard in "
        "work is done again",
        last,
    ), stderr.decode()
    shards = len(list(folder.glob("*.safetensors")))
    result = run(*arguments, "--limit", "2")
    assert re.search(r"\d+ of \d+ problems are there already", result.stderr)
    assert len(list(folder.glob("*.safetensors"))) >= shards


def test_a_terminal_sees_a_bar(many: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    folder = tmp_path / "set"
    master, slave = pty.openpty()
    arguments = [
        "collect", str(many), "--output", str(folder), "--model", str(tiny_gguf), *QUICK,
    ]  # fmt: skip
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150"}
    process = start(arguments, folder, stderr=slave, stdout=subprocess.PIPE, env=environment)
    os.close(slave)
    seen = b""
    while b"left" not in seen:
        seen += os.read(master, 65536)
    process.send_signal(signal.SIGINT)
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:
            break
        if not data:
            break
        seen += data
    assert process.communicate()[0] == b""
    assert process.returncode == 130
    os.close(master)
    assert re.search(rb"\d+/(s|min) .* left .* greedy right \d+%.* steps", seen, re.DOTALL)
    assert b"stopped at" in seen


def test_progress_without_a_terminal(
    problems: Path, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PLAIN_SECONDS", 0.0)
    result = run("collect", problems, "--output", tmp_path / "set", "--model", tiny_gguf, *QUICK)
    lines = [line for line in result.stderr.splitlines() if line.startswith("10/20 problems · ")]
    assert len(lines) == 1
    assert re.search(r"[\d.]+/(s|min) · \d+ (s|min) left · greedy right \d+% · \d+ steps", lines[0])


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = store.replace_file

    def write(path: Path, data: bytes) -> None:
        if path.name == "shard-00002.trajectories.parquet":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, data)

    monkeypatch.setattr(store, "replace_file", write)
    yield
    monkeypatch.undo()


def test_a_full_disk(
    problems: Path,
    tiny_gguf: Path,
    tmp_path: Path,
    full_disk: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ["collect", problems, "--output", tmp_path / "set", "--model", tiny_gguf, *QUICK]
    assert_error(
        run(*arguments),
        "shard-00002.trajectories.parquet: No space left on device",
        "MB are free; make room and run the same command again",
    )
    monkeypatch.undo()
    result = run(*arguments)
    assert "problems are there already" in result.stderr
    assert result.exit_code == 0
    run(*arguments[:3], tmp_path / "whole", *arguments[4:])
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_a_file_that_may_grow_no_further(problems: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    process = subprocess.run(
        [
            *COMMAND, "collect", str(problems), "--output", str(folder), "--model", str(tiny_gguf),
            *QUICK, "--shard", "20", "--draws", "8",
        ],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000)),
    )  # fmt: skip
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    last = process.stderr.splitlines()[-1]
    assert last.startswith(f"Error: {folder}/")
    assert "File too large" in last
    assert "run the same command again" in last
    assert not list(folder.glob("*.partial"))


# All in one


def test_fitting_from_end_to_end(tiny_gguf: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    path = write_problems(tmp_path / "problems.jsonl", *map(record, range(30)))
    output = tmp_path / "fit"
    arguments = [
        "fit", path, "--output", output, "--model", tiny_gguf, "--threads", "1", "--epochs", "1",
        "--layers", "1", "--max-tokens", "70", "--draws", "4", "--shard", "5", "--group", "1",
    ]  # fmt: skip
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    head = output / "heads" / "toolprm.safetensors"
    assert result.stdout.splitlines()[-1] == (
        f"use it: toolprm-lite search --model {tiny_gguf} --reward {head}"
    )
    assert {path.name for path in (output / "heads").iterdir()} == {
        "toolprm.safetensors", "c-prm.safetensors", "orm.safetensors", "train.json",
    }  # fmt: skip
    report = json.loads((output / "report" / "report.json").read_text())
    assert report["split"] == "test"
    assert [entry["head"] for entry in report["heads"]] == ["toolprm", "c-prm", "orm"]
    assert (output / "report" / "reliability.png").stat().st_size > 1000
    written = head.stat().st_mtime_ns
    doubt = load_head(head).card.doubt
    assert doubt is not None
    assert result.stdout.count("  <- chosen\n") == 1
    assert f"doubt {doubt:4.2f}" in result.stdout
    again = run(*arguments)
    assert again.exit_code == 0
    assert "are fitted to this set already" in again.stderr
    assert "the threshold of doubt is chosen already" in again.stderr
    assert head.stat().st_mtime_ns == written
    (output / "heads" / "orm.safetensors").unlink()
    afresh = run(*arguments, "--doubt-problems", "0")
    assert "2 of 3: training into" in afresh.stderr
    assert load_head(head).card.doubt is None
    tools = write_problems(tmp_path / "tools.json", json.dumps(record(0)["tools"]))
    found = run(
        "search", "--tools", tools, "--model", tiny_gguf, "--reward", head, "--json", "--threads",
        "1", "--max-tokens", "40", "Book 2 seats in Paris",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["reward"] == "toolprm"

    def refused(reward: Path, *more: object) -> str:
        asked = run("search", "--tools", tools, "--reward", reward, *more, "Book 2 seats in Paris")
        assert asked.exit_code == 2
        assert asked.stdout == ""
        (line,) = asked.stderr.splitlines()
        return line

    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(head.read_bytes()[:-100])
    tiny = ("--model", tiny_gguf)
    assert f"{cut}: not a whole safetensors file" in refused(cut, *tiny)
    assert "no such head file" in refused(tmp_path / "none", *tiny)
    assert "calls written as json-list" in refused(head, *tiny, "--call-format", "hermes")


def test_a_head_for_another_model_is_refused(
    tiny_gguf: Path, smollm2_path: Path, tmp_path: Path
) -> None:
    head = tmp_path / "head.safetensors"
    save_head(head, make_head(model=FittedModel("another", "llama", 64, 3, "its vocabulary")))
    tools = write_problems(tmp_path / "tools.json", json.dumps(record(0)["tools"]))
    for model, reason in ((tiny_gguf, "vocabulary is another"), (smollm2_path, "30 layers of")):
        question = "Book 2 seats in Paris"
        asked = run("search", "--tools", tools, "--reward", head, "--model", model, question)
        assert_error(asked, str(head), "fitted to another", reason)


def test_a_head_that_is_written_again_is_read_again(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    with Searcher.from_model(tiny_gguf, threads=1) as searcher:
        info = searcher.info
        model = FittedModel(
            info.name, info.architecture, info.width, info.layers, searcher.vocabulary_hash
        )

        def written(aggregate: str) -> str | None:
            head = make_head(model=model, aggregate=aggregate, layers=(1, 2), features=FEATURES)
            save_head(path, head)
            return searcher.reward(path).aggregate

        assert written("min") == "min"
        first = searcher.reward(path)
        assert searcher.reward(path) is first
        assert written("last") == "last"
        second = searcher.reward(path)
        path.unlink()
        assert searcher.reward(path) is second


def test_fitting_needs_all_splits(tiny_gguf: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = write_problems(tmp_path / "problems.jsonl", record(0))
    result = run("fit", path, "--output", tmp_path / "fit", "--model", tiny_gguf, *QUICK)
    assert_error(result, "of the", "split; collect more")


@pytest.mark.parametrize("name", ["search", "collect", "train", "eval-reward", "fit"])
def test_every_command_has_help(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"toolprm-lite {name}" in result.stdout
    assert name in run("--help").stdout


@pytest.mark.parametrize("name", ["train", "eval-reward"])
def test_sets_that_are_not_there(name: str, tmp_path: Path) -> None:
    more = ["--output", tmp_path / "out"] if name == "train" else ["--head", tmp_path / "no"]
    assert_error(run(name, tmp_path / "nothing", *more), "no" if more else "")


def test_a_set_that_keeps_another_ones_splits(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    pairs = [{**record(n)["answers"][0]} for n in range(2)]
    both = [record(n)["tools"][0] for n in range(2)]
    several = record(20, tools=both, answers=pairs, query="Book 0 seats, then 1 seats in Paris")
    path.write_text("".join(f"{json.dumps(one)}\n" for one in (record(0), record(1), several)))
    first = ["collect", path, "--model", tiny_gguf, *QUICK, "--keep-unsupported"]
    result = run(*first, "--multi-share", "0", "--output", tmp_path / "one")
    assert result.exit_code == 0, result.stderr
    kept_splits = [*first, "--keep-splits", tmp_path / "one"]
    result = run(*kept_splits, "--output", tmp_path / "two")
    (split,) = {problem["split"] for problem in open_set(tmp_path / "one").problems}
    assert result.exit_code == 0, result.stderr
    (added,) = open_set(tmp_path / "two").problems
    assert (added["id"], added["split"]) == ("p20", split)
    assert_error(
        run(*kept_splits, "--as-is", "--output", tmp_path / "x"), "--keep-splits goes with a plan"
    )
    path.write_text(f"{json.dumps(record(5))}\n")
    assert_error(run(*kept_splits, "--output", tmp_path / "x"), "is not among these files")


def test_questions_asked_together(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(f"{json.dumps(record(n))}\n" for n in range(6)))
    first = ["collect", path, "--model", tiny_gguf, *QUICK, "--keep-unsupported"]
    assert run(*first, "--output", tmp_path / "alone").exit_code == 0
    splits = {problem["id"]: problem["split"] for problem in open_set(tmp_path / "alone").problems}
    joined = [*first, "--joined-share", "1", "--keep-splits", tmp_path / "alone"]
    result = run(*joined, "--output", tmp_path / "joined")
    assert result.exit_code == 0, result.stderr
    assert "with several calls" in result.stderr
    made = open_set(tmp_path / "joined").problems
    assert made
    for problem in made:
        parts = problem["id"].split("+")
        assert len(problem["answers"]) == len(parts) > 1
        assert {splits[part] for part in parts} == {problem["split"]}
    again = [*joined, "--keep-splits", tmp_path / "joined"]
    result = run(*again, "--output", tmp_path / "again")
    assert result.exit_code == 0, result.stderr


def test_a_set_holds_rollouts_of_one_file_of_a_model(tiny_gguf: Path, tmp_path: Path) -> None:
    path = write_problems(tmp_path / "a.jsonl", *map(record, range(3)))
    arguments = ["collect", path, *QUICK, "--output", tmp_path / "set", "--model"]
    assert run(*arguments, tiny_gguf, "--limit", "1").exit_code == 0
    other = tmp_path / "other.gguf"
    shutil.copy(tiny_gguf, other)
    assert_error(run(*arguments, other), "weights.model 'tiny.gguf' where 'other.gguf'")
    assert run(*arguments, tiny_gguf).exit_code == 0


def test_fit_has_nothing_to_fit_to_as_is(tiny_gguf: Path, tmp_path: Path) -> None:
    path = write_problems(tmp_path / "a.jsonl", record(0))
    result = run("fit", path, "--model", tiny_gguf, "--as-is", "--output", tmp_path / "fitted")
    assert_error(result, "--as-is", "leave it out")
    assert not (tmp_path / "fitted").exists()
