"""Prompts: checked messages, the model's own template, and our own explanation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.templates import HERMES_TEMPLATE, PLAIN_TEMPLATE, STRICT_TEMPLATE, TOOLS, USER
from toolprm_lite.errors import ConfigError, ProblemError
from toolprm_lite.formats import HERMES, JSON_LIST, CallFormat, detect_format, get_format
from toolprm_lite.prompt import parse_messages, render_prompt
from toolprm_lite.special_texts import SpecialTexts

CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "book_table", "arguments": '{"city": "Lyon"}'},
}
HISTORY: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "booked"},
    {"role": "user", "content": [{"type": "text", "text": "And "}, {"text": "the time?"}]},
]


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def render(
    messages: Any = (USER,), form: CallFormat = JSON_LIST, template: str | None = None, **more: Any
) -> str:
    pieces = render_prompt(
        messages, TOOLS, format=form, chat_template=template, special=SpecialTexts(), **more
    )
    return "".join(pieces)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (None, JSON_LIST),
        ("", JSON_LIST),
        (PLAIN_TEMPLATE, JSON_LIST),
        (HERMES_TEMPLATE, HERMES),
        (HERMES_TEMPLATE + "<function=name>", JSON_LIST),
        (HERMES_TEMPLATE.replace("tools", "things"), JSON_LIST),
        ("{{ tools }}<tool_call>{name}\n<arg_key>{key}</arg_key></tool_call>", JSON_LIST),
    ],
)
def test_detect_format(template: str | None, form: CallFormat) -> None:
    assert detect_format(template) == form


@pytest.mark.parametrize(
    ("model", "form"),
    [
        ("Qwen2.5 0.5B Instruct", HERMES),
        ("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", JSON_LIST),
        ("Qwen2.5 Coder 0.5B Instruct", JSON_LIST),
    ],
)
def test_detect_format_of_a_known_model(model: str, form: CallFormat) -> None:
    assert detect_format(HERMES_TEMPLATE, model) == form


def test_get_format() -> None:
    assert get_format("hermes") is HERMES
    with pytest.raises(ConfigError, match="json-list, hermes"):
        get_format("xml")


@pytest.mark.parametrize(
    ("form", "calls", "text"),
    [
        (JSON_LIST, [], "[]"),
        (HERMES, [], ""),
        (
            JSON_LIST,
            [{"name": "f", "arguments": {"a": "é", "b": [1, 2]}}, {"name": "g", "arguments": {}}],
            '[{"name": "f", "arguments": {"a": "é", "b": [1, 2]}}, {"name": "g", "arguments": {}}]',
        ),
        (
            HERMES,
            [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}],
            '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'
            '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
        ),
    ],
)
def test_write(form: CallFormat, calls: list[dict[str, Any]], text: str) -> None:
    assert form.write(calls) == text


def test_native_template() -> None:
    text = render(HISTORY, HERMES, HERMES_TEMPLATE)
    listing = "\n".join(json.dumps(tool.to_openai(), ensure_ascii=False) for tool in TOOLS)
    assert text.startswith(f"<|im_start|>system\nBe brief.\n<tools>\n{listing}\n</tools>")
    assert '<tool_call>book_table{"city": "Lyon"}</tool_call>' in text
    assert "<tool_response>booked</tool_response>" in text
    assert text.endswith("user\nAnd the time?<|im_end|>\n<|im_start|>assistant\n")


def test_template_that_hides_the_tools_is_not_believed() -> None:
    hiding = HERMES_TEMPLATE.replace("tool | tojson", "'secret'")
    text = render(form=HERMES, template=hiding)
    assert all(json.dumps(tool.to_dict(), ensure_ascii=False) in text for tool in TOOLS)
    assert "<tool_call>" in text


@pytest.mark.parametrize("form", [JSON_LIST, HERMES], ids=lambda form: form.name)
@pytest.mark.parametrize("template", [None, PLAIN_TEMPLATE, STRICT_TEMPLATE, "{{ broken"])
def test_own_prompt(form: CallFormat, template: str | None) -> None:
    """System text, tools, history and question, in this order, whatever the template can do."""
    text = render(HISTORY, form, template, bos_token="<s>", eos_token="</s>")
    parts = [
        "Be brief.",
        *(json.dumps(tool.to_dict(), ensure_ascii=False) for tool in TOOLS),
        form.write([{"name": "function_name", "arguments": {"parameter_name": "value"}}]),
        "A table in Lyon?",
        form.write([{"name": "book_table", "arguments": {"city": "Lyon"}}]),
        "Result of book_table: booked",
        "And the time?",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert text.rstrip("\n").rstrip("]").endswith("assistant")
    if template == PLAIN_TEMPLATE:
        assert text.startswith("<s>[system]")
        assert text.count("[user]") == 2  # the result and the next question are one turn
    elif template == STRICT_TEMPLATE:
        assert text.startswith("[user]Be brief.")
    else:
        assert text.startswith("<|im_start|>system\nBe brief.")


def test_questions_share_the_beginning() -> None:
    first, second = (
        render([{"role": "user", "content": question}], template=template)
        for template in [PLAIN_TEMPLATE]
        for question in ["Noon?", "Table for two?"]
    )
    shared = first[: first.index("Noon?")]
    assert second.startswith(shared)
    assert "book_table" in shared
    assert render() == render()


@pytest.mark.parametrize(
    ("choice", "parallel", "said", "unsaid"),
    [
        ("auto", True, ["answer []", "several"], ["at least one"]),
        ("auto", False, ["answer []"], ["several"]),
        ("required", True, ["at least one"], ["answer []"]),
        ("none", True, ["Do not call", "answer []"], []),
        ("clock", False, ["Call the function clock"], ["answer []"]),
    ],
)
def test_choices(choice: str, parallel: bool, said: list[str], unsaid: list[str]) -> None:
    text = render(tool_choice=choice, parallel=parallel)
    assert all(part in text for part in said)
    assert not any(part in text for part in unsaid)


def test_a_question_alone() -> None:
    assert render("A table in Lyon?") == render([USER])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "list of messages is empty"),
        ({}, "messages must be a list"),
        (3, "messages must be a list"),
        (["hi"], "message 1 must be an object"),
        ([USER, {"content": "x"}], "message 2 has role None"),
        ([{"role": "robot", "content": "x"}], "message 1 has role 'robot'"),
        ([USER, {"role": "assistant", "content": None}], "message 2 has content of type NoneType"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "message 1 has a content part"),
        ([{"role": "user", "content": 3}], "message 1 has content of type int"),
        ([{"role": "system", "content": "x"}], 'no message has role "user"'),
        ([{"role": "user", "content": " \n"}], "the query is empty"),
        ("", "the query is empty"),
        ([{"role": "assistant", "tool_calls": [{}]}, USER], "message 1, tool call 1 has no name"),
        (
            [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}, USER],
            "message 1, tool call 1 has arguments that are not JSON",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[]"}]}, USER],
            "message 1, tool call 1 has arguments that are no object",
        ),
        *(
            ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": wrong}]}, USER], said)
            for wrong, said in [
                ('{"a":' * 20_000 + "1" + "}" * 20_000, "nested more than 100 deep"),
                (nested(900), "message 1, tool call 1 has arguments nested more than 100 deep"),
                ({"a": [10**400]}, "message 1, tool call 1 has a number of more than 300 digits"),
                ({"a": {1: 2}}, "message 1, tool call 1 has an argument whose name is no string"),
                ({"a": {1, 2}}, "message 1, tool call 1 has an argument of type set"),
            ]
        ),
    ],
)
def test_bad_messages(messages: Any, message: str) -> None:
    with pytest.raises(ProblemError) as error:
        parse_messages(messages, "here")
    assert str(error.value).startswith("here: ")
    assert message in str(error.value)


def test_messages_are_not_changed() -> None:
    before = json.dumps(HISTORY)
    render(HISTORY)
    render(HISTORY, HERMES, HERMES_TEMPLATE)
    assert json.dumps(HISTORY) == before


def test_template_can_not_reach_out() -> None:
    text = render(template="{{ messages.__class__.__mro__ }}{{ messages.append(1) }}")
    assert text.startswith("<|im_start|>system")


def test_half_of_a_surrogate_pair_is_read_as_a_question_mark() -> None:
    call = {"function": {"name": "f", "arguments": {"a\ud83d": ["\udce9"]}}, "id": "1"}
    parsed = parse_messages(
        [
            {"role": "user", "content": "caf\udce9 \ud83d"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ]
    )
    assert parsed[0]["content"] == "caf? ?"
    assert parsed[1]["tool_calls"][0]["arguments"] == {"a?": ["?"]}
