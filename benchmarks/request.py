"""What a search outside of `Searcher` begins with: a problem as one model is asked it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolprm_lite._core import Segmenter
from toolprm_lite.backends.base import Backend
from toolprm_lite.backends.encoder import Encoder
from toolprm_lite.constraint import Constraint, Vocabulary
from toolprm_lite.formats import detect_format
from toolprm_lite.instruction import PromptStyle
from toolprm_lite.judge import ArgumentJudge
from toolprm_lite.prompt import parse_messages, render_prompt
from toolprm_lite.schema import closed_schema
from toolprm_lite.tools import parse_tools

PROMPT = "signatures"


@dataclass(frozen=True)
class Request:
    """A prompt's tokens, the masks of its responses, and what reads them. Copy the segmenter."""

    prompt: list[int]
    constraint: Constraint
    segmenter: Segmenter


def as_request(backend: Backend, messages: Any, tools: Sequence[Any]) -> Request:
    """The request in the format that the model's chat template teaches, as `Searcher` asks it with
    the prompt style `PROMPT`."""
    known = parse_tools(tools)
    info = backend.info
    form = detect_format(info.chat_template, info.name)
    pieces = render_prompt(
        parse_messages(messages),
        known,
        format=form,
        chat_template=info.chat_template,
        special=backend.special_texts,
        bos_token=info.bos_token,
        eos_token=info.eos_token,
        style=PromptStyle.parse(PROMPT),
    )
    encoder = Encoder(backend.token_bytes, backend.tokenize, backend.special_texts)
    definitions = [{"name": t.name, "parameters": closed_schema(t.parameters)} for t in known]
    segmenter = Segmenter(
        json.dumps(definitions),
        form.core(),
        judge=ArgumentJudge.of(tool.parameters for tool in known),
    )
    constraint = Vocabulary.of(backend).constraint(known, form)
    return Request(encoder.prompt(pieces), constraint, segmenter)
