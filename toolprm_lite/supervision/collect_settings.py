"""How a supervision set is collected."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolprm_lite.errors import ConfigError
from toolprm_lite.search.config import SearchConfig
from toolprm_lite.tasks.matching import MatchRule
from toolprm_lite.tasks.plan_settings import PlanSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectSettings:
    """How to collect.

    Attributes:
        draws: responses drawn for each problem, in addition to the most likely one.
        temperature: of the draws.
        top_k: tokens a draw may choose among.
        seed: of the draws.
        layers: hidden states to store; empty is a choice in the middle of the model.
        unconstrained_share: of the problems are answered a second time without the constraint.
        max_tokens: longest response.
        max_step_tokens: longest step.
        match: the rule by which a step equals the answer.
        call_format, prompt: as in `SearchConfig`.
        shard: problems in a shard, at least.
        plan: how the problems were prepared.
    """

    draws: int = 10
    temperature: float = 0.8
    top_k: int = 64
    seed: int = 0
    layers: tuple[int, ...] = ()
    unconstrained_share: float = 0.1
    max_tokens: int = 256
    max_step_tokens: int = 48
    match: MatchRule = "exact"
    call_format: str = "auto"
    prompt: str = "auto"
    shard: int = 12
    plan: PlanSettings = field(default_factory=PlanSettings)

    def __post_init__(self) -> None:
        if not 1 <= self.draws <= 1024:
            raise ConfigError(f"draws is {self.draws}; it must be 1 .. 1024")
        if not 0 <= self.unconstrained_share <= 1:
            raise ConfigError(
                f"unconstrained_share is {self.unconstrained_share}; it must be 0 .. 1"
            )
        if self.shard < 1:
            raise ConfigError(f"shard is {self.shard}; it must be at least 1")
        self.search(constrained=True)

    def search(self, constrained: bool) -> SearchConfig:
        """The search that draws the responses. Raises `ConfigError`."""
        return SearchConfig(
            samples=self.draws,
            temperature=self.temperature,
            top_k=self.top_k,
            seed=self.seed,
            max_tokens=self.max_tokens,
            max_step_tokens=self.max_step_tokens,
            call_format=self.call_format,
            prompt=self.prompt,
            constrain="on" if constrained else "off",
        )
