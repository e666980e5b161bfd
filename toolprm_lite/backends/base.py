"""What a backend is: a model that prefills prompts and decodes batches of branches from them.

A backend knows tokens, sequences and logits. It knows nothing of tools, steps or beams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from toolprm_lite.errors import ContextError, ModelError, NoRoom
from toolprm_lite.special_texts import SpecialTexts

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]
MaskArray = npt.NDArray[np.uint32]


RESPONSE_ROOM = 16  # cells that a prompt must leave free
_LONGEST_NAME = 200  # bytes

NOT_FINITE = (
    "the model's {} hold numbers that are not finite: float16 overflows beyond 65504, or the "
    "model's file is broken; open it in bfloat16 or float32 (--dtype)"
)


class SequenceOp(IntEnum):
    """First column of `Batch.ops`."""

    FORK = 0  # (FORK, source, destination): the destination shares the source's whole KV
    DROP = 1  # (DROP, sequence, unused): forget the sequence; cells no other one shares are free


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the search needs to know of a model.

    `width` is the size of a hidden state, `layers` the number of blocks, `context` the number of
    KV cells that prompts and all branches share. Branch sequences are 1 .. max_sequences; prompts
    are 0 .. max_prompts - 1, and prompt p is the sequence -p. `adapter` is the identity of the one
    in use ("" is none); `prompt` and `call_format` are those of its training.
    """

    name: str
    architecture: str
    vocab_size: int
    width: int
    layers: int
    context: int
    max_sequences: int
    eog_tokens: frozenset[int]
    chat_template: str | None = None
    bos_token: str = ""
    eos_token: str = ""
    max_prompts: int = 1
    adapter: str = ""
    prompt: str = ""
    call_format: str = ""


