"""Messages and tools in, the prompt's text out.

The tools come before the question, and nothing in a prompt varies with time: a second question on
the same tools shares the longest possible beginning with the first.

Messages and tools are untrusted: what they hold of a special token's text stays text. So a prompt
is a list of pieces of text, to be tokenized one by one (`special_texts.py`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from toolprm_lite import instruction
from toolprm_lite.errors import ProblemError, TemplateWarning
from toolprm_lite.formats import CallFormat, write_json
from toolprm_lite.instruction import PromptStyle
from toolprm_lite.special_texts import SpecialTexts
from toolprm_lite.template import TemplateFailed, render_template, template_literals
from toolprm_lite.tools import Tool

Message = dict[str, Any]

_ROLES = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant",
    "tool": "tool", "function": "tool",
}  # fmt: skip
PLAIN = PromptStyle()
_MAX_DEPTH = 100  # of a past call's arguments
_MAX_BITS = 1000  # of an integer in them


def parse_messages(messages: object, where: str = "") -> list[Message]:
    """Check a conversation, OpenAI's form, or a single question; return it in one plain form.

    Every message has `role` (system, user, assistant, tool) and `content` (str). An assistant's
    may have `tool_calls`: a list of {"name", "arguments": dict, "id"}; a tool's `name` and
    `tool_call_id` are kept. Half of a surrogate pair, as of an emoji that was cut, becomes "?".
    Raises `ProblemError`, which names the message and the fix.
    """
    prefix = f"{where}: " if where else ""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if isinstance(messages, (bytes, Mapping)) or not isinstance(messages, Sequence):
        raise ProblemError(
            f"{prefix}messages must be a list of objects with role and content, "
            f"not {type(messages).__name__}"
        )
    if not messages:
        raise ProblemError(f"{prefix}the list of messages is empty; give at least the question")
    parsed = [
        _message(message, f"{prefix}message {number}") for number, message in enumerate(messages, 1)
    ]
    questions = [message["content"] for message in parsed if message["role"] == "user"]
    if not questions:
        raise ProblemError(f'{prefix}no message has role "user"; add the question')
    if not questions[-1].strip():
        raise ProblemError(f"{prefix}the query is empty; write what is to be done")
    return parsed


def render_prompt(
    messages: object,
    tools: Sequence[Tool],
    *,
    format: CallFormat,
    chat_template: str | None,
    special: SpecialTexts,
    bos_token: str = "",
    eos_token: str = "",
    tool_choice: str = "auto",
    parallel: bool = True,
    style: PromptStyle = PLAIN,
) -> list[str]:
    """The prompt up to where the model begins to write its response, in pieces of text.

    A model whose chat template teaches `format` is given the tools by that template. For all
    others the tools and the format are explained in the system message. `special` are the model's
    special tokens: where messages or tools hold the text of one, a piece ends in the middle of it.
    Raises `ProblemError`; a template that fails gives a `TemplateWarning`.
    """
    conversation = _mark_messages(parse_messages(messages), special, chat_template)
    if chat_template and format.taught_by(chat_template):
        try:
            text = _native(conversation, tools, chat_template, special, bos_token, eos_token)
            return special.cut(text)
        except TemplateFailed as error:
            _warn(error, "the tools are explained in the system message instead")
    plain = plain_messages(conversation, format)
    own = instruction.explain(
        list_tools(tools, special, chat_template, style),
        format,
        style,
        tool_choice=mark(tool_choice, special, chat_template),
        parallel=parallel,
    )
    system = [m["content"] for m in plain if m["role"] == "system" and m["content"].strip()]
    rest = _merged([m for m in plain if m["role"] != "system"])
    return render_chat(
        "\n\n".join([*system, own]),
        rest,
        chat_template=chat_template,
        special=special,
        bos_token=bos_token,
        eos_token=eos_token,
    )


def render_chat(
    instruction: str,
    messages: Sequence[Message],
    *,
    chat_template: str | None,
    special: SpecialTexts,
    bos_token: str = "",
    eos_token: str = "",
) -> list[str]:
    """An instruction and messages of user and assistant, up to where the model begins to write, in
    pieces of text. What is untrusted in them went through `mark`.

    ChatML where there is no chat template, or where it fails, with a `TemplateWarning`.
    """
    whole = [{"role": "system", "content": instruction}, *messages]
    if chat_template:
        # Some templates have no system role: then the instruction precedes the first user message.
        folded = [dict(message) for message in messages]
        if folded[0]["role"] != "user":
            folded.insert(0, {"role": "user", "content": instruction})
        else:
            folded[0]["content"] = f"{instruction}\n\n{folded[0]['content']}"
        failures: list[TemplateFailed] = []
        for attempt in (whole, folded):
            try:
                text = _apply(chat_template, attempt, None, bos_token, eos_token)
                if not all(m["content"].strip() in text for m in attempt):
                    raise TemplateFailed("it leaves out a part of a message")
                return special.cut(text)
            except TemplateFailed as failure:
                failures.append(failure)
        _warn(failures[-1], "ChatML is used instead")
    return special.cut(_chatml(whole))


def mark(value: Any, special: SpecialTexts, chat_template: str | None) -> Any:
    """An untrusted string, or the strings of a JSON value, as they may go into a prompt."""
    return special.mark(value, _gaps(special, chat_template))


@lru_cache(maxsize=8)
def _gaps(special: SpecialTexts, chat_template: str | None) -> frozenset[str]:
    return special.gaps_of(template_literals(chat_template) if chat_template else ())


def list_tools(
    tools: Sequence[Tool],
    special: SpecialTexts,
    chat_template: str | None,
    style: PromptStyle = PLAIN,
) -> str:
    """The tools, one after the other, as they may go into a prompt."""
    return "\n".join(mark(instruction.list_tools(tools, style), special, chat_template))


def plain_messages(conversation: list[Message], format: CallFormat) -> list[Message]:
    """Calls and their results written out as text, for templates that have neither."""
    names: dict[str, str] = {}
    plain: list[Message] = []
    for message in conversation:
        content = message["content"]
        role = message["role"]
        if "tool_calls" in message:
            names.update({call["id"]: call["name"] for call in message["tool_calls"]})
            written = format.write(message["tool_calls"])
            content = f"{content}\n{written}" if content.strip() else written
        elif role == "tool":
            name = message.get("name") or names.get(message.get("tool_call_id", ""))
            role = "user"
            content = f"Result of {name}: {content}" if name else f"Result: {content}"
        plain.append({"role": role, "content": content})
    return plain


def _message(message: object, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise ProblemError(
            f"{where} must be an object with role and content, not {type(message).__name__}"
        )
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise ProblemError(f"{where} has role {role!r}; it must be system, user, assistant or tool")
    role = _ROLES[role]
    calls = message.get("tool_calls")
    content = message.get("content")
    if content is None and role == "assistant" and calls:
        content = ""
    if isinstance(content, (list, tuple)):
        parts: list[str] = []
        for part in content:
            text = part.get("text") if isinstance(part, Mapping) else part
            if not isinstance(text, str):
                raise ProblemError(f"{where} has a content part that is no text; give text only")
            parts.append(text)
        content = "".join(parts)
    if not isinstance(content, str):
        raise ProblemError(
            f"{where} has content of type {type(content).__name__}; it must be a string "
            "or a list of text parts"
        )
    parsed: Message = {"role": role, "content": content}
    if role == "assistant" and calls:
        if not isinstance(calls, Sequence) or isinstance(calls, str):
            raise ProblemError(f"{where} has tool_calls that are no list; make them a list")
        parsed["tool_calls"] = [
            _tool_call(call, f"{where}, tool call {number}", number)
            for number, call in enumerate(calls, 1)
        ]
    if role == "tool":
        for key in ("name", "tool_call_id"):
            if isinstance(message.get(key), str):
                parsed[key] = message[key]
    whole: Message = _without_surrogates(parsed)
    return whole


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_without_surrogates(key): _without_surrogates(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_surrogates(each) for each in value]
    return value


def _tool_call(call: object, where: str, number: int) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ProblemError(f'{where} has no name; write {{"function": {{"name", "arguments"}}}}')
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            raise ProblemError(f"{where} has arguments that are not JSON; fix them") from None
        except RecursionError:
            raise _too_deep(where) from None
    if not isinstance(arguments, Mapping):
        raise ProblemError(f"{where} has arguments that are no object; make them one")
    _check_arguments(arguments, where)
    identity = call.get("id") if isinstance(call, Mapping) else None
    return {
        "name": function["name"],
        "arguments": dict(arguments),
        "id": identity if isinstance(identity, str) else f"call{number:05d}",
    }


def _check_arguments(arguments: Mapping[str, Any], where: str) -> None:
    """Raise `ProblemError` for what JSON can't hold, or no prompt writes."""
    waiting: list[tuple[Any, int]] = [(arguments, 1)]
    while waiting:
        value, depth = waiting.pop()
        inner: list[Any] = []
        if isinstance(value, Mapping):
            inner = list(value.values())
            if not all(isinstance(key, str) for key in value):
                raise ProblemError(f"{where} has an argument whose name is no string; make it one")
        elif isinstance(value, (list, tuple)):
            inner = list(value)
        elif isinstance(value, int):
            if value.bit_length() > _MAX_BITS:
                raise ProblemError(f"{where} has a number of more than 300 digits; shorten it")
        elif not isinstance(value, (str, float, type(None))):
            raise ProblemError(
                f"{where} has an argument of type {type(value).__name__}; give JSON values"
            )
        if inner and depth >= _MAX_DEPTH:
            raise _too_deep(where)
        waiting += [(each, depth + 1) for each in inner]


