"""The native core: segmentation, shared draws, the ledger, the search round.

Arrays are numpy, C-contiguous. Wrong shapes and unusable tools raise `ValueError`, whose message
begins with the tool's name where one is at fault.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, final

import numpy as np
import numpy.typing as npt

_Int32 = npt.NDArray[np.int32]
_Float32 = npt.NDArray[np.float32]
_Entry = tuple[int, int, bytes, list[str], float, int, str]
_Judge = Callable[[int, bool, bytes], bool]
_Kind = Literal["FUNC_NAME", "ARG_VALUE", "PARAM_FINISH", "FUNC_FINISH", "TOTAL_FINISH"]

@final
class Step:
    """A decided step. Offsets count bytes from the beginning of the response.

    `begin` .. `end` spans the name, value, arguments or call; for ARG_VALUE `key_begin` ..
    `key_end` spans the parameter's name with its quotes. `boundary` is just past the byte that
    decided the step. `decided` is a canonical hash of all that is decided with it: white space,
    escapes, argument order and 5 against 5.0 make no difference.
    """

    @property
    def kind(self) -> _Kind: ...
    @property
    def call(self) -> int | None: ...
    @property
    def function(self) -> str | None: ...
    @property
    def argument(self) -> str | None: ...
    @property
    def key_begin(self) -> int: ...
    @property
    def key_end(self) -> int: ...
    @property
    def begin(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def boundary(self) -> int: ...
    @property
    def decided(self) -> int: ...

@final
class CallFormat:
    """Where calls stand: between markers (at most 255 bytes each), or, without, in a JSON list."""

    def __init__(
        self,
        open_marker: str = "",
        close_marker: str = "",
        name_key: str = "name",
        arguments_key: str = "arguments",
    ) -> None: ...

@final
class Segmenter:
    """Reads a response as it is written. `tools_json` is a list of {"name", "parameters"}; the
    parameters' JSON Schema is taken at its word (see `schema.closed_schema`). `judge` decides what
    the core does not: see `judge.ArgumentJudge`; without it such values count as valid."""

    def __init__(
        self,
        tools_json: str,
        open_marker: str = "",
        close_marker: str = "",
        name_key: str = "name",
        arguments_key: str = "arguments",
        max_calls: int | None = None,
        require_call: bool = False,
        judge: _Judge | None = None,
    ) -> None: ...
    def feed(self, data: bytes) -> list[Step]:
        """The steps that these bytes decide."""

    def finish(self) -> list[Step]:
        """The model has ended the response."""

    def copy(self) -> Segmenter: ...
    def scan(self, data: bytes, repeats: int, stride: int = 0) -> int:
        """Read `data` as `repeats` fresh responses, `stride` bytes at a time (0: at once), for
        measuring; returns the steps of all."""

    def copy_states(self, repeats: int) -> int:
        """Copy the state `repeats` times, for measuring."""

    @property
    def dead(self) -> bool:
        """The response can no longer become a valid one."""

    @property
    def death(self) -> str:
        """Why, or an empty string."""

    @property
    def finished(self) -> bool: ...
    @property
    def in_text(self) -> bool:
        """Outside calls."""

    @property
    def text(self) -> bytes: ...
    @property
    def decided(self) -> int: ...
    @property
    def merge_key(self) -> int:
        """Equal for two states from which the same continuations lead to the same calls."""

def top_k(
    logits: _Float32, masks: npt.NDArray[np.uint32] | None, k: int
) -> tuple[_Int32, _Float32, _Float32]:
    """Logits [rows, vocabulary] to (tokens [rows, k], log-probabilities [rows, k], entropy [rows]).

    The tokens are the most likely of those that `masks` [rows, ceil(vocabulary / 32)] allows, down
    from the likeliest, padded with -1 and -inf. Log-probabilities and entropy (nats) are of the
    whole vocabulary. Releases the GIL.
    """

def draw(
    tokens: _Int32,
    logprobs: _Float32,
    path: int,
    draws: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
) -> _Int32:
    """The places [draws] in `tokens` [k] that draws 0 .. draws - 1 take; -1 when there are none.

    The noise depends on (seed, path, draw, token) alone.
    """

@final
class KvLedger:
    """Who owns which cell of the KV cache; sequence 0 is the prompt's."""

    def __init__(self, sequences: int, cells: int, prompt: int) -> None: ...
    def fork(self, source: int, told: bool = True) -> int:
        """A new sequence with all of `source`'s cells, or -1 when no id is free. What is not `told`
        is not among `take_ops`."""

    def drop(self, sequence: int, told: bool = True) -> None: ...
    def append(self, sequence: int) -> int:
        """A new cell at the sequence's end, or -1 when all are taken."""

    def extend(self, sequence: int, count: int) -> bool:
        """Append `count` cells, or none and return False when not so many are free."""

    def shorten(self, sequence: int, count: int) -> None:
        """Let go of the last `count` cells, which other sequences may share."""

    def limit(self, sequences: int, cells: int) -> None:
        """No more than this may be taken; what is taken already stays."""

    def take_ops(self) -> _Int32:
        """Forks and drops since the last call, [operations, 3] as in `backends.base.Batch`."""

    def compact(self) -> _Int32 | npt.NDArray[np.uint32]:
        """Number the living cells anew; the old place of each, the prompt's included."""

    def settle(self) -> None:
        """Take the end back to behind the last living cell."""

    def place(self, cell: int) -> int: ...
    def tip(self, sequence: int) -> int: ...
    def ancestor_mask(self, cells: Sequence[int], size: int) -> npt.NDArray[np.uint8]:
        """1 where the token in a cell attends to a place, [cells, size]."""

    @property
    def used(self) -> int: ...
    @property
    def used_max(self) -> int: ...
    @property
    def end(self) -> int: ...

