"""Chooses among heads: on the validation problems, and by what transfers to other sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from toolprm_lite.errors import TrainingError
from toolprm_lite.reward.aggregate import Aggregate
from toolprm_lite.reward.base import STEP_KINDS
from toolprm_lite.reward.chains import chain_scores
from toolprm_lite.reward.head import Head, HeadCard, Label
from toolprm_lite.training.data import Examples, SourceProblems, Supervision, Trajectories
from toolprm_lite.training.fit_head import HeadSettings, OnEpoch, fit_head
from toolprm_lite.training.metrics import choose, grouped_auc
from toolprm_lite.training.rivals import RIVAL_KINDS, Rival

# A response is no more likely right than any beginning of it, so the least reward comes first.
_BY_PLAINNESS: tuple[Aggregate, ...] = ("min", "last", "prod", "mean")

_BLIND = (0.0, 0.25, 0.5)
_DECLINE_ODDS = (1.0, 0.5, 2.0, 0.3, 3.0, 0.2, 0.1)
_TELLING = 20  # problems with right and wrong responses that a source must have to be held out


@dataclass(frozen=True, slots=True)
class Tried:
    """One fit among those compared; `loss` is the validation loss."""

    layers: tuple[int, ...]
    pooled: bool
    settings: HeadSettings
    loss: float
    epoch: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "layers": list(self.layers)}


@dataclass(frozen=True, slots=True)
class Selected:
    """A head and what it was chosen from; `carried` has for each weight of the blind network and
    odds of declining how often the best-ranked response was right on sources held out."""

    head: Head
    tried: list[Tried]
    uses: list[dict[str, Any]]
    carried: list[dict[str, Any]]


OnFit = Callable[[str, int, int], None]
"""Called with what is fitted next, how many fits are done, and how many there will be."""


def select(
    data: Supervision,
    rival: Rival,
    settings: HeadSettings,
    *,
    layers: Sequence[int] | None = None,
    label: Label | None = None,
    on_fit: OnFit | None = None,
    on_epoch: OnEpoch | None = None,
) -> Selected:
    """Fit `rival` with several settings and choose by the validation problems.

    First which states to read (every collected layer alone and all together, without and with
    the pooled ones; `layers` names them instead), then weight decay, width and the pairwise loss,
    one after the other, each by validation loss, all with one member. Then the weight of the blind
    network and the odds of declining, on the train and validation problems of sources that were
    held out one after the other, where there are several; the choice is fitted again with
    `settings.members`. At last label and aggregate. These are chosen by how often the best-ranked
    trajectory is the right one. Raises `TrainingError`.
    """
    base = _base_card(data, rival, layers, label)
    inputs = list(_inputs(data, layers))
    changes: list[list[dict[str, float]]] = [
        [{"weight_decay": value} for value in (0.01, 1.0)],
        [{"width": settings.width * 2}],
        [{"rank_weight": 0.3}],
    ]
    trajectories = data.trajectories()
    held = _telling_sources(data, trajectories)
    fits = len(inputs) + sum(map(len, changes)) + 2 * len(held) + 1
    trials = _Trials(data, base, fits, on_fit, on_epoch)
    place = _best_fit(trials, inputs, changes, settings)
    best, card = trials.tried[place], trials.heads[place].card
    chosen = (best.layers, best.pooled)
    examples = trials.examples(chosen)
    pairs = {
        source: trials.blind_pair(_without(examples, ours.touched), card, best.settings, source)
        for source, ours in held.items()
    }
    carried = _carried(pairs, held, examples, trajectories)
    plain: dict[str, Any] = {"blind": 0.0, "decline_odds": 1.0}
    use = max(carried, key=lambda entry: entry["selection"]) if carried else plain
    if settings.members > 1 or use["blind"] > 0:
        how = replace(best.settings, members=settings.members, blind=use["blind"])
        trials.attempt(chosen, how)
        place = len(trials.heads) - 1
    head = trials.heads[place]
    if use["decline_odds"] != 1:
        head = head.with_decline_odds(use["decline_odds"])
    uses = _uses(head, examples, trajectories, label)
    notes = {"data": data.counts(examples), "fits_tried": trials.done}
    return Selected(_put_to_use(head, uses, notes), trials.tried, uses, carried)


def _base_card(
    data: Supervision, rival: Rival, layers: Sequence[int] | None, label: Label | None
) -> HeadCard:
    """What all fits have on their cards. Raises `TrainingError` without layers to read."""
    card = HeadCard(
        name=rival,
        model=data.model,
        call_format=data.call_format,
        prompt=data.prompt,
        layers=tuple(layers or data.layers),
        pooled=False,
        features=data.features,
        kinds=RIVAL_KINDS[rival],
        label=label or "viable",
    )
    if not card.layers:
        raise TrainingError(
            f"{', '.join(data.names)}: no layer that all sets share; name sets that were "
            "collected in the same way"
        )
    return card


def _put_to_use(head: Head, uses: Sequence[dict[str, Any]], notes: Mapping[str, Any]) -> Head:
    """The head with the chosen label and aggregate, and with more notes on its card."""
    best = _plainest(uses)
    notes = {**head.card.notes, **notes, "validation_selection": best["selection"]}
    card = replace(head.card, label=best["label"], aggregate=best["aggregate"], notes=notes)
    return Head(card, head.weights)


_Input = tuple[tuple[int, ...], bool]  # the layers whose states are read, and whether pooled ones


class _Trials:
    """The fits on the way to a choice, `heads` in the order of `tried`."""

    def __init__(
        self,
        data: Supervision,
        base: HeadCard,
        fits: int,
        on_fit: OnFit | None,
        on_epoch: OnEpoch | None,
    ) -> None:
        self.tried: list[Tried] = []
        self.heads: list[Head] = []
        self.done = 0
        self._data, self._base, self._fits = data, base, fits
        self._on_fit, self._on_epoch = on_fit, on_epoch
        self._loaded: tuple[_Input, Examples] | None = None

    def examples(self, chosen: _Input) -> Examples:
        """The steps with these states; the last ones are kept."""
        if self._loaded is None or self._loaded[0] != chosen:
            self._loaded = None  # frees the memory before the next ones are read
            self._loaded = (chosen, self._data.examples(*chosen))
        return self._loaded[1]

    def attempt(self, chosen: _Input, settings: HeadSettings) -> None:
        """Fit a head that is a candidate."""
        examples = self.examples(chosen)
        what = f"layers {'+'.join(map(str, chosen[0]))}{' pooled' * chosen[1]}"
        card = replace(self._base, layers=chosen[0], pooled=chosen[1])
        head = self._fit(examples, card, settings, what)
        notes = head.card.notes
        self.heads.append(head)
        self.tried.append(Tried(*chosen, settings, notes["validation_loss"], notes["epoch"]))

    def blind_pair(
        self, examples: Examples, card: HeadCard, settings: HeadSettings, source: str
    ) -> list[Head]:
        """A head that sees the states and one that does not, fitted without a source."""
        return [
            self._fit(examples, card, replace(settings, blind=blind), f"without {source}")
            for blind in (0.0, 1.0)
        ]

    def best(self) -> int:
        """The place of the least validation loss."""
        return min(range(len(self.tried)), key=lambda place: self.tried[place].loss)

    def _fit(self, examples: Examples, card: HeadCard, how: HeadSettings, what: str) -> Head:
        if self._on_fit is not None:
            self._on_fit(f"{self._base.name}: {what}", self.done, self._fits)
        self.done += 1
        return fit_head(examples, card, how, self._on_epoch)


def _best_fit(
    trials: _Trials,
    inputs: Sequence[_Input],
    changes: Sequence[Sequence[Mapping[str, float]]],
    settings: HeadSettings,
) -> int:
    """Fit with each input, then with each group's changes to the best so far. The place of the
    least validation loss."""
    for chosen in inputs:
        trials.attempt(chosen, replace(settings, members=1))
    for group in changes:
        best = trials.tried[trials.best()]
        for change in group:
            changed = replace(best.settings, **change)  # type: ignore[arg-type]
            trials.attempt((best.layers, best.pooled), changed)
    return trials.best()


def _inputs(data: Supervision, layers: Sequence[int] | None) -> Iterator[_Input]:
    groups = [(layer,) for layer in data.layers] if layers is None else []
    whole = tuple(data.layers if layers is None else layers)
    for group in [*groups, *([whole] if whole not in groups else [])]:
        yield group, False
        if data.pooled:
            yield group, True


def _telling_sources(data: Supervision, trajectories: Trajectories) -> dict[str, SourceProblems]:
    """The sources whose train and validation problems can decide a choice, and without which
    there is something to learn from. What is joined with a source's problems goes with it."""
    found = {}
    for name, rows in data.sources().items():
        ours, others = _known_of(trajectories, rows.whole), _known_of(trajectories, ~rows.touched)
        if not {0, 1} <= set(others.split.tolist()):
            continue
        scores = np.zeros(len(ours.right))
        choice = choose(scores, ours.right, ours.complete, ours.draws, ours.greedy, ours.group)
        if choice.mixed.sum() >= _TELLING:
            found[name] = rows
    return found


