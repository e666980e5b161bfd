"""Problem files of every common form in, checked problems out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolprm_lite.errors import ProblemError
from toolprm_lite.tasks.loading import load_problems
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tasks.rejected import Rejected

WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "wind": {"type": "boolean"},
            "hours": {"type": "array", "items": {"type": "integer"}},
            "height": {"type": "number"},
            "place": {
                "type": "object",
                "properties": {"lat": {"type": "number"}, "name": {"type": "string"}},
            },
            "unit": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        },
        "required": ["city"],
    },
}


def record(arguments: Any = None, **changes: Any) -> dict[str, Any]:
    given = {"city": "Bonn"} if arguments is None else arguments
    return {
        "id": "a",
        "source": "own",
        "messages": [{"role": "user", "content": "Weather in Bonn?"}],
        "tools": [WEATHER],
        "answers": [{"name": "get_weather", "arguments": given}],
    } | changes


def write(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(r)}\n" for r in records), encoding="utf-8")
    return path


def only(path: Path) -> Problem:
    problems, rejected = load_problems([path])
    assert not rejected, [str(r) for r in rejected]
    assert len(problems) == 1
    return problems[0]


def refused(path: Path) -> Rejected:
    problems, rejected = load_problems([path])
    assert not problems
    assert len(rejected) == 1
    return rejected[0]


def test_own_form(tmp_path: Path) -> None:
    problem = only(write(tmp_path / "own.jsonl", record()))
    assert (problem.id, problem.source, problem.repairs) == ("a", "own", ())
    assert problem.messages == [{"role": "user", "content": "Weather in Bonn?"}]
    assert [tool.name for tool in problem.tools] == ["get_weather"]
    assert problem.answers == [{"name": "get_weather", "arguments": {"city": "Bonn"}}]


def test_query_and_no_id(tmp_path: Path) -> None:
    plain = {k: v for k, v in record(query="Weather?").items() if k not in ("id", "messages")}
    del plain["source"]
    problem = only(write(tmp_path / "own.jsonl", plain))
    assert (problem.id, problem.source) == ("own-1", "own")
    assert problem.messages[0]["content"] == "Weather?"


def test_empty_answers_are_a_refusal(tmp_path: Path) -> None:
    assert only(write(tmp_path / "own.jsonl", record(answers=[]))).answers == []


def test_bfcl(tmp_path: Path) -> None:
    function = {
        "name": "math.area",
        "description": "",
        "parameters": {
            "type": "dict",
            "properties": {
                "base": {"type": "float"},
                "unit": {"type": "string"},
                "note": {"type": "string"},
                "sides": {"type": "array", "items": {"type": "integer"}},
                "corner": {"type": "dict", "properties": {"x": {"type": "integer"}}},
            },
            "required": ["base"],
        },
    }
    question = [[{"role": "user", "content": "Area?"}]]
    truth = {
        "base": [10, 10.0],
        "unit": ["cm", ""],
        "note": ["", "x"],
        "sides": [[1, 2]],
        "corner": [{"x": [3, 4]}],
    }
    path = write(
        tmp_path / "BFCL_v4_simple.json",
        {"id": "s_0", "question": question, "function": [function]},
        {"id": "s_1", "question": question, "function": [function]},
        {"id": "s_2", "question": question * 2, "function": [function]},
    )
    write(
        tmp_path / "possible_answer" / path.name,
        {"id": "s_0", "ground_truth": [{"math.area": truth}]},
    )
    problems, rejected = load_problems([path])
    expected = {"base": 10, "unit": "cm", "sides": [1, 2], "corner": {"x": 3}}
    assert [p.answers for p in problems] == [[{"name": "math.area", "arguments": expected}]]
    assert problems[0].possible == [{"math.area": truth}]
    assert [(r.line, r.kind) for r in rejected] == [(2, "answers"), (3, "messages")]


def test_bfcl_irrelevance_has_no_answers(tmp_path: Path) -> None:
    question = [[{"role": "user", "content": "Sing."}]]
    line = {"id": "i_0", "question": question, "function": [WEATHER]}
    assert only(write(tmp_path / "BFCL_v4_irrelevance.json", line)).answers == []


@pytest.mark.parametrize("as_list", [True, False])
@pytest.mark.parametrize("indent", [None, 1])
def test_xlam(tmp_path: Path, as_list: bool, indent: int | None) -> None:
    line = {
        "id": 7,
        "query": "Weather in Bonn?",
        "tools": json.dumps(
            [{"name": "w", "description": "", "parameters": {"city": {"type": "str"}}}]
        ),
        "answers": json.dumps([{"name": "w", "arguments": {"city": "Bonn"}}]),
    }
    path = tmp_path / "xlam.json"
    path.write_text(json.dumps([line] if as_list else line, indent=indent), encoding="utf-8")
    problem = only(path)
    assert problem.id == "7"
    assert problem.answers == [{"name": "w", "arguments": {"city": "Bonn"}}]


def test_openai_lines(tmp_path: Path) -> None:
    user = {"role": "user", "content": "Weather in Bonn?"}
    function = {"name": "get_weather", "arguments": '{"city": "Bonn"}'}
    call = {"role": "assistant", "tool_calls": [{"id": "1", "function": function}]}
    text = {"role": "assistant", "content": "I can't."}
    tools = [{"type": "function", "function": WEATHER}]
    path = write(
        tmp_path / "ft.jsonl",
        {"messages": [user, call], "tools": tools},
        {"messages": [user, text], "tools": tools},
        {"messages": [user, text, user, call], "tools": tools},
        {"messages": [user, text, user], "tools": tools},
    )
    problems, rejected = load_problems([path])
    right = [{"name": "get_weather", "arguments": {"city": "Bonn"}}]
    assert [p.answers for p in problems] == [right, [], right]
    assert [len(p.messages) for p in problems] == [1, 1, 3]
    assert [(r.line, r.kind) for r in rejected] == [(4, "answers")]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"city": 5}, {"city": "5"}),
        ({"city": True}, {"city": "true"}),
        ({"city": "B", "days": "5"}, {"city": "B", "days": 5}),
        ({"city": "B", "wind": "true"}, {"city": "B", "wind": True}),
        ({"city": "B", "wind": "False"}, {"city": "B", "wind": False}),
        ({"city": "B", "hours": "[1]"}, {"city": "B", "hours": [1]}),
        ({"city": "B", "hours": "['1', '2']"}, {"city": "B", "hours": [1, 2]}),
        ({"city": "B", "hours": 3}, {"city": "B", "hours": [3]}),
        ({"city": "B", "hours": ["1", 2]}, {"city": "B", "hours": [1, 2]}),
        ({"city": "B", "height": "1.5"}, {"city": "B", "height": 1.5}),
        ({"city": "B", "unit": "5"}, {"city": "B", "unit": 5}),
        ({"city": "B", "place": {"lat": "1"}}, {"city": "B", "place": {"lat": 1}}),
        ({"city": "B", "days": ""}, {"city": "B"}),
        ({"city": "B", "days": None}, {"city": "B"}),
        ({"city": "B", "other": ""}, {"city": "B"}),
        ({"city": "B", "place": {"lat": "", "name": "x"}}, {"city": "B", "place": {"name": "x"}}),
    ],
)
def test_repairs(tmp_path: Path, arguments: Any, expected: Any) -> None:
    path = write(tmp_path / "own.jsonl", record(arguments))
    problem = only(path)
    assert json.dumps(problem.answers[0]["arguments"]) == json.dumps(expected)
    assert len(problem.repairs) == 1


@pytest.mark.parametrize("arguments", [{"city": ""}, {"city": "B", "days": 5.0, "unit": None}])
def test_valid_arguments_stay(tmp_path: Path, arguments: Any) -> None:
    problem = only(write(tmp_path / "own.jsonl", record(arguments)))
    assert problem.answers[0]["arguments"] == arguments
    assert not problem.repairs


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"answers": None}, "answers", "no answers"),
        ({"answers": "x"}, "answers", "not JSON"),
        ({"answers": [{"arguments": {}}]}, "answers", "answer 1 has no name"),
        ({"answers": [{"name": "f", "arguments": 3}]}, "answers", "no object"),
        ({"answers": [{"name": "sing", "arguments": {}}]}, "function", "'sing'"),
        ({"tools": [WEATHER, WEATHER]}, "tools", "both named"),
        ({"tools": []}, "tools", "empty"),
        ({"messages": []}, "messages", "empty"),
        ({"messages": None}, "messages", "no question"),
    ],
)
def test_rejected(tmp_path: Path, changes: Any, kind: str, text: str) -> None:
    rejected = refused(write(tmp_path / "own.jsonl", record(**changes)))
    assert (rejected.kind, rejected.line, rejected.id) == (kind, 1, "a")
    assert text in rejected.reason
    assert rejected.fix
    assert str(rejected).startswith(f"{tmp_path / 'own.jsonl'}: line 1 (a): ")


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"city": "B", "street": "x"}, "argument", "'street'"),
        ({}, "required", "'city'"),
        ({"days": 1}, "required", "'city'"),
        ({"city": "B", "days": "soon"}, "value", "days"),
        ({"city": "B", "days": 1.5}, "value", "days"),
        ({"city": "B", "hours": '["a"'}, "value", "hours"),
        ({"city": "B", "place": {"lot": 1}}, "value", "place"),
        ({"city": None}, "value", "city"),
    ],
)
def test_rejected_arguments(tmp_path: Path, arguments: Any, kind: str, text: str) -> None:
    rejected = refused(write(tmp_path / "own.jsonl", record(arguments)))
    assert rejected.kind == kind
    assert text in rejected.reason


def test_bad_schemas_are_rejected(tmp_path: Path) -> None:
    for part in ({"type": "string", "pattern": "("}, {"$ref": "#/$defs/nothing"}):
        tool = {"name": "f", "parameters": {"type": "object", "properties": {"p": part}}}
        answers = [{"name": "f", "arguments": {"p": "x"}}]
        path = write(tmp_path / "own.jsonl", record(tools=[tool], answers=answers))
        assert refused(path).kind == "tools"


def test_ids_are_unique(tmp_path: Path) -> None:
    first = write(tmp_path / "one.jsonl", record(), record(), record(id="b"))
    second = write(tmp_path / "two.jsonl", record())
    problems, rejected = load_problems([first, second])
    assert [p.id for p in problems] == ["a", "b", "two/a"]
    assert [(r.line, r.kind) for r in rejected] == [(2, "id")]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "empty"),
        (b"\xff\xfe\xff", "UTF-8"),
        (b'{"id": "a"}\n{"id": \n{"id": "c"}\n', "line 2"),
        (b'{"id": \n{"id": "b"}\n', "line 1"),
        (b'[{"id": "a"},\n{"id": }]', "line 2"),
        (b'{"id": NaN}', "NaN"),
        (b"[" * 100_000, "deep"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)
    with pytest.raises(ProblemError, match=text) as caught:
        load_problems([path])
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="no such file; give"):
        load_problems([tmp_path / "none.jsonl"])
    with pytest.raises(ProblemError, match="can't be read"):
        load_problems([tmp_path])


def test_line_that_is_no_object(tmp_path: Path) -> None:
    problems, rejected = load_problems([write(tmp_path / "own.jsonl", record(), 5)])
    assert len(problems) == 1
    assert (rejected[0].kind, rejected[0].line, rejected[0].id) == ("record", 2, None)