@final
class TensorTap:
    """Copies rows of named tensors while ggml computes a graph: its evaluation callback.

    `name`, `bytes` and `read` are the addresses of ggml_get_name, ggml_nbytes and
    ggml_backend_tensor_get. Give `callback` and `address` to a context as cb_eval and its user
    data, and keep the tap as long as the context.
    """

    def __init__(
        self, name: int, bytes: int, read: int, names: Sequence[str], width: int, ubatch: int
    ) -> None: ...
    def aim(self, names: Sequence[str]) -> None:
        """Copy other tensors from the next decode on."""

    def begin(self, tokens: int, wanted: _Int32, outputs: _Int32) -> None:
        """Announce a decode: the tokens whose rows shall be kept, and those with logits, rising."""

    def rows(self) -> _Float32:
        """The rows of the last decode, float32 [wanted, names * width]."""

    callback: ClassVar[int]
    @property
    def address(self) -> int: ...
    @property
    def missing(self) -> str | None:
        """A tensor that the last decode had none of."""

    @property
    def failure(self) -> str | None:
        """What went wrong in the last decode."""

@final
class Vocabulary:
    """The bytes that each token writes, and the tokens that end a response."""

    def __init__(self, tokens: Sequence[bytes], ends: Sequence[int]) -> None: ...
    def __len__(self) -> int: ...

@final
class Grounding:
    """Steps held against the conversation: is a value found in it, is it the schema's default, is
    anything that the user named left unused.

    `tools_json` is the segmenter's list, in its order, with the descriptions and defaults that the
    model sees; `conversation` is (role, text), as text or UTF-8 bytes.
    """

    def __init__(
        self, tools_json: str, conversation: Sequence[tuple[str, str | bytes]]
    ) -> None: ...
    @staticmethod
    def names() -> list[str]:
        """Of the features, in order."""

    def features(self, chain: Sequence[Step], response: bytes) -> _Float32:
        """Features [features] of the chain's last step; the others were decided before it, first
        to last. `response` reaches at least to its boundary."""