@dataclass(frozen=True, slots=True)
class Prefill:
    """The state after a prompt.

    `reused_tokens + prefill_tokens` is the prompt's length. The top-k arrays have one row, as in
    `Output`, and `hidden` is the last prompt token's state, shape [1, layers * width], or None.
    Of a prefill that was stopped `output` is None and the sum what the prompt holds so far.
    """

    reused_tokens: int
    prefill_tokens: int
    output: Output | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens to decode in one model step, and the sequence operations to do before it.

    All arrays are int32. `ops` has shape [operations, 3], see `SequenceOp`, in order. `tokens`,
    `positions` and `sequences` have shape [tokens]; the tokens of one sequence are adjacent, in
    rising order of position. `logits_at` [rows] and `hidden_at` [states] index into `tokens`,
    rising: where top-k log-probabilities, of at most `max_sequences` rows, and hidden states are
    wanted.
    """

    ops: Int32Array
    tokens: Int32Array
    positions: Int32Array
    sequences: Int32Array
    logits_at: Int32Array
    hidden_at: Int32Array


@dataclass(frozen=True, slots=True)
class Output:
    """What a model step gives, rows in the order of `Batch.logits_at` and `Batch.hidden_at`.

    `top_ids` int32 [rows, k] and `top_logprobs` float32 [rows, k] are sorted from the most likely
    down, taken among the tokens that the row's mask allows; log-probabilities are raw: of the
    whole vocabulary at temperature 1. A row with fewer allowed tokens than k is padded with id -1
    and -inf. `entropy` float32 [rows] is the raw distribution's, in nats. `hidden` float32
    [states, layers * width], or None when no layer is tapped. `model_seconds` is the time in the
    model itself, without the selection of the top k.
    """

    top_ids: Int32Array
    top_logprobs: Float32Array
    entropy: Float32Array
    hidden: Float32Array | None
    model_seconds: float = field(default=0.0)


def check_finite(output: Output) -> None:
    """Raise `ModelError` for invalid distributions, such as those of overflowed logits."""
    if not np.isfinite(output.entropy).all():  # it is a sum over all logits of a row
        raise ModelError(NOT_FINITE.format("logits"))


class Backend(Protocol):
    """The model that a search uses. Not thread-safe: the caller queues its calls."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def token_bytes(self) -> Sequence[bytes]:
        """The bytes each token writes; special tokens as their text, end-of-generation as b""."""
        ...

    @property
    def special_texts(self) -> SpecialTexts:
        """The tokens that `tokenize` finds by their texts: control tokens and markers. The ends of
        generation are among them."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Token ids of text; special tokens in the text are recognised, so untrusted text must be
        cut first: see `Encoder.prompt`.

        Adds the model's BOS token when the model wants one and the text does not begin with it.
        """
        ...

    def tap(self, layers: Sequence[int]) -> None:
        """Choose the layers whose inputs are returned as `hidden`, side by side in this order
        (transformers' hidden_states[layer], 0 .. layers); an empty sequence ends it."""
        ...

    def clear(self) -> None:
        """Forget all prompts and branches, so that the next prefill reuses nothing."""
        ...

    @property
    def prompt_cells(self) -> int:
        """Cells that prompts hold; what several of them share counts once."""
        ...

    def prefill(
        self,
        tokens: Sequence[int],
        mask: MaskArray | None,
        k: int,
        *,
        prompt: int = 0,
        room: int = RESPONSE_ROOM,
        chunk: int | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Prefill:
        """Make `tokens` the prompt of that number, in place of what it was.

        Its branches are dropped first. It continues from the longest beginning that it shares with
        what it was, with another prompt (whose cells it then shares), or with one that was held
        before and is in the cache of prompt states, from which the least recently used are dropped.

        `mask` has shape [1, ceil(vocab / 32)]: bit `t % 32` of word `t // 32` allows token t. One
        model step takes at most `chunk` tokens, None is as many as suit the backend. `stop` is
        asked before every step; when it says so the prompt stays as far as it has come, for the
        next prefill to continue from. Raises `ContextError` when the prompt alone leaves no room,
        `NoRoom` when with the other prompts less than `room` cells would be left for branches; then
        nothing has changed.
        """
        ...

    def release(self, prompt: int) -> None:
        """Free the prompt's cells and drop its branches. Its state may stay in the cache."""
        ...

    def decode(self, batch: Batch, masks: MaskArray | None, k: int) -> Output:
        """One model step. `masks` has a row for each of `batch.logits_at`, or is None.

        Raises `NoRoom` when the KV cells do not suffice; the operations have then been carried
        out, the tokens have not been decoded, and the same tokens may be offered again.
        """
        ...

    def close(self) -> None:
        """Free the model. Safe to call twice."""
        ...


def model_name(written: bytes, otherwise: str) -> str:
    """The name in a model file, in one line of visible characters; `otherwise` where it has none.

    Files are untrusted: names may be invalid UTF-8, contain escape sequences, or have no end.
    """
    text = written[:_LONGEST_NAME].decode("utf-8", "replace")
    visible = "".join(each if each.isprintable() else " " for each in text)
    return " ".join(visible.split()) or otherwise


def check_prompt(prompt: Int32Array, info: ModelInfo, number: int = 0) -> None:
    """Raise `ContextError` for an empty or too long prompt, `ModelError` for unknown tokens or a
    number that no prompt can have."""
    if not 0 <= number < info.max_prompts:
        raise ModelError(f"prompt {number}; prompts are 0 to {info.max_prompts - 1}")
    if len(prompt) == 0:
        raise ContextError("the prompt is empty; give it at least one token")
    if prompt.min() < 0 or prompt.max() >= info.vocab_size:
        raise ModelError(f"the prompt has a token outside the vocabulary of {info.vocab_size}")
    if len(prompt) + RESPONSE_ROOM > info.context:
        raise prompt_too_long(len(prompt), info.context)


def checked_ops(ops: Int32Array, info: ModelInfo) -> Iterator[tuple[SequenceOp, int, int]]:
    """The rows of `Batch.ops`, in order. Raises `ModelError` at one that can't be carried out."""
    limit, least = info.max_sequences, 1 - info.max_prompts
    for kind, first, second in ops.tolist():
        if kind == SequenceOp.FORK:
            if not (least <= first <= limit and 1 <= second <= limit and first != second):
                raise ModelError(f"fork of sequence {first} into {second}; limit {limit}")
        elif kind == SequenceOp.DROP:
            if not 1 <= first <= limit:
                raise ModelError(f"drop of sequence {first}; branches are 1 to {limit}")
        else:
            raise ModelError(f"unknown sequence operation {kind}")
        yield SequenceOp(kind), first, second


def prompt_too_long(tokens: int, context: int) -> ContextError:
    """The error of a prompt that leaves no room for a response."""
    return ContextError(
        f"the prompt has {tokens} tokens and the context {context}, of which {RESPONSE_ROOM} must "
        "stay free for the response; shorten the prompt or give a larger --context"
    )


def no_room_for_prompt(tokens: int, room: int, context: int) -> NoRoom:
    """The error of a prompt for which other prompts leave no cells."""
    return NoRoom(
        f"a prompt of {tokens} tokens and {room} cells for branches do not fit in a context of "
        f"{context} with the other prompts; release some, or give a larger --context"
    )


def common_prefix(first: Int32Array, second: Int32Array) -> int:
    """How many tokens two prompts share at the beginning."""
    count = min(len(first), len(second))
    different = np.flatnonzero(first[:count] != second[:count])
    return int(different[0]) if len(different) else count
