"""An adapter's file under torch: read in either form, and added to the model's weights.

Knows nothing of training.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open

from toolprm_lite.backends.adapters import (
    CARD_KEY,
    AdapterCard,
    find_adapter,
    is_safetensors,
    read_card,
)
from toolprm_lite.backends.torch.hf_models import EXTRA, architecture, first_line
from toolprm_lite.errors import ModelError

Array = npt.NDArray[Any]

# The linear layers of a block, as transformers and as llama.cpp name them.
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
_OURS = {theirs: ours for ours, theirs in GGUF_NAMES.items()}
# llama.cpp's llama architecture rotates neighbouring rows of queries and keys, transformers the two
# halves of a head: their rows are in another order (convert_hf_to_gguf.py, LlamaModel.permute).
_PERMUTED = frozenset({"llama"})
_IN_GGUF = re.compile(r"blk\.(\d+)\.(\w+)\.weight\.lora_(a|b)")
_IN_PEFT = re.compile(r"(?:base_model\.model\.)?model\.layers\.(\d+)\.([\w.]+)\.lora_(A|B)\.weight")


def interleaved(rows: Array, heads: int) -> Array:
    """Rows of queries or keys [out, ...] in the order of llama.cpp's llama architecture."""
    shape = (heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    ordered: Array = rows.reshape(shape).swapaxes(1, 2).reshape(rows.shape)
    return ordered


def halved(rows: Array, heads: int) -> Array:
    """The reverse of `interleaved`."""
    shape = (heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    ordered: Array = rows.reshape(shape).swapaxes(1, 2).reshape(rows.shape)
    return ordered


def heads_of(layer: str, kind: str, config: Any) -> int | None:
    """By how many heads the rows of a layer are reordered in a GGUF file of the architecture
    `kind`; None: they are not."""
    if kind not in _PERMUTED:
        return None
    heads: int = config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    return {"self_attn.q_proj": heads, "self_attn.k_proj": shared}.get(layer)


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's card, and its change of each linear layer, b @ a.

    `parts` maps (block, layer's name as in `GGUF_NAMES`) to a [rank, in] and b [out, rank],
    float32 in transformers' order; b holds the adapter's scale.
    """

    file: Path
    card: AdapterCard
    parts: Mapping[tuple[int, str], tuple[Array, Array]]

    def merge(self, model: Any) -> None:
        """Add it to the model's weights. Raises `ModelError`, before any weight is changed, where
        it doesn't fit."""
        layers = {
            (block, name): module.get_submodule(name)
            for block, module in enumerate(model.get_decoder().layers)
            for name in GGUF_NAMES
            if _has(module, name)
        }
        for key, (a, b) in self.parts.items():
            layer = layers.get(key)
            place = f"block {key[0]}, {key[1]}"
            if layer is None:
                raise ModelError(f"{self.file}: the model has no {place}; {_OTHER_MODEL}")
            if tuple(layer.weight.shape) != (b.shape[0], a.shape[1]):
                raise ModelError(
                    f"{self.file}: of {place} it changes {b.shape[0]} x {a.shape[1]} weights, and "
                    f"the model has {' x '.join(map(str, layer.weight.shape))}; {_OTHER_MODEL}"
                )
        with torch.no_grad():
            for key, (a, b) in self.parts.items():
                weight = layers[key].weight
                change = torch.from_numpy(b @ a).to(weight.device)
                weight.copy_(weight.float() + change)


_OTHER_MODEL = "it was trained for another one"


def merge_adapter(model: Any, model_name: str, file: str | os.PathLike[str]) -> AdapterCard:
    """Add an adapter's file to the weights of the model of that name; return its card.

    Raises `ModelError`; the weights are then unchanged.
    """
    adapter = read_adapter(file, model_name, model.config.get_text_config())
    adapter.merge(model)
    return adapter.card


def read_adapter(name: str | os.PathLike[str], model_name: str, config: Any) -> Adapter:
    """Read an adapter's file for the model of that name and configuration. Raises `ModelError`."""
    file = find_adapter(name)
    kind = architecture(config)
    with file.open("rb") as stream:
        peft = is_safetensors(stream.read(9))
    try:
        text, scale, found = _read_peft(file) if peft else _read_gguf(file)
        card = read_card(text, file)
        card.check(model_name, kind, file)
        parts = {
            (block, layer): _pair(found, block, layer, scale, None if peft else (kind, config))
            for block, layer in sorted({key[:2] for key in found})
        }
    except ModelError:
        raise
    except Exception as error:  # of several types; the file is untrusted
        raise ModelError(
            f"{file}: not a whole adapter ({first_line(error)}); fetch it again"
        ) from error
    if not parts:
        raise ModelError(f"{file}: it has no low-rank weights; name an adapter's file")
    return Adapter(file, card, parts)


_Found = dict[tuple[int, str, str], Array]
_Scale = Callable[[int], float]  # of a layer's change, by its rank


def _pair(
    found: _Found, block: int, layer: str, scale: _Scale, reordered: tuple[str, Any] | None
) -> tuple[Array, Array]:
    """(a, b) of a layer, b with the scale. `reordered`: architecture and configuration of a model
    whose GGUF rows may be in another order. Raises `ValueError`."""
    a, b = (found.get((block, layer, part)) for part in ("a", "b"))
    place = f"block {block}, {layer}"
    if a is None or b is None or a.ndim != 2 or b.ndim != 2 or not 0 < a.shape[0] == b.shape[1]:
        raise ValueError(f"{place} is no pair of matrices")
    heads = None if reordered is None else heads_of(layer, *reordered)
    if heads is not None:
        if b.shape[0] % (2 * heads):
            raise ValueError(f"{place} has {b.shape[0]} rows for {heads} heads")
        b = halved(b, heads)
    b = b * np.float32(scale(a.shape[0]))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"{place} has numbers that are not finite")
    return a, b


def _read_gguf(file: Path) -> tuple[str | None, _Scale, _Found]:
    """(the card's text, the scale, the matrices)."""
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            f"{file}: a GGUF adapter under torch needs gguf; install it with `{EXTRA}`"
        )
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(file)

    def field(key: str) -> Any:
        found = reader.get_field(key)
        return None if found is None else found.contents()

    if field("general.type") != "adapter" or field("adapter.type") != "lora":
        raise ModelError(f"{file}: a GGUF file, but no LoRA adapter; name an adapter's file")
    found: _Found = {}
    for tensor in reader.tensors:
        match = _IN_GGUF.fullmatch(tensor.name)
        if match is None or match[2] not in _OURS:
            raise ModelError(
                f"{file}: it changes {tensor.name}, which the torch backend can't; use llamacpp"
            )
        rows = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        found[int(match[1]), _OURS[match[2]], match[3]] = rows
    alpha = float(field("adapter.lora.alpha"))
    # As llama.cpp has it (llama-adapter.h): without alpha the changes are taken as they are.
    return field(CARD_KEY), lambda rank: alpha / rank if alpha else 1.0, found


def _read_peft(file: Path) -> tuple[str | None, _Scale, _Found]:
    """(the card's text, the scale, the matrices)."""
    found: _Found = {}
    try:
        with safe_open(file, framework="pt") as tensors:  # numpy has no bfloat16
            metadata = tensors.metadata() or {}
            for name in tensors.keys():  # noqa: SIM118 (it is no dictionary)
                match = _IN_PEFT.fullmatch(name)
                if match is None or match[2] not in GGUF_NAMES:
                    raise ModelError(
                        f"{file}: it has {name}, which the torch backend can't use; give LoRA "
                        "weights of linear layers only"
                    )
                rows = tensors.get_tensor(name).float().numpy()
                found[int(match[1]), match[2], match[3].lower()] = rows
    except SafetensorError as error:
        raise ModelError(
            f"{file}: not a whole safetensors file ({error}); fetch it again"
        ) from None
    scale = _peft_scale(file.parent / "adapter_config.json")
    return metadata.get(CARD_KEY), lambda rank: scale, found


# Settings of PEFT that change what the matrices mean, and their values in plain LoRA.
_PLAIN_LORA: dict[str, tuple[Any, ...]] = {
    "use_rslora": (None, False), "use_dora": (None, False), "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}), "modules_to_save": (None, []), "bias": (None, "none"),
    "fan_in_fan_out": (None, False),
}  # fmt: skip


def _peft_scale(settings: Path) -> float:
    """The scale of all changes. Raises `ModelError` for what is no plain LoRA."""
    try:
        read = json.loads(settings.read_text(encoding="utf-8"))
        scale = float(read["lora_alpha"]) / float(read["r"])
        other = [key for key, plain in _PLAIN_LORA.items() if read.get(key) not in plain]
    except Exception as error:  # of several types; the file is untrusted
        raise ModelError(
            f"{settings}: it must be there, with r and lora_alpha ({first_line(error)})"
        ) from None
    if other or not math.isfinite(scale):
        what = ", ".join(other) or "lora_alpha / r that is not finite"
        raise ModelError(
            f"{settings}: it has {what}, which the torch backend can't use; merge the adapter into "
            "the model, or convert it for llamacpp"
        )
    return scale


def _has(module: Any, name: str) -> bool:
    try:
        return isinstance(module.get_submodule(name), torch.nn.Linear)
    except AttributeError:
        return False
