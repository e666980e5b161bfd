"""What steps are compared with: the conversation, the calls in it, and the words of a language.

The comparison itself is the core's (`csrc/features/`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from toolprm_lite._core import Grounding, Words
from toolprm_lite.tools import Tool

FOLDER = Path(__file__).parent / "assets" / "words"

# Some data sets and chat templates write an assistant's calls into its text.
_TAGGED = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


def make_grounding(messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]) -> Grounding:
    """The grounding of a request; `messages` are as `parse_messages` gives them.

    Raises `ValueError` for tools that can't be used.
    """
    return Grounding(
        json.dumps([tool.to_dict() for tool in tools]),
        [(message["role"], message.get("content") or "") for message in messages],
        words=load_words(),
        history=list(past_calls(messages)),
    )


def word_lists(language: str) -> dict[str, Any]:
    """The lists of a language's file. Raises `OSError` where it has none."""
    lists: dict[str, Any] = json.loads(_words_file(language).read_text(encoding="utf-8"))
    return lists


@cache
def load_words(language: str = "en") -> Words | None:
    """The words of a language, None for one that has no file."""
    path = _words_file(language)
    return Words(path.read_text(encoding="utf-8")) if path.is_file() else None


def _words_file(language: str) -> Path:
    return FOLDER / f"{language}.json"


def past_calls(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """The calls of a conversation, (name, arguments as JSON): the assistants' `tool_calls`, and
    those that their texts are."""
    for message in messages:
        if message["role"] != "assistant":
            continue
        calls = message.get("tool_calls") or _written_calls(message.get("content") or "")
        for call in calls:
            yield call["name"], json.dumps(call["arguments"])


def _written_calls(text: str) -> list[dict[str, Any]]:
    """The calls of a text that is a call, a list of calls, or calls in tags; else none."""
    text = text.strip()
    parts = [text] if text[:1] in ("{", "[") else _TAGGED.findall(text)
    calls: list[dict[str, Any]] = []
    for part in parts:
        try:
            found = json.loads(part)
        except (ValueError, RecursionError):
            return []
        for call in found if isinstance(found, list) else [found]:
            if not isinstance(call, dict) or not isinstance(call.get("name"), str):
                return []
            arguments = call.get("arguments", {})
            if not isinstance(arguments, dict):
                return []
            calls.append({"name": call["name"], "arguments": arguments})
    return calls
