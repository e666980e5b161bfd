"""Questions without answers for a search: a JSON object, or a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolprm_lite.errors import ProblemError
from toolprm_lite.prompt import parse_messages
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tools import Tool, parse_tools


@dataclass(frozen=True, slots=True)
class RequestLine:
    """A line of a file, not read further than its id; `error` says why it can't be run."""

    number: int
    text: bytes
    id: str | int
    error: str | None

    def problem(self, tools: list[Tool] | None) -> Problem:
        """What is asked; `tools` are used where the line has none. Raises `ProblemError` or
        `ToolsError`."""
        if self.error is not None:
            raise ProblemError(self.error)
        return parse_problem(_record(self.text), tools)


def split_lines(data: bytes, source: str) -> list[RequestLine]:
    """The lines of a file, each with its own id. Raises `ProblemError` where there is none."""
    lines: list[RequestLine] = []
    known: dict[str, int] = {}
    for number, text in enumerate(data.split(b"\n"), 1):
        if number == 1:
            text = text.removeprefix(b"\xef\xbb\xbf")
        if not text.strip():
            continue
        substitute = f"line-{number}"
        identity: Any = substitute
        error = None
        try:
            given = _record(text).get("id")
            if given is not None:
                identity = given
            if isinstance(identity, bool) or not isinstance(identity, (str, int)):
                raise ProblemError('"id" must be a string or an integer')
            first = known.setdefault(id_key(identity), number)
            if first != number:
                raise ProblemError(
                    f"id {json.dumps(identity)} is line {first}'s already; give each its own"
                )
        except ProblemError as failure:
            identity, error = substitute, str(failure)
        lines.append(RequestLine(number, text, identity, error))
    if not lines:
        raise ProblemError(f"{source}: no problems in it; write one JSON object a line")
    return lines


def parse_problem(record: Mapping[str, Any], tools: list[Tool] | None) -> Problem:
    """Read {"messages" or "query", "tools"}; `tools` are used where it has none.

    Raises `ProblemError` or `ToolsError`.
    """
    given = [key for key in ("messages", "query") if record.get(key) is not None]
    if not given:
        raise ProblemError('no question; add "query" or "messages"')
    if len(given) > 1:
        raise ProblemError('both "messages" and "query"; leave one out')
    question = record[given[0]]
    if given[0] == "query" and not isinstance(question, str):
        raise ProblemError('"query" must be a string; write conversations as "messages"')
    messages = parse_messages(question)
    if record.get("tools") is not None:
        tools = parse_tools(record["tools"])
    if tools is None:
        raise ProblemError('no tools; add "tools", or give --tools for all')
    return Problem("", "", messages, tools, check="unknown")


def read_problem(text: str, name: str, tools: list[Tool] | None) -> Problem:
    """Read JSON: a list of messages, or an object as `parse_problem` takes it; `name` says in
    messages where it is from. Raises `ProblemError` or `ToolsError`."""
    try:
        content = _parse(text)
        record = content if isinstance(content, dict) else {"messages": content}
        return parse_problem(record, tools)
    except ProblemError as error:
        message = str(error)
        raise ProblemError(message if message.startswith(name) else f"{name}: {message}") from None


def _record(text: bytes) -> dict[str, Any]:
    try:
        record = _parse(text.decode())
    except UnicodeDecodeError as error:
        raise ProblemError(f"not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    if not isinstance(record, dict):
        raise ProblemError('not an object; write {"id", "query", "tools"}')
    return record


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise ProblemError(
            f"not JSON: {error.msg} at {line}column {error.colno}; fix it there"
        ) from None
    except ValueError:
        raise ProblemError(
            "an integer in it has thousands of digits; write a shorter one"
        ) from None
    except RecursionError:
        raise ProblemError("the JSON is nested too deep; flatten it") from None


def id_key(identity: str | int) -> str:
    """An id as a key: 1 and "1" are two."""
    return json.dumps(identity)
