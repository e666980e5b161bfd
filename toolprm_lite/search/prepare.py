"""From a request to a search that can begin."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from toolprm_lite._core import SearchOptions, Segmenter, StepSearch
from toolprm_lite._core import Vocabulary as CoreVocabulary
from toolprm_lite.backends.base import Backend
from toolprm_lite.backends.encoder import Encoder
from toolprm_lite.errors import ConfigError, ToolsError
from toolprm_lite.formats import CallFormat, detect_format, get_format
from toolprm_lite.grounded import make_grounding
from toolprm_lite.instruction import PromptStyle
from toolprm_lite.judge import ArgumentJudge
from toolprm_lite.prompt import render_prompt
from toolprm_lite.reward.base import RequestReward, Reward
from toolprm_lite.reward.head import Head
from toolprm_lite.reward.margin import NO_MARGIN, Margin
from toolprm_lite.reward.policy import PolicyReward
from toolprm_lite.schema import closed_schema
from toolprm_lite.search.config import DOUBT, SearchConfig
from toolprm_lite.search.limits import STEP_TOKENS
from toolprm_lite.search.loop import Prepared
from toolprm_lite.tools import Tool

if TYPE_CHECKING:
    from toolprm_lite.constraint import Constraint


class Preparer:
    """Makes searches for one model, and keeps what all of them need of its vocabulary."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._vocabulary = CoreVocabulary(
            list(backend.token_bytes), sorted(backend.info.eog_tokens)
        )

    @cached_property
    def _encoder(self) -> Encoder:
        backend = self._backend
        return Encoder(backend.token_bytes, backend.tokenize, backend.special_texts)

    def call_format(self, name: str = "auto") -> CallFormat:
        """How the model writes calls; `name` as in `SearchConfig.call_format`."""
        info = self._backend.info
        if name == "auto" and not info.call_format:
            return detect_format(info.chat_template, info.name)
        return get_format(info.call_format if name == "auto" else name)

    def prepare(
        self,
        messages: list[dict[str, Any]],
        tools: list[Tool],
        config: SearchConfig,
        reward: Reward,
        listen: bool = False,
        follow_argmax: bool | None = None,
    ) -> Prepared:
        """The search that `config` describes; its `prompt` is not "auto". `listen` records what
        happens to candidates; `follow_argmax` None leaves to the strategy whether the most likely
        path is one.

        Raises `ConfigError` for a `tool_choice` that is no tool's name, `ToolsError` for schemas
        that can't be followed.
        """
        choice = config.tool_choice
        allowed = tools
        if choice not in ("auto", "required"):
            allowed = [tool for tool in tools if tool.name == choice]
            if not allowed:
                names = ", ".join(tool.name for tool in tools)
                raise ConfigError(
                    f"tool_choice is {choice!r}; it must be auto, required, none, or one of {names}"
                )
        info = self._backend.info
        form = self.call_format(config.call_format)
        pieces = render_prompt(
            messages,
            tools,
            format=form,
            chat_template=info.chat_template,
            special=self._backend.special_texts,
            bos_token=info.bos_token,
            eos_token=info.eos_token,
            tool_choice=choice,
            parallel=config.parallel,
            style=PromptStyle.parse(config.prompt),
        )
        prompt = self._encoder.prompt(pieces)
        constraint = self._constraint(tools, form, config)
        if isinstance(reward, RequestReward):
            reward = reward.for_request(messages, tools)
        if isinstance(reward, Head) and config.decline_odds is not None:
            reward = reward.with_decline_odds(config.decline_odds)
        search = self._core_search(
            allowed, messages, form, config, reward, prompt, follow_argmax, listen
        )
        whole = config.strategy == "best-of-n"
        draws = 1 if config.strategy == "greedy" else config.beams * config.expand
        return Prepared(
            search, reward, prompt, constraint,
            top_k=config.top_k,
            margin=_margin(config, reward),
            working_set=max(64, 8 * (config.samples if whole else draws)),
        )  # fmt: skip

    def _constraint(
        self, tools: list[Tool], form: CallFormat, config: SearchConfig
    ) -> Constraint | None:
        if config.constrain == "off":
            return None
        from toolprm_lite.constraint import Vocabulary

        return Vocabulary.of(self._backend).constraint(
            tools, form, tool_choice=config.tool_choice, max_calls=config.call_limit
        )

    def _core_search(
        self,
        tools: list[Tool],
        messages: list[dict[str, Any]],
        form: CallFormat,
        config: SearchConfig,
        reward: Reward,
        prompt: Sequence[int],
        follow_argmax: bool | None,
        listen: bool,
    ) -> StepSearch:
        info = self._backend.info
        definitions = json.dumps(
            [{"name": tool.name, "parameters": closed_schema(tool.parameters)} for tool in tools]
        )
        try:
            grounding = None
            if reward.grounded:
                grounding = make_grounding(messages, tools)
            segmenter = Segmenter(
                definitions,
                form.core(),
                max_calls=config.call_limit,
                require_call=config.tool_choice != "auto",
                judge=ArgumentJudge.of(tool.parameters for tool in tools),
            )
        except ValueError as error:
            raise ToolsError(f"tool {error}") from None
        options = _options(config, reward)
        if follow_argmax is not None:
            options.follow_argmax = follow_argmax
        options.prompt_hash = _hash(prompt)
        options.trace = config.trace or listen
        return StepSearch(
            segmenter=segmenter,
            vocabulary=self._vocabulary,
            grounding=grounding,
            options=options,
            sequences=info.max_sequences,
            cells=info.context,
            prompt_tokens=len(prompt),
        )


