"""The confidence that a result reports: wholes are never likelier than their parts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.step_rewards import KindReward
from support.weather import search, two_calls
from toolprm_lite.reward.base import STEP_KINDS
from toolprm_lite.search.result import CallConfidence, Step, confidence

CHANCES = st.one_of(st.none(), st.floats(0, 1))


def step(call: int | None, kind: str, chance: float | None, argument: str | None = None) -> Step:
    return Step(call, kind, "f", argument, None, "", 1.0, 0.0, chance)


@st.composite
def responses(draw: st.DrawFn) -> list[Step]:
    """Steps of a response with calls, its last ones may be missing."""
    steps = []
    for call in range(draw(st.integers(0, 3))):
        steps.append(step(call, "FUNC_NAME", draw(CHANCES)))
        for argument in draw(st.lists(st.sampled_from("abc"), max_size=4)):
            steps.append(step(call, "ARG_VALUE", draw(CHANCES), argument))
        steps.append(step(call, "PARAM_FINISH", draw(CHANCES)))
        steps.append(step(call, "FUNC_FINISH", draw(CHANCES)))
    steps.append(step(None, "TOTAL_FINISH", draw(CHANCES)))
    return steps[: draw(st.integers(0, len(steps)))] if draw(st.booleans()) else steps


@given(responses())
def test_wholes_are_no_likelier_than_their_parts(steps: list[Step]) -> None:
    calls, whole = confidence(steps)
    ends = [each for each in steps if each.kind == "FUNC_FINISH"]
    assert len(calls) == len(ends)
    for call, end in zip(calls, ends, strict=True):
        # Judged wholes have a number, of what was estimated for one of their steps.
        assert (call.probability is None) == (end.probability is None)
        inside = [each.probability for each in steps if each.call == end.call]
        parts = [part for part in (call.name, *call.arguments.values()) if part is not None]
        if call.probability is not None:
            assert all(call.probability <= part for part in [*parts, end.probability])
            assert call.probability in inside
        for part in parts:
            assert whole is None or whole <= part
    if whole is not None:
        assert steps[-1].kind == "TOTAL_FINISH"
        assert whole <= steps[-1].probability
        assert whole in [each.probability for each in steps]
        assert all(call.probability is None or whole <= call.probability for call in calls)
    elif steps:
        assert steps[-1].kind != "TOTAL_FINISH" or steps[-1].probability is None


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_estimates_that_agree_are_reported_as_they_are(chances: list[float]) -> None:
    name, one, other, parameters, call, whole = sorted(chances, reverse=True)
    found = confidence(
        [
            step(0, "FUNC_NAME", name),
            step(0, "ARG_VALUE", one, "a"),
            step(0, "ARG_VALUE", other, "b"),
            step(0, "PARAM_FINISH", parameters),
            step(0, "FUNC_FINISH", call),
            step(None, "TOTAL_FINISH", whole),
        ]
    )
    assert found == ([CallConfidence(call, name, {"a": one, "b": other})], whole)


class _Rising(KindReward):
    """Surer of the whole than of its parts."""

    rewards = dict(zip(STEP_KINDS, (0.875, 0.5, 0.625, 0.6875, 0.75), strict=True))  # noqa: RUF012


@pytest.mark.parametrize("aggregate", ["last", "min", "prod", "mean"])
def test_only_the_report_changes_not_the_choice(aggregate: Any) -> None:
    text = two_calls(("weather", {"city": "Rome"}), ("clock", {}))
    result = search({text: 1.0}, reward=_Rising(), aggregate=aggregate)
    assert result.confidence == [
        CallConfidence(0.5, 0.875, {"city": 0.5}),
        CallConfidence(0.625, 0.875, {}),
    ]
    assert result.probability == 0.5
    rewards = [_Rising.rewards[each.kind] for each in result.steps]
    assert [each.reward for each in result.steps] == rewards
    assert [each.probability for each in result.steps] == rewards
    if aggregate == "last":
        assert result.score == 0.75
