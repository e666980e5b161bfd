"""Messages and tools in, the prompt's text out.

The tools stand before the question, and nothing in a prompt varies with time: a second question on
the same tools shares the longest possible beginning with the first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from toolprm_lite.checks import deeper_than
from toolprm_lite.errors import ProblemError
from toolprm_lite.formats import CallFormat, detect_format, write_json
from toolprm_lite.tools import Tool

Message = dict[str, Any]

_ROLES = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant",
    "tool": "tool", "function": "tool",
}  # fmt: skip
_MAX_DEPTH = 128  # of a call's arguments
_DATE = "26 July 2024"  # what Llama's template falls back to, too


def parse_messages(messages: object, where: str = "") -> list[Message]:
    """Check a conversation, OpenAI's form, or a single question; return it in one plain form.

    Every message has `role` (system, user, assistant, tool) and `content` (str). An assistant's
    may have `tool_calls`: a list of {"name", "arguments": dict, "id"}; a tool's `name` and
    `tool_call_id` are kept. Half of a surrogate pair, as of an emoji that was cut, becomes "?".
    Raises `ProblemError`, which names the message and the mend.
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
    bos_token: str = "",
    eos_token: str = "",
    tool_choice: str = "auto",
    parallel: bool = True,
) -> str:
    """The prompt up to where the model begins to write its response.

    A model whose chat template teaches `format` is given the tools by that template. For all
    others the tools and the format are explained in the system message. Raises `ProblemError`.
    """
    conversation = parse_messages(messages)
    if chat_template and format.kind == "tagged" and detect_format(chat_template) == format:
        text = _native(conversation, tools, chat_template, bos_token, eos_token)
        if text is not None:
            return text
    plain = plain_messages(conversation, format)
    own = explain_tools(tools, format, tool_choice=tool_choice, parallel=parallel)
    system = [m["content"] for m in plain if m["role"] == "system" and m["content"].strip()]
    rest = _merged([m for m in plain if m["role"] != "system"])
    return render_chat(
        "\n\n".join([*system, own]),
        rest,
        chat_template=chat_template,
        bos_token=bos_token,
        eos_token=eos_token,
    )


def render_chat(
    instruction: str,
    messages: Sequence[Message],
    *,
    chat_template: str | None,
    bos_token: str = "",
    eos_token: str = "",
) -> str:
    """An instruction and messages of user and assistant, up to where the model begins to write.

    ChatML where there is no chat template, or where it refuses.
    """
    whole = [{"role": "system", "content": instruction}, *messages]
    if chat_template:
        # Some templates know no system role: then the instruction leads the first user message.
        folded = [dict(message) for message in messages]
        if folded[0]["role"] != "user":
            folded.insert(0, {"role": "user", "content": instruction})
        else:
            folded[0]["content"] = f"{instruction}\n\n{folded[0]['content']}"
        for attempt in (whole, folded):
            text = _apply(chat_template, attempt, None, bos_token, eos_token)
            if text is not None and all(m["content"].strip() in text for m in attempt):
                return text
    return _chatml(whole)


def explain_tools(
    tools: Sequence[Tool], format: CallFormat, *, tool_choice: str = "auto", parallel: bool = True
) -> str:
    """The instruction for models whose chat template doesn't explain tools in this format."""
    listing = "\n".join(write_json(tool.to_dict()) for tool in tools)
    shape = format.write([{"name": "function_name", "arguments": {"parameter_name": "value"}}])
    several = " Call several functions if the request asks for several things." if parallel else ""
    nothing = "[]" if format.kind == "list" else "a short text without a call"
    if tool_choice == "none":
        ending = f"Do not call a function now: answer {nothing}."
    elif tool_choice == "required":
        ending = "Call at least one function."
    elif tool_choice != "auto":
        ending = f"Call the function {tool_choice}."
    else:
        ending = f"If no function fits the request, answer {nothing}."
    form = "a JSON list of function calls" if format.kind == "list" else "function calls"
    return (
        "You answer requests by calling functions. These are the functions, each with the JSON "
        f"Schema of its parameters:\n{listing}\n\n"
        f"Answer with {form} only, in this form:\n{shape}\n"
        f"Take the values from the request. Leave out optional parameters that the request does "
        f"not mention.{several} {ending}"
    )


def plain_messages(conversation: list[Message], format: CallFormat) -> list[Message]:
    """Calls and their results written out as text, for templates that know neither."""
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
            raise ProblemError(f"{where} has arguments that are not JSON; mend them") from None
        except RecursionError:
            raise ProblemError(f"{where} has arguments nested too deep; flatten them") from None
    if not isinstance(arguments, Mapping):
        raise ProblemError(f"{where} has arguments that are no object; make them one")
    if deeper_than(arguments, _MAX_DEPTH):
        raise ProblemError(f"{where} has arguments nested too deep; flatten them")
    identity = call.get("id") if isinstance(call, Mapping) else None
    return {
        "name": function["name"],
        "arguments": dict(arguments),
        "id": identity if isinstance(identity, str) else f"call{number:05d}",
    }


def _native(
    conversation: list[Message],
    tools: Sequence[Tool],
    chat_template: str,
    bos_token: str,
    eos_token: str,
) -> str | None:
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
    definitions = [tool.to_openai() for tool in tools]
    text = _apply(chat_template, messages, definitions, bos_token, eos_token)
    if text is None or not all(json.dumps(t.name, ensure_ascii=False) in text for t in tools):
        return None  # the template names `tools` without writing them
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
) -> str | None:
    """The rendered template, or None when it refuses these messages."""
    try:
        return _compile(chat_template).render(
            messages=messages,
            tools=tools,
            documents=None,
            bos_token=bos_token,
            eos_token=eos_token,
            add_generation_prompt=True,
            enable_thinking=False,
        )
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError):
        return None


@lru_cache(maxsize=8)
def _compile(chat_template: str) -> Template:
    """The environment that transformers gives chat templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda _: _DATE
    return environment.from_string(chat_template)


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %} marks what is learnt from: nothing to do here."""

    tags = {"generation"}  # noqa: RUF012 (the base class declares an instance variable)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
