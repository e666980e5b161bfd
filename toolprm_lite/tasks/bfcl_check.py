"""BFCL v4's check of a response, for its Python categories of a single turn.

What looks odd here (first fits first, the types of possible answers, strings inside deeper lists
compared as written) is what the official checker does, and is kept so that scores compare; True and
1 are then equal inside of lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolprm_lite.errors import ProblemError
from toolprm_lite.tasks.matching import CallLike, bfcl_string, may_be_absent, possible_call

_PYTHON_TYPES: dict[str, type] = {
    "string": str, "integer": int, "float": float, "boolean": bool, "array": list, "tuple": list,
    "dict": dict, "any": str, "number": float, "object": dict,
}  # fmt: skip


def bfcl_right(
    calls: Sequence[CallLike],
    possible_answer: Sequence[Mapping[str, Mapping[str, Any]]],
    functions: Sequence[Mapping[str, Any]],
) -> bool:
    """Whether BFCL v4 counts the calls as right, for its Python categories of a single turn.

    `possible_answer` is the record's `ground_truth`, `functions` its `function`, as BFCL writes
    them. One function or several, one call or many in any order: the rule is the same. Raises
    `ProblemError` for a record that isn't of BFCL's form.
    """
    by_name = {function.get("name"): function for function in reversed(functions)}
    if len(calls) != len(possible_answer):
        return False
    left = list(calls)
    for number, answer in enumerate(possible_answer, 1):
        name, possible = possible_call(answer, f"possible answer {number}")
        if name not in by_name:
            raise ProblemError(
                f"possible answer {number}: function {name!r} is not defined; "
                "add it to the functions"
            )
        for index, call in enumerate(left):
            if _bfcl_call(call, name, possible, by_name[name]):
                del left[index]
                break
        else:
            return False
    return True


def _bfcl_call(
    call: CallLike,
    name: str,
    possible: Mapping[str, Sequence[Any]],
    function: Mapping[str, Any],
) -> bool:
    arguments = call.get("arguments", {})
    parameters = function.get("parameters") or {}
    properties = parameters.get("properties") or {}
    return (
        call.get("name") == name
        and isinstance(arguments, Mapping)
        and all(parameter in arguments for parameter in parameters.get("required") or ())
        and all(
            "" in values for parameter, values in possible.items() if parameter not in arguments
        )
        and all(
            parameter in properties
            and parameter in possible
            and _bfcl_value(value, possible[parameter], properties[parameter])
            for parameter, value in arguments.items()
        )
    )


def _bfcl_value(value: Any, possible: Sequence[Any], schema: Mapping[str, Any]) -> bool:
    kind = str(schema.get("type"))
    expected: Any = _PYTHON_TYPES.get(kind)
    inner: type | None = None
    if kind in ("array", "tuple"):
        inner = _PYTHON_TYPES.get(str((schema.get("items") or {}).get("type")))
    if expected is float and type(value) is int:
        value = _float(value)
    stated = _stated_type(possible)
    if type(value) is not expected:
        # The answer is of another type than the schema says: the answer is believed.
        return type(value) is stated and value in possible
    if inner is not None and not any(_items_typed(value, one, inner) for one in possible):
        return False
    if stated is not None and stated is not expected:
        return value in possible
    if expected is dict:
        return any(_bfcl_dict(value, one) for one in possible)
    if expected is str:
        texts = [bfcl_string(one) for one in possible if isinstance(one, str)]
        return bfcl_string(value) in texts
    if expected is list and inner is dict:
        return any(
            isinstance(one, (list, str))
            and len(value) == len(one)
            and all(_bfcl_dict(part, other) for part, other in zip(value, one, strict=True))
            for one in possible
        )
    if expected is list:
        plain = [_plain_strings(one) for one in possible if isinstance(one, (list, str))]
        return _plain_strings(value) in plain
    return value in possible


def _stated_type(possible: Sequence[Any]) -> type | None:
    return next((type(one) for one in possible if one != ""), None)


def _items_typed(value: list[Any], one: Any, inner: type) -> bool:
    if not isinstance(one, list):
        return True
    stated = _stated_type(one)
    return all(type(item) is inner or type(item) is stated for item in value)


def _bfcl_dict(value: Any, one: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(one, dict):
        return False
    return all(
        key in one and _plain(part) in _plain_strings(one[key]) for key, part in value.items()
    ) and all(may_be_absent(values) for key, values in one.items() if key not in value)


def _plain_strings(values: Any) -> list[Any]:
    return [_plain(part) for part in values] if isinstance(values, (list, str)) else []


def _plain(value: Any) -> Any:
    return bfcl_string(value) if isinstance(value, str) else value


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
