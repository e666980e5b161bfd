"""What a search gives back, the same for every strategy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from toolprm_lite.search.steps import Call, Step
from toolprm_lite.search.trace import TraceNode

Stop = Literal["deadline", "max_decode_tokens", "cancelled"]


@dataclass(frozen=True, slots=True)
class CallConfidence:
    """The calibrated probabilities, in 0 .. 1, that a call and its parts are right.

    `probability` is that of the whole call, `name` that of the function, `arguments` has one for
    each argument of the call. None where the reward does not judge that kind of step. The whole is
    never above one of its parts.
    """

    probability: float | None
    name: float | None
    arguments: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another response that was finished or not dropped at the end."""

    calls: list[Call]
    score: float
    complete: bool = True
    draws: int = 0


@dataclass(slots=True)
class Stats:
    """Counts are exact; times are milliseconds of wall clock.

    `decode_tokens` counts sampled tokens the model decoded, `forced_tokens` those that the
    constraint left no choice about, `drawn_tokens` what independent draws would have decoded for
    the same search. `widened` counts the rounds in which `doubt` looked further than the most
    likely step.
    """

    prompt_tokens: int = 0
    prefill_tokens: int = 0
    reused_tokens: int = 0
    decode_tokens: int = 0
    forced_tokens: int = 0
    drawn_tokens: int = 0
    rounds: int = 0
    widened: int = 0
    steps: int = 0
    reward_calls: int = 0
    kv_cells: int = 0
    rows_max: int = 0
    ms: dict[str, float] = field(
        default_factory=lambda: {
            "total": 0.0, "prefill": 0.0, "decode": 0.0, "core": 0.0, "reward": 0.0,
        }
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer and how it was found.

    `score` is what the choice was made by; `kept_greedy` says that a better scored response did not
    exceed the greedy one by `SearchConfig.margin`, which is therefore the answer: the other one is
    among `alternatives`. `probability` is that of the whole response, calibrated,
    never above that of one of its calls, and None without a head.
    `complete` is False when the response was cut off before its end; `calls` then holds the calls
    that are closed, and `missing` names what is not decided: required arguments of the open call,
    by their names, "the end of the call", "the end of the list", or "what to call" where nothing is
    decided at all. `stopped` says what ended the search early (`deadline`, `max_decode_tokens`,
    `cancelled`), None where it came to its own end: a search that was stopped may have a complete
    response and not know the better one, and may have one among its `alternatives` that is much
    worse than what it was still writing. `text` and `tokens` are the response as the model wrote
    it. `confidence` has one entry for each of `calls`, in order; it is None where no calibrated
    reward judged the response.
    """

    calls: list[Call]
    complete: bool
    score: float
    probability: float | None
    steps: list[Step]
    alternatives: list[Alternative]
    model: str
    reward: str
    strategy: str
    stats: Stats
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    stopped: Stop | None = None
    missing: list[str] = field(default_factory=list)
    confidence: list[CallConfidence] | None = None
    kept_greedy: bool = False
    trace: list[TraceNode] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The result as the command line's `--json` prints it."""
        result = asdict(self)
        del result["text"], result["tokens"]
        if self.trace is None:
            del result["trace"]
        return result

    def tool_calls(self) -> list[Mapping[str, Any]]:
        """The calls in the form of OpenAI's `message.tool_calls`."""
        return [
            {
                "id": f"call_{index}",
                "type": "function",
                "function": {
                    "name": call["name"],
                    "arguments": json.dumps(call["arguments"], ensure_ascii=False),
                },
            }
            for index, call in enumerate(self.calls)
        ]


def confidence(steps: Iterable[Step]) -> tuple[list[CallConfidence], float | None]:
    """The confidence in each closed call, in the order written, and in the whole response.

    A reward judges each step for itself, so its estimates for a whole may be above those for the
    parts. Here a call is no likelier right than the least likely of its steps, and the response no
    likelier than any of its calls. The response has None where its last step, TOTAL_FINISH, is
    missing or not judged. Of an argument that was written twice the last value counts, and so does
    its probability.
    """
    found: list[CallConfidence] = []
    name: float | None = None
    arguments: dict[str, float | None] = {}
    ends: list[float | None] = []
    below: list[float | None] = []  # what the response contains
    whole: float | None = None
    for step in steps:
        if step.kind == "FUNC_NAME":
            name, arguments, ends = step.probability, {}, []
        elif step.kind == "ARG_VALUE":
            assert step.argument is not None
            arguments[step.argument] = step.probability
        elif step.kind == "PARAM_FINISH":
            ends = [step.probability]
        elif step.kind == "FUNC_FINISH":
            parts = [name, *arguments.values(), *ends]
            probability = least(step.probability, parts)
            found.append(CallConfidence(probability, name, arguments))
            below += [*parts, probability]
            name, arguments, ends = None, {}, []
        else:
            whole = least(step.probability, below)
    return found, whole


def least(whole: float | None, parts: Iterable[float | None]) -> float | None:
    """The probability of a whole, at most that of its least likely part. A whole that is not judged
    has None; parts that are not judged don't count."""
    known = [part for part in parts if part is not None]
    return None if whole is None else min([whole, *known])
