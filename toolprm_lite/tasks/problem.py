"""A problem: a conversation, the tools that are offered, and which calls are right.

Knows nothing of models, files or plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from toolprm_lite.prompt import Message
from toolprm_lite.tasks.bfcl_check import bfcl_right
from toolprm_lite.tasks.matching import CallLike, MatchRule, responses_equal
from toolprm_lite.tools import Tool, parse_tools

Call = dict[str, Any]
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

Check = Literal["exact", "bfcl", "any_call", "unknown"]
"""How a response is judged: against `answers`, as BFCL's checker does, right with any call, or not
here at all."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A conversation, the tools that are offered, and the calls that are right.

    Don't change the parts. A problem holds data only, so that it can be sent to another process.

    Attributes:
        id: unique among the problems of a run.
        source: the data set, or the category of a benchmark.
        messages: the conversation; the user, or a tool, has spoken last.
        tools: what may be called.
        answers: the right calls, {"name", "arguments"}; empty where declining is right, and where
            `check` compares with nothing.
        possible: BFCL's possible answers, as its files write them.
        check: how a response is judged.
        split: the side of a plan it is on; None outside of a plan.
        masked: its names are random strings.
        bring_up: it was used during development, and is reported separately.
        file: where it was read from.
        repairs: what was changed to make the answers valid under the tools' closed schemas.
        record: what the benchmark's own checker needs, as the benchmark writes it.
        parts: of a problem that was joined from others, their sources, in order; else empty.
    """

    id: str
    source: str
    messages: list[Message]
    tools: list[Tool]
    answers: list[Call] = field(default_factory=list)
    possible: list[dict[str, Any]] | None = field(default=None, compare=False)
    check: Check = "exact"
    split: Split | None = None
    masked: bool = False
    bring_up: bool = False
    file: str = field(default="", compare=False)
    repairs: tuple[str, ...] = field(default=(), compare=False)
    record: Mapping[str, Any] = field(default_factory=dict, compare=False)
    parts: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """Where its questions come from, each source once."""
        return tuple(dict.fromkeys(self.parts)) or (self.source,)

    @property
    def declines(self) -> bool:
        """Whether no call is right."""
        return self.expected is not None and not self.answers

    @property
    def category(self) -> str:
        """What an evaluation reports it under."""
        if self.split is not None and self.declines:
            return "refusal"
        return f"{self.source} (bring-up)" if self.bring_up else self.source

    @property
    def rule(self) -> MatchRule:
        """When a value equals the answer's."""
        return "bfcl" if self.check == "bfcl" else "exact"

    @property
    def expected(self) -> Sequence[CallLike] | None:
        """The right calls as `rule` compares them; None where there are none to compare with."""
        if self.check == "bfcl":
            return self.possible or ()
        return self.answers if self.check == "exact" else None

    def judge(self, calls: Sequence[CallLike]) -> bool | None:
        """Whether the calls of a complete response are right; None where that is not known here.

        Raises `ProblemError` for possible answers that are not of BFCL's form.
        """
        if self.check == "bfcl":
            return bfcl_right(calls, self.possible or (), self.record["function"])
        if self.check == "any_call":
            return bool(calls)
        if self.check == "unknown":
            return None
        return responses_equal(calls, self.answers, self.tools)

    def to_dict(self) -> dict[str, Any]:
        """The problem of a plan in JSON's own types, as a supervision set holds it."""
        record: dict[str, Any] = {
            "id": self.id,
            "source": self.source,
            "split": self.split,
            "masked": self.masked,
            "refusal": self.declines,
            "messages": self.messages,
            "tools": [tool.to_dict() for tool in self.tools],
            "answers": self.answers,
        }
        if self.possible is not None:
            record["possible"] = self.possible
        if self.parts:
            record["parts"] = list(self.parts)
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Problem:
        """Read what `to_dict` has written. Raises `KeyError`, `TypeError` or `ToolsError`."""
        return cls(
            id=record["id"],
            source=record["source"],
            messages=record["messages"],
            tools=parse_tools(record["tools"]),
            answers=record["answers"],
            possible=record.get("possible"),
            split=record["split"],
            masked=record.get("masked", False),
            parts=tuple(record.get("parts", ())),
        )
