"""Catches the inputs of some blocks during a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from toolprm_lite.errors import ModelError


class BlockTaps:
    """The inputs of the blocks `layers`; the number of blocks is the last one's output."""

    def __init__(self, blocks: Any) -> None:
        self.layers: tuple[int, ...] = ()
        self._blocks = blocks
        self._states: dict[int, torch.Tensor] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch them, meanwhile."""
        states, blocks = self._states, self._blocks

        def before(layer: int) -> Any:
            def hook(_: Any, args: Any, kwargs: Any) -> None:
                states[layer] = args[0] if args else kwargs["hidden_states"]

            return hook

        def after(_: Any, __: Any, output: Any) -> None:
            states[len(blocks)] = output[0] if isinstance(output, tuple) else output

        handles = [
            blocks[layer].register_forward_pre_hook(before(layer), with_kwargs=True)
            if layer < len(blocks)
            else blocks[-1].register_forward_hook(after)
            for layer in set(self.layers)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def take(self, rows: torch.Tensor | None = None) -> torch.Tensor | None:
        """The caught states [rows, layers * width], of all tokens or of `rows` (int64), and forget
        them. None without layers."""
        if not self.layers:
            return None
        caught = [self._states[layer][0] for layer in self.layers]
        if rows is not None:
            caught = [states.index_select(0, rows) for states in caught]
        taken = torch.cat(caught, dim=1)
        self._states.clear()
        return taken

    def forget(self) -> None:
        """Drop what an interrupted pass left."""
        self._states.clear()

    def close(self) -> None:
        """Let go of the model's blocks."""
        self._blocks = []
        self._states.clear()


def find_blocks(model: Any, count: int) -> Any:
    """The list of the model's blocks. Raises `ModelError` where there is none."""
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(
        f"{type(model).__name__} has no list of {count} blocks; use its GGUF file with "
        "--backend llamacpp"
    )