def _too_deep(where: str) -> ProblemError:
    return ProblemError(
        f"{where} has arguments nested more than {_MAX_DEPTH} deep; make them flatter"
    )


def _mark_messages(
    conversation: list[Message], special: SpecialTexts, chat_template: str | None
) -> list[Message]:
    """Everything is untrusted except the roles."""
    return [
        {
            key: value if key == "role" else mark(value, special, chat_template)
            for key, value in message.items()
        }
        for message in conversation
    ]


def _native(
    conversation: list[Message],
    tools: Sequence[Tool],
    chat_template: str,
    special: SpecialTexts,
    bos_token: str,
    eos_token: str,
) -> str:
    messages: list[Message] = []
    for message in conversation:
        converted = dict(message)
        if "tool_calls" in message:
            converted["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in message["tool_calls"]
            ]
        messages.append(converted)
    definitions = [
        {**definition, "function": mark(definition["function"], special, chat_template)}
        for definition in (tool.to_openai() for tool in tools)
    ]
    text = _apply(chat_template, messages, definitions, bos_token, eos_token)
    if not all(write_json(each["function"]["name"]) in text for each in definitions):
        raise TemplateFailed("it does not write the tools")
    return text


def _merged(messages: list[Message]) -> list[Message]:
    """One message where several of a role follow each other: many templates want turns."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1]["content"] += f"\n\n{message['content']}"
        else:
            merged.append(dict(message))
    return merged


def _chatml(messages: list[Message]) -> str:
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return turns + "<|im_start|>assistant\n"


def _apply(
    chat_template: str,
    messages: list[Message],
    tools: list[dict[str, Any]] | None,
    bos_token: str,
    eos_token: str,
) -> str:
    """The rendered template. Raises `TemplateFailed`."""
    return render_template(
        chat_template,
        {
            "messages": messages,
            "tools": tools,
            "documents": None,
            "bos_token": bos_token,
            "eos_token": eos_token,
            "add_generation_prompt": True,
            "enable_thinking": False,
        },
    )


def _warn(failure: TemplateFailed, remedy: str) -> None:
    warnings.warn(
        f"the model's chat template failed ({failure}); {remedy}", TemplateWarning, stacklevel=2
    )
