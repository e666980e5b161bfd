"""When is a call right? The one rule of the whole project, for values, calls and responses.

Knows nothing of models, steps or files. A call is `{"name", "arguments"}`; arguments are compared
whatever their order, and so are the calls of a response.

- `exact`: equal JSON. 5 equals 5.0, but a boolean is no number; strings are equal after Unicode NFC
  and without outer white space; lists are ordered, objects are not. An argument that equals its
  schema's `default` counts like an absent one, on both sides.
- `bfcl`: as BFCL v4's Python checker sees it. Strings are compared in lower case, without spaces
  and the punctuation `,./-_*^`, and with ' as ". An answer may be written in BFCL's own form,
  `{function: {parameter: [possible value, ...]}}`, where "" says that the parameter may be left
  out. Defaults count as written. `bfcl_check` has BFCL's whole check, its types included.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from toolprm_lite.errors import ProblemError
from toolprm_lite.tasks.assignment import Assignment
from toolprm_lite.tools import Tool

MatchRule = Literal["exact", "bfcl"]
CallLike = Mapping[str, Any]
ToolLike = Tool | Mapping[str, Any]

_BFCL_STRING = str.maketrans("'", '"', " ,./-_*^")


def values_equal(a: Any, b: Any, rule: MatchRule = "exact") -> bool:
    """Whether two decoded JSON values are equal. Raises `ProblemError` for what isn't JSON."""
    return _key(a, rule) == _key(b, rule)


def responses_equal(
    calls: Sequence[CallLike],
    answers: Sequence[CallLike],
    tools: Sequence[ToolLike] | None = None,
    rule: MatchRule = "exact",
) -> bool:
    """Whether a response's calls are the answers, each as often, in any order (see `Answers`)."""
    return Answers(answers, tools, rule).right(calls)


class Answers:
    """The right calls of one problem, made ready to judge many responses.

    `answers` are `{"name", "arguments"}`, and under `bfcl` also in BFCL's form (see the module).
    `tools` (`Tool`s or definitions that `Tool.from_dict` reads) give the defaults; without them no
    argument has one. Raises `ProblemError` for an answer that is no call, `ToolsError` for a tool
    that can't be read.

    Answers of one name form a group; where a method returns a tuple, it holds one entry for each
    answer of the group, in the order given. Don't change it once made.
    """

    def __init__(
        self,
        answers: Sequence[CallLike],
        tools: Sequence[ToolLike] | None = None,
        rule: MatchRule = "exact",
    ) -> None:
        if rule not in ("exact", "bfcl"):
            raise ProblemError(f'unknown match rule {rule!r}; use "exact" or "bfcl"')
        self.rule: MatchRule = rule
        defaults = _defaults(tools or ()) if rule == "exact" else {}
        groups: dict[str, list[_Expected]] = {}
        for number, answer in enumerate(answers, 1):
            expected = _expected(answer, f"answer {number}", rule, defaults)
            groups.setdefault(expected.name, []).append(expected)
        self._groups = {name: tuple(group) for name, group in groups.items()}
        self._accepted: dict[tuple[str, str, Hashable], tuple[bool, ...]] = {}
        self._size = len(answers)

    def __len__(self) -> int:
        return self._size

    @property
    def names(self) -> tuple[str, ...]:
        """The functions that are called, each once."""
        return tuple(self._groups)

    def count(self, name: str) -> int:
        """How many answers call this function."""
        return len(self._groups.get(name, ()))

    def required(self, name: str) -> tuple[frozenset[str], ...]:
        """The parameters that a call needs in order to equal each answer of the group."""
        return tuple(expected.required for expected in self._groups.get(name, ()))

    def parameters(self, name: str) -> tuple[frozenset[str], ...]:
        """The parameters that a call may have, for each answer of the group."""
        return tuple(expected.parameters for expected in self._groups.get(name, ()))

    def accepts(self, name: str, argument: str, value: Any) -> tuple[bool, ...]:
        """Whether a call of each answer in the group may have this argument with this value."""
        group = self._groups.get(name, ())
        key = _key(value, self.rule)
        cached = self._accepted.get((name, argument, key))
        if cached is None:
            cached = tuple(expected.accepts(argument, value, key) for expected in group)
            self._accepted[name, argument, key] = cached
        return cached

    def equal(self, call: CallLike) -> tuple[bool, ...]:
        """Whether the call is each answer of its name's group."""
        name, arguments = call.get("name"), call.get("arguments", {})
        if not isinstance(name, str) or not isinstance(arguments, Mapping):
            return ()
        result = [required <= arguments.keys() for required in self.required(name)]
        for argument, value in arguments.items():
            if not any(result):
                break
            accepted = self.accepts(name, argument, value)
            result = [a and b for a, b in zip(result, accepted, strict=True)]
        return tuple(result)

    def right(self, calls: Sequence[CallLike]) -> bool:
        """Whether the calls are these answers, each answer once, in any order."""
        if len(calls) != self._size:
            return False
        groups: dict[str, Assignment] = {}
        for call in calls:
            equal = self.equal(call)
            if not any(equal):
                return False
            group = groups.get(call["name"], Assignment())
            groups[call["name"]] = group = group.assign(tuple(map(int, equal)))
            if group.value < group.rows:
                return False
        return True