def _known_of(trajectories: Trajectories, problems: npt.NDArray[np.bool_]) -> Trajectories:
    known = (trajectories.split != 2) & problems[trajectories.problem]
    return trajectories.take(known & trajectories.complete & (trajectories.last >= 0))


def _without(examples: Examples, problems: npt.NDArray[np.bool_]) -> Examples:
    """The same with some problems as test."""
    split = np.where(problems[examples.problem], 2, examples.split).astype(np.int8)
    return replace(examples, split=split)


def _carried(
    heads: Mapping[str, Sequence[Head]],
    held: Mapping[str, SourceProblems],
    examples: Examples,
    trajectories: Trajectories,
) -> list[dict[str, Any]]:
    """How often each weight of the blind head, and odds of declining, choose right on the sources
    that were held out.

    `heads` are, by source, one that sees the states and one that does not.
    """
    tried = [(weight, odds) for weight in _BLIND for odds in _DECLINE_ODDS]
    picked: dict[tuple[float, float], list[npt.NDArray[np.float64]]] = {use: [] for use in tried}
    declines = (examples.kinds == STEP_KINDS.index("TOTAL_FINISH")) & (examples.previous < 0)
    for source, pair in heads.items():
        ours = _known_of(trajectories, held[source].whole)
        logits = []
        for head in pair:
            rewards = head.probabilities(
                examples.kinds, examples.features, examples.hidden, "viable"
            ).astype(np.float64)
            rewards = rewards.clip(1e-6, 1 - 1e-6)
            logits.append(np.log(rewards / (1 - rewards)))
        for weight, odds in tried:
            mean = (1 - weight) * logits[0] + weight * logits[1] + math.log(odds) * declines
            scores = chain_scores(mean, examples.previous, "min")[ours.last]
            found = choose(scores, ours.right, ours.complete, ours.draws, ours.greedy, ours.group)
            picked[weight, odds].append(found.picked[found.mixed])
    return [
        {
            "blind": weight,
            "decline_odds": odds,
            "selection": float(np.concatenate(parts).mean()),
            "problems": sum(map(len, parts)),
            "sources": {
                source: float(part.mean()) for source, part in zip(heads, parts, strict=True)
            },
        }
        for (weight, odds), parts in picked.items()
        if parts
    ]


