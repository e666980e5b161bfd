"""What the commands do, called as functions: typed settings in, results out."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("jsonschema")

from support.eval_cases import PARIS, RESPONSES, item
from support.mock_backend import MockBackend
from support.questions import question
from toolprm_lite import SearchConfig, Searcher
from toolprm_lite.errors import ConfigError
from toolprm_lite.evaluation.evaluate import EvalSettings, evaluate
from toolprm_lite.evaluation.strategies import Strategy
from toolprm_lite.evaluation.sweep import SweepSettings, sweep
from toolprm_lite.search_file import SearchFileSettings, search_file
from toolprm_lite.supervision.collect_settings import CollectSettings
from toolprm_lite.supervision.shards import collect_shard
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tasks.requests import split_lines
from toolprm_lite.tasks.sources import SourceSettings, read_source

BASE = SearchConfig(constrain="off", temperature=1.0)
COLLECT = CollectSettings(draws=4, temperature=1.0, layers=(2,), unconstrained_share=0.5)


@pytest.fixture
def searcher() -> Searcher:
    return Searcher(MockBackend(RESPONSES))


def settings(*strategies: str) -> EvalSettings:
    return EvalSettings(
        source=SourceSettings(source="mine.jsonl"),
        strategies=tuple(map(Strategy.parse, strategies)),
        search=BASE,
        seeds=2,
    )


def test_a_problem_can_be_sent_to_another_process() -> None:
    problem = item()
    copy = pickle.loads(pickle.dumps(problem))
    assert copy == problem
    assert copy.judge(PARIS)


def test_a_problem_of_a_plan_is_read_back() -> None:
    problem = item(split="validation", masked=True)
    assert Problem.from_dict(json.loads(json.dumps(problem.to_dict()))) == problem


def test_a_shard_depends_on_its_problems_alone() -> None:
    problems = [item(f"p{number}") for number in range(4)]

    def collected(*chosen: Problem) -> Any:
        shard = collect_shard(Searcher(MockBackend(RESPONSES)), chosen, COLLECT)
        return shard.steps, shard.trajectories, np.concatenate(shard.states)

    steps, trajectories, states = collected(*problems[1:3])
    again = collected(*problems[1:3])
    assert (steps, trajectories) == again[:2]
    np.testing.assert_array_equal(states, again[2])
    one = collected(problems[1])
    count = len(one[0]["kind"])
    assert {name: column[:count] for name, column in steps.items()} == one[0]
    assert set(trajectories["problem"]) == {"p1", "p2"}


def test_an_evaluation_shows_its_progress_and_goes_on(searcher: Searcher, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    advanced = 0

    @contextmanager
    def watch(todo: int, answered: int) -> Iterator[Callable[[], None]]:
        def advance() -> None:
            nonlocal advanced
            advanced += 1

        seen.append((todo, answered))
        yield advance

    names = ("greedy", "step-beam:policy@2x4")
    problems = [item("p0"), item("p1", right=[])]
    found = evaluate(searcher, problems[:1], tmp_path / "run", settings(*names), watch=watch)
    assert [row["strategy"] for row in found.summary["strategies"]] == list(names)
    assert found.text.startswith("# mine.jsonl: ")
    found = evaluate(searcher, problems, tmp_path / "run", settings(*names), watch=watch)
    assert found.summary["answered"] == 2
    assert (seen, advanced) == ([(1, 0), (1, 1)], 2)
    whole = evaluate(searcher, problems, tmp_path / "whole", settings(*names))
    for row, other in zip(found.summary["strategies"], whole.summary["strategies"], strict=True):
        assert {**row, "ms": None} == {**other, "ms": None}


def test_a_sweep_needs_a_cell(searcher: Searcher, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    given = SweepSettings(beams=(1, 2), expand=(2,), reward="policy", evaluation=settings())
    found = sweep(searcher, [item()], tmp_path, given)
    assert [(cell["beams"], cell["expand"]) for cell in found["grid"]] == [(1, 2), (2, 2)]
    assert [cell["strategy"] for cell in found["others"]] == ["greedy"]
    with pytest.raises(ConfigError, match="leaves no cell"):
        SweepSettings(beams=(4,), expand=(4,), most=8, evaluation=settings())


def test_problems_of_a_file_by_their_source(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    records = [{**question(number), "source": "ab"[number % 2]} for number in range(6)]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records) + "{}\n")
    notes: list[str] = []

    def ids(**more: Any) -> list[str]:
        problems = read_source(SourceSettings(source=str(path), **more), notes.append)
        return [problem.id for problem in problems]

    assert ids() == [f"p{number}" for number in range(6)]
    assert len(notes) == 1
    assert ids(categories=("b",)) == ["p1", "p3", "p5"]
    assert ids(limit=2) == ["p0", "p1"]
    both, first = ids(sample=4), ids(sample=2)
    assert ids(sample=2, skip=2) == [name for name in both if name not in first]


def test_lines_are_answered_once(searcher: Searcher, tmp_path: Path) -> None:
    data = b"".join(f"{json.dumps(question(number))}\n".encode() for number in range(3))
    lines = split_lines(data + b'{"id": "broken"}\n', "mine.jsonl")
    given = SearchFileSettings(source="mine.jsonl", config=BASE)
    failures: list[str] = []

    @contextmanager
    def watch(todo: int) -> Iterator[Callable[[Exception | None, str], None]]:
        yield lambda error, message: failures.append(message) if error is not None else None

    def opened() -> AbstractContextManager[Searcher]:
        return nullcontext(searcher)

    output = tmp_path / "results.jsonl"
    found = search_file(lines, output, given, opened, watch)
    assert (found.answered, found.failed, found.before) == (3, 1, 0)
    assert failures == ['line 4: no question; add "query" or "messages"']
    found = search_file(lines, output, given, opened, watch)
    assert (found.answered, found.failed, found.before) == (0, 1, 3)
    written: list[bytes] = []
    search_file(lines, written.append, given, opened, watch)
    assert sorted(map(json.loads, written), key=lambda record: record["id"])[0]["id"] == "broken"
    assert len(written) == 4
