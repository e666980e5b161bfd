"""What is asked of a call format. Knows nothing of prompts, models or searches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from toolprm_lite.tools import Tool

if TYPE_CHECKING:
    from toolprm_lite import _core


@dataclass(frozen=True, slots=True)
class Allowed:
    """Which calls a response may make: at most `max_calls` of these tools; with `required`, at
    least one."""

    tools: Sequence[Tool]
    required: bool = False
    max_calls: int = 16


class CallFormat(ABC):
    """How a model family writes calls: all that depends on it is asked here.

    A new one is a file with a subclass, and its instance in `FORMATS`; how one call is written
    (the body) must be known to the core, see `_core.CallFormat`.
    """

    name: ClassVar[str]
    answer: ClassVar[str]  # what the prompt asks for, as in "Answer with ... only"
    declining: ClassVar[str]  # what is answered when nothing is called, as in "answer ..."

    @abstractmethod
    def core(self) -> _core.CallFormat:
        """What the core must know to read calls."""

    @abstractmethod
    def write(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """The calls as a model writes them; `calls` are {"name", "arguments"}."""

    @abstractmethod
    def grammar(self, allowed: Allowed, special_tokens: Mapping[str, int]) -> str:
        """The grammar, in llguidance's form (JSON or Lark), of every response that is allowed.

        `special_tokens` are the texts that are one special token of the model each: in such a
        grammar they are written as tokens.
        """

    def taught_by(self, chat_template: str) -> bool:
        """Whether a chat template explains tools and writes calls in this format."""
        return False

    def written_by(self, chat_template: str, model: str) -> bool:
        """Whether the model, by its template and name, writes calls so when it is given tools."""
        return self.taught_by(chat_template)
