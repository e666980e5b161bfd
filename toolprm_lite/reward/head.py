"""The head: from a step's hidden state and features to the probability that the step is right.

It knows numpy alone; its file is in `head_file`, what fits it in `toolprm_lite.training`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from toolprm_lite.backends.base import NOT_FINITE, ModelInfo
from toolprm_lite.errors import HeadError
from toolprm_lite.reward.aggregate import Aggregate
from toolprm_lite.reward.base import CERTAINTY, STEP_KINDS, Float32Array, StepBatch
from toolprm_lite.reward.margin import NO_MARGIN, Margin

Label = Literal["local", "viable"]

LABELS: tuple[Label, ...] = get_args(Label)
"""`local`: is this decision itself right? `viable`: can everything so far still become right?"""

CLIP = 8.0
"""Standardised inputs are cut off here: some dimensions of a hidden state have rare, huge
values."""

_DECLINED = "declined"  # the feature that is 1 where a response ends without a call
_CHUNK = 8192  # rows at a time, so that scoring a whole set needs little memory


@dataclass(frozen=True, slots=True)
class FittedModel:
    """The model whose hidden states a head was fitted to. `vocabulary` is its sha256 in hex."""

    name: str
    architecture: str
    width: int
    layers: int
    vocabulary: str
    adapter: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadCard:
    """What a head is.

    Attributes:
        name: shown to users, such as `toolprm`.
        model: what it was fitted to.
        call_format: how that model wrote its calls.
        prompt: how tools were explained to it, see `SearchConfig.prompt`.
        layers: the hidden states it reads, in the order of its input.
        pooled: whether it also reads their means over the step's tokens.
        features: names of the feature columns that it reads, in the order of its input.
        kinds: the step kinds it judges; the others get 1.0.
        label: the question that its rewards answer.
        aggregate: how a beam's rewards become its score.
        decline_odds: factor on the odds that declining is right. How often it is differs between
            applications, and from the share that the head was fitted to.
        policy_gap: how much the policy's own preference counts beside the head, see
            `SearchConfig.policy_gap`.
        margin: how much better than the greedy answer another one must score to take its place.
        doubt: the threshold of the search strategy `doubt` that was chosen with it, if any was.
        notes: settings, data and measured figures, not read by programs.
    """

    name: str
    model: FittedModel
    call_format: str
    layers: tuple[int, ...]
    pooled: bool
    features: tuple[str, ...]
    kinds: tuple[str, ...] = STEP_KINDS
    label: Label = "viable"
    aggregate: Aggregate = "last"
    decline_odds: float = 1.0
    policy_gap: float = 0.0
    margin: Margin = NO_MARGIN
    doubt: float | None = None
    prompt: str = "schemas"
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hidden_width(self) -> int:
        """Columns of the hidden states that the head reads."""
        return self.model.width * len(self.layers) * (2 if self.pooled else 1)


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """The numbers of a head, all float32; `inputs` = hidden columns + features.

    `shift`, `scale` [inputs] standardise; `weight` [units, inputs] and `kind_bias` [kinds, units]
    lead to the units, `readout` [labels, kinds, units] and `readout_bias` [labels, kinds] to a
    logit for each label; `calibration` [labels, kinds, 2] holds the slope and the offset that
    make it a probability.
    """

    shift: Float32Array
    scale: Float32Array
    weight: Float32Array
    kind_bias: Float32Array
    readout: Float32Array
    readout_bias: Float32Array
    calibration: Float32Array


class Head:
    """A fitted reward model. It implements `Reward`; `head_file.load_head` reads one.

    Raises `HeadError` when the weights do not fit the card.
    """

    calibrated = True

    def __init__(self, card: HeadCard, weights: HeadWeights, source: str | None = None) -> None:
        self.card = card
        self.weights = weights
        self.source = source or card.name
        self.name = card.name
        self.layers = card.layers
        self.pooled = card.pooled
        self.grounded = not set(card.features) <= set(CERTAINTY)
        self.aggregate: Aggregate = card.aggregate
        self._judged = np.array([kind in card.kinds for kind in STEP_KINDS])
        self._declined = card.features.index(_DECLINED) if _DECLINED in card.features else None
        self._places: dict[tuple[str, ...], slice | list[int]] = {}
        self._check_weights()

    def score(self, batch: StepBatch) -> Float32Array:
        """Probabilities, float32 [steps]; 1.0 for steps of a kind that the head doesn't judge."""
        if batch.hidden is None:
            raise HeadError(
                f"{self.source}: the head reads layers {_list(self.layers)}, but the steps came "
                "without hidden states; tap those layers of the backend"
            )
        features = self.columns_of(batch.features, batch.columns)
        return self.probabilities(batch.kinds, features, batch.hidden)

    def columns_of(self, features: Float32Array, names: tuple[str, ...]) -> Float32Array:
        """The columns that the head reads, float32 [steps, card.features], of `features`, whose
        columns have these `names`. Raises `HeadError` where one is missing."""
        if names == self.card.features:
            return features
        if names not in self._places:
            self._places[names] = self._places_in(names)
        return features[:, self._places[names]]

    def _places_in(self, names: tuple[str, ...]) -> slice | list[int]:
        wanted = self.card.features
        missing = [name for name in wanted if name not in names]
        if missing:
            raise HeadError(
                f"{self.source}: the head reads features that are not there: {_list(missing)}; use "
                "the version that it was fitted with, or train it again with this one"
            )
        if names[: len(wanted)] == wanted:
            return slice(len(wanted))  # no copy
        return [names.index(name) for name in wanted]

    def probabilities(
        self,
        kinds: npt.NDArray[np.int8],
        features: Float32Array,
        hidden: npt.NDArray[np.floating[Any]],
        label: Label | None = None,
    ) -> Float32Array:
        """Calibrated probabilities of `label` (the card's by default), float32 [steps].

        `features` has the columns of the card (see `columns_of`), the others are as in `StepBatch`.
        Kinds that the head doesn't judge get 1.0.
        """
        place = LABELS.index(label or self.card.label)
        logits = self.logits(kinds, features, hidden)[:, place]
        slope, offset = self.weights.calibration[place, kinds].T
        logits = slope * logits + offset
        if self._declined is not None and self.card.decline_odds != 1:
            logits += np.float32(math.log(self.card.decline_odds)) * features[:, self._declined]
        return np.where(self._judged[kinds], sigmoid(logits), np.float32(1))

    def logits(
        self,
        kinds: npt.NDArray[np.int8],
        features: Float32Array,
        hidden: npt.NDArray[np.floating[Any]],
    ) -> Float32Array:
        """Logits before calibration, float32 [steps, 2], columns in the order of `LABELS`."""
        expected = (self.card.hidden_width, len(self.card.features))
        if (hidden.shape[1:], features.shape[1:]) != ((expected[0],), (expected[1],)):
            raise HeadError(
                f"{self.source}: the head wants {expected[0]} columns of hidden states and "
                f"{expected[1]} features, and got {hidden.shape[1]} and {features.shape[1]}; use "
                "the head with the model and the version that it was fitted to"
            )
        if len(kinds) > _CHUNK:
            parts = range(0, len(kinds), _CHUNK)
            cut = [slice(start, start + _CHUNK) for start in parts]
            return np.concatenate([self.logits(kinds[c], features[c], hidden[c]) for c in cut])
        weights = self.weights
        if not np.isfinite(hidden).all():
            raise HeadError(f"{self.source}: {NOT_FINITE.format('hidden states')}")
        inputs = standardise(hidden, features, weights.shift, weights.scale)
        units = _gelu(inputs @ weights.weight.T + weights.kind_bias[kinds])
        logits = np.einsum("su,lsu->sl", units, weights.readout[:, kinds])
        return np.asarray(logits + weights.readout_bias[:, kinds].T, dtype=np.float32)

    def with_decline_odds(self, odds: float) -> Head:
        """The same head with another `HeadCard.decline_odds`. Raises `HeadError` for a head that
        doesn't read whether a response declines."""
        if self._declined is None:
            raise HeadError(
                f"{self.source}: the head doesn't read the feature {_DECLINED!r}, so the odds of "
                "declining can't be changed; train it again with this version"
            )
        return Head(replace(self.card, decline_odds=odds), self.weights, self.source)

    def noted(self, notes: Mapping[str, Any]) -> Head:
        """The same head with more notes on its card."""
        card = replace(self.card, notes={**self.card.notes, **notes})
        return Head(card, self.weights, self.source)

    def check(
        self,
        info: ModelInfo,
        vocabulary: str,
        call_format: str,
        features: Sequence[str] | None = None,
    ) -> None:
        """Raise `HeadError` unless the head was fitted to this model (its file may be another
        one: a GGUF's head serves the same model under torch) and this call format, and all
        features that it reads are among these."""
        ours = self.card.model
        theirs = FittedModel(
            info.name, info.architecture, info.width, info.layers, vocabulary, info.adapter
        )
        remedy = "train a head for this model, or use the policy's own probability"
        if _shape(ours) != _shape(theirs):
            raise HeadError(
                f"{self.source}: the head was fitted to {ours.name} ({_shape(ours)}), and the "
                f"model is {theirs.name} ({_shape(theirs)}); {remedy}"
            )
        if ours.vocabulary != vocabulary:
            raise HeadError(
                f"{self.source}: the head was fitted to {ours.name}, whose vocabulary is another "
                f"one than that of {theirs.name}; {remedy}"
            )
        if ours.adapter != info.adapter:
            raise HeadError(
                f"{self.source}: the head was fitted to {ours.name} with "
                f"{ours.adapter or 'no adapter'}, and it is used with {info.adapter or 'none'}; "
                "set --adapter to the one it was fitted with, or train a head for this one"
            )
        if self.card.call_format != call_format:
            raise HeadError(
                f"{self.source}: the head was fitted to calls written as {self.card.call_format}, "
                f"and these are written as {call_format}; set the call format to "
                f"{self.card.call_format}"
            )
        if features is not None:
            self._places_in(tuple(features))

    def _check_weights(self) -> None:
        card = self.card
        units = max(1, self.weights.weight.shape[0] if self.weights.weight.ndim == 2 else 1)
        inputs = card.hidden_width + len(card.features)
        kinds, labels = len(STEP_KINDS), len(LABELS)
        shapes = {
            "shift": (inputs,),
            "scale": (inputs,),
            "weight": (units, inputs),
            "kind_bias": (kinds, units),
            "readout": (labels, kinds, units),
            "readout_bias": (labels, kinds),
            "calibration": (labels, kinds, 2),
        }
        for name, shape in shapes.items():
            tensor = getattr(self.weights, name)
            if tensor.dtype != np.float32 or tensor.shape != shape:
                raise HeadError(
                    f"{self.source}: {name} is {tensor.dtype} {list(tensor.shape)}, and by the "
                    f"head's card it is float32 {list(shape)}; fetch or train the head again"
                )
            if not np.isfinite(tensor).all():
                raise HeadError(
                    f"{self.source}: {name} holds numbers that are not finite; fetch or train "
                    "the head again"
                )
        if not (self.weights.scale > 0).all():
            raise HeadError(f"{self.source}: scale must be above 0; fetch or train the head again")


def standardise(
    hidden: npt.NDArray[np.floating[Any]],
    features: Float32Array,
    shift: Float32Array,
    scale: Float32Array,
) -> Float32Array:
    """The network's input, float32 [steps, hidden columns + features]."""
    inputs = np.concatenate([hidden, features], axis=1, dtype=np.float32)
    with np.errstate(over="ignore"):  # it is clipped anyway
        inputs -= shift
        inputs /= scale
    return np.clip(inputs, -CLIP, CLIP, out=inputs)


def sigmoid(logits: Float32Array) -> Float32Array:
    """Without overflow, float32."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), dtype=np.float32)


def _gelu(x: Float32Array) -> Float32Array:
    """The tanh form, as torch's `gelu(approximate="tanh")`."""
    return np.asarray(
        0.5 * x * (1.0 + np.tanh(np.float32(0.7978845608) * (x + 0.044715 * x * x * x))),
        dtype=np.float32,
    )


def _shape(model: FittedModel) -> str:
    return f"{model.architecture}, {model.layers} layers of width {model.width}"


def _list(items: Sequence[object]) -> str:
    return ", ".join(map(str, items))
