"""Training adapters: what is trained on, that a stop loses nothing, and what people see."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("pyarrow")

from support.commands import COMMAND, assert_error, contents, run
from support.questions import record, write_problems
from support.tiny_model import TinyLlama
from toolprm_lite import Searcher
from toolprm_lite.backends.torch.adapter import read_adapter
from toolprm_lite.cli import tune as command
from toolprm_lite.special_texts import SpecialTexts
from toolprm_lite.tasks.plan import make_plan
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tools import Tool, parse_tools
from toolprm_lite.tuning import run as tuning
from toolprm_lite.tuning.encoding import end_of_turn, in_schema_order
from toolprm_lite.tuning.passes import pass_problems, split_ids, validation_problems
from toolprm_lite.tuning.settings import TuneSettings
from toolprm_lite.tuning.sharing import share_tools

FAST = ["--rank", "2", "--passes", "2", "--batch", "4", "--threads", "1", "--dtype", "float32"]


STRONG = ["--learning-rate", "0.03", "--passes", "6", "--name", "mine"]


def problem(number: int, **changes: Any) -> Problem:
    read = record(number, **changes)
    return Problem(
        id=read["id"], source=read.get("source", "made"),
        messages=[{"role": "user", "content": read["query"]}], tools=parse_tools(read["tools"]),
        answers=read["answers"],
    )  # fmt: skip


PROBLEMS = [problem(number) for number in range(60)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_problems(tmp_path / "problems.jsonl", *map(record, range(40)))


def tune(file: Path, output: Path, model: Path, *more: Any) -> Any:
    return run("tune", file, "--model", model, "--output", output, *FAST, *map(str, more))


# What is trained on


def test_no_pass_calls_or_offers_a_function_of_another_split() -> None:
    settings = TuneSettings()
    ids = split_ids(make_plan(PROBLEMS, settings.plan), PROBLEMS)
    by_id = {p.id: p for p in PROBLEMS}
    elsewhere = {by_id[i].answers[0]["name"] for i in ids["validation"] | ids["test"]}
    assert elsewhere
    assert not ids["train"] & (ids["validation"] | ids["test"])
    passes = [pass_problems(PROBLEMS, ids, number, settings) for number in range(2)]
    for shown in passes:
        assert {part for p in shown for part in p.id.split("+")} <= ids["train"]
        plain = [p for p in shown if not p.masked]
        assert plain
        assert not {tool.name for p in plain for tool in p.tools} & elsewhere
    assert passes[0] != passes[1]
    assert passes[0] == pass_problems(PROBLEMS, ids, 0, settings)
    checked = validation_problems(make_plan(PROBLEMS, settings.plan), settings)
    assert {part for p in checked for part in p.id.split("+")} <= ids["validation"]


def test_a_pass_is_balanced() -> None:
    declining = [problem(100 + n, id=f"d{n}", answers=[]) for n in range(60)]
    other = [problem(n, id=f"o{n}", source="other") for n in range(40)]
    every = [*PROBLEMS, *declining, *other]
    ids = {"train": {p.id for p in every}, "validation": set(), "test": set()}
    plan = TuneSettings().plan
    settings = TuneSettings(
        decline_share=0.2,
        plan=type(plan)(refusal_share=0.0, joined_share=0.0, mask_share=0.0),
    )  # fmt: skip
    shown = pass_problems(every, ids, 0, settings)  # type: ignore[arg-type]
    assert Counter(p.source for p in shown if p.answers) == {"made": 60, "other": 40}
    assert sum(not p.answers for p in shown) == 25


def test_problems_share_the_tools_of_all_members() -> None:
    shared = share_tools(PROBLEMS, 4, 3, 0)
    assert sorted(p.id for p in shared) == sorted(p.id for p in PROBLEMS)
    for p in shared:
        assert len(p.tools) <= 3
        assert p.answers[0]["name"] in {tool.name for tool in p.tools}
    sizes = Counter(tuple(tool.name for tool in p.tools) for p in shared)
    assert max(len(names) for names in sizes) > 1


def with_system(number: int, text: str) -> Problem:
    own = problem(number)
    return replace(own, messages=[{"role": "system", "content": text}, *own.messages])


def test_system_messages_are_exchanged_only_where_they_are_common() -> None:
    common = [with_system(n, f"Be helpful, version {n % 2}") for n in range(20)]
    own = [with_system(20 + n, f"Lamp {n} is on") for n in range(4)]
    shared = {p.id: p for p in share_tools([*common, *own], 30, 30, 0)}
    assert len({p.messages[0]["content"] for i, p in shared.items() if int(i[1:]) < 20}) == 1
    for p in own:
        assert shared[p.id].messages == p.messages
    for p in common:
        assert shared[p.id].messages[1:] == p.messages[1:]


def test_arguments_are_in_the_order_of_the_schema() -> None:
    inner = {"type": "object", "properties": {"c": {}, "d": {}}}
    schema = {"type": "object", "properties": {"a": {}, "b": {"type": "array", "items": inner}}}
    tools = parse_tools([{"name": "f", "parameters": schema}])
    call = {"name": "f", "arguments": {"z": 1, "b": [{"d": 1, "c": 2}], "a": 3}}
    assert json.dumps(in_schema_order([call], tools)[0]["arguments"]) == (
        '{"a": 3, "b": [{"c": 2, "d": 1}], "z": 1}'
    )


@pytest.mark.parametrize(
    "parameters",
    [
        {"$ref": "#/$defs/p"},
        {"type": "object", "anyOf": [{"properties": {"z": {}}}, {"$ref": "#/$defs/p"}]},
        {"type": "object", "allOf": [{"$ref": "#/$defs/p"}]},
    ],
)
def test_the_order_is_found_behind_references_and_unions(parameters: dict[str, Any]) -> None:
    known = {"type": "object", "properties": {"a": {}, "b": {"type": "integer"}}}
    tool = Tool("f", "", {**parameters, "$defs": {"p": known}})
    call = {"name": "f", "arguments": {"b": 1, "a": 2}}
    assert list(in_schema_order([call], [tool])[0]["arguments"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("template", "token"),
    [
        ("{% for m in messages %}{{ m.role }}{{ m.content }}<end>\n{% endfor %}", 7),
        ("{% for m in messages %}{{ m.role }}{{ m.content }}<eos><end>\n{% endfor %}", 8),
        ("{% for m in messages %}{{ m.role }}{{ m.content }}\n{% endfor %}", None),
        ("{{ messages.x.y }}", None),
        (None, None),
    ],
)
def test_the_end_of_a_response_is_the_templates(template: str | None, token: int | None) -> None:
    special = SpecialTexts({"<end>": 7, "<eos>": 8, "<other>": 9})
    assert end_of_turn(template, special, {7, 8}) == token


# Training


def test_tuning_lowers_the_loss(file: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = tune(file, output, tiny_gguf, *STRONG)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == (
        f"use it: toolprm-lite search --model {tiny_gguf} --adapter {output / 'adapter.gguf'}\n"
    )
    assert "weights to train; some" in result.stderr
    card = json.loads((output / "card.json").read_text())
    validation = card["notes"]["validation"]
    assert validation["after"]["loss"] < 0.9 * validation["before"]["loss"]
    assert card["name"] == "mine"
    assert card["model"] == "tiny llama"
    with Searcher.from_model(tiny_gguf, adapter=output / "adapter.gguf") as searcher:
        assert searcher.info.adapter == f"mine@{card['digest'][:12]}"
    again = tune(file, output, tiny_gguf, *STRONG)
    assert "steps are done already" in again.stderr


def weights(folder: Path) -> Any:
    from transformers import LlamaConfig

    return read_adapter(folder / "adapter_model.safetensors", "tiny llama", LlamaConfig()).parts


def test_a_stopped_training_ends_with_the_same_weights(
    file: Path, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tune(file, tmp_path / "whole", tiny_gguf).exit_code == 0
    monkeypatch.setattr(tuning, "KEEP_SECONDS", 0.0)
    kept = tuning.write_state
    count = 0

    def stop(path: Path, state: Any) -> None:
        nonlocal count
        kept(path, state)
        count += 1
        if count in (3, 7):
            raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "write_state", stop)
    codes = [tune(file, tmp_path / "parts", tiny_gguf).exit_code for _ in range(3)]
    assert codes == [130, 130, 0]
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert one.keys() == other.keys()
    for key, pair in one.items():
        for left, right in zip(pair, other[key], strict=True):
            assert (left == right).all()
    cards = [json.loads((tmp_path / f / "card.json").read_text()) for f in ("whole", "parts")]
    assert cards[0] == cards[1]


def test_a_killed_training_continues(file: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    long = ["--passes", "20", "--patience", "1000"]
    assert tune(file, tmp_path / "whole", tiny_gguf, *long).exit_code == 0
    output = tmp_path / "out"
    arguments = [*COMMAND, "tune", file, "--model", tiny_gguf, "--output", output, *FAST, *long]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:  # a check, so some steps are done
        if line.startswith("step ") and not line.startswith("step 0"):
            break
    process.kill()
    process.wait()
    process.stderr.close()
    assert tune(file, output, tiny_gguf, *long).exit_code == 0
    one, other = weights(tmp_path / "whole"), weights(output)
    for key, pair in one.items():
        for left, right in zip(pair, other[key], strict=True):
            assert (left == right).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("setting", "passes was 2, is 3"),
        ("problems", "problems."),
        ("model", "model_bytes was"),
        ("exclude", "exclude was null"),
    ],
)
def test_another_training_in_the_folder_is_refused(
    change: str, message: str, file: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert tune(file, output, tiny_gguf).exit_code == 0
    before = contents(output)
    more: list[Any] = []
    model = tiny_gguf
    if change == "setting":
        more = ["--passes", "3"]
    elif change == "problems":
        write_problems(file, *map(record, range(1, 41)))
    elif change == "model":
        model = tmp_path / "another.gguf"
        TinyLlama(layers=2).write(model)
    else:
        (tmp_path / "leave.txt").write_text("p3\n")
        more = ["--exclude", tmp_path / "leave.txt"]
    assert_error(tune(file, output, model, *more), str(output), message)
    assert contents(output) == before


def test_the_adapter_of_a_model_is_asked_as_it_was_trained(
    file: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    more = ["--prompt", "schemas+1", "--call-format", "hermes"]
    assert tune(file, output, tiny_gguf, *more).exit_code == 0
    with Searcher.from_model(tiny_gguf, adapter=output / "adapter.gguf") as searcher:
        assert searcher.call_format().name == "hermes"
        assert searcher.call_format("json-list").name == "json-list"
        assert searcher.prompt_style().name == "schemas+1"


def test_ids_may_have_the_sign_that_joins_them() -> None:
    every = [problem(n, id=f"a+{n}") for n in range(60)]
    settings = TuneSettings()
    ids = split_ids(make_plan(every, settings.plan), every)
    assert sum(map(len, ids.values())) == 60
    assert pass_problems(every, ids, 0, settings)


def test_the_memory_is_checked_before_the_training(
    file: Path, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolprm_lite.tuning.estimate.available_memory", lambda: 1000)
    result = tune(file, tmp_path / "out", tiny_gguf)
    assert_error(result, "GB of memory", "--most-tokens")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("broken", "not a whole state of a training"),
        ("settings", "give an empty folder"),
    ],
)
def test_broken_folders_are_refused(
    change: str, message: str, file: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    if change == "broken":
        assert tune(file, output, tiny_gguf).exit_code == 0
        (output / "state.safetensors").write_bytes(b"x" * 100)
    else:
        output.mkdir()
        (output / "settings.json").write_text("[")
    assert_error(tune(file, output, tiny_gguf), message)


def test_a_full_disk_is_one_error(
    file: Path, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("toolprm_lite.tuning.state.replace_file", full)
    result = tune(file, tmp_path / "out", tiny_gguf)
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit)
    assert "No space left on device" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--most-tokens", "5"], "too long|longer than 5 tokens|no validation problem"),
        (["--prompt", "x"], "prompt is 'x'"),
        (["--learning-rate", "0"], "learning_rate"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    more: list[str], message: str, file: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    result = tune(file, tmp_path / "out", tiny_gguf, *more)
    assert result.exit_code == 2
    assert any(part in result.stderr for part in message.split("|")), result.stderr


def test_defaults_are_those_of_the_settings() -> None:
    given = {parameter.name: parameter.default for parameter in command.tune.params}
    settings = TuneSettings()
    for name in settings.__slots__:
        if name in given and getattr(settings, name) is not None:
            assert given[name] == getattr(settings, name), name
    for name in ("mask_share", "refusal_share", "joined_share", "max_tools", "seed"):
        assert given[name] == getattr(settings.plan, name), name