def _uses(
    head: Head, examples: Examples, trajectories: Trajectories, label: Label | None
) -> list[dict[str, Any]]:
    """How well each label and aggregate choose among the validation trajectories.

    Where nothing can be compared (no problem with right and wrong trajectories), the first one is
    chosen: viability so far, which a search needs.
    """
    ours = trajectories.take((trajectories.split == 1) & trajectories.complete)
    uses: list[dict[str, Any]] = []
    labels: tuple[Label, ...] = ("viable", "local") if label is None else (label,)
    for name in labels:
        rewards = head.probabilities(examples.kinds, examples.features, examples.hidden, name)
        for aggregate in _BY_PLAINNESS:
            scores = chain_scores(rewards, examples.previous, aggregate)[ours.last]
            found = choose(scores, ours.right, ours.complete, ours.draws, ours.greedy, ours.group)
            mixed = found.picked[found.mixed]
            uses.append(
                {
                    "label": name,
                    "aggregate": aggregate,
                    "selection": float(mixed.mean()) if len(mixed) else 0.0,
                    "auc": _known(grouped_auc(scores, ours.right, ours.group)),
                    "problems": len(mixed),
                }
            )
    return uses


def _plainest(uses: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first that comes within one standard error, its own, of the best.

    A few problems more or less are no evidence, and the first ones follow from theory: the
    probability that all so far can still become right compares responses of any length.
    """
    best = max(use["selection"] for use in uses)

    def reach(use: dict[str, Any]) -> float:
        share: float = use["selection"]
        return share + math.sqrt(share * (1 - share) / max(1, use["problems"]))

    return next(use for use in uses if reach(use) >= best)


def _known(value: float) -> float:
    return value if np.isfinite(value) else 0.0
