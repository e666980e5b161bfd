"""A result as text for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from rich.cells import cell_len
from rich.text import Text
from rich.tree import Tree

from toolprm_lite.cli.output import drawing
from toolprm_lite.formats import write_json
from toolprm_lite.search.result import SearchResult, least
from toolprm_lite.search.steps import Step
from toolprm_lite.search.trace import TraceNode
from toolprm_lite.terminal import visible

_DOUBT = 0.5  # what is less likely than this to be right is marked
_SHOWN = 8  # calls, of a response of more
_PIPE_WIDTH = 100  # of a trace that no terminal shows
_STOPS = {
    "deadline": "the deadline was reached",
    "max_decode_tokens": "the tokens to decode were used up",
    "cancelled": "it was cancelled",
}
_SCORED = ("kept", "merged", "variant", "outscored")  # other fates say why it became invalid


def show(result: SearchResult, reward: str) -> None:
    """Print a result to stdout, and its trace if it has one. `reward` is what was asked for."""
    with drawing() as terminal:
        if result.trace is not None:
            width = terminal.width if terminal.is_terminal else _PIPE_WIDTH
            tree = _trace(result.trace, width)
            terminal.print(tree, width=width, no_wrap=True, overflow="ellipsis")
            terminal.print()
        for line in _answer(result):
            terminal.print(line, soft_wrap=True)
        if result.reward == "policy" and result.steps:
            note = "rewards are the policy's own probability"
            if reward == "auto":
                note = f"no reward head for this model: {note}"
            terminal.print(Text(note, style="dim"), soft_wrap=True)
        terminal.print(Text(_stats(result), style="dim"), soft_wrap=True)


# The answer


@dataclass(slots=True)
class _CallSteps:
    name: Step
    arguments: list[Step] = field(default_factory=list)
    ends: list[Step] = field(default_factory=list)

    @property
    def closed(self) -> bool:
        return any(step.kind == "FUNC_FINISH" for step in self.ends)


@dataclass(slots=True)
class _Row:
    """A line, its number if it has one, and what the line of doubts calls it, if anything."""

    text: Text
    share: float | None = None
    part: str = ""

    @property
    def doubtful(self) -> bool:
        return self.share is not None and self.share < _DOUBT


def _answer(result: SearchResult) -> Iterator[Text]:
    calls, total = _by_call(result.steps)
    calibrated = result.confidence is not None
    rows: list[_Row] = []
    doubts: list[str] = []
    for number, call in enumerate(calls if len(calls) <= _SHOWN + 1 else calls[:_SHOWN], 1):
        lines = list(_call_rows(call, calibrated))
        rows.extend(lines)
        parts = ", ".join(row.part for row in lines if row.doubtful and row.part)
        if parts and len(calls) > 1:
            parts = f"{visible(call.name.function or '')} (call {number}): {parts}"
        if parts:
            doubts.append(parts)
    if len(calls) > _SHOWN + 1:
        more = f"… and {len(calls) - _SHOWN} more, {len(calls)} calls in all: --json has them"
        rows.append(_Row(Text(more, style="bold")))
    words = _words(result.text) if not calls and result.complete else ""
    share = None if total is None else result.probability if calibrated else total.reward
    heading = ""
    if not calls and result.complete:
        heading = "no call: the model answers in words" if words else "no call"
        last = _Row(Text().append(heading, style="bold"), share, "making no call")
    elif calibrated:
        last = _Row(Text("whole response"), share, "the whole response")
    else:
        last = _Row(Text("no further call"), share)
    adds = not calibrated or share is None or share < _lowest(rows)
    if heading or last.doubtful or (calibrated and share is not None):
        rows.append(last)
    if last.doubtful and adds:
        doubts.append(last.part)
    yield from _with_confidence(rows)
    if words:
        yield Text(words)
    if not result.complete:
        yield from _cut_off(result, begun=bool(calls))
    if result.kept_greedy:
        yield Text("the greedy answer: a better scored one is not above it by the margin")
    if result.stopped is not None:
        yield Text(f"stopped early: {_STOPS[result.stopped]}", style="yellow")
    if calibrated and doubts:
        yield Text(f"doubtful: {'; '.join(doubts)}", style="yellow")


def _by_call(steps: Iterable[Step]) -> tuple[list[_CallSteps], Step | None]:
    """The steps of each call, and the one that ended the response."""
    calls: list[_CallSteps] = []
    total: Step | None = None
    for step in steps:
        if step.kind == "FUNC_NAME":
            calls.append(_CallSteps(step))
        elif step.kind == "ARG_VALUE":
            calls[-1].arguments.append(step)
        elif step.kind == "TOTAL_FINISH":
            total = step
        elif calls:
            calls[-1].ends.append(step)
    return calls, total


def _cut_off(result: SearchResult, begun: bool) -> Iterator[Text]:
    """How far an incomplete response has come; `begun`: it has a call's name."""
    closed = len(result.calls)
    counted = f"{closed} whole call{'' if closed == 1 else 's'}"
    line = Text(f"incomplete: the response was cut off after {counted}", style="bold yellow")
    if result.text and not begun:
        line.append(f": {visible(result.text)}", style="not bold")
    yield line
    if result.missing:
        yield Text(f"missing: {visible(', '.join(result.missing))}", style="yellow")


