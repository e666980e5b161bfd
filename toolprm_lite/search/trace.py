"""What happened to each candidate of a search, as data. The terminal and the JSON draw from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolprm_lite._core import TraceNode as CoreNode
from toolprm_lite.search.steps import Step
from toolprm_lite.search.text import made_step


@dataclass(frozen=True, slots=True)
class TraceNode:
    """One candidate of one round.

    `parent` is the `id` of the node of the beam that it continues, None in the first round; `beam`
    is that beam's rank, from 0. `text` is what it adds to its parent's text, `steps` what that
    decided, with rewards and probabilities. `score` ranks it; 0 where it was dropped before it had
    one. `draws` took it: 0 for one that was tried without being drawn. `greedy`: it is the most
    likely continuation. `widened`: the drawn candidates of its beam were decoded too, which `doubt`
    does only where the most likely step costs too much.

    `fate` says what became of it: `kept`; `merged` with an equal one, `merged_into`; a `variant` of
    a kept decision; `outscored`; `unfinished` (a limit, or a stop, came first); or how its response
    became invalid. `finished`: its response has ended.
    """

    id: int
    parent: int | None
    round: int
    beam: int
    text: str
    steps: list[Step]
    score: float
    draws: int
    greedy: bool
    finished: bool
    widened: bool
    fate: str
    merged_into: int | None = None


def trace_node(node: CoreNode, kinds: Sequence[str]) -> TraceNode:
    """`kinds` are the steps whose reward is a probability."""
    return TraceNode(
        id=node.id,
        parent=node.parent,
        round=node.round,
        beam=node.beam,
        text=node.text.decode("utf-8", "replace"),
        steps=[made_step(step, kinds) for step in node.steps],
        score=node.score,
        draws=node.draws,
        greedy=node.greedy,
        finished=node.finished,
        widened=node.widened,
        fate=node.fate,
        merged_into=node.merged_into,
    )
