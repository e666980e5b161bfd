"""Token trees: several questions on the same tools, their common beginning computed once.

Responses that share a prompt's beginning are one sequence for the model: the beginning, then each
branch, which attends to the beginning and to itself. Losses and gradients are those of separate
sequences. Knows neither problems nor training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from toolprm_lite.backends.torch.flat_cache import additive_mask
from toolprm_lite.backends.torch.masks import FULL, SLIDING, types_of_layers


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the response to it, both tokens; `id` and `source` are the problem's."""

    id: str
    source: str
    prompt: tuple[int, ...]
    response: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tree:
    """Examples, and the number of tokens with which all their prompts begin."""

    examples: tuple[Example, ...]
    shared: int

    @property
    def tokens(self) -> int:
        """Tokens of the model's pass: the last of a response predicts nothing."""
        return self.shared + sum(
            len(e.prompt) - self.shared + len(e.response) - 1 for e in self.examples
        )

    @property
    def targets(self) -> int:
        """Tokens that the loss is taken of."""
        return sum(len(e.response) for e in self.examples)


def make_trees(examples: Sequence[Example], most_tokens: int) -> Iterator[Tree]:
    """Neighbours that share at least half of the shorter prompt are one tree, of at most
    `most_tokens` tokens, as far as a single example has not more."""
    waiting: list[Example] = []
    for example in examples:
        grown = [*waiting, example]
        if waiting:
            shared = _shared(grown)
            half = min(len(e.prompt) for e in grown) // 2
            if shared < half or Tree(tuple(grown), shared).tokens > most_tokens:
                yield Tree(tuple(waiting), _shared(waiting))
                grown = [example]
        waiting = grown
    if waiting:
        yield Tree(tuple(waiting), _shared(waiting))


def _shared(examples: Sequence[Example]) -> int:
    """The longest common beginning of all prompts, at most all but their last token."""
    first, *others = [e.prompt for e in examples]
    length = min(map(len, (first, *others))) - 1
    for other in others:
        length = next((i for i in range(length) if first[i] != other[i]), length)
    return length


@dataclass(frozen=True, slots=True)
class Packed:
    """A tree as the model's inputs.

    `tokens`, `positions` int64 [1, T]; `mask` bool [T, T], True where row may attend to
    column; `at` int64 [targets]: the rows whose logits predict; `targets` int64 [targets];
    `owner` int64 [targets]: which example of the tree each belongs to.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    at: torch.Tensor
    targets: torch.Tensor
    owner: torch.Tensor


def pack(tree: Tree) -> Packed:
    """The model's inputs for a tree."""
    shared = tree.shared
    tokens = list(tree.examples[0].prompt[:shared])
    positions = list(range(shared))
    branch = [-1] * shared
    at: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    for number, example in enumerate(tree.examples):
        written = [*example.prompt[shared:], *example.response[:-1]]
        first = len(tokens) + len(example.prompt) - shared - 1
        at += range(first, first + len(example.response))
        targets += example.response
        owner += [number] * len(example.response)
        tokens += written
        positions += range(shared, shared + len(written))
        branch += [number] * len(written)
    which = torch.tensor(branch)
    causal = torch.ones(len(tokens), len(tokens), dtype=torch.bool).tril()
    mask = causal & ((which[None, :] == -1) | (which[None, :] == which[:, None]))
    return Packed(
        torch.tensor([tokens]), torch.tensor([positions]), mask,
        torch.tensor(at), torch.tensor(targets), torch.tensor(owner),
    )  # fmt: skip


def losses(model: Any, packed: Packed) -> tuple[torch.Tensor, torch.Tensor]:
    """(-log p of each target in nats, float32 [targets]; whether it is the likeliest token, bool
    [targets]). The first can be differentiated."""
    weight = next(model.parameters())
    allowed = packed.mask.to(weight.device)
    states = model.get_decoder()(
        input_ids=packed.tokens.to(weight.device),
        position_ids=packed.positions.to(weight.device),
        attention_mask=_masks(model, allowed, packed.positions, weight.dtype),
        use_cache=False,
    ).last_hidden_state[0]
    # The head runs on the predicting rows alone: with a small model it costs as much as the blocks.
    logits = model.get_output_embeddings()(states[packed.at.to(weight.device)]).float()
    targets = packed.targets.to(weight.device)
    found = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return found, logits.argmax(-1) == targets


def _masks(model: Any, allowed: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype) -> Any:
    """What transformers adds to attention's scores: a tensor, or one for each type of layer."""
    types, window = types_of_layers(model.config.get_text_config())
    masks = {FULL: additive_mask(allowed, 1, dtype)}
    if SLIDING in types and window is not None:
        places = positions[0].to(allowed.device)
        near = places[:, None] - places[None, :] < window
        masks[SLIDING] = additive_mask(allowed & near, 1, dtype)
    return masks if len(types) > 1 else masks[next(iter(types))]