def _options(config: SearchConfig, reward: Reward) -> SearchOptions:
    """The core's options, but for those that depend on the prompt or the listener."""
    greedy = config.strategy == "greedy"
    whole = config.strategy == "best-of-n"
    beams, expand = (1, 1) if greedy else (config.beams, config.expand)
    options = SearchOptions()
    options.beams = config.samples if whole else beams
    options.root_draws = config.samples if whole else beams * expand
    options.beam_draws = expand
    options.follow_argmax = not (whole or greedy)
    options.whole_responses = whole
    options.doubt = _threshold(config, reward) if config.strategy == "doubt" else 1.0
    options.way_floor = math.log(config.way_floor) if config.way_floor < 1 else 1.0
    options.policy_rewards = isinstance(reward, PolicyReward)
    options.states_wanted = bool(reward.layers)
    options.pool_states = reward.pooled
    options.aggregate = config.aggregate or reward.aggregate
    options.policy_gap = _policy_gap(config, reward)
    options.margin = 0.0 if greedy else _margin(config, reward).largest
    options.max_tokens = config.max_tokens
    options.max_step_tokens = config.max_step_tokens
    options.max_text_tokens = config.max_text_tokens
    options.max_batch_tokens = 512 if config.deadline_ms is None else STEP_TOKENS
    options.temperature = 0.0 if greedy else config.temperature
    options.top_k = config.top_k
    options.top_p = config.top_p
    options.seed = config.seed
    return options


def _hash(tokens: Sequence[int]) -> int:
    """64 bits that identify a prompt, equal on every machine: draws depend on them."""
    data = np.asarray(tokens, "<i4").tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _policy_gap(config: SearchConfig, reward: Reward) -> float:
    if config.policy_gap is not None:
        return config.policy_gap
    return reward.card.policy_gap if isinstance(reward, Head) else 0.0


def _margin(config: SearchConfig, reward: Reward) -> Margin:
    if config.margin is not None:
        return config.margin
    return reward.card.margin if isinstance(reward, Head) else NO_MARGIN


def _threshold(config: SearchConfig, reward: Reward) -> float:
    if config.doubt is not None:
        return config.doubt
    known = reward.card.doubt if isinstance(reward, Head) else None
    return DOUBT if known is None else known