@final
class StepSearch:
    """One search. `search.loop.run` shows the order of calls."""

    def __init__(
        self,
        *,
        tools_json: str,
        format: CallFormat,
        vocabulary: Vocabulary,
        sequences: int,
        cells: int,
        prompt_tokens: int,
        max_calls: int | None,
        require_call: bool,
        judge: _Judge | None,
        beams: int,
        root_draws: int,
        beam_draws: int,
        follow_argmax: bool,
        whole_responses: bool,
        rank_by_draws: bool,
        policy_rewards: bool,
        states_wanted: bool,
        pool_states: bool,
        grounding: Grounding | None,
        aggregate: str,
        policy_weight: float,
        way_floor: float,
        max_tokens: int,
        max_step_tokens: int,
        max_text_tokens: int,
        max_batch_tokens: int,
        temperature: float,
        top_k: int,
        top_p: float,
        seed: int,
        prompt_hash: int,
        trace: bool,
        token_level: bool,
        doubt: float,
        choices: int,
        forks_within: bool,
    ) -> None: ...
    def start(self, tokens: _Int32, logprobs: _Float32, entropy: _Float32) -> None:
        """The distribution of the first token: one row of `top_k`'s result."""

    def start_forced(self, tokens: Sequence[int]) -> None:
        """The first tokens, where the constraint leaves no choice."""

    def take_new(self) -> list[tuple[int, int, int]]:
        """(branch, parent, token) of the branches made since the last call; the root is 0.

        Ask until there are none: choices that were decoded ahead are told level by level.
        """

    def set_forced(self, branch: int, tokens: Sequence[int]) -> None:
        """The tokens that must follow on a new branch."""

    def take_choices(self) -> list[tuple[int, bytes, list[tuple[bytes, int]]]]:
        """(branch, context, choices) of the branches that stand before choices, each once.

        A choice is (text, bytes of it that come before the token which decides the step); the
        context is the response from the key on whose value is chosen.
        """

    def set_choices(
        self,
        branch: int,
        parents: Sequence[int],
        tokens: Sequence[int],
        forced: Sequence[bool],
        ends: Sequence[int],
    ) -> int:
        """The tokens that write the choices, before the next batch; without them they are drawn.

        Node i + 1 of the tree is tokens[i] behind node parents[i]; node 0 is the branch as it
        stands. `ends` has the node where the body of each choice ends, or -1. Node i is number
        `result - i + 1` among the branches of a batch. Raises ValueError for what is no such tree.
        """

    @property
    def choice_width(self) -> int:
        """Tokens that `observe` must be given for each row, so that every choice is among them; 0
        where nothing is chosen."""

    @property
    def narrowed(self) -> bool:
        """The batch in flight has rows where only choices are allowed: see `narrow`."""

    def narrow(self, masks: npt.NDArray[np.uint32]) -> None:
        """Take all but the choices out of their rows of `masks` [rows, ceil(vocabulary / 32)]. What
        ends a choice must be allowed in the mask as well."""

    def next_batch(
        self,
    ) -> tuple[_Int32, _Int32, _Int32, _Int32, _Int32, _Int32, _Int32, list[int]] | None:
        """The arrays of `backends.base.Batch` and the branch of each row of logits; None when the
        round is complete. A branch below -1 is a node of `set_choices`, and -1 a row that `narrow`
        fills by itself."""

    def observe(
        self, tokens: _Int32, logprobs: _Float32, entropy: _Float32, hidden: _Float32 | None
    ) -> None:
        """What the batch gave."""

    def no_room(self) -> None:
        """The batch did not fit; nothing of it was decoded."""

    def set_room(self, *, cells: int, sequences: int, batch_tokens: int, waits: bool) -> None:
        """What this search may take of a cache that it shares: cells, its prompt's included,
        sequences, and tokens of one batch. With `waits` it gives up nothing of its own where no row
        fits: `next_batch` then has operations only, and is observed as it is."""

    def forget_cells(self) -> None:
        """Give up all cells behind the prompt, and the batch in flight; the operations for it are
        the caller's. What is needed is decoded again."""

    @property
    def cells(self) -> int:
        """Cells that it holds, its prompt's included."""

    @property
    def sequences(self) -> int:
        """Branch sequences that it holds."""

    @property
    def planned_tokens(self) -> int:
        """Sampled tokens that have been decoded once the batch in flight is."""

    def stop(self) -> None:
        """Decode no more, not even the batch in flight: what stands at a boundary is judged as
        ever, by `next_batch` and `keep`, and the search is done."""

    def features(self) -> tuple[npt.NDArray[np.int8], _Float32, _Float32 | None]:
        """(kinds, features, hidden) of the steps that wait for a reward: see `StepBatch`."""

    def records(self) -> dict[str, Any]:
        """All steps so far with what became of them, for collecting supervision.

        `steps`: (step, response up to its boundary). `previous` int32 [steps]: the step before it,
        or -1. `tokens`, `draws` int32 [steps]: the response's length at the boundary token, and the
        draws that wrote it. `greedy`: on the most likely path. `goes_on`: the boundary token has
        the comma behind the value or call, too. `features` float32 and `states`
        float32 as in `StepBatch`. `trajectories`: (last step or -1, draws, greedy, finished, fate,
        tokens, response), of a search with `trace`.
        """

    def pending(self) -> list[tuple[Step, bytes]]:
        """The same steps, each with the response up to its boundary."""

    def keep(self, rewards: npt.ArrayLike) -> None:
        """One reward for each of these steps; ends the round, or asks for more rows where the
        greedy step is doubtful."""

    def live(self) -> list[int]: ...
    def beams(self) -> list[tuple[bytes, list[Step]]]:
        """(response, its steps) of the beams that the search goes on from, or has ended with."""

    def answers(
        self,
    ) -> list[
        tuple[bytes, list[tuple[Step, float | None, float]], list[int], float, float, int, bool]
    ]:
        """(response, [(step, reward, log-probability)], tokens, score, log-probability, draws,
        complete), best first. A reward is None where `stop` came before it."""

    def trace(self) -> list[_Entry]:
        """(round, beam, text, kinds, score, draws, fate)."""

    def news(self) -> list[tuple[_Entry, list[tuple[Step, float | None, float]], bytes]]:
        """(entry, [(step, reward, log-probability)], response) of what the trace has got since the
        last call. Steps are of what was kept, each told once; `response` reaches to the last."""

    def counts(self) -> dict[str, Any]: ...
    @property
    def done(self) -> bool: ...