@dataclass(frozen=True, slots=True)
class _Expected:
    """One answer: what a call may have, and what it must have. Exactly one of `keys` and
    `possible` says which values a parameter may take."""

    name: str
    required: frozenset[str]
    keys: Mapping[str, Hashable] | None
    possible: Mapping[str, Sequence[Any]] | None = None

    @property
    def parameters(self) -> frozenset[str]:
        """What a call may have."""
        return frozenset(self.possible or self.keys or ())

    def accepts(self, argument: str, value: Any, key: Hashable) -> bool:
        if self.possible is not None:
            return _is_possible(value, self.possible.get(argument, ()))
        assert self.keys is not None
        return argument in self.keys and self.keys[argument] == key


def _expected(
    answer: Any, where: str, rule: MatchRule, defaults: Mapping[str, Mapping[str, Hashable]]
) -> _Expected:
    form = 'write it as {"name": ..., "arguments": {...}}'
    if not isinstance(answer, Mapping):
        raise ProblemError(f"{where} is not an object; {form}")
    if rule == "bfcl" and len(answer) == 1 and "name" not in answer:
        function, possible = possible_call(answer, where)
        required = frozenset(key for key, values in possible.items() if "" not in values)
        return _Expected(function, required, None, possible)
    name, arguments = answer.get("name"), answer.get("arguments", {})
    if not isinstance(name, str):
        raise ProblemError(f"{where} has no name; {form}")
    if not isinstance(arguments, Mapping):
        raise ProblemError(f"{where} ({name!r}): its arguments are not an object; {form}")
    keys = {str(argument): _key(value, rule) for argument, value in arguments.items()}
    known = defaults.get(name, {})
    required = frozenset(k for k, key in keys.items() if k not in known or known[k] != key)
    return _Expected(name, required, {**known, **keys})


def _defaults(tools: Sequence[ToolLike]) -> dict[str, dict[str, Hashable]]:
    result: dict[str, dict[str, Hashable]] = {}
    for number, definition in enumerate(tools, 1):
        tool = Tool.from_dict(definition, f"tool {number}")
        properties = tool.parameters.get("properties", {})
        result[tool.name] = {
            name: _key(schema["default"], "exact")
            for name, schema in properties.items()
            if isinstance(schema, Mapping) and "default" in schema
        }
    return result


def _key(value: Any, rule: MatchRule) -> Hashable:
    """A hashable form of a JSON value; equal values have equal ones."""
    if isinstance(value, str):
        if rule == "bfcl":
            return bfcl_string(value)
        return (value if value.isascii() else unicodedata.normalize("NFC", value)).strip()
    if isinstance(value, bool):
        return ("boolean", value)
    if value is None or isinstance(value, (int, float)):
        return value if value == value else ("number", "NaN")
    if isinstance(value, (list, tuple)):
        return ("array", *[_key(part, rule) for part in value])
    if isinstance(value, Mapping):
        return ("object", frozenset((key, _key(part, rule)) for key, part in value.items()))
    raise ProblemError(f"{value!r} is a {type(value).__name__}, not a JSON value; decode it first")


def bfcl_string(text: str) -> str:
    """A string as BFCL compares it."""
    return text.translate(_BFCL_STRING).lower()


def _is_possible(value: Any, possible: Any) -> bool:
    """Whether BFCL's list of possible values has this one, whatever the types declared."""
    if not isinstance(possible, (list, tuple)):
        return _fits_possible(value, possible)
    return any(_fits_possible(value, one) for one in possible)


def _fits_possible(value: Any, one: Any) -> bool:
    if isinstance(one, Mapping):  # each of its keys has a list of possible values again
        return (
            isinstance(value, Mapping)
            and all(key in one and _is_possible(part, one[key]) for key, part in value.items())
            and all(may_be_absent(values) for key, values in one.items() if key not in value)
        )
    if isinstance(one, (list, tuple)) and any(isinstance(part, Mapping) for part in one):
        return (
            isinstance(value, (list, tuple))
            and len(value) == len(one)
            and all(map(_fits_possible, value, one))
        )
    return values_equal(value, one, "bfcl")


def may_be_absent(possible: Any) -> bool:
    """Whether BFCL's possible values say that the parameter may be left out."""
    return "" in possible if isinstance(possible, (list, tuple)) else bool(possible == "")


def possible_call(answer: Any, where: str) -> tuple[str, Mapping[str, Sequence[Any]]]:
    """The function and the possible values of an answer in BFCL's form. Raises `ProblemError`."""
    if isinstance(answer, Mapping) and len(answer) == 1:
        ((name, possible),) = answer.items()
        if isinstance(possible, Mapping) and all(isinstance(v, list) for v in possible.values()):
            return str(name), possible
    raise ProblemError(
        f"{where} is not of BFCL's form; write it as {{function: {{parameter: [value, ...]}}}}"
    )
