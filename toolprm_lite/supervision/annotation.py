"""Which steps of a response are right: labels for a forest of chains of decided steps.

Knows nothing of models or files; `tasks.matching` says what is equal.

Two labels. `local` answers the question of the step's kind, against the best one-to-one assignment
of the response's calls so far to the answers: a right value stays right after a wrong one.
`viable` says whether everything so far can still be completed to the answers; once false, it stays
false along the chain.

The best assignment has, in this order: most calls that are still right (a closed call equals its
answer, an open one is contained in it), most calls of the right name, most right arguments. Earlier
decisions choose before the step's own: an ARG_VALUE's argument isn't counted among the right ones
(after `x` chose one of two answers, a `y` of the other is wrong), and a finish sees its call as
still open, without counting any of its arguments (a call written twice doesn't take its answer from
the first). Where several assignments are best, one that makes the step right is enough; but a call
that one of them leaves without an answer is one too many, and wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from toolprm_lite.errors import ProblemError
from toolprm_lite.tasks.assignment import Assignment
from toolprm_lite.tasks.matching import Answers, CallLike, MatchRule, ToolLike


class DecidedStep(Protocol):
    """A decided step. `previous` is the index of the step before it in the same response, or -1;
    `value` is the decoded JSON of an ARG_VALUE's value. `goes_on` says that the token which decided
    the step's token includes the comma after it: another argument, or another call, must follow."""

    @property
    def kind(self) -> str: ...
    @property
    def call(self) -> int | None: ...
    @property
    def function(self) -> str | None: ...
    @property
    def argument(self) -> str | None: ...
    @property
    def value(self) -> Any: ...
    @property
    def previous(self) -> int: ...
    @property
    def goes_on(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Label:
    """Whether a step is right in itself, and whether all up to it can still become right."""

    local: bool
    viable: bool


# The weight of a call on an answer: what matters more is in higher bits.
_RIGHT = 1 << 40
_NAMED = 1 << 20


@dataclass(frozen=True, slots=True)
class _Open:
    """The open call; the tuples have one entry for each answer of its name."""

    name: str
    arguments: frozenset[str]
    count: int  # of the arguments, one given twice counted twice
    accepted: tuple[int, ...]  # arguments that the answer has too
    missing: tuple[int, ...]  # required ones that are not among them
    left: tuple[int, ...]  # those that the answer has, or may have, and the call has not


@dataclass(frozen=True, slots=True)
class _State:
    """What a chain has decided up to a step."""

    closed: Mapping[str, Assignment]  # by an answer's name; never changed in place
    calls: int
    open: _Open | None
    viable: bool
    finished: bool = False


def annotate(
    steps: Sequence[DecidedStep],
    answers: Answers | Sequence[CallLike],
    tools: Sequence[ToolLike] | None = None,
    rule: MatchRule = "exact",
) -> list[Label]:
    """The label of each step.

    `steps` may hold many responses; those with equal beginnings may share their first steps through
    `previous`. `answers` are the problem's right calls; `tools` and `rule` are those of `Answers`,
    and unused where `answers` is one already. Raises `ProblemError` for steps that are no
    response, by their index.
    """
    right = answers if isinstance(answers, Answers) else Answers(answers, tools, rule)
    root = _State({name: Assignment() for name in right.names}, 0, None, True)
    states: list[_State] = []
    labels: list[Label] = []
    for index, step in enumerate(steps):
        if not -1 <= step.previous < index:
            raise _broken(index, f"previous is {step.previous}; it must be an earlier step or -1")
        before = root if step.previous < 0 else states[step.previous]
        if before.finished:
            raise _broken(index, "it follows the end of its response; let it follow another")
        state, local = _decide(before, step, index, right)
        states.append(state)
        labels.append(Label(local, state.viable))
    return labels


def _decide(before: _State, step: DecidedStep, index: int, answers: Answers) -> tuple[_State, bool]:
    kind = step.kind
    if kind in ("FUNC_NAME", "TOTAL_FINISH"):
        if before.open is not None:
            raise _broken(index, f"{kind} inside a call; finish the call before it")
        if kind == "TOTAL_FINISH":
            total = before.viable and before.calls == len(answers)
            return replace(before, viable=total, finished=True), total
        if step.function is None:
            raise _broken(index, "FUNC_NAME without a function; give its name")
        missing = tuple(map(len, answers.required(step.function)))
        left = tuple(map(len, answers.parameters(step.function)))
        call = _Open(step.function, frozenset(), 0, (0,) * len(missing), missing, left)
        best, chosen = _best(before, call, call.accepted, closed=False)
        return _after(before, call, best), bool(chosen)
    if before.open is None:
        raise _broken(index, f"{kind} outside of a call; begin the call with FUNC_NAME")
    call = before.open
    if kind == "ARG_VALUE":
        if step.argument is None:
            raise _broken(index, "ARG_VALUE without an argument; give the parameter's name")
        grown, own = _give(call, step.argument, step.value, answers)
        best, chosen = _best(before, grown, call.accepted, closed=False)
        local = any(own[column] for column in chosen)
        if step.goes_on:
            best, _ = _best(before, grown, call.accepted, closed=False, more=True)
        return _after(before, grown, best), local
    if kind not in ("PARAM_FINISH", "FUNC_FINISH"):
        raise _broken(index, f"unknown kind {kind!r}; use one of reward.base.STEP_KINDS")
    best, _ = _best(before, call, call.accepted, closed=True)
    state = _after(before, call, best)
    _, chosen = _best(before, call, (0,) * len(call.accepted), closed=False)
    if kind == "FUNC_FINISH":
        closed = before.closed
        if call.accepted:
            row = _weights(call, call.accepted, closed=True)
            closed = {**closed, call.name: closed[call.name].assign(row)}
        calls = before.calls + 1
        viable = state.viable and not (step.goes_on and calls >= len(answers))
        state = replace(state, closed=closed, calls=calls, open=None, viable=viable)
    return state, any(_whole(call, column) for column in chosen)


def _give(
    call: _Open, argument: str, value: Any, answers: Answers
) -> tuple[_Open, tuple[bool, ...]]:
    """The call with one argument more, and which answers have it too."""
    own = answers.accepts(call.name, argument, value)
    if argument in call.arguments:
        own = (False,) * len(own)  # given twice: no answer is like that
    required = answers.required(call.name)
    grown = _Open(
        call.name,
        call.arguments | {argument},
        call.count + 1,
        tuple(count + right for count, right in zip(call.accepted, own, strict=True)),
        tuple(
            count - (right and argument in names)
            for count, right, names in zip(call.missing, own, required, strict=True)
        ),
        tuple(len(names - call.arguments - {argument}) for names in answers.parameters(call.name)),
    )
    return grown, own


def _best(
    before: _State, call: _Open, arguments: tuple[int, ...], closed: bool, more: bool = False
) -> tuple[int, list[int]]:
    """The value of the best assignment of the name's calls with this one, and the answers that
    this one has in the best assignments."""
    if not call.accepted:
        return 0, []
    others = before.closed[call.name]
    totals = [
        others.without(column) + weight
        for column, weight in enumerate(_weights(call, arguments, closed, more))
    ]
    best = max(totals)
    if others.value >= best:
        return others.value, []
    return best, [column for column, total in enumerate(totals) if total == best]


def _weights(
    call: _Open, arguments: tuple[int, ...], closed: bool, more: bool = False
) -> tuple[int, ...]:
    def right(column: int) -> bool:
        if closed:
            return _whole(call, column)
        return _contained(call, column) and (not more or call.left[column] > 0)

    return tuple(_NAMED + count + _RIGHT * right(column) for column, count in enumerate(arguments))


def _contained(call: _Open, column: int) -> bool:
    return call.accepted[column] == call.count


def _whole(call: _Open, column: int) -> bool:
    return _contained(call, column) and not call.missing[column]


def _after(before: _State, call: _Open, best: int) -> _State:
    viable = before.viable and bool(call.accepted)
    if viable:
        viable = best // _RIGHT == before.closed[call.name].rows + 1
    return replace(before, open=call, viable=viable)


def _broken(index: int, what: str) -> ProblemError:
    return ProblemError(f"step {index}: {what}")
