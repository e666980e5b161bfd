"""The rewards that an evaluation names: heads of a folder, the one that ships, the policy, a second
model."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from toolprm_lite.backends.settings import ModelSettings
from toolprm_lite.errors import HeadError
from toolprm_lite.evaluation.generative import GenerativeReward
from toolprm_lite.files import digest_of
from toolprm_lite.models import EMBEDDED
from toolprm_lite.reward.base import Reward
from toolprm_lite.reward.head import Head
from toolprm_lite.search.searcher import Searcher


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSettings:
    """Where rewards are found.

    Attributes:
        heads: a folder of heads by name: toolprm.safetensors, c-prm.safetensors, ...
        judge: the second model of the reward "generative"; None is the model itself.
        model: how the model was opened, and how the second one is.
    """

    heads: Path | None = None
    judge: str | None = None
    model: ModelSettings = field(default_factory=ModelSettings)


def judge_names(searcher: Searcher, settings: RewardSettings, call_format: str) -> list[str]:
    """The names of the heads that judge if none is named: all of the folder, ToolPRM first,
    else "auto" where one ships, else none. Raises `HeadError` for a folder without a head."""
    heads = settings.heads
    if heads is None:
        return ["auto"] if isinstance(searcher.reward("auto", call_format), Head) else []
    names = sorted(path.stem for path in heads.glob("*.safetensors"))
    if not names:
        raise HeadError(f"{heads}: no head in it; give --heads the folder that `train` wrote")
    return sorted(names, key=lambda name: name != "toolprm")


def open_reward(
    name: str, searcher: Searcher, settings: RewardSettings, call_format: str, stack: ExitStack
) -> Reward | str:
    """The reward of this name, "policy" as it is; `stack` closes what was opened for it. Raises
    `HeadError` and `ModelError`."""
    if name == "policy":
        return name
    if name == "generative":
        model = settings.model
        options = model.options()
        if settings.judge is not None:
            options["adapter"] = "auto"  # the other one is the main model's
        judge = GenerativeReward.open(settings.judge or model.model, **options)
        stack.callback(judge.close)
        return judge
    path = None if settings.heads is None else settings.heads / f"{name}.safetensors"
    if name == "auto" or (name == "toolprm" and (path is None or not path.exists())):
        reward = searcher.reward("auto", call_format)
        if name == "toolprm" and reward.name == "policy":
            raise HeadError("no head ships for this model; give --heads, a folder with one")
        return reward
    if path is None:
        raise HeadError(f"the reward {name} needs --heads, a folder with {name}.safetensors")
    return searcher.reward(path, call_format)


def identity(reward: Reward | str, settings: RewardSettings) -> str:
    """What identifies a reward: the bytes of a head, the name of a second model."""
    if isinstance(reward, str):
        return reward
    if isinstance(reward, Head):
        return digest_of(Path(reward.source))
    if reward.name == "generative":
        judge = settings.judge or settings.model.model or EMBEDDED
        return f"generative: {Path(judge).name}"
    return reward.name
