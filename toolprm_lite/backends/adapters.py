"""Adapters: small low-rank changes of a model's weights (LoRA), and what they say of themselves.

Their files have llama.cpp's form, GGUF with tensors "blk.0.attn_q.weight.lora_a" [rank, in] and
"...lora_b" [out, rank], or PEFT's, safetensors with "...layers.0.self_attn.q_proj.lora_A.weight";
llama.cpp reads its own only.
Those that this project writes have a card in their metadata. Knows nothing of training.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolprm_lite.errors import ConfigError, ModelError
from toolprm_lite.files import sha256_of
from toolprm_lite.formats import get_format
from toolprm_lite.instruction import own_style

CARD_KEY = "toolprm.card"
_REMEDY = "name a file that `toolprm-lite tune` wrote, or another LoRA adapter of this model"
MOST_CARD = 1 << 20  # bytes
_FORMAT = 1
_TEXTS = ("name", "digest", "model", "architecture", "prompt", "call_format")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCard:
    """What an adapter is.

    Attributes:
        name: shown to users.
        digest: SHA-256 of its weights (of the file, where it has no card), in hexadecimal.
        model: the name of the model that it was trained for; "" where the file does not say.
        architecture: that model's, in llama.cpp's words; "" likewise.
        prompt: how tools were explained to it, see `SearchConfig.prompt`; "" likewise.
        call_format: how it was trained to write calls; "" likewise.
        notes: data with licences, settings and measured figures, not read by programs.
    """

    name: str
    digest: str
    model: str = ""
    architecture: str = ""
    prompt: str = ""
    call_format: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """What tells it from others, on the cards of heads."""
        return f"{self.name}@{self.digest[:12]}"

    def to_json(self) -> str:
        """What `read_card` reads."""
        fields = {key: getattr(self, key) for key in (*_TEXTS, "notes")}
        return json.dumps({"format": _FORMAT, **fields}, ensure_ascii=False, allow_nan=False)

    def check(self, model: str, architecture: str, file: Path) -> None:
        """Raise `ModelError` where the adapter is for another model than the one of this name."""
        if self.architecture and self.architecture != architecture:
            raise ModelError(
                f"{file}: the adapter was trained for {self.model} ({self.architecture}), and the "
                f"model is {model} ({architecture}); {_REMEDY}"
            )
        ours, theirs = _plain(self.model), _plain(model)
        if ours and not (ours in theirs or theirs in ours):
            raise ModelError(
                f"{file}: the adapter was trained for {self.model}, and the model is {model}; "
                f"{_REMEDY} (a folder's model has the folder's name)"
            )


def read_card(text: str | None, file: Path) -> AdapterCard:
    """The card in an adapter's metadata, or what is known of a file without one.

    Raises `ModelError`.
    """
    if text is None:
        return AdapterCard(name=file.stem, digest=sha256_of(file))
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: its card is no JSON ({error}); {_REMEDY}") from None
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise ModelError(f"{file}: its card is not one that this version reads; {_REMEDY}")
    texts: dict[str, Any] = {key: data.get(key) for key in _TEXTS}
    wrong = [key for key, value in texts.items() if not isinstance(value, str)]
    if wrong or not isinstance(data.get("notes"), dict):
        raise ModelError(f"{file}: its card has no {', '.join(wrong) or 'notes'}; {_REMEDY}")
    try:
        own_style(texts["prompt"])
        if texts["call_format"]:
            get_format(texts["call_format"])
    except ConfigError as error:
        raise ModelError(f"{file}: on its card, {error}") from None
    return AdapterCard(**texts, notes=data["notes"])


def find_adapter(name: str | os.PathLike[str]) -> Path:
    """The file of an adapter, of which the beginning has been looked at. Raises `ModelError`."""
    path = Path(name)
    try:
        if path.is_dir():
            raise ModelError(f"{path} is a folder; give the path of the adapter's file in it")
        with path.open("rb") as stream:
            begin = stream.read(9)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such adapter file; {_REMEDY}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: the adapter can't be read ({error})") from None
    if begin[:4] != b"GGUF" and not is_safetensors(begin):
        raise ModelError(f"{path}: neither a GGUF nor a safetensors file; {_REMEDY}")
    return path


def is_safetensors(begin: bytes) -> bool:
    """Whether a file with these first nine bytes is one: a length, then a JSON object."""
    return begin[8:9] == b"{"


def _plain(name: str) -> str:
    """A model's name without what differs between its files."""
    return re.sub(r"gguf|[^a-z0-9]", "", name.lower())
