"""The settings of a search, checked once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from toolprm_lite.checks import check_integer, check_number
from toolprm_lite.errors import ConfigError
from toolprm_lite.formats import FORMATS
from toolprm_lite.instruction import PromptStyle
from toolprm_lite.reward.aggregate import AGGREGATES, MOST_POLICY_GAP, Aggregate
from toolprm_lite.reward.margin import Margin

Strategy = Literal["step-beam", "doubt", "greedy", "best-of-n"]
Constrain = Literal["auto", "on", "off"]

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
CONSTRAIN: tuple[Constrain, ...] = ("auto", "on", "off")
DOUBT = 0.5
"""The threshold of `doubt` where neither the settings nor a head's card name one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """How to search. Out-of-range values raise `ConfigError` that names the setting.

    What may be called:
        tool_choice: `auto`, `required` (at least one call), `none`, or the name of a tool.
        parallel: whether a response may hold several calls.
        max_calls: most calls in a response. The same call may come three times at most, and a
            repeated one is charged with the policy's probability of writing it again.

    How long it may take:
        deadline_ms: milliseconds from the call, the wait for the model included, after which no
            model step begins: the best response so far is the answer. Every model step then takes
            at most 64 tokens, those of the prompt too, unless it is one row with more forced ones.
            None: no deadline; at most 1e9.
        max_decode_tokens: sampled tokens that all branches together may decode, as
            `Stats.decode_tokens` counts them; the step that would go beyond is not taken and the
            best response so far is the answer. None: no limit.

    How to search:
        strategy: `step-beam` keeps `beams` partial responses and draws `expand` candidates for
            each at every step. `doubt` does so only where the most likely step costs too much of
            the score, and is greedy elsewhere. `greedy` follows the most likely token.
            `best-of-n` draws `samples` whole responses and answers with the best scored one.
        doubt: of `doubt`. A step that costs more than 1 - doubt of the score is not taken before
            others were tried. 0 is greedy, 1 is step-beam; None takes what the head's card
            says, else 0.5.
        beams: N, beams retained after each step.
        expand: M, draws for each beam and step.
        samples: K, whole responses drawn by `best-of-n`.
        seed: of the draws. Equal seeds give equal draws of equal prompts, whatever the batch's
            shape; different prompts draw independently.

    How steps are judged:
        aggregate: how a beam's step rewards become its score; None takes the reward's own choice.
        decline_odds: factor on the odds a head gives that declining is right: below 1 it calls more
            often, above 1 it declines more often. None takes the head's own.
        policy_gap: how much the policy's own preference counts in a score, 0 .. 100. A response's
            gap is the sum of log p(token) - log p(most likely allowed token) over its sampled
            tokens, 0 for the greedy one; the score is multiplied by exp(policy_gap * gap), of a
            gap of at least -log 16. None takes what the head's card says, else 0: not at all.
        margin: how much better than the greedy answer another one must score to take its place, by
            the kind of deviation. The greedy path is then kept to its end. None takes what the
            head's card says, else none.

    How the model writes:
        call_format: how calls are written: `json-list`, `hermes`, or `auto`: as the model's own
            chat template teaches, else the JSON list.
        prompt: how tools are explained to a model whose chat template doesn't: `schemas` (JSON) or
            `signatures` (half as long), both also with `+1` to `+3` worked examples, or
            `signatures-short`, the wording that adapters are trained on. `auto` is what the head,
            the adapter or else this model was measured with.
        constrain: token masks from the tools' schemas. `auto` is on.
        temperature: of the draws; 0 draws the most likely token only.
        top_k: tokens a draw may choose among, after the mask.
        top_p: smallest set of most likely tokens of at least this probability, after `top_k`.
        way_floor: how a call continues after a value (another argument, its end, another call, the
            end of the response) is a finite choice: the likeliest token of each way is a candidate
            too, drawn or not, if the policy gives it this probability; 1 is never.
        max_tokens: longest response, in tokens.
        max_step_tokens: longest step, in tokens; a longer branch is dropped.
        max_text_tokens: longest text outside calls; at the limit the response declines.

    What is recorded:
        trace: every candidate, kept or dropped, as `SearchResult.trace`.
    """

    tool_choice: str = "auto"
    parallel: bool = True
    max_calls: int = 16

    deadline_ms: float | None = None
    max_decode_tokens: int | None = None

    strategy: Strategy = "doubt"
    doubt: float | None = None
    beams: int = 2
    expand: int = 8
    samples: int = 16
    seed: int = 0

    aggregate: Aggregate | None = None
    decline_odds: float | None = None
    policy_gap: float | None = None
    margin: Margin | None = None

    call_format: str = "auto"
    prompt: str = "auto"
    constrain: Constrain = "auto"
    temperature: float = 0.8
    top_k: int = 64
    top_p: float = 1.0
    way_floor: float = 0.001
    max_tokens: int = 512
    max_step_tokens: int = 128
    max_text_tokens: int = 64

    trace: bool = False

    @property
    def call_limit(self) -> int:
        """Most calls that a response may hold."""
        return self.max_calls if self.parallel else 1

    def to_json(self) -> dict[str, Any]:
        """The settings in JSON's own types, for the record of a run."""
        margin = None if self.margin is None else self.margin.to_json()
        return {**asdict(self), "margin": margin}

    def __post_init__(self) -> None:
        for name, allowed in (
            ("strategy", STRATEGIES),
            ("constrain", CONSTRAIN),
            ("call_format", ("auto", *FORMATS)),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}"
                )
        if self.prompt != "auto":
            PromptStyle.parse(self.prompt)
        if self.aggregate is not None and self.aggregate not in AGGREGATES:
            raise ConfigError(
                f"aggregate is {self.aggregate!r}; it must be one of {', '.join(AGGREGATES)}"
            )
        for name, least, most in (
            ("beams", 1, 256),
            ("expand", 1, 256),
            ("samples", 1, 1024),
            ("top_k", 1, 1024),
            ("max_tokens", 1, 1 << 16),
            ("max_step_tokens", 1, 1 << 16),
            ("max_text_tokens", 0, 1 << 16),
            ("max_calls", 1, 256),
            ("seed", 0, (1 << 64) - 1),
        ):
            check_integer(name, getattr(self, name), least, most)
        if self.max_decode_tokens is not None:
            check_integer("max_decode_tokens", self.max_decode_tokens, 1, 1 << 30)
        check_number("temperature", self.temperature, 0, 100)
        check_number("top_p", self.top_p, 0, 1, above=True)
        check_number("way_floor", self.way_floor, 0, 1, above=True)
        if self.doubt is not None:
            check_number("doubt", self.doubt, 0, 1)
        if self.decline_odds is not None:
            check_number("decline_odds", self.decline_odds, 0, 1e9, above=True, rest=", or None")
        if self.policy_gap is not None:
            check_number("policy_gap", self.policy_gap, 0, MOST_POLICY_GAP, rest=", or None")
        if self.margin is not None and not isinstance(self.margin, Margin):
            raise ConfigError(f"margin is {self.margin!r}; it must be a Margin, or None")
        if self.deadline_ms is not None:
            check_number("deadline_ms", self.deadline_ms, 0, 1e9, above=True, rest=", or None")
        if not self.tool_choice:
            raise ConfigError("tool_choice is empty; use auto, required, none or a tool's name")
