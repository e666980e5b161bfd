"""The native core: segmentation, shared draws, the ledger, the search round.

Arrays are numpy, C-contiguous. Wrong shapes and unusable tools raise `ValueError`, whose message
begins with the tool's name where one is at fault.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, final

import numpy as np
import numpy.typing as npt

_Int32 = npt.NDArray[np.int32]
_Float32 = npt.NDArray[np.float32]
_Judge = Callable[[int, bool, bytes], bool]
_Kind = Literal["FUNC_NAME", "ARG_VALUE", "PARAM_FINISH", "FUNC_FINISH", "TOTAL_FINISH"]

@final
class Step:
    """A decided step. Offsets count bytes from the beginning of the response.

    `function` is the tool's name, `argument` the parameter's and `value` its value as JSON, of
    ARG_VALUE; `text` is what the model wrote for the step. `begin` .. `end` spans the name, value,
    arguments or call; `boundary` is just past the byte that decided the step. `decided` is a
    canonical hash of all that is decided with it: white space, escapes, argument order and 5
    against 5.0 make no difference.
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
    def value(self) -> bytes | None: ...
    @property
    def text(self) -> bytes: ...
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
    """How calls are written. Around them: markers (at most 255 bytes each), or, without, one list.
    `body` is how one call is written: "json", an object whose keys `name_key` and `arguments_key`
    hold its parts."""

    def __init__(
        self,
        *,
        open_marker: str = "",
        close_marker: str = "",
        body: Literal["json"] = "json",
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
        format: CallFormat = ...,
        *,
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
    def fork(self, source: int) -> int:
        """A new sequence with all of `source`'s cells, or -1 when no id is free."""

    def drop(self, sequence: int) -> None: ...
    def append(self, sequence: int) -> int:
        """A new cell at the sequence's end, or -1 when all are taken."""

    def extend(self, sequence: int, count: int) -> bool:
        """Append `count` cells, or none and return False when not so many are free."""

    def shorten(self, sequence: int, count: int) -> None:
        """Release the last `count` cells, which other sequences may share."""

    def limit(self, sequences: int, cells: int) -> None:
        """No more than this may be taken; what is taken already stays."""

    def take_ops(self) -> _Int32:
        """Forks and drops since the last call, [operations, 3] as in `backends.base.Batch`."""

    def compact(self) -> _Int32 | npt.NDArray[np.uint32]:
        """Renumber the used cells; the old place of each, the prompt's included."""

    def settle(self) -> None:
        """Move the end back to just after the last used cell."""

    def place(self, cell: int) -> int: ...
    def tip(self, sequence: int) -> int: ...
    def ancestor_mask(self, cells: Sequence[int], size: int) -> npt.NDArray[np.uint8]:
        """1 where the token in a cell attends to a place, [cells, size]."""

    @property
    def used(self) -> int: ...
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
class Words:
    """The words of a language that texts are compared by, from the text of a file such as
    `assets/words/en.json`. Raises `ValueError` for text that is no such file."""

    def __init__(self, json: str) -> None: ...

@final
class Grounding:
    """Steps compared with the conversation: is a value found in it, is it the schema's default, is
    anything that the user named left unused.

    `tools_json` is the segmenter's list, in its order, with the descriptions and defaults that the
    model sees; `conversation` is (role, text), as text or UTF-8 bytes. `words` are those of its
    language; without them, values are found in digits or as they are written. `history` are the
    calls that were made in it, (name, arguments as JSON).
    """

    def __init__(
        self,
        tools_json: str,
        conversation: Sequence[tuple[str, str | bytes]],
        *,
        words: Words | None = None,
        history: Sequence[tuple[str, str | bytes]] = (),
    ) -> None: ...
    @staticmethod
    def names() -> list[str]:
        """Of the features, in order."""

    def features(self, chain: Sequence[Step]) -> _Float32:
        """Features [features] of the chain's last step; the others were decided before it, first
        to last."""

@final
class SearchOptions:
    """The settings of one search; `csrc/search/options.h` explains each."""

    def __init__(self) -> None: ...
    beams: int
    root_draws: int
    beam_draws: int
    follow_argmax: bool
    way_floor: float
    doubt: float
    whole_responses: bool
    policy_rewards: bool
    states_wanted: bool
    pool_states: bool
    aggregate: str
    policy_gap: float
    margin: float
    max_tokens: int
    max_step_tokens: int
    max_text_tokens: int
    max_batch_tokens: int
    trace: bool
    temperature: float
    top_k: int
    top_p: float
    seed: int
    prompt_hash: int

@final
class SearchBatch:
    """The arrays of `backends.base.Batch`, and the branch of each row of logits."""

    @property
    def ops(self) -> _Int32: ...
    @property
    def tokens(self) -> _Int32: ...
    @property
    def positions(self) -> _Int32: ...
    @property
    def sequences(self) -> _Int32: ...
    @property
    def logits_at(self) -> _Int32: ...
    @property
    def hidden_at(self) -> _Int32: ...
    @property
    def branches(self) -> list[int]: ...

@final
class RewardInputs:
    """What a reward reads, a row for each step: `kinds` int8 [steps], `features` float32 [steps,
    features] and `states` float32 [steps, layers * width] as in `StepBatch`; without hidden states
    the width is 0."""

    @property
    def kinds(self) -> npt.NDArray[np.int8]: ...
    @property
    def features(self) -> _Float32: ...
    @property
    def states(self) -> _Float32: ...

@final
class ScoredStep:
    """A decided step with its reward, None where the search was stopped before it, and the
    log-probability of its sampled tokens. `index` identifies the step within its search."""

    @property
    def step(self) -> Step: ...
    @property
    def index(self) -> int: ...
    @property
    def reward(self) -> float | None: ...
    @property
    def logprob(self) -> float: ...

@final
class StepInResponse:
    """A step and the response up to its boundary."""

    @property
    def step(self) -> Step: ...
    @property
    def response(self) -> bytes: ...

@final
class Answer:
    """A response that a search ended with, or goes on from."""

    @property
    def text(self) -> bytes: ...
    @property
    def steps(self) -> list[ScoredStep]: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def score(self) -> float: ...
    @property
    def logprob(self) -> float: ...
    @property
    def draws(self) -> int: ...
    @property
    def complete(self) -> bool: ...
    @property
    def greedy(self) -> bool:
        """Every sampled token was the most likely one."""

    @property
    def companion(self) -> bool:
        """It was kept for the margin alone, and is a whole response."""

@final
class TraceNode:
    """One candidate of one round; the fields are those of `search.trace.TraceNode`. `tokens` counts
    the response's."""

    @property
    def id(self) -> int: ...
    @property
    def parent(self) -> int | None: ...
    @property
    def round(self) -> int: ...
    @property
    def beam(self) -> int: ...
    @property
    def text(self) -> bytes: ...
    @property
    def steps(self) -> list[ScoredStep]: ...
    @property
    def tokens(self) -> int: ...
    @property
    def score(self) -> float: ...
    @property
    def draws(self) -> int: ...
    @property
    def greedy(self) -> bool: ...
    @property
    def finished(self) -> bool: ...
    @property
    def widened(self) -> bool: ...
    @property
    def fate(self) -> str: ...
    @property
    def merged_into(self) -> int | None: ...

@final
class Trajectory:
    """A response that was drawn. `last_step` is a row of the table, or -1."""

    @property
    def last_step(self) -> int: ...
    @property
    def draws(self) -> int: ...
    @property
    def greedy(self) -> bool: ...
    @property
    def finished(self) -> bool: ...
    @property
    def fate(self) -> str: ...
    @property
    def tokens(self) -> int: ...
    @property
    def text(self) -> bytes: ...

@final
class StepTable:
    """Every step of a search, a row each: for collecting supervision.

    `previous` int32 [steps]: the row of the step before it, or -1. `tokens`, `draws` int32 [steps]:
    the response's length at the boundary token, and the draws that wrote it. `gaps` float64
    [steps]: how far its tokens up to there are behind the most likely ones, as in
    `SearchConfig.policy_gap`. `greedy`: on the most likely path. `continues`: the boundary token
    has the comma of another argument or call, too. `trajectories` are of a search that traces.
    """

    @property
    def steps(self) -> list[StepInResponse]: ...
    @property
    def previous(self) -> _Int32: ...
    @property
    def tokens(self) -> _Int32: ...
    @property
    def draws(self) -> _Int32: ...
    @property
    def gaps(self) -> npt.NDArray[np.float64]: ...
    @property
    def greedy(self) -> list[bool]: ...
    @property
    def continues(self) -> list[bool]: ...
    @property
    def inputs(self) -> RewardInputs: ...
    @property
    def trajectories(self) -> list[Trajectory]: ...

@final
class SearchCounts:
    """The counts of `search.result.Stats` that the core keeps."""

    @property
    def decode_tokens(self) -> int: ...
    @property
    def forced_tokens(self) -> int: ...
    @property
    def drawn_tokens(self) -> int: ...
    @property
    def rounds(self) -> int: ...
    @property
    def widened(self) -> int: ...
    @property
    def rows_max(self) -> int: ...
    @property
    def kv_cells(self) -> int: ...

@final
class StepSearch:
    """One search. `search.loop` shows the order of calls. The segmenter's own text is not used."""

    def __init__(
        self,
        *,
        segmenter: Segmenter,
        vocabulary: Vocabulary,
        grounding: Grounding | None,
        options: SearchOptions,
        sequences: int,
        cells: int,
        prompt_tokens: int,
    ) -> None: ...
    def start(self, tokens: _Int32, logprobs: _Float32, entropy: _Float32) -> None:
        """The distribution of the first token: one row of `top_k`'s result."""

    def start_forced(self, tokens: Sequence[int]) -> None:
        """The first tokens, where the constraint leaves no choice."""

    def take_new(self) -> list[tuple[int, int, int]]:
        """(branch, parent, token) of the branches made since the last call; the root is 0."""

    def set_forced(self, branch: int, tokens: Sequence[int]) -> None:
        """The tokens that must follow on a new branch."""

    def next_batch(self) -> SearchBatch | None:
        """The next rows; None when the round is complete."""

    def observe(
        self, tokens: _Int32, logprobs: _Float32, entropy: _Float32, hidden: _Float32 | None
    ) -> None:
        """What the batch gave."""

    def no_room(self) -> None:
        """The batch did not fit; nothing of it was decoded."""

    def set_room(self, *, cells: int, sequences: int, batch_tokens: int, waits: bool) -> None:
        """What this search may take of a cache that it shares: cells, its prompt's included,
        sequences, and tokens of one batch. With `waits` it evicts nothing of its own where no row
        fits: `next_batch` then has operations only, and is observed as it is."""

    def forget_cells(self) -> None:
        """Free all cells after the prompt, and drop the batch in flight; the operations for it are
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
        """Decode no more, not even the batch in flight: candidates at a boundary are still scored
        by `next_batch` and `keep`, and the search is done."""

    def reward_inputs(self) -> RewardInputs:
        """Of the steps that wait for a reward."""

    def pending(self) -> list[StepInResponse]:
        """The same steps, as text."""

    def keep(self, rewards: npt.ArrayLike) -> None:
        """One reward for each of these steps; ends the round, or asks for more rows where the
        greedy step is doubtful."""

    def live(self) -> list[int]: ...
    def beams(self) -> list[Answer]:
        """The beams that the search goes on from, or has ended with."""

    def answers(self) -> list[Answer]:
        """Best first."""

    def trace(self, begin: int = 0) -> list[TraceNode]:
        """The nodes of a search that traces, from the `begin`-th on, in the order in which their
        fates were decided."""

    def step_table(self) -> StepTable:
        """All steps so far with what became of them. A step whose boundary token was never decoded
        is left out with all that followed it."""

    def counts(self) -> SearchCounts: ...
    @property
    def done(self) -> bool: ...
