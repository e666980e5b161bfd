"""From problems with known answers to the tokens that a model is trained on.

Knows nothing of training.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from toolprm_lite.backends.encoder import Encoder
from toolprm_lite.formats import CallFormat
from toolprm_lite.instruction import PromptStyle
from toolprm_lite.prompt import mark, render_prompt
from toolprm_lite.schema import Schema, applied_schemas
from toolprm_lite.special_texts import SpecialTexts
from toolprm_lite.tasks.problem import Call, Problem
from toolprm_lite.template import TemplateFailed, render_template
from toolprm_lite.tools import Tool
from toolprm_lite.tuning.trees import Example

_ANSWER = "answer"


class ExampleEncoder:
    """Writes a model's prompts and right responses, as a search prompts and masks it."""

    def __init__(
        self,
        encoder: Encoder,
        special: SpecialTexts,
        form: CallFormat,
        style: PromptStyle,
        *,
        chat_template: str | None,
        bos_token: str,
        eos_token: str,
        end: int,
    ) -> None:
        """`end` is the token that ends a response."""
        self._encoder = encoder
        self._special = special
        self._form = form
        self._style = style
        self._template = chat_template
        self._bos, self._eos = bos_token, eos_token
        self._end = end
        texts = sorted(encoder.special_tokens, key=len, reverse=True)
        self._markers = re.compile(f"({'|'.join(map(re.escape, texts))})") if texts else None

    @property
    def call_format(self) -> str:
        """The name of the format."""
        return self._form.name

    def __call__(self, problem: Problem) -> Example:
        """The prompt's and the response's tokens. Raises `ProblemError`."""
        pieces = render_prompt(
            problem.messages,
            problem.tools,
            format=self._form,
            chat_template=self._template,
            special=self._special,
            bos_token=self._bos,
            eos_token=self._eos,
            style=self._style,
        )
        calls = in_schema_order(problem.answers, problem.tools)
        written = self._form.write(mark(calls, self._special, self._template))
        response = [token for piece in self._special.cut(written) for token in self._tokens(piece)]
        return Example(
            problem.id,
            problem.source,
            tuple(self._encoder.prompt(pieces)),
            (*response, self._end),
        )

    def _tokens(self, text: str) -> list[int]:
        """Markers of the call format as the special tokens that they are."""
        if self._markers is None:
            return self._encoder(text)
        known = self._encoder.special_tokens
        parts = self._markers.split(text)
        return [
            token
            for part in parts
            for token in ([known[part]] if part in known else self._encoder(part))
        ]


def end_of_turn(
    chat_template: str | None, special: SpecialTexts, ends: Collection[int]
) -> int | None:
    """The token of `ends` that the template writes first after an assistant's message; None where
    there is no template, or none that says so."""
    if not chat_template:
        return None
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = render_template(
            chat_template, {"messages": messages, "bos_token": "", "eos_token": ""}
        )
    except TemplateFailed:
        return None
    after = text.partition(_ANSWER)[2]
    places = {after.find(text): token for text, token in special.tokens.items() if token in ends}
    found = [place for place in places if place >= 0]
    return places[min(found)] if found else None


def in_schema_order(calls: Sequence[Call], tools: Sequence[Tool]) -> list[Call]:
    """The calls with arguments, and properties of objects in them, in the order of the schemas.

    The masks of a search allow no other order.
    """
    schemas = {tool.name: tool.parameters for tool in tools}
    return [
        {**call, "arguments": _ordered(call["arguments"], schema, schema)}
        for call in calls
        for schema in [schemas.get(call["name"], {})]
    ]


def _ordered(value: Any, schema: Any, root: Schema) -> Any:
    if not isinstance(value, (dict, list)):
        return value
    applied = applied_schemas([schema], root)
    if isinstance(value, list):
        items = next((each["items"] for each in applied if "items" in each), None)
        return [_ordered(each, items, root) for each in value]
    # Of alternatives the first that knows all names.
    known = [each["properties"] for each in applied if "properties" in each]
    wholly = [each for each in known if each.keys() >= value.keys()]
    properties: Schema = next(iter([*wholly, *known]), {})
    names = [name for name in properties if name in value]
    names += [name for name in value if name not in properties]
    return {name: _ordered(value[name], properties.get(name), root) for name in names}
