"""A head's file: one safetensors file with the weights and, in its metadata, the card as JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from toolprm_lite.errors import ConfigError, HeadError
from toolprm_lite.files import replace_file
from toolprm_lite.instruction import PromptStyle
from toolprm_lite.reward.aggregate import AGGREGATES, MOST_POLICY_GAP
from toolprm_lite.reward.base import STEP_KINDS
from toolprm_lite.reward.head import LABELS, FittedModel, Head, HeadCard, HeadWeights
from toolprm_lite.reward.margin import Margin

_FORMAT = 1
_TENSORS = tuple(item.name for item in fields(HeadWeights))
_REMEDY = "name a file that `toolprm-lite train` wrote"


def save_head(path: str | os.PathLike[str], head: Head) -> None:
    """Write a head to one safetensors file, whole or not at all. Raises `OSError`."""
    card = {"format": _FORMAT, **asdict(head.card), "margin": head.card.margin.to_json()}
    tensors = {name: np.ascontiguousarray(getattr(head.weights, name)) for name in _TENSORS}
    text = json.dumps(card, ensure_ascii=False, sort_keys=True, allow_nan=False)
    replace_file(Path(path), save(tensors, metadata={"card": text}))


def load_head(path: str | os.PathLike[str]) -> Head:
    """Read a head's file. Raises `HeadError` naming the file when it is missing or broken."""
    path = Path(path)
    if not path.is_file():
        raise HeadError(f"{path}: no such head file; `toolprm-lite train` writes them")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = set(file.keys())
            tensors = {name: file.get_tensor(name) for name in _TENSORS if name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise HeadError(
            f"{path}: not a whole safetensors file ({error}); fetch or train the head again"
        ) from error
    card = _read_card(metadata.get("card"), path)
    missing = [name for name in _TENSORS if name not in tensors]
    if missing:
        raise HeadError(f"{path}: {', '.join(missing)} missing; fetch or train the head again")
    return Head(card, HeadWeights(**tensors), source=str(path))


def _read_card(text: str | None, path: Path) -> HeadCard:
    data = _card_json(text, path)
    # What files from before these fields have none of.
    data.setdefault("decline_odds", 1.0)
    data.setdefault("policy_gap", 0.0)
    data.setdefault("margin", {})
    data.setdefault("prompt", "schemas")
    card = _Fields(data, path)
    odds = card.take("decline_odds", (int, float))
    if not 0 < odds < math.inf:
        card.refuse(f"decline_odds is {odds!r}")
    gap = card.take("policy_gap", (int, float))
    if not 0 <= gap <= MOST_POLICY_GAP:
        card.refuse(f"policy_gap is {gap!r}")
    doubt = data.get("doubt")
    if doubt is not None and not 0 <= card.take("doubt", (int, float)) <= 1:
        card.refuse(f"doubt is {doubt!r}")
    model = _Fields({"adapter": "", **card.take("model", dict)}, path)
    kinds = card.take_all("kinds", str)
    if not kinds or not set(kinds) <= set(STEP_KINDS):
        card.refuse(f"kinds are {', '.join(kinds)}")
    return HeadCard(
        name=card.take("name", str),
        model=FittedModel(
            **{
                key: model.take(key, str)
                for key in ("name", "architecture", "vocabulary", "adapter")
            },
            **{key: model.take(key, int) for key in ("width", "layers")},
        ),
        call_format=card.take("call_format", str),
        layers=card.take_all("layers", int),
        pooled=card.take("pooled", bool),
        features=card.take_all("features", str),
        kinds=kinds,
        label=card.take_one("label", LABELS),
        aggregate=card.take_one("aggregate", AGGREGATES),
        decline_odds=float(odds),
        policy_gap=float(gap),
        margin=_margin(card),
        doubt=None if doubt is None else float(doubt),
        prompt=_prompt(card),
        notes=card.take("notes", dict),
    )


def _margin(card: _Fields) -> Margin:
    data = card.take("margin", dict)
    try:
        return Margin.from_json(data)
    except ConfigError:
        card.refuse(f"margin is {data!r}")


def _prompt(card: _Fields) -> str:
    name: str = card.take("prompt", str)
    try:
        return PromptStyle.parse(name).name
    except ConfigError:
        card.refuse(f"prompt is {name!r}")


def _card_json(text: str | None, path: Path) -> dict[str, Any]:
    """The card's object, of the format that this version reads."""
    foreign = f"{path}: not a reward head"
    if text is None:
        raise HeadError(f"{foreign}: it has no card; {_REMEDY}")
    try:
        data = json.loads(text)
    except ValueError as error:
        raise HeadError(f"{foreign}: its card is no JSON ({error}); {_REMEDY}") from error
    if not isinstance(data, dict):
        raise HeadError(f"{foreign}: its card is no JSON object; {_REMEDY}")
    if data.get("format") != _FORMAT:
        raise HeadError(
            f"{path}: the head's format is {data.get('format')!r}, and this version reads "
            f"{_FORMAT}; use the version that wrote it, or train it again"
        )
    return data


class _Fields:
    """The checked fields of a JSON object on the card of the head at `path`."""

    def __init__(self, data: dict[str, Any], path: Path) -> None:
        self._data, self._path = data, path

    def take(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """A value of this type; bool is no int."""
        value = self._data.get(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.refuse(f"{key} is {value!r}")
        return value

    def take_all(self, key: str, kind: type) -> tuple[Any, ...]:
        """A list of values of this type."""
        values = self.take(key, list)
        if not all(isinstance(value, kind) and not isinstance(value, bool) for value in values):
            self.refuse(f"{key} is {values!r}")
        return tuple(values)

    def take_one(self, key: str, allowed: Sequence[str]) -> Any:
        """One of the `allowed` strings."""
        value = self.take(key, str)
        if value not in allowed:
            raise HeadError(
                f"{self._path}: the head's {key} is {value!r}, which this version doesn't know "
                f"({', '.join(allowed)}); {_REMEDY}"
            )
        return value

    def refuse(self, what: str) -> NoReturn:
        """Raise `HeadError`."""
        raise HeadError(f"{self._path}: not a reward head: its card's {what}; {_REMEDY}")
