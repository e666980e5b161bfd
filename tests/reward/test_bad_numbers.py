"""Numbers that are not finite, or out of range, are errors that name their source."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.heads import make_head, make_steps
from support.judge_backend import JudgeBackend
from support.mock_backend import MockBackend
from support.step_rewards import KindReward, States
from support.weather import QUESTION, RESPONSES, TOOLS, settings
from toolprm_lite import Searcher, SearchQueue
from toolprm_lite.errors import HeadError, ModelError, ToolprmError
from toolprm_lite.evaluation.generative import GenerativeReward
from toolprm_lite.search import loop
from toolprm_lite.search.config import STRATEGIES

BAD = [float("nan"), float("inf"), float("-inf"), -0.5, 1.01, 1e39]


class Gives(KindReward):
    """A reward of a caller's own class; the value is for values, others get 0.5."""

    name = "mine"

    def __init__(self, value: float) -> None:
        self.value = value

    def score(self, batch: Any) -> Any:
        kinds = [step.kind for step in batch.candidates()]
        return [self.value if kind == "ARG_VALUE" else 0.5 for kind in kinds]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_reward_out_of_range_names_itself_and_the_step(strategy: str, value: float) -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    config = settings(strategy)
    named = r"reward mine \(Gives\) gave \S+ for the step ARG_VALUE '.*\"city\".*; a reward must"
    for ask in (searcher.search, SearchQueue(searcher).search):
        with pytest.raises(ToolprmError, match=named):
            ask(QUESTION, TOOLS, config, reward=Gives(value))

    def judge(steps: list[Any]) -> list[float]:
        return [value if step.kind == "ARG_VALUE" else 0.5 for step in steps]

    with pytest.raises(ToolprmError, match=r"reward judge gave \S+ for the step ARG_VALUE"):
        searcher.search(QUESTION, TOOLS, config, reward=judge)
    assert searcher.search(QUESTION, TOOLS, config).complete


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (None, r"shape \(\)"), ("x", "no list of numbers"), (["x"], "no list of numbers"),
        ([0.5] * 99, r"shape \(99,\)"), (0.5, r"shape \(\)"), ([[0.5]], r"shape"),
        ([10**400], "no list of numbers"),
    ],
)  # fmt: skip
def test_a_reward_of_another_shape_is_named(given: Any, named: str) -> None:
    class Odd(KindReward):
        name = "odd"

        def score(self, batch: Any) -> Any:
            return given

    searcher = Searcher(MockBackend(RESPONSES))
    with pytest.raises(ToolprmError, match=rf"reward odd \(Odd\) gave .*{named}"):
        searcher.search(QUESTION, TOOLS, settings("greedy"), reward=Odd())
    with pytest.raises(ToolprmError, match=f"gave .*{named}"):
        searcher.search(QUESTION, TOOLS, settings("greedy"), reward=lambda steps: given)


def test_what_rounds_beyond_one_is_one() -> None:
    searcher = Searcher(MockBackend(RESPONSES))
    result = searcher.search(QUESTION, TOOLS, settings("greedy"), reward=Gives(1 + 1e-6))
    assert max(step.reward or 0.0 for step in result.steps) == 1.0


@pytest.mark.parametrize("value", BAD)
def test_the_core_refuses_them_too(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        loop,
        "checked_rewards",
        lambda reward, batch: np.full(len(batch.kinds), value, np.float32),
    )
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="a reward must be a number"):
        Searcher(MockBackend(RESPONSES)).search(QUESTION, TOOLS, settings("greedy"))


# What overflows in the model


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_head_says_that_states_overflow(value: float) -> None:
    head = make_head()
    batch = make_steps(head)
    assert batch.hidden is not None
    batch.hidden[3, 2] = value
    with pytest.raises(HeadError, match=r"hidden states .* not finite: float16 .*--dtype"):
        head.score(batch)


class Overflows(MockBackend):
    """Its logits hold a bad number from a step on, as where a float16 sum overflows."""

    value = float("nan")
    after = 0

    def _logits(self, tree: Any, path: tuple[int, ...]) -> Any:
        logits = super()._logits(tree, path)
        if len(path) >= self.after:
            logits[5] = self.value
        return logits


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_logits_that_overflow_are_an_error(strategy: str, after: int, value: float) -> None:
    model = Overflows(RESPONSES)
    model.after, model.value = after, value
    searcher = Searcher(model)
    for ask in (searcher.search, SearchQueue(searcher).search):
        with pytest.raises(ModelError, match=r"logits .* not finite: float16 .*--dtype"):
            ask(QUESTION, TOOLS, settings(strategy), reward=States())


def test_a_judge_whose_logits_overflow_says_so() -> None:
    class Broken(JudgeBackend):
        def _output(self, paths: Any, mask: Any, k: int, hidden: Any) -> Any:
            output = super()._output(paths, mask, k, hidden)
            output.entropy[:] = np.nan
            output.top_logprobs[:] = np.nan
            return output

    judge = GenerativeReward(Broken(context=8192))
    with pytest.raises(ModelError, match=r"logits .* not finite"):
        Searcher(MockBackend(RESPONSES)).search(QUESTION, TOOLS, settings("greedy"), reward=judge)
