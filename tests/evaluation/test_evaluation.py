"""Problems, strategies, runs and figures of an evaluation."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.bfcl_like import function, question, write_category, write_checker
from support.eval_cases import BASE, PARIS, RESPONSES, SETTINGS, TOOLS, answer, call, item
from support.heads import random_head
from support.mock_backend import MockBackend
from toolprm_lite import SearchConfig, Searcher, store
from toolprm_lite.errors import ConfigError, ContextError, DatasetError, ProblemError
from toolprm_lite.evaluation import bfcl_results, budget, plots, toolalpaca
from toolprm_lite.evaluation.failures import failure
from toolprm_lite.evaluation.markdown import markdown
from toolprm_lite.evaluation.runs import Column, RunFolder, slug
from toolprm_lite.evaluation.strategies import Comparison, Strategy
from toolprm_lite.evaluation.summary import summarise
from toolprm_lite.tasks import bfcl
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tasks.sources import read_problems, read_set, sample

# Problems


def test_bfcl_is_read_unchanged(tmp_path: Path) -> None:
    write_category(tmp_path, "simple_python", [question(f"simple_python_{n}") for n in (99, 100)])
    write_category(tmp_path, "irrelevance", [question("irrelevance_0")], None)
    near, far, declining = bfcl.read_bfcl(tmp_path, ("simple_python", "irrelevance"))
    assert (near.bring_up, near.category) == (True, "simple_python (bring-up)")
    assert (far.bring_up, far.category) == (False, "simple_python")
    assert far.judge([{"name": "book", "arguments": {"city": "PARIS"}}])
    assert not far.judge([{"name": "book", "arguments": {"city": "Rome"}}])
    assert not far.judge([])
    assert declining.declines
    assert declining.judge([])
    assert not declining.judge([{"name": "book", "arguments": {"city": "Paris"}}])
    assert far.messages == [{"role": "user", "content": "Book a seat in Paris"}]


def test_live_relevance_wants_any_call(tmp_path: Path) -> None:
    write_category(tmp_path, "live_relevance", [question("live_relevance_0-0-0")], None)
    (relevant,) = bfcl.read_bfcl(tmp_path, ("live_relevance",))
    assert relevant.judge([{"name": "book", "arguments": {}}])
    assert not relevant.judge([])
    assert not relevant.declines


def test_java_is_shown_in_strings_and_left_to_the_official_checker(tmp_path: Path) -> None:
    list_of = {"type": "ArrayList", "items": {"type": "String"}, "description": "Who."}
    shown = function(guests=list_of, anything={"type": "any", "description": "What."})
    write_category(tmp_path, "simple_java", [question("simple_java_0", shown)])
    write_category(
        tmp_path,
        "simple_javascript",
        [
            question(
                "js_0", function(seat={"type": "dict", "properties": {"row": {"type": "integer"}}})
            )
        ],
    )
    java, script = bfcl.read_bfcl(tmp_path, bfcl.OTHER_LANGUAGES)
    properties = java.tools[0].parameters["properties"]
    assert properties["guests"] == {
        "type": "string",
        "description": "Who. This is Java ArrayList type parameter in string representation. The "
        "list elements are of type String; they are not in string representation.",
    }
    assert "can be of any type of Java object" in properties["anything"]["description"]
    assert java.tools[0].description.endswith("in Java 8 SDK syntax.")
    seat = script.tools[0].parameters["properties"]["seat"]
    assert seat["type"] == "string"
    assert '{"row": {"type": "integer"}}' in seat["description"]
    assert java.judge([{"name": "book", "arguments": {"city": '"Paris"'}}]) is None
    assert java.record["function"][0]["parameters"]["properties"]["guests"] == list_of


def test_bfcl_that_is_not_there_or_of_another_form(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="unpack the bfcl-eval wheel there"):
        bfcl.read_bfcl(tmp_path)
    write_category(tmp_path, "simple_python", [question("simple_python_0")])
    with pytest.raises(DatasetError, match=r"multiple\.json: No such file"):
        bfcl.read_bfcl(tmp_path, ("multiple",))
    with pytest.raises(DatasetError, match="no category 'web_search'"):
        bfcl.read_bfcl(tmp_path, ("web_search",))
    turns = {**question("multiple_0"), "question": [[], []]}
    write_category(tmp_path, "multiple", [turns])
    with pytest.raises(ProblemError, match="line 1: not a question of one turn"):
        bfcl.read_bfcl(tmp_path, ("multiple",))
    data = tmp_path / "bfcl_eval" / "data"
    (data / "BFCL_v4_multiple.json").write_text("{\n")
    with pytest.raises(ProblemError, match="line 1: not JSON"):
        bfcl.read_bfcl(tmp_path, ("multiple",))
    write_category(tmp_path, "parallel", [question("parallel_0")])
    write_category(tmp_path, "parallel", [question("parallel_1")], None)
    with pytest.raises(ProblemError, match="parallel_1 has no ground truth"):
        bfcl.read_bfcl(tmp_path, ("parallel",))


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Path]:
    """A stand-in for the wheel; modules imported from it are removed."""
    write_checker(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "bfcl_eval"]:
        del sys.modules[name]


def test_the_official_checker_is_asked(package: Path) -> None:
    write_category(package, "simple_java", [question("simple_java_0")])
    write_category(package, "irrelevance", [question("irrelevance_0")], None)
    java, declining = bfcl.read_bfcl(package, ("simple_java", "irrelevance"))
    path = list(sys.path)
    official = bfcl_results.load_checker(package)
    assert sys.path == path
    assert official(java, [{"name": "book", "arguments": {"city": "x"}}])
    assert not official(java, [{"name": "cook", "arguments": {"city": "x"}}])
    assert not official(java, [{"name": "book", "arguments": {"explode": 1}}])
    assert official(declining, [])
    assert not official(declining, [{"name": "book", "arguments": {}}])


def test_a_wheel_without_its_checker(tmp_path: Path) -> None:
    (tmp_path / "bfcl_eval" / "data").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"can't be imported .* pip install tree_sitter"):
        bfcl_results.load_checker(tmp_path)


def test_results_in_bfcls_layout(tmp_path: Path) -> None:
    write_category(tmp_path, "simple_python", [question("simple_python_0")])
    write_category(tmp_path, "live_simple", [question("live_simple_0-0-0")])
    items = bfcl.read_bfcl(tmp_path, ("simple_python", "live_simple"))
    answers = [{"complete": True, "calls": PARIS}, {"complete": False, "calls": [], "text": "[{"}]
    bfcl_results.write_results(tmp_path / "out", "model", zip(items, answers, strict=True))
    folder = tmp_path / "out" / "model"
    path = folder / "non_live" / "BFCL_v4_simple_python_result.json"
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["id"] == "simple_python_0"
    assert json.loads(json.loads(line)["result"]) == PARIS
    path = folder / "live" / "BFCL_v4_live_simple_result.json"
    assert json.loads(path.read_text())["result"] == "[{"


def test_problem_files_and_sets(tmp_path: Path) -> None:
    line = {
        "id": "one", "source": "mine", "query": "Weather in Paris?", "tools": TOOLS,
        "answers": PARIS,
    }  # fmt: skip
    path = tmp_path / "problems.jsonl"
    path.write_text(f"{json.dumps(line)}\n{json.dumps({**line, 'id': 'two', 'tools': []})}\n")
    (one,), (left_out,) = read_problems(path)
    assert (one.id, one.category, one.declines) == ("one", "mine", False)
    assert one.judge(PARIS)
    assert "two" in left_out
    planned = {
        "id": "x", "source": "mine", "split": "test", "refusal": True, "answers": [],
        "messages": one.messages, "tools": TOOLS,
    }  # fmt: skip
    path.write_text(f"{json.dumps(planned)}\n")
    (refusal,) = read_set(tmp_path, "test")
    assert (refusal.category, refusal.declines, refusal.judge([])) == ("refusal", True, True)
    with pytest.raises(DatasetError, match="no validation problem"):
        read_set(tmp_path, "validation")
    path.write_text("{}\n")
    with pytest.raises(DatasetError, match="not the problems of a supervision set"):
        read_set(tmp_path, "test")


def test_a_sample_has_as_many_of_each_category() -> None:
    items = [
        item(f"{c}{n}", c) for c, size in (("a", 30), ("b", 20), ("c", 3)) for n in range(size)
    ]
    drawn = sample(items, 23, seed=1)
    counts = {c: sum(each.category == c for each in drawn) for c in "abc"}
    assert counts == {"a": 10, "b": 10, "c": 3}
    assert drawn == [each for each in items if each in drawn]
    assert drawn == sample(items, 23, seed=1)
    assert drawn != sample(items, 23, seed=2)
    assert sample(items, 1000, seed=1) == items


# ToolAlpaca


def test_f1_counts_as_hammer_does() -> None:
    def named(name: str, **arguments: Any) -> dict[str, Any]:
        return {"name": name, "arguments": arguments}

    gold = [named("f", a=1, b="x", c="")]
    functions, arguments = toolalpaca.count([named("f", a="1", b="y", d="")], gold)
    assert functions == toolalpaca.Counts(1, 1, 1)
    assert arguments == toolalpaca.Counts(1, 2, 2)  # text decides, empty ones don't count
    assert functions.f1 == 1
    assert arguments.f1 == 0.5
    functions, arguments = toolalpaca.count([], gold)
    assert (functions, arguments) == (toolalpaca.Counts(0, 0, 1), toolalpaca.Counts(0, 0, 2))
    assert functions.f1 == 0
    functions, arguments = toolalpaca.count(None, gold)
    assert functions == toolalpaca.Counts(0, 1, 1)
    functions, arguments = toolalpaca.count([named("g")], [named("g")])
    assert arguments == toolalpaca.Counts(1, 0, 0)
    twice = toolalpaca.count([named("f", a=1), named("f", a=2), named("h")], gold)
    assert twice == (toolalpaca.Counts(2, 3, 1), toolalpaca.Counts(1, 2, 2))
    total = toolalpaca.Counts(1, 2, 3) + toolalpaca.Counts(1, 1, 1)
    assert total == toolalpaca.Counts(2, 3, 4)


@pytest.mark.parametrize(
    ("calls", "kind"),
    [
        ([], "declined"),
        ([*PARIS, *PARIS], "too many calls"),
        ([{"name": "other", "arguments": {}}], "function"),
        ([{"name": "weather", "arguments": {}}], "missing argument"),
        ([{"name": "weather", "arguments": {"city": "Paris", "days": 1}}], "extra argument"),
        ([{"name": "weather", "arguments": {"city": "Rome"}}], "value"),
    ],
)
def test_kinds_of_failure(calls: list[dict[str, Any]], kind: str) -> None:
    assert failure(calls, PARIS, "exact") == kind
    possible = [{"weather": {"city": ["Paris"]}}]
    assert failure(calls, possible, "bfcl") == kind
    assert failure(calls or PARIS, [], "exact") == "called"
    assert failure(PARIS, [*PARIS, *PARIS], "exact") == "too few calls"


# Strategies


def test_strategies_are_written_and_read() -> None:
    for text in (
        "greedy", "majority@8", "best-of-n:orm@16", "weighted-vote:toolprm@2",
        "step-beam:c-prm@4x16", "doubt:toolprm@2x8", "doubt:toolprm@2x8/0.7",
    ):  # fmt: skip
        assert str(Strategy.parse(text)) == text
    assert str(Strategy.parse("step-beam", beams=3, expand=5)) == "step-beam:auto@3x5"
    assert str(Strategy.parse("majority", samples=7)) == "majority@7"
    assert str(Strategy.parse("doubt/.25", beams=1, doubt=0.5)) == "doubt:auto@1x8/0.25"
    assert str(Strategy.parse("doubt", beams=1, doubt=0.5)) == "doubt:auto@1x8/0.5"
    assert Strategy.parse("step-beam", doubt=0.5).doubt is None
    for text, said in (
        ("best", "none of greedy"),
        ("step-beam:toolprm@4", "the size of step-beam is NxM"),
        ("majority@2x4", "the size of majority is one number"),
        ("majority:toolprm", "majority has no reward"),
        ("greedy@3", "greedy has no size"),
        ("doubt@2", "the size of doubt is NxM"),
        ("step-beam@2x8/0.5", "no threshold of doubt"),
        ("doubt@2x8/1.5", "no threshold of doubt"),
        ("doubt@2x8/", "none of greedy"),
        ("greedy+8", "none of greedy"),
        ("token-beam@4", "none of greedy"),
        ("step-beam:policy@0x4", "a size is 0"),
        ("", "none of greedy"),
    ):
        with pytest.raises(ConfigError, match=said):
            Strategy.parse(text)


@pytest.fixture
def searcher() -> Searcher:
    return Searcher(MockBackend(RESPONSES))


def by_name(answers: Mapping[Column, Any]) -> dict[str, Any]:
    """The answers of one seed."""
    return {column.strategy: answer for column, answer in answers.items()}


def test_a_contest_answers_as_the_searches_do(searcher: Searcher) -> None:
    head = random_head(searcher, 3, False, "min")
    names = ["greedy", "majority@16", "best-of-n:toolprm@16", "step-beam:toolprm@2x8",
             "step-beam:policy@1x4", "weighted-vote:toolprm@4", "doubt:toolprm@2x8/0.6",
             "doubt:policy@2x8"]  # fmt: skip
    strategies = [Strategy.parse(name) for name in names]
    comparison = Comparison(searcher, strategies, {"toolprm": head, "policy": "policy"}, BASE)
    answers = by_name(comparison.ask(item()))
    assert sorted(answers) == sorted(names)
    for name, kind, reward, sizes in (
        ("greedy", "greedy", "policy", {}),
        ("best-of-n:toolprm@16", "best-of-n", head, {"samples": 16}),
        ("step-beam:toolprm@2x8", "step-beam", head, {"beams": 2, "expand": 8}),
        ("step-beam:policy@1x4", "step-beam", "policy", {"beams": 1, "expand": 4}),
        ("doubt:toolprm@2x8/0.6", "doubt", head, {"beams": 2, "expand": 8, "doubt": 0.6}),
        ("doubt:policy@2x8", "doubt", "policy", {"beams": 2, "expand": 8}),
    ):
        config = SearchConfig(constrain="off", temperature=1.0, strategy=kind, **sizes)
        alone = searcher.search("Weather?", TOOLS, config, reward=reward)
        answer = answers[name]
        assert answer["calls"] == alone.calls
        assert answer["right"] == (alone.calls == PARIS)
        assert answer["score"] == pytest.approx(alone.score, rel=1e-4)
        if kind != "best-of-n":  # the pool also has the greedy response
            assert answer["stats"]["decode_tokens"] == alone.stats.decode_tokens
    assert answers["greedy"]["right"]
    assert answers["majority@16"]["any_right"]
    known = [Column(name, 0) for name in names[1:]]
    assert comparison.ask(item(), known).keys() == {Column("greedy")}
    wrong = by_name(
        comparison.ask(item(right=[{"name": "weather", "arguments": {"city": "Nowhere"}}]))
    )
    assert wrong["greedy"]["failure"] == "value"
    assert not any(answer["any_right"] for answer in wrong.values())


def test_a_pool_has_no_undrawn_ways(searcher: Searcher) -> None:
    strategies = [Strategy.parse("majority@4")]
    answer = Comparison(searcher, strategies, {}, BASE).ask(item())[Column("majority@4", 0)]
    plain = SearchConfig(
        constrain="off", temperature=1.0, samples=4, strategy="best-of-n", way_floor=1.0
    )
    alone = searcher.search("Weather?", TOOLS, plain)
    greedy = searcher.search("Weather?", TOOLS, SearchConfig(constrain="off", strategy="greedy"))
    most = alone.stats.decode_tokens + greedy.stats.decode_tokens
    assert alone.stats.decode_tokens <= answer["stats"]["decode_tokens"] <= most


def test_a_response_that_does_not_end_is_wrong() -> None:
    searcher = Searcher(MockBackend({call("Paris" * 30): 1.0}))
    base = SearchConfig(constrain="off", max_tokens=20)
    strategies = [Strategy.parse("greedy"), Strategy.parse("majority@4")]
    answers = by_name(Comparison(searcher, strategies, {}, base).ask(item(right=[])))
    for given in answers.values():
        assert (given["complete"], given["right"]) == (False, False)
        assert given["failure"] == "incomplete"
    assert answers["greedy"]["text"].startswith('[{"name')


def test_a_problem_that_cannot_be_asked_is_counted(searcher: Searcher) -> None:
    strategies = [Strategy.parse("greedy"), Strategy.parse("majority@4")]
    broken = item()
    broken.tools.append(broken.tools[0])
    answers = by_name(Comparison(searcher, strategies, {}, BASE).ask(broken))
    assert answers.keys() == {"greedy", "majority@4"}
    for given in answers.values():
        assert "both named 'weather'" in given["error"]
        assert given["right"] is False


def test_rewards_that_are_missing_or_cannot_judge_a_pool(searcher: Searcher) -> None:
    with pytest.raises(ConfigError, match="there is no reward 'orm'"):
        Comparison(searcher, [Strategy.parse("best-of-n:orm")], {}, BASE)
    with pytest.raises(ConfigError, match="judged by a head, and policy is none"):
        Comparison(searcher, [Strategy.parse("best-of-n:policy")], {"policy": "policy"}, BASE)


# Runs


def test_a_run_continues_where_it_stopped(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", SETTINGS)
    greedy, vote = Column("greedy"), Column("majority@4", 0)
    run.add({greedy: answer("p0", True), vote: answer("p0", False)})
    run.add({greedy: answer("p1", True)})
    path = tmp_path / "run" / "answers" / "greedy.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id": "p2", "ca')
    again = RunFolder(tmp_path / "run", {**SETTINGS, "rewards": {"orm": "bb"}})
    assert sorted(again.answers(greedy)) == ["p0", "p1"]
    assert path.read_bytes() == whole
    assert again.known([greedy, vote], "p1") == [greedy]
    assert again.settings["rewards"] == {"toolprm": "aa", "orm": "bb"}
    asked: list[tuple[str, list[Column]]] = []

    def ask(problem: Problem, known: Sequence[Column]) -> dict[Column, dict[str, Any]]:
        asked.append((problem.id, list(known)))
        missing = [column for column in (greedy, vote) if column not in known]
        return {column: answer(problem.id, True) for column in missing}

    again.fill([item("p0"), item("p1"), item("p2")], [greedy, vote], ask)
    assert asked == [("p1", [greedy]), ("p2", [])]
    last = RunFolder(tmp_path / "run", SETTINGS)
    assert last.answers(vote).keys() == {"p0", "p1", "p2"}


def test_answers_of_other_settings_do_not_mix(tmp_path: Path) -> None:
    RunFolder(tmp_path, SETTINGS)
    with pytest.raises(ConfigError, match='model was "mock", is "other"'):
        RunFolder(tmp_path, {**SETTINGS, "model": "other"})
    with pytest.raises(ConfigError, match="the reward toolprm is another one"):
        RunFolder(tmp_path, {**SETTINGS, "rewards": {"toolprm": "cc"}})
    (tmp_path / "answers" / "greedy.jsonl").write_text("nonsense\n")
    with pytest.raises(DatasetError, match=r"greedy.jsonl, line 1: not an answer"):
        RunFolder(tmp_path, SETTINGS).answers(Column("greedy"))
    (tmp_path / "settings.json").write_text("[]")
    with pytest.raises(DatasetError, match="not the settings of an evaluation"):
        RunFolder(tmp_path, SETTINGS)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(DatasetError, match="not an evaluation's folder"):
        RunFolder(tmp_path, SETTINGS)


def test_files_have_the_strategies_names() -> None:
    assert slug("step-beam:toolprm@2x8") == "step-beam-toolprm-2x8"
    assert slug("majority@16") == "majority-16"


# Figures


def test_a_summary_of_known_answers() -> None:
    items = [item(f"a{n}") for n in range(4)] + [item(f"b{n}", "b") for n in range(2)]
    items += [item("r", "refusal", right=[]), item("u", bring_up=True)]
    greedy = dict(zip((each.id for each in items), (1, 1, 0, 0, 0, 0, 0, 1), strict=True))
    beam = dict(zip(greedy, (1, 1, 1, 0, 1, 0, 1, 0), strict=True))
    pool = dict(zip(greedy, (1, 0, 0, 0, 0, 0, 0, 0), strict=True))
    anywhere = dict(zip(greedy, (1, 0, 1, 1, 1, 0, 0, 0), strict=True))
    answers = {
        "greedy": [{i: answer(i, bool(r)) for i, r in greedy.items()}],
        "step-beam:toolprm@2x8": [{i: answer(i, bool(r)) for i, r in beam.items()}],
        "majority@4": [
            {i: answer(i, bool(r), any_right=bool(anywhere[i])) for i, r in pool.items()}
        ],
    }
    answers["greedy"][0]["a2"]["failure"] = "value"
    found = summarise([*items, item("unasked")], answers)
    assert (found["problems"], found["answered"], found["judged"]) == (9, 8, 8)
    low, high, _ = found["strategies"]
    assert low["average"] == pytest.approx((2 / 4 + 0 / 2) / 2)
    assert high["average"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert high["average_gain"] == pytest.approx(0.375)
    assert low["all"] == pytest.approx(2 / 7)
    assert high["all"] == pytest.approx(5 / 7)
    assert high["categories"]["a (bring-up)"]["right"] == 0
    assert high["categories"]["refusal"]["share"] == 1
    assert high["average_interval"][0] <= high["average"] <= high["average_interval"][1]
    assert low["average_gain_interval"] == [0, 0]
    assert low["failures"] == {"value": 1}
    assert found["oracle"]["average"] == pytest.approx((4 / 4 + 1 / 2) / 2)
    assert high["way"]["average"] == pytest.approx((0.625 - 0.25) / (0.75 - 0.25))
    assert high["tokens"] == {
        "decoded": 10, "forced": 5, "drawn": 40, "judge": 0, "of_greedy": 1,
    }  # fmt: skip
    assert high["ms"]["without_prefill"] == 6.5
    text = markdown(found, "Title")
    assert "8 problems (of 9" in text
    assert "| step-beam:toolprm@2x8 | 75.0% | 50.0% | 100.0% | 0.0% | 62.5% |" in text


def test_the_official_verdict_and_ours() -> None:
    items = [item("p0"), item("p1"), item("p2")]
    answers = {
        "greedy": [{"p0": answer("p0", True), "p1": answer("p1", True), "p2": answer("p2", None)}]
    }
    found = summarise(items, answers, lambda asked, calls: asked.id != "p1")
    assert found["official"]["disagreements"] == 1
    assert found["official"]["disagree"] == [
        {"strategy": "greedy", "id": "p1", "ours": True, "official": False}
    ]
    assert found["judged"] == 3
    assert found["strategies"][0]["all"] == 1.0
    without = summarise(items, answers)
    assert (without["judged"], without["answered"]) == (2, 3)
    assert "1 more that only the official checker can judge" in markdown(without, "x")


def test_what_could_not_be_asked_has_no_cost() -> None:
    error = {"id": "p0", "category": "a", "right": False, "error": "too long"}
    found = summarise([item("p0")], {"greedy": [{"p0": error}]})
    (row,) = found["strategies"]
    assert (row["errors"], row["all"], row["tokens"]["decoded"]) == (1, 0.0, None)
    assert row["failures"] == {"error": 1}
    assert "| greedy | - |" in markdown(found, "x")


# The budget study


def test_cells_within_a_budget() -> None:
    assert budget.cells((1, 2, 4), (1, 4), 8) == [(1, 1), (2, 1), (1, 4), (4, 1), (2, 4)]
    assert len(budget.cells((1, 2), (1, 2), None)) == 4


def test_more_draws_against_more_beams(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    identities = [f"p{n}" for n in range(40)]
    shares = {(4, 1): 10, (4, 4): 20, (4, 16): 30, (1, 4): 18, (16, 4): 21}
    answers = {
        f"step-beam:auto@{n}x{m}": [{i: answer(i, k < right) for k, i in enumerate(identities)}]
        for (n, m), right in shares.items()
    }
    answers["greedy"] = [{i: answer(i, k < 12) for k, i in enumerate(identities)}]
    cells = [name for name in answers if name.startswith("step-beam")]
    found = budget.study(answers, identities, cells)
    assert found["contrasts"]["more_draws"]["points"] == pytest.approx(50)
    assert found["contrasts"]["more_beams"]["points"] == pytest.approx(7.5)
    contrast = found["contrasts"]["draws_over_beams"]
    assert contrast["points"] == pytest.approx(42.5)
    assert contrast["interval"][0] > 0
    assert found["contrasts"]["4x16 over 16x4"]["points"] == pytest.approx(22.5)
    assert [cell["strategy"] for cell in found["others"]] == ["greedy"]
    assert found["grid"][0]["decoded"] == 15
    plots.write_study(tmp_path, found)
    assert json.loads((tmp_path / "sweep.json").read_text()) == found
    for name in ("grid.png", "budget.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert np.isfinite(contrast["interval"]).all()


def test_only_the_grids_own_cells_are_in_it() -> None:
    identities = ["p0", "p1"]
    grid = [f"step-beam:toolprm@{n}x{m}" for n, m in ((4, 1), (4, 4))]
    answers = {name: [{i: answer(i, True) for i in identities}] for name in grid}
    answers["step-beam:policy@4x16"] = [{i: answer(i, False) for i in identities}]
    found = budget.study(answers, identities, grid)
    assert [cell["strategy"] for cell in found["grid"]] == grid
    assert found["contrasts"]["more_draws"]["points"] == 0
    unjudged = {name: [{"p0": answer("p0", None)}] for name in grid}
    with pytest.raises(DatasetError, match="no answer can be judged"):
        budget.study(unjudged, ["p0"], grid)


def test_names_of_strategies_are_names_of_different_files() -> None:
    names = ["step-beam:my_head@2x8", "step-beam:my-head@2x8", "doubt:a@2x8/1", "doubt:a@2x8+1"]
    assert len({slug(name) for name in names}) == 4


def test_an_error_is_asked_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", SETTINGS)
    column = Column("greedy")
    run.add({column: {"id": "p0", "category": "a", "right": False, "error": "too long"}})
    assert run.known([column], "p0") == []
    run.add({column: answer("p0", True)})
    assert RunFolder(tmp_path / "run", SETTINGS).known([column], "p0") == [column]


def test_one_strategys_error_is_its_own() -> None:
    class Deaf:
        def record(self, *unused: Any) -> Any:
            raise ContextError("too long")

        def search(self, *unused: Any, **more: Any) -> Any:
            return Searcher(MockBackend({"[]": 1.0})).search("q", TOOLS, BASE)

    strategies = [Strategy.parse("greedy"), Strategy.parse("majority@4")]
    base = replace(BASE, prompt="signatures")
    comparison = Comparison(Deaf(), strategies, {}, base)  # type: ignore[arg-type]
    found = by_name(comparison.ask(item(right=[])))
    assert found["greedy"]["right"]
    assert found["majority@4"]["error"] == "too long"


def test_an_answer_that_broke_off_has_no_verdict_where_none_can_be_given() -> None:
    searcher = Searcher(MockBackend({'[{"name": "weather", "arguments": {}}]': 1.0}))
    short = replace(BASE, max_tokens=3)
    java = replace(item(), check="unknown", answers=[])
    strategies = [Strategy.parse("greedy")]
    (own,) = Comparison(searcher, strategies, {}, short).ask(item()).values()
    (none,) = Comparison(searcher, strategies, {}, short).ask(java).values()
    assert (own["complete"], own["right"]) == (False, False)
    assert (none["complete"], none["right"]) == (False, None)


def test_calls_that_no_function_answers_are_counted(tmp_path: Path) -> None:
    write_category(tmp_path, "irrelevance", [question("irrelevance_0")], None)
    (declining,) = bfcl.read_bfcl(tmp_path, ("irrelevance",))
    assert failure([{"name": "book", "arguments": {}}], declining.answers, "bfcl") == "called"


@pytest.mark.parametrize("line", ["[1]", '{"id": "x"}'])
def test_bfcl_lines_of_another_form_are_named(line: str, tmp_path: Path) -> None:
    write_category(tmp_path, "simple_python", [question("simple_python_0")])
    path = tmp_path / "bfcl_eval" / "data" / "possible_answer" / "BFCL_v4_simple_python.json"
    path.write_text(f"{line}\n")
    with pytest.raises(ProblemError, match=r"line 1: .*is this BFCL v4"):
        bfcl.read_bfcl(tmp_path, ("simple_python",))


@pytest.mark.parametrize("moment", range(4))
def test_a_run_that_is_stopped_in_its_first_moments(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0

    def stop() -> None:
        nonlocal count
        count += 1
        if count > moment:
            raise KeyboardInterrupt

    for owner, name in ((Path, "mkdir"), (store, "replace_file")):
        real = getattr(owner, name)

        def stopping(*arguments: Any, real: Any = real, **more: Any) -> None:
            stop()
            real(*arguments, **more)

        monkeypatch.setattr(owner, name, stopping)
    with contextlib.suppress(KeyboardInterrupt):
        RunFolder(tmp_path / "run", SETTINGS)
    monkeypatch.undo()
    assert RunFolder(tmp_path / "run", SETTINGS).answers(Column("greedy")) == {}
