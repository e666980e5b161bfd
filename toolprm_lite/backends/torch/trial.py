"""Holds a model of an untested architecture against its own plain forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from toolprm_lite.backends.base import Int32Array, SequenceOp
from toolprm_lite.backends.torch.flat_model import FlatModel
from toolprm_lite.backends.torch.hf_models import first_line
from toolprm_lite.backends.torch.sequences import Sequences
from toolprm_lite.errors import ModelError


def try_out(
    model: FlatModel, sequences: Sequences, prefill: Callable[[list[int]], object], source: str
) -> None:
    """Compare the logits of two branches with those of the same tokens alone.

    `prefill` makes tokens the prompt 0. Raises `ModelError` where they differ.
    """
    kind = model.config.model_type
    tokens = [(7 * place + 11) % model.vocab_size for place in range(12)]
    prompt, first, second = tokens[:6], tokens[6:9], tokens[9:]
    try:
        prefill(prompt)
        flat = _branch_by_branch(model, sequences, first, second)
        with torch.inference_mode():
            plain = torch.stack([_alone(model, prompt + branch) for branch in (first, second)])
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{source} ({kind}) can't be run branch by branch ({first_line(error)}); use its "
            "GGUF file with --backend llamacpp"
        ) from error
    spread = float(plain.float().std())
    difference = float((plain.float() - flat.float()).abs().max())
    if not difference < 0.1 * spread + 1e-3:
        raise ModelError(
            f"{source} ({kind}) gives other logits branch by branch than alone (by "
            f"{difference:.2g}, where they spread by {spread:.2g}); use its GGUF file with "
            "--backend llamacpp"
        )


def _branch_by_branch(
    model: FlatModel, sequences: Sequences, first: list[int], second: list[int]
) -> torch.Tensor:
    """The last logits of two branches of a prompt of 6 tokens, in one pass, [2, vocabulary]."""
    sequences.carry_out(_ints([(SequenceOp.FORK, 0, 1), (SequenceOp.FORK, 0, 2)]))
    placed = sequences.place([1, 1, 1, 2, 2, 2], _ints([6, 7, 8, 6, 7, 8]))
    rows = _ints([2, 5])
    return model.forward(_ints(first + second), placed, rows, rows)[0]


def _alone(model: FlatModel, tokens: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model.model(torch.tensor([tokens], device=model.device)).logits
    return logits[0, -1]


def _ints(values: Any) -> Int32Array:
    return np.asarray(values, np.int32)
