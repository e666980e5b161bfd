"""How an adapter is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolprm_lite.checks import check_integer, check_number
from toolprm_lite.instruction import PromptStyle
from toolprm_lite.tasks.plan_settings import PlanSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneSettings:
    """How an adapter is trained. Raises `ConfigError`.

    Attributes:
        rank: of the changes; an adapter of twice the rank is twice as large.
        scale: factor on the changes.
        learning_rate: at the beginning, after a warm-up; it falls to zero in a straight line.
        passes: over the training problems, each with other masks, tools and joins.
        batch: responses of one step of the optimizer, at least.
        most_tokens: of a problem's prompt and response; longer ones are left out. So many are
            computed at once.
        source_tokens: tokens of one source in a pass, at most; each pass draws others, so that no
            source, and none of long problems, takes most of the time. None: all.
        decline_share: share of the problems without a call in a pass, at most.
        group: problems that offer the same tools, at most; see `share_tools`.
        checks: how often in a pass the loss on the validation problems is computed.
        check_problems: of these, at most.
        patience: checks without a better loss after which training ends.
        call_format, prompt: as in `SearchConfig`; `prompt` is not "auto".
        plan: splits, masks, refusals and joins; its `group` is not used.
    """

    rank: int = 16
    scale: float = 1.0
    learning_rate: float = 1e-3
    passes: int = 3
    batch: int = 8
    most_tokens: int = 1280
    source_tokens: int | None = None
    decline_share: float = 0.12
    group: int = 24
    checks: int = 4
    check_problems: int = 200
    patience: int = 4
    call_format: str = "auto"
    prompt: str = "signatures-short"
    plan: PlanSettings = field(
        default_factory=lambda: PlanSettings(refusal_share=0.05, joined_share=0.1)
    )

    def __post_init__(self) -> None:
        for name, most in (
            ("rank", 1024), ("passes", 1000), ("batch", 1 << 20), ("most_tokens", 1 << 17),
            ("group", 1 << 10), ("checks", 1000), ("check_problems", 1 << 30), ("patience", 1000),
        ):  # fmt: skip
            check_integer(name, getattr(self, name), 1, most)
        if self.source_tokens is not None:
            check_integer("source_tokens", self.source_tokens, 1, 1 << 40)
        check_number("scale", self.scale, 0, 1000, above=True)
        check_number("learning_rate", self.learning_rate, 0, 1, above=True)
        check_number("decline_share", self.decline_share, 0, 1)
        PromptStyle.parse(self.prompt)
