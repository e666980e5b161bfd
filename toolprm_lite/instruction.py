"""How tools and the call format are explained to a model whose chat template doesn't explain them.

The text says first what is the same for all requests, then the tools: what a prompt shares with
others comes first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from toolprm_lite.errors import ConfigError
from toolprm_lite.formats import CallFormat, write_json
from toolprm_lite.signatures import signature
from toolprm_lite.tools import Tool


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How tools are explained.

    `listing`: as JSON with their schemas, or as short signatures. `wording`: "full" says what to do
    with values, several requests and none; "short" only the form, for models that were trained on
    it. `examples`: worked examples before the tools: of one call, of several, of none.
    """

    listing: Literal["schemas", "signatures"] = "schemas"
    wording: Literal["full", "short"] = "full"
    examples: int = 0

    @classmethod
    def parse(cls, name: str) -> PromptStyle:
        """The style of a name: schemas, signatures, schemas+2, signatures-short.

        Raises `ConfigError`.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            raise ConfigError(
                f"prompt is {name!r}; it must be auto, or schemas or signatures, then -short or "
                "the number of worked examples, +1 to +3: signatures, signatures-short, schemas+2"
            )
        listing: Literal["schemas", "signatures"] = (
            "schemas" if found[1] == "schemas" else "signatures"
        )
        return cls(listing, "short" if found[2] else "full", int(found[3] or 0))

    @property
    def name(self) -> str:
        """What `parse` reads."""
        short = "-short" if self.wording == "short" else ""
        return f"{self.listing}{short}{f'+{self.examples}' if self.examples else ''}"


# As many answers as with schemas are right, for 0.6 times the tokens: docs/results.md.
_DEFAULT = PromptStyle("signatures")
_NAME = re.compile(r"(schemas|signatures)(?:(-short)|\+([1-3]))?")
_SHAPE = {"name": "function_name", "arguments": {"parameter_name": "value"}}

# Worked examples. Their subject is far from most requests, so that nothing is copied from them.
_EXAMPLE_TOOLS = [
    Tool(
        "reserve_book",
        "Reserve a book of the library for a member",
        {
            "type": "object",
            "properties": {
                "title": {"type": "string"},
                "member": {"type": "string", "description": "Name of the member"},
                "days": {"type": "integer", "description": "14 if left out"},
            },
            "required": ["title", "member"],
        },
    ),
    Tool(
        "count_copies",
        "How many copies of a book are on the shelf",
        {
            "type": "object",
            "properties": {"title": {"type": "string"}},
            "required": ["title"],
        },
    ),
]
_EXAMPLES: list[tuple[str, list[dict[str, Any]]]] = [
    (
        "Please keep Dune for Maria Lopez for 10 days.",
        [
            {
                "name": "reserve_book",
                "arguments": {"title": "Dune", "member": "Maria Lopez", "days": 10},
            }
        ],
    ),
    (
        "How many copies of Emma and of Ulysses do we have?",
        [
            {"name": "count_copies", "arguments": {"title": "Emma"}},
            {"name": "count_copies", "arguments": {"title": "Ulysses"}},
        ],
    ),
    ("What is the weather like today?", []),
]


def own_style(trained: str) -> PromptStyle:
    """A model's style without a head: what its adapter was trained on, "" for none."""
    return PromptStyle.parse(trained) if trained else _DEFAULT


def explain(
    listing: str,
    form: CallFormat,
    style: PromptStyle,
    *,
    tool_choice: str = "auto",
    parallel: bool = True,
) -> str:
    """The instruction. `listing` is what `list_tools` gave, and `tool_choice` too is as it may go
    into a prompt (`prompt.mark`)."""
    shape = form.write([_SHAPE])
    if tool_choice == "none":
        ending = f"Do not call a function now: answer {form.declining}."
    elif tool_choice == "required":
        ending = "Call at least one function."
    elif tool_choice != "auto":
        ending = f"Call the function {tool_choice}."
    else:
        ending = f"If no function fits the request, answer {form.declining}."
    if style.wording == "short":
        return f"Functions:\n{listing}\nAnswer with {form.answer}, as in {shape}. {ending}"
    several = " Call several functions if the request asks for several things." if parallel else ""
    what = "the JSON Schema of its parameters" if style.listing == "schemas" else "its parameters"
    return (
        f"{_worked(form, style)}"
        f"You answer requests by calling functions. These are the functions, each with {what}:\n"
        f"{listing}\n\n"
        f"Answer with {form.answer} only, in this form:\n{shape}\n"
        f"Take the values from the request. Leave out optional parameters that the request does "
        f"not mention.{several} {ending}"
    )


def list_tools(tools: Sequence[Tool], style: PromptStyle) -> list[str]:
    """The text of each tool."""
    if style.listing == "signatures":
        return [signature(tool) for tool in tools]
    return [write_json(tool.to_dict()) for tool in tools]


def _worked(form: CallFormat, style: PromptStyle) -> str:
    if not style.examples:
        return ""
    listing = "\n".join(list_tools(_EXAMPLE_TOOLS, style))
    answers = "".join(
        f"Request: {text}\nAnswer: {form.write(calls) if calls else form.declining}\n"
        for text, calls in _EXAMPLES[: style.examples]
    )
    return f"Examples, with other functions:\n{listing}\n{answers}\n"
