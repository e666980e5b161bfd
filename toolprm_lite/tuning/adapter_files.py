"""A trained adapter as files: GGUF for llama.cpp, safetensors and a configuration for PEFT.

Knows nothing of how it was trained.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save

from toolprm_lite.backends.adapters import CARD_KEY, AdapterCard
from toolprm_lite.backends.torch.adapter import GGUF_NAMES, heads_of, interleaved
from toolprm_lite.files import replace_file

GGUF_FILE = "adapter.gguf"
PEFT_FILE, PEFT_SETTINGS = "adapter_model.safetensors", "adapter_config.json"

State = Mapping[str, torch.Tensor]


def with_digest(card: AdapterCard, state: State) -> AdapterCard:
    """The card with the SHA-256 of the weights, equal for every form of the file."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + _half(state[name]).tobytes())
    return replace(card, digest=digest.hexdigest())


def write_adapter(
    folder: Path, card: AdapterCard, state: State, rank: int, scale: float, config: Any
) -> None:
    """Write all files of an adapter, each whole or not at all.

    `state` is that of `lora.state_of`, `config` the model's. Raises `OSError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / GGUF_FILE, _gguf(card, state, rank, scale, config))
    tensors = {
        f"base_model.model.{name[:-2]}.lora_{name[-1].upper()}.weight": _half(value)
        for name, value in state.items()
    }
    replace_file(folder / PEFT_FILE, save(tensors, metadata={CARD_KEY: card.to_json()}))
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": card.model,
        "r": rank,
        "lora_alpha": rank * scale,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({name.split(".")[-2] for name in state}),
    }
    replace_file(folder / PEFT_SETTINGS, (json.dumps(settings, indent=2) + "\n").encode())


def _gguf(card: AdapterCard, state: State, rank: int, scale: float, config: Any) -> bytes:
    from gguf import GGUFWriter

    writer = GGUFWriter(None, card.architecture)
    writer.add_type("adapter")
    writer.add_name(card.name)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", rank * scale)
    writer.add_string(CARD_KEY, card.to_json())
    for name in sorted(state):
        layer, part = name.rpartition(".")[::2]
        block, _, inner = layer.partition("layers.")[2].partition(".")
        rows = _half(state[name])
        heads = heads_of(inner, card.architecture, config) if part == "b" else None
        if heads is not None:
            rows = np.ascontiguousarray(interleaved(rows, heads))
        writer.add_tensor(f"blk.{block}.{GGUF_NAMES[inner]}.weight.lora_{part}", rows)
    with tempfile.TemporaryDirectory() as folder:  # the package writes to named files only
        path = Path(folder) / GGUF_FILE
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def _half(value: torch.Tensor) -> npt.NDArray[np.float16]:
    return value.to(torch.float16).contiguous().numpy()
