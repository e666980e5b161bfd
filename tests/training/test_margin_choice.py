"""The choice of the policy's weight and of the margins, from searches that are made up."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from toolprm_lite.errors import TrainingError
from toolprm_lite.reward.margin import DEVIATIONS, Deviation, Margin
from toolprm_lite.training.margin import Finalist, Finalists, choose_margin

SOURCES = ("a", "b", "c")


def made(
    kind: Deviation,
    helped: int,
    harmed: int,
    *,
    source: str = "a",
    above: float = 0.3,
    gap: float = -0.1,
) -> Iterator[Finalists]:
    """Searches in which a response of this kind is better by `above`."""
    for right in [True] * helped + [False] * harmed:
        other = Finalist(-0.5 + above, gap, (kind,), right)
        yield Finalists(source, -0.5, not right, (other,))


def test_each_kind_gets_the_least_margin_that_is_shown_not_to_harm() -> None:
    records = [
        *(r for s in SOURCES for r in made("value", 30, 2, source=s, above=0.5)),
        *(r for s in SOURCES for r in made("value", 5, 25, source=s, above=0.15)),
        *(r for s in SOURCES for r in made("declines", 10, 30, source=s)),
        *(r for s in SOURCES for r in made("adds_call", 25, 1, source=s, above=0.05)),
        *made("name", 40, 0, source="a"),
        *made("name", 5, 20, source="b"),
        *made("omits", 3, 0),
    ]
    found = choose_margin(records, policy_gaps=[0.0])
    assert found.margin == Margin(
        declines=math.inf, omits=math.inf, adds_call=0.0, name=math.inf, value=0.2
    )
    assert found.policy_gap == 0.0
    assert dict(found.helped) == dict.fromkeys(SOURCES, 55)
    assert dict(found.harmed) == dict.fromkeys(SOURCES, 3)
    assert found.gain == 3 * 52


def test_what_changes_nothing_does_not_count() -> None:
    records = list(made("value", 30, 0))
    same = [
        Finalists("a", -0.5, right, (Finalist(-0.1, -1.0, ("value",), right),))
        for right in (True, False) * 500
    ]
    equal = [
        Finalists("a", -0.5, True, (Finalist(-0.1, 0.0, (), True),)),
        Finalists("b", 0, True, ()),
    ]
    below = list(made("value", 0, 100, above=-0.2))
    found = choose_margin([*records, *same, *equal, *below])
    assert found.margin.value == 0.0
    assert sum(found.harmed.values()) == 0


def test_the_policys_weight_is_chosen_with_the_margins() -> None:
    # What is far behind the greedy path is wrong, however well the head scores it.
    near = [r for s in SOURCES for r in made("value", 30, 0, source=s, above=0.3, gap=-0.05)]
    far = [r for s in SOURCES for r in made("value", 0, 30, source=s, above=0.3, gap=-2.0)]
    found = choose_margin([*near, *far])
    assert found.policy_gap == 0.5
    assert found.margin.value == 0.0
    assert found.gain == 90
    assert choose_margin([*near, *far], policy_gaps=[0.0]).margin.value == math.inf
    # Where it makes no difference there is none.
    assert choose_margin(near).policy_gap == 0.0


def test_the_best_finalist_depends_on_the_weight() -> None:
    def record(right_near: bool) -> Finalists:
        near = Finalist(-0.4, -0.1, ("value",), right_near)
        far = Finalist(-0.1, -2.0, ("name",), not right_near)
        return Finalists("a", -0.6, False, (far, near))

    found = choose_margin([record(True)] * 20)
    assert (found.policy_gap, found.margin.value) == (0.5, 0.0)
    assert choose_margin([record(False)] * 20).margin.name == 0.0


def test_small_sources_are_judged_together() -> None:
    several = [r for n in range(8) for r in made("value", 3, 0, source=f"small {n}")]
    assert choose_margin(several).margin.value == 0.0
    assert choose_margin(several[:6]).margin.value == math.inf
    harmful = [r for n in range(8) for r in made("value", 0, 3, source=f"bad {n}")]
    big = list(made("value", 60, 0, source="big"))
    assert choose_margin([*big, *harmful]).margin.value == math.inf
    assert choose_margin(big).margin.value == 0.0


def test_of_several_kinds_the_largest_margin_counts() -> None:
    both = [
        Finalists("a", -0.5, True, (Finalist(-0.2, -0.1, ("omits", "value"), False),))
        for _ in range(30)
    ]
    found = choose_margin([*both, *made("value", 300, 0)], policy_gaps=[0.0])
    assert found.margin.value == 0.0
    assert found.margin.omits == math.inf
    assert sum(found.harmed.values()) == 0


def test_where_help_and_harm_are_equally_frequent_it_is_rarely_taken() -> None:
    random = np.random.default_rng(0)
    trials, taken = 400, 0
    for _ in range(trials):
        records = []
        for _ in range(60):
            right = bool(random.random() < 0.5)
            above, gap = float(random.exponential(0.5)), -float(random.exponential(0.5))
            other = Finalist(-1 + above, gap, ("value",), right)
            records.append(Finalists("a", -1.0, not right, (other,)))
        taken += choose_margin(records).margin.value < math.inf
    assert taken <= 0.1 * trials + 2 * math.sqrt(0.09 * trials)


@pytest.mark.parametrize(
    "wrong", [{"policy_gaps": []}, {"margins": []}, {"confidence": 1.0}, {"confidence": 0.0}]
)
def test_nothing_to_choose_from(wrong: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match="give recorded searches"):
        choose_margin([])
    with pytest.raises(TrainingError, match="give recorded searches"):
        choose_margin(list(made("value", 1, 0)), **wrong)  # type: ignore[arg-type]


def test_scores_of_zero_and_no_moves() -> None:
    zero = Finalists("a", -math.inf, True, (Finalist(-math.inf, -1.0, ("value",), False),))
    found = choose_margin([zero] * 30)
    assert [getattr(found.margin, kind) for kind in DEVIATIONS] == [math.inf] * 5
    assert found.gain == 0
