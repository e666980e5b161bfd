"""How model families write calls. Knows nothing of prompts or tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from toolprm_lite.errors import ConfigError


@dataclass(frozen=True, slots=True)
class CallFormat:
    """Where calls stand in a model's output, and the keys of their parts.

    A `list` is one JSON list of calls, empty when the model declines. `tagged` calls stand each
    between `open_marker` and `close_marker`, on lines of their own; other text declines.
    """

    name: str
    kind: Literal["list", "tagged"]
    open_marker: str = ""
    close_marker: str = ""
    name_key: str = "name"
    arguments_key: str = "arguments"

    def write(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """The calls as a model writes them; `calls` are {"name", "arguments"}."""
        texts = [
            write_json({self.name_key: call["name"], self.arguments_key: call["arguments"]})
            for call in calls
        ]
        if self.kind == "list":
            return f"[{', '.join(texts)}]"
        return "\n".join(f"{self.open_marker}\n{text}\n{self.close_marker}" for text in texts)


JSON_LIST = CallFormat("json-list", "list")
HERMES = CallFormat("hermes", "tagged", "<tool_call>", "</tool_call>")

FORMATS: dict[str, CallFormat] = {form.name: form for form in (JSON_LIST, HERMES)}


def get_format(name: str) -> CallFormat:
    """The format of that name; raises `ConfigError`."""
    try:
        return FORMATS[name]
    except KeyError:
        raise ConfigError(
            f"call format is {name!r}; it must be one of {', '.join(FORMATS)}"
        ) from None


def detect_format(chat_template: str | None, model: str = "") -> CallFormat:
    """The format that a chat template teaches; the JSON list when it teaches none of ours.

    `model` is the model's name: Qwen2.5-Coder carries Qwen2.5's template but not the habit. Its
    0.5B model never writes the markers (it fences plain JSON), and loops when forced to.

    Templates with other bodies between the same markers (XML parameters, as in Qwen3-Coder and
    GLM) are not Hermes'.
    """
    known = re.sub(r"[^a-z0-9.]", "", model.lower())
    if "qwen2.5coder" in known:
        return JSON_LIST
    if chat_template and "tools" in chat_template:
        plain = chat_template.replace('\\"', '"').replace("\\n", "\n")
        others = ("<function=", "<arg_key>", "<parameter=")
        wanted = (HERMES.open_marker, HERMES.close_marker, '"name"', '"arguments"')
        if all(mark in plain for mark in wanted) and not any(mark in plain for mark in others):
            return HERMES
    return JSON_LIST


def write_json(value: Any) -> str:
    """JSON with the separators models write, ", " and ": ", and text unescaped."""
    return json.dumps(value, ensure_ascii=False)
