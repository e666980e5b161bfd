"""Chooses the policy's weight and the margins of a head from recorded searches.

Leaving the greedy answer helps where that is wrong and the other is right, and harms where it is
the other way round. A margin is taken only where harm is shown to be no more frequent than help, on
every source of problems. This is Learn then Test (Angelopoulos et al. 2021): each pair of a weight
and a margin is a hypothesis "it harms at least as often as it helps", tested exactly; Bonferroni's
correction makes the choice among all of them valid.

The test is the sign test. Given the number of problems on which only one of the two answers is
right, and if harm is as frequent as help, the harmed ones are Binomial(n, 1/2) (McNemar 1947); it
rejects where the upper Clopper-Pearson bound of their share is at most 1/2, that is, where the
bound of harmed - helped is at most 0. Hoeffding's bound holds too, but it is of all problems, most
of which nothing changes: 1,000 of them with 50 helped and none harmed do not pass it. All sources
must reject, which needs no correction (Berger 1982).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from toolprm_lite.errors import TrainingError
from toolprm_lite.reward.aggregate import LEAST_GAP
from toolprm_lite.reward.margin import DEVIATIONS, Deviation, Margin

POLICY_GAPS = (0.0, 0.5, 1.0)
MARGINS = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)
_REST = "the other sources"


@dataclass(frozen=True, slots=True)
class Finalist:
    """A whole response that a search has ended with.

    `log_score` is the logarithm of the head's score, without the policy's evidence; `gap` as in
    `SearchConfig.policy_gap`, in nats; `kinds` are its `deviations` from the greedy answer.
    """

    log_score: float
    gap: float
    kinds: tuple[Deviation, ...]
    right: bool


@dataclass(frozen=True, slots=True)
class Finalists:
    """Those of one search. `source` names the data set of the problem; the head must not have been
    fitted to it."""

    source: str
    greedy_log_score: float
    greedy_right: bool
    others: tuple[Finalist, ...]


@dataclass(frozen=True, slots=True)
class ChosenMargin:
    """What was chosen, and how many problems it helps and harms, by source, compared with greedy
    decoding."""

    policy_gap: float
    margin: Margin
    helped: Mapping[str, int]
    harmed: Mapping[str, int]

    @property
    def gain(self) -> int:
        return sum(self.helped.values()) - sum(self.harmed.values())


def choose_margin(
    records: Sequence[Finalists],
    *,
    policy_gaps: Sequence[float] = POLICY_GAPS,
    margins: Sequence[float] = MARGINS,
    confidence: float = 0.9,
) -> ChosenMargin:
    """The weight and the margins that help most, of those that are shown not to harm.

    For each weight and each kind of deviation the least of `margins` is taken that every source
    accepts, infinity where there is none. `confidence` is that of each kind's choice. Sources that
    have too few problems to show anything alone are judged as one.

    Of equal weights the least is taken. Raises `TrainingError` where there is nothing to choose
    from.
    """
    if not records or not policy_gaps or not margins or not 0 < confidence < 1:
        raise TrainingError("give recorded searches, weights and margins to choose from")
    level = (1 - confidence) / (len(set(policy_gaps)) * len(set(margins)))
    best: ChosenMargin | None = None
    for policy_gap in sorted(set(policy_gaps)):
        moves = _moves(records, policy_gap)
        margin = Margin(**{kind: _least(moves, kind, margins, level) for kind in DEVIATIONS})
        taken = [move for move in moves if move.above >= margin.needed(move.kinds)]
        found = ChosenMargin(
            policy_gap, margin, _count(taken, helps=True), _count(taken, helps=False)
        )
        if best is None or found.gain > best.gain:
            best = found
    assert best is not None
    return best


@dataclass(frozen=True, slots=True)
class _Move:
    """A search whose best response is not the greedy one, and only one of the two is right."""

    source: str
    kinds: tuple[Deviation, ...]
    above: float  # of its score over the greedy one's, as a logarithm
    helps: bool


def _moves(records: Iterable[Finalists], policy_gap: float) -> list[_Move]:
    moves = []
    for record in records:
        if not record.others:
            continue
        scores = [each.log_score + policy_gap * max(each.gap, LEAST_GAP) for each in record.others]
        place = max(range(len(scores)), key=scores.__getitem__)
        best, above = record.others[place], scores[place] - record.greedy_log_score
        # A response that has no deviation is the greedy answer; not above it, it is not taken.
        if best.kinds and above >= 0 and best.right != record.greedy_right:
            moves.append(_Move(record.source, best.kinds, above, best.right))
    return moves


def _least(
    moves: Sequence[_Move], kind: Deviation, margins: Sequence[float], level: float
) -> float:
    """The least margin of a kind that every source accepts, or infinity."""
    mine = [move for move in moves if kind in move.kinds]
    # All of the n must help for 2^-n to be below the level.
    enough = math.ceil(-math.log2(level))
    sizes = Counter(move.source for move in mine)
    group = {source: source if sizes[source] >= enough else _REST for source in sizes}
    for margin in sorted(set(margins)):
        taken = [move for move in mine if move.above >= margin]
        tests = [
            [move.helps for move in taken if group[move.source] == name]
            for name in set(group.values())
        ]
        if tests and all(_p_value(len(helps) - sum(helps), len(helps)) <= level for helps in tests):
            return margin
    return math.inf


def _p_value(harmed: int, size: int) -> float:
    """Of so few harmed or fewer, where harm is as frequent as help."""
    as_few = sum(math.comb(size, count) for count in range(harmed + 1))
    return as_few / float(1 << size)


def _count(moves: Iterable[_Move], helps: bool) -> Counter[str]:
    return Counter(move.source for move in moves if move.helps == helps)
