"""The forms that records of problem files come in: the project's own, BFCL's, xLAM's, OpenAI's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolprm_lite.prompt import Message
from toolprm_lite.tasks.problem import Call
from toolprm_lite.tasks.records import loads, read_records
from toolprm_lite.tasks.rejected import Refuse

ANSWERS_FORM = 'add "answers": a list of {"name", "arguments"}, empty if no call is right'

# ToolRL writes a conversation into one message, between marks.
_WRAPPED = re.compile(
    r"\s*\*\*Dialogue Records History\*\*\s*<user>\s*((?:(?!<user>).)*?\S)\s*</user>\s*\Z",
    re.DOTALL,
)


def record_parts(
    record: dict[str, Any], identity: str, path: Path, possible: dict[str, Any] | None
) -> tuple[Any, Any, Any]:
    """The conversation, the tool definitions and the answers, as they are written.

    `possible` are BFCL's answers by id. Raises `Refuse`.
    """
    if "question" in record and "function" in record:
        return _bfcl(record, identity, path, possible)
    definitions = _decoded(record.get("tools", record.get("functions")), "tools")
    conversation = record.get("messages", record.get("query"))
    if conversation is None:
        raise Refuse("messages", "no question", 'add "messages" or "query"')
    answers = _decoded(record.get("answers"), "answers")
    if answers is None and isinstance(conversation, list):
        last = next(
            (
                number
                for number in reversed(range(len(conversation)))
                if isinstance(conversation[number], dict)
                and conversation[number].get("role") == "assistant"
            ),
            None,
        )
        rest = [] if last is None else conversation[last + 1 :]
        if last is not None and not any(
            isinstance(message, dict) and message.get("role") == "user" for message in rest
        ):
            message = conversation[last]
            calls = message.get("tool_calls")
            if calls is None and message.get("function_call") is not None:
                calls = [{"function": message["function_call"]}]
            return conversation[:last], definitions, [] if calls is None else calls
    if answers is None:
        raise Refuse("answers", "no answers", ANSWERS_FORM)
    return conversation, definitions, answers


def _decoded(value: Any, what: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return loads(value)
    except (ValueError, RecursionError):
        raise Refuse(what, f'"{what}" is text that is not JSON', "fix it") from None


def _bfcl(
    record: dict[str, Any], identity: str, path: Path, possible: dict[str, Any] | None
) -> tuple[Any, Any, Any]:
    turns = record["question"]
    if isinstance(turns, list) and turns and isinstance(turns[0], list):
        if len(turns) > 1:
            raise Refuse("messages", f"{len(turns)} turns to answer", "give one turn a problem")
        turns = turns[0]
    if possible is None and "irrelevance" in path.name:
        return turns, record["function"], []
    truth = None if possible is None else possible.get(identity)
    if truth is None:
        folder = path.parent / "possible_answer" / path.name
        raise Refuse("answers", "no answers", f"add its ground truth to {folder}")
    if not is_ground_truth(truth):
        raise Refuse("answers", "its ground truth is no list of calls", ANSWERS_FORM)
    return turns, record["function"], possible_calls(truth)


def is_ground_truth(truth: Any) -> bool:
    """Whether these are BFCL's possible answers: [{function: {parameter: [value, ...]}}, ...]."""
    return isinstance(truth, list) and all(
        isinstance(call, dict)
        and len(call) == 1
        and all(isinstance(value, dict) for value in call.values())
        for call in truth
    )


def possible_calls(truth: Sequence[Mapping[str, dict[str, Any]]]) -> list[Call]:
    """The calls of BFCL's possible answers: of each parameter the first value."""
    return [
        {"name": name, "arguments": _first_possible(arguments)}
        for call in truth
        for name, arguments in call.items()
    ]


def _first_possible(arguments: dict[str, Any]) -> dict[str, Any]:
    """Of each parameter the first possible answer; objects inside list theirs likewise."""
    chosen: dict[str, Any] = {}
    for name, values in arguments.items():
        value = values[0] if isinstance(values, list) and values else values
        if isinstance(values, list) and (not values or value == ""):
            continue
        if isinstance(value, dict):
            value = _first_possible(value)
        elif isinstance(value, list):
            value = [_first_possible(part) if isinstance(part, dict) else part for part in value]
        chosen[name] = value
    return chosen


def read_calls(answers: Any) -> list[Call]:
    """The answers as {"name", "arguments"}. Raises `Refuse`."""
    if not isinstance(answers, list):
        raise Refuse("answers", "answers are no list", ANSWERS_FORM)
    calls: list[Call] = []
    for number, answer in enumerate(answers, 1):
        call = answer.get("function", answer) if isinstance(answer, dict) else None
        if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
            raise Refuse("answers", f"answer {number} has no name", ANSWERS_FORM)
        arguments = call.get("arguments")
        if isinstance(arguments, str):
            arguments = _decoded(arguments or "{}", "answers")
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            raise Refuse(
                "answers", f"answer {number} has arguments that are no object", "make them one"
            )
        calls.append({"name": call["name"], "arguments": arguments})
    return calls


def possible_answers(path: Path) -> dict[str, Any] | None:
    """BFCL's answers by id, where the file has such a sibling."""
    answers_file = path.parent / "possible_answer" / path.name
    if not answers_file.is_file():
        return None
    return {
        str(record.get("id")): record.get("ground_truth")
        for _, record in read_records(answers_file)
        if isinstance(record, dict)
    }


def asked_messages(messages: list[Message], repairs: list[str]) -> list[Message]:
    """The conversation as a model gets it: the last message is the user's or a tool's."""
    last = len(messages)
    while messages[last - 1]["role"] == "assistant" and not messages[last - 1].get("tool_calls"):
        last -= 1
    if last < len(messages):
        repairs.append("messages: the assistant's text after the question is left out")
        messages = messages[:last]
    if len(messages) == 1:
        wrapped = _WRAPPED.match(messages[0]["content"])
        if wrapped:
            repairs.append("messages: the marks around the question are left out")
            messages = [{**messages[0], "content": wrapped.group(1)}]
    return messages
