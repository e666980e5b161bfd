"""What tools and requests are about, and whether a tool may do what another one does.

Two texts are compared by their content words: without stop words, endings and words that many tools
have in their names. A word that few tools have weighs more (its inverse document frequency).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable

from toolprm_lite.grounded import word_lists
from toolprm_lite.tasks.names import COMMON
from toolprm_lite.tools import Tool

ALIKE = 1 / 3  # of the weight of the shorter text's words that two texts share

_ENGLISH = word_lists("en")
_STOP = frozenset(_ENGLISH["stop"]) | COMMON
_LEAST = 3  # letters that an ending leaves

Topic = frozenset[str]
"""The content words of a text."""


def topic_of(text: str) -> Topic:
    """The content words of a text or a name: `getCities` and "the city" are about the same."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", text)
    words = re.findall(r"[^\W\d_]+", spaced.lower())
    return frozenset(_root(word) for word in words if word not in _STOP and len(word) > 1)


def topic_of_tool(tool: Tool) -> Topic:
    """The content words of a tool's name and description."""
    return topic_of(f"{tool.name} {tool.description}")


class Topics:
    """Compares topics; what a word weighs depends on the topics of the `tools`."""

    def __init__(self, tools: Iterable[Topic]) -> None:
        known = list(tools)
        self._count = len(known) + 1
        self._having = Counter(word for topic in known for word in topic)

    def overlap(self, one: Topic, other: Topic) -> float:
        """The weight of the words that both have, by that of the lighter one's words, 0 .. 1."""
        least = min(self._weight(one), self._weight(other))
        return self._weight(one & other) / least if least > 0 else 0.0

    def may_answer(self, tool: Topic, right: Iterable[Topic], asked: Iterable[Topic]) -> bool:
        """Whether a tool may do what a right one does, or what is asked for.

        Of a request, which says more than what is to be done, as much must be shared of the tool.
        """
        whole = self._weight(tool)
        return any(self.overlap(tool, topic) >= ALIKE for topic in right) or any(
            whole > 0 and self._weight(tool & topic) / whole >= ALIKE for topic in asked
        )

    def _weight(self, topic: Topic) -> float:
        return sum(math.log(1 + self._count / (1 + self._having[word])) for word in topic)


def _root(word: str) -> str:
    return _without(_without(word, _ENGLISH["endings"]), _ENGLISH["second_endings"])


def _without(word: str, endings: Iterable[str]) -> str:
    """The word without the first of the endings that it has."""
    for ending in endings:
        if word.endswith(ending) and len(word) >= len(ending) + _LEAST:
            return word[: -len(ending)]
    return word