def _call_rows(call: _CallSteps, calibrated: bool) -> Iterator[_Row]:
    """A call with the numbers of its parts, and at its end that of the whole: always where it is
    a probability, else where it is low. A call of one line shows the lower of the calibrated two.
    """
    name = Text().append(visible(call.name.function or ""), style="bold")
    cut = "" if call.closed else " …"
    first = _Row(name, _share(call.name, calibrated), "the function")
    whole = "the whole call" if call.closed else "the arguments"
    if calibrated:
        parts = (call.name, *call.arguments, *call.ends)
        last = call.ends[-1].probability if call.ends else None
        end = least(last, (step.probability for step in parts))
    else:
        worst = min((step.reward for step in call.ends), default=1.0)
        end = worst if worst < _DOUBT else None
    if not call.arguments:
        name.append(f"({cut.strip()})")
        if calibrated and end is not None and (first.share is None or end < first.share):
            first = _Row(name, end, whole)
        yield first
        return
    name.append("(")
    rows = [first]
    for step in call.arguments:
        argument = visible(step.argument or "")
        line = Text("  ").append(argument, style="cyan")
        line.append(f"={visible(write_json(step.value))},")
        rows.append(_Row(line, _share(step, calibrated), argument))
    if calibrated and end is not None and end >= _lowest(rows):
        whole = ""  # its least likely part is named
    yield from (*rows, _Row(Text(f"){cut}"), end, whole))


def _lowest(rows: Sequence[_Row]) -> float:
    return min((row.share for row in rows if row.share is not None), default=math.inf)


def _share(step: Step, calibrated: bool) -> float | None:
    return step.probability if calibrated else step.reward


def _with_confidence(rows: Sequence[_Row]) -> Iterator[Text]:
    """The rows with their numbers in a column, as far as they are short."""
    lengths = [cell_len(row.text.plain) for row in rows]
    column = max((length for length in lengths if length <= 64), default=0) + 2
    for row, length in zip(rows, lengths, strict=True):
        if row.share is not None:
            row.text.append(" " * max(2, column - length))
            style = "yellow" if row.doubtful else "green"
            row.text.append(f"{_percent(row.share):>4}", style=style)
            if row.doubtful:
                row.text.append("  doubtful", style="yellow")
        yield row.text


def _percent(share: float) -> str:
    if 0 < share < 0.005:
        return "<1%"
    if 0.995 <= share < 1:
        return ">99%"
    return f"{100 * share:.0f}%"


def _words(text: str) -> str:
    """What a response that declines says, if it says more than an empty list."""
    words = text.strip()
    return "" if words.strip("`[] \n") in ("", "json") else visible(words, keep="\n")


def _stats(result: SearchResult) -> str:
    stats = result.stats
    total = stats.ms["total"]
    duration = f"{total:.0f} ms" if total < 9999.5 else f"{total / 1000:.1f} s"
    parts = [
        f"{stats.prompt_tokens} prompt tokens ({stats.reused_tokens} reused)",
        f"{stats.decode_tokens} decoded of {stats.drawn_tokens} drawn",
        f"{stats.forced_tokens} forced",
        duration,
    ]
    return " · ".join(parts)


# The trace


def _trace(trace: Sequence[TraceNode], width: int) -> Tree:
    """Rounds, in each the beams it began with, below them their candidates. Kept candidates are
    the next round's beams and carry their number there."""
    tree = Tree(Text(f"{len(trace)} candidates", style="bold"), guide_style="dim")
    beams: list[TraceNode] = []
    rounds = {number: list(group) for number, group in groupby(trace, lambda entry: entry.round)}
    for number, entries in rounds.items():
        kept = _next_beams(beams, entries)
        branch = tree.add(Text(f"round {number}", style="bold"))
        for beam in sorted({entry.beam for entry in entries}):
            parent = branch
            if len(beams) > 1:
                label = Text(f"beam {beam + 1}", style="dim")
                if beam < len(beams):
                    label.append(f"  {_clip(beams[beam].text, width - 20)}")
                parent = branch.add(label)
            ours = [entry for entry in entries if entry.beam == beam]
            for entry in sorted(ours, key=_order):
                parent.add(_candidate(entry, kept, width - 12))
        beams = kept
    return tree


def _order(entry: TraceNode) -> tuple[bool, bool, float]:
    return entry.fate != "kept", entry.fate not in _SCORED, -entry.score


def _next_beams(beams: Sequence[TraceNode], entries: Sequence[TraceNode]) -> list[TraceNode]:
    """The beams after a round: those it kept, and the ended ones it carried over, best first.

    A beam that ended earlier is carried over without an entry, and dropped with an empty one.
    """
    touched = {entry.beam for entry in entries}
    carried = [beam for place, beam in enumerate(beams) if place not in touched]
    kept = [entry for entry in entries if entry.fate == "kept"]
    return sorted([*carried, *kept], key=lambda entry: -entry.score)


def _candidate(entry: TraceNode, kept: Sequence[TraceNode], width: int) -> Text:
    scored = entry.fate in _SCORED
    score = f"{entry.score:.2g}" if entry.score else ""
    draws = f"x{entry.draws}" if entry.draws else "argmax"
    numbers = f" {score:>8} {draws:>6}  "
    written = entry.text or ("(end)" if entry.steps else "(ended before)")
    if entry.fate == "kept":
        place = next(index for index, other in enumerate(kept, 1) if other is entry)
        line = Text().append(f"{place:>2}", style="bold green").append(numbers, style="green")
        return line.append(_clip(written, width - len(line)), style="bold")
    line = Text(" -").append(numbers)
    line.append(_clip(written, max(16, width - len(line) - len(entry.fate) - 2)))
    line.stylize("dim")
    return line.append(f"  {entry.fate}", style="yellow" if scored else "red")


def _clip(text: str, width: int) -> str:
    """One line of at most `width` characters; its end is kept, which says more than the
    beginning."""
    text = visible(text.strip())
    return text if len(text) <= width else f"…{text[len(text) - width + 1 :]}"
