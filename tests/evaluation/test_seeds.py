"""An evaluation with several seeds: what is run, how a run continues, what is reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.eval_cases import BASE, RESPONSES, SETTINGS, answer, item
from support.mock_backend import MockBackend
from toolprm_lite import Searcher
from toolprm_lite.errors import ConfigError
from toolprm_lite.evaluation import budget
from toolprm_lite.evaluation.intervals import interval
from toolprm_lite.evaluation.markdown import markdown
from toolprm_lite.evaluation.runs import Column, RunFolder
from toolprm_lite.evaluation.strategies import Comparison, Strategy
from toolprm_lite.evaluation.summary import summarise
from toolprm_lite.tasks.problem import Problem

VOTE = "majority@4"


def comparison(*names: str, seeds: int = 3, **settings: Any) -> Comparison:
    strategies = [Strategy.parse(name) for name in names]
    base = replace(BASE, **settings)
    return Comparison(
        Searcher(MockBackend(RESPONSES)), strategies, {"policy": "policy"}, base, seeds
    )


# Asking


def test_what_draws_is_asked_with_every_seed_and_what_does_not_once() -> None:
    once = ("greedy", "doubt:policy@2x4/0")
    often = (VOTE, "step-beam:policy@1x4", "doubt:policy@2x4/0.9")
    columns = comparison(*once, *often, seed=7).columns
    assert all(columns[name] == [Column(name)] for name in once)
    assert all(columns[name] == [Column(name, seed) for seed in (7, 8, 9)] for name in often)
    for settings in ({"temperature": 0.0}, {"top_k": 1}):
        assert comparison(VOTE, **settings).columns == {VOTE: [Column(VOTE)]}


def test_each_seed_is_the_search_of_that_seed() -> None:
    name = "step-beam:policy@1x4"
    asked = comparison("greedy", name, VOTE, temperature=2.0)
    answers = asked.ask(item())
    assert answers.keys() == {
        Column("greedy"),
        *(Column(each, seed) for each in (name, VOTE) for seed in range(3)),
    }
    for seed in range(3):
        alone = comparison(name, VOTE, seeds=1, seed=seed, temperature=2.0).ask(item())
        for column, expected in alone.items():
            assert answers[column]["calls"] == expected["calls"]
            counts = [found["stats"]["decode_tokens"] for found in (answers[column], expected)]
            assert counts[0] == counts[1]
    rest = asked.ask(item(), [column for column in answers if column != Column(VOTE, 1)])
    assert rest.keys() == {Column(VOTE, 1)}


def test_seeds_beyond_the_largest_are_refused() -> None:
    with pytest.raises(ConfigError, match="seed"):
        comparison(VOTE, seeds=2, seed=(1 << 64) - 1)


# Runs


def test_a_run_continues_with_more_seeds(tmp_path: Path) -> None:
    asked: list[tuple[str, list[Column]]] = []

    def fill(seeds: int) -> RunFolder:
        run = RunFolder(tmp_path, {**SETTINGS, "seeds": seeds})
        columns = [Column("greedy"), *(Column(VOTE, seed) for seed in range(seeds))]

        def ask(problem: Problem, known: Sequence[Column]) -> dict[Column, dict[str, Any]]:
            missing = [column for column in columns if column not in known]
            asked.append((problem.id, missing))
            return {column: answer(problem.id, column.seed == 1) for column in missing}

        run.fill([item("p0"), item("p1")], columns, ask)
        return run

    fill(2)
    asked.clear()
    run = fill(3)
    assert asked == [("p0", [Column(VOTE, 2)]), ("p1", [Column(VOTE, 2)])]
    assert run.settings["seeds"] == 3
    asked.clear()
    assert fill(1).settings["seeds"] == 3
    assert asked == []
    lines = (tmp_path / "answers" / "majority-4.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [0, 1, 0, 1, 2, 2]
    again = RunFolder(tmp_path, {**SETTINGS, "seeds": 3})
    assert [again.answers(Column(VOTE, seed))["p1"]["right"] for seed in range(3)] == [
        False, True, False,
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="seed was 0, is 1"):
        RunFolder(tmp_path, {**SETTINGS, "seed": 1, "seeds": 3})


def test_answers_whose_draws_did_not_depend_on_the_prompt_are_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({"format": 1, **SETTINGS}))
    with pytest.raises(ConfigError, match=r"an earlier version.*another --output"):
        RunFolder(tmp_path, SETTINGS)


# Figures


def test_a_summary_over_seeds() -> None:
    items = [item(f"a{n}") for n in range(4)] + [item(f"b{n}", "b") for n in range(2)]
    seeds = ([1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 1, 1], [1, 1, 1, 0, 1, 1])
    runs = [
        {each.id: answer(each.id, bool(r)) for each, r in zip(items, right, strict=True)}
        for right in seeds
    ]
    greedy = {each.id: answer(each.id, each.id in ("a0", "b0")) for each in items}
    runs[0]["a2"]["failure"] = runs[1]["a2"]["failure"] = "value"
    found = summarise(items, {"greedy": [greedy], VOTE: runs})
    low, high = found["strategies"]
    assert (low["seeds"], high["seeds"]) == (1, 3)
    assert (low["average_spread"], low["all_spread"]) == (None, None)
    category = high["categories"]["a"]
    assert (category["problems"], category["right"]) == (4, 6)
    assert category["share"] == pytest.approx(0.5)
    averages = [(0.5 + 0.5) / 2, (0.25 + 1) / 2, (0.75 + 1) / 2]
    assert high["average"] == pytest.approx(np.mean(averages))
    assert high["average_spread"] == pytest.approx(np.std(averages, ddof=1))
    assert high["all"] == pytest.approx(11 / 18)
    assert high["average_gain"] == pytest.approx(np.mean(averages) - (0.25 + 0.5) / 2)
    assert high["failures"] == {"value": 2}
    assert high["tokens"]["of_greedy"] == 1
    assert found["oracle"]["seeds"] == 3
    del runs[2]["a1"]
    assert summarise(items, {"greedy": [greedy], VOTE: runs})["answered"] == 5
    text = markdown(found, "x")
    assert "| seeds | SD over seeds (average, all) |" in text
    assert f"| 3 | {100 * np.std(averages, ddof=1):.1f}, 19.2 |" in text
    assert "SD over seeds" not in markdown(summarise(items, {"greedy": [greedy]}), "x")


def test_a_sweep_averages_over_seeds() -> None:
    grid = [f"step-beam:auto@4x{m}" for m in (1, 4)]
    few = [{"p0": answer("p0", seed == 0), "p1": answer("p1", False)} for seed in range(2)]
    many = [{name: answer(name, True) for name in ("p0", "p1")} for _ in range(2)]
    found = budget.study(dict(zip(grid, (few, many), strict=True)), ["p0", "p1"], grid)
    assert [cell["share"] for cell in found["grid"]] == [0.25, 1.0]
    assert found["contrasts"]["more_draws"]["points"] == 75


def test_intervals_contain_the_variance_of_problems_and_of_seeds() -> None:
    # Each problem has a probability of its own to be answered right, drawn again for every run.
    random = np.random.default_rng(1)
    shapes = ((0.5, 0.5), (1.2, 0.6))  # of two categories; their weights are equal
    problems, seeds, runs = 25, 3, 400
    truth = float(np.mean([a / (a + b) for a, b in shapes]))
    covered = dict.fromkeys(("problems", "answers", "seeds"), 0)
    for _ in range(runs):
        groups = []
        for a, b in shapes:
            chance = random.beta(a, b, size=(problems, 1))
            groups.append((random.random((problems, seeds)) < chance).astype(np.float64))
        shares = np.mean([group.mean(axis=0) for group in groups], axis=0)
        bounds = {
            "problems": interval(
                [group.mean(axis=1) for group in groups], weighted=True, rounds=400
            ),
            # As if the answers to one problem were independent, and as if problems were fixed.
            "answers": interval([group.ravel() for group in groups], weighted=True, rounds=400),
            "seeds": shares.mean() + np.array([-2, 2]) * shares.std(ddof=1) / np.sqrt(seeds),
        }
        for name, (low, high) in bounds.items():
            covered[name] += low <= truth <= high
    # 95% of 400 runs have a standard error of 1.1%.
    assert 0.915 < covered["problems"] / runs < 0.985
    assert covered["answers"] / runs < 0.9
    assert covered["seeds"] / runs < 0.8
