"""One recorded pool of responses for all strategies that draw whole responses: majority vote,
best-of-n by any head, weighted votes, and the oracle. Nothing is decoded twice for them.

`Searcher.record` makes the record; the choices made here are those of the searches that draw the
same responses (same seed, same number) on their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolprm_lite.errors import HeadError
from toolprm_lite.reward.base import FEATURES, STEP_KINDS
from toolprm_lite.reward.chains import Float64Array, chain_scores, gap_weights
from toolprm_lite.reward.head import Head
from toolprm_lite.reward.margin import Margin, deviations
from toolprm_lite.search.steps import Call
from toolprm_lite.search.text import closed_calls


@dataclass(frozen=True, slots=True)
class Drawn:
    """One distinct response of a pool: its calls, how many draws wrote it, and the last steps of
    the different ways in which it was written."""

    calls: list[Call]
    draws: int
    lasts: tuple[int, ...]


class Pool:
    """The distinct complete responses that were drawn, and the most likely one.

    `record` is `Searcher.record`'s, with `states` of the boundary tokens at `layers` and, behind
    them, their means over each step's tokens. `greedy` is the most likely response, or None where
    it did not end.
    """

    def __init__(self, record: Mapping[str, Any], layers: tuple[int, ...]) -> None:
        self._record = record
        self._layers = layers
        self._previous = np.asarray(record["previous"], np.int64)
        kinds = [STEP_KINDS.index(found.step.kind) for found in record["steps"]]
        self._kinds = np.array(kinds, np.int8)
        self.greedy: Drawn | None = None
        found: dict[int, Drawn] = {}
        for trajectory in record["trajectories"]:
            last, draws = trajectory.last_step, trajectory.draws
            if not trajectory.finished or last < 0:
                continue
            drawn = Drawn(closed_calls(self._chain(last)), draws, (last,))
            if trajectory.greedy:
                self.greedy = drawn
            key = record["steps"][last].step.decided
            if draws and key in found:
                first = found[key]
                found[key] = Drawn(first.calls, first.draws + draws, (*first.lasts, last))
            elif draws:
                found[key] = drawn
        self.responses = list(found.values())
        """Each distinct response that was drawn, in the order first written."""

    def scores(self, head: Head, policy_gap: float | None = None) -> Float64Array:
        """The score of each of `responses`, [responses]: the head's, aggregated as its card says,
        with `policy_gap` as in `SearchConfig`; of one written in several ways the best.

        Raises `HeadError` for a head that reads layers which were not recorded.
        """
        steps = self._step_scores(head, policy_gap)
        return np.array([steps[list(response.lasts)].max() for response in self.responses])

    def _step_scores(self, head: Head, policy_gap: float | None) -> Float64Array:
        """The score of the response up to each step, [steps]."""
        card = head.card
        states = self._record["states"]
        width = card.model.width
        if not set(card.layers) <= set(self._layers):
            raise HeadError(
                f"{head.source}: the head reads layers {', '.join(map(str, card.layers))}, and "
                f"{', '.join(map(str, self._layers))} were recorded; record those, too"
            )
        columns = [self._layers.index(layer) for layer in card.layers]
        if card.pooled:
            columns += [len(self._layers) + column for column in columns]
        hidden = np.concatenate(
            [states[:, column * width : (column + 1) * width] for column in columns], axis=1
        )
        features = head.columns_of(self._record["features"], FEATURES)
        rewards = head.probabilities(self._kinds, features, hidden)
        weights = gap_weights(
            card.policy_gap if policy_gap is None else policy_gap, self._record["gaps"]
        )
        return chain_scores(rewards, self._previous, card.aggregate) * weights

    def kept_to_greedy(
        self, chosen: Drawn | None, head: Head, policy_gap: float | None, margin: Margin | None
    ) -> tuple[Drawn, float] | None:
        """The most likely response and its score, where `chosen` is not better by `margin`
        (`SearchConfig`'s, as `policy_gap`); else None."""
        margin = head.card.margin if margin is None else margin
        if margin.largest == 0 or self.greedy is None:
            return None
        steps = self._step_scores(head, policy_gap)
        score = float(steps[self.greedy.lasts[0]])
        if chosen is not None:
            kinds = deviations(chosen.calls, self.greedy.calls)
            if margin.met(float(steps[list(chosen.lasts)].max()), score, kinds):
                return None
        return self.greedy, score

    def majority(self) -> Drawn | None:
        """What most draws wrote; of equals the first. None when nothing was complete."""
        return max(self.responses, key=lambda response: response.draws, default=None)

    def best(self, scores: Float64Array, *, weighted: bool = False) -> Drawn | None:
        """The response of the highest score, or `weighted` by its draws; ties go to more draws."""
        if not self.responses:
            return None
        votes = np.array([response.draws for response in self.responses])
        keys = (votes, scores * votes if weighted else scores)
        return self.responses[int(np.lexsort(keys)[-1])]

    def _chain(self, last: int) -> list[Any]:
        chain = []
        step = last
        while step >= 0:
            chain.append(self._record["steps"][step].step)
            step = int(self._previous[step])
        return chain[::-1]
