"""Problems with their right calls, read from files of the common forms into one.

Every record is kept, mended or turned away with a reason; nothing is lost silently. Knows nothing
of models, prompts or plans.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from toolprm_lite.errors import ProblemError, ToolprmError
from toolprm_lite.files import MOST_PROBLEMS, read_text
from toolprm_lite.prompt import Message, parse_messages
from toolprm_lite.schema import Schema, closed_schema
from toolprm_lite.supervision.exclusion import Exclusions
from toolprm_lite.tools import Tool, parse_tools

Call = dict[str, Any]

_ANSWERS = 'add "answers": a list of {"name", "arguments"}, empty if no call is right'


# ToolRL writes a conversation into one message, between marks.
_WRAPPED = re.compile(
    r"\s*\*\*Dialogue Records History\*\*\s*<user>\s*((?:(?!<user>).)*?\S)\s*</user>\s*\Z",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A conversation, the tools that are offered, and the calls that are right.

    `answers` are {"name", "arguments"}, valid under the tools' closed schemas; empty where
    declining is right. `repairs` says what was changed to make them so. `possible` are BFCL's
    possible answers, as they stand there, where the file has them. Don't change the parts.
    """

    id: str
    source: str
    messages: list[Message]
    tools: list[Tool]
    answers: list[Call]
    file: str = field(default="", compare=False)
    repairs: tuple[str, ...] = field(default=(), compare=False)
    possible: list[dict[str, Any]] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that is not used: where it stands, why, and how to mend it.

    `line` is the line of a JSONL file, the place in a JSON list (from 1). `kind` groups reasons:
    "record", "id", "messages", "tools", "answers", "function", "argument", "required", "value",
    "excluded".
    """

    file: str
    line: int
    id: str | None
    kind: str
    reason: str
    mend: str

    def __str__(self) -> str:
        name = "" if self.id is None else f" ({self.id})"
        return f"{self.file}: line {self.line}{name}: {self.reason}; {self.mend}"


class _Refuse(Exception):
    def __init__(self, kind: str, reason: str, mend: str) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.mend = kind, reason, mend


def load_problems(
    paths: Sequence[Path | str], excluded: Exclusions | None = None
) -> tuple[list[Problem], list[Rejected]]:
    """Read the files, each of one of these forms, told by its content.

    - This project's: a JSON line each, {"id", "source", "messages" or "query", "tools", "answers"}.
    - BFCL's question files, with their answers in the folder `possible_answer` beside them. The
      first possible answer of a parameter is taken; "" means that it is left out.
    - xLAM's: a JSON list or JSON lines, {"query", "tools", "answers"}, the last two often as text.
    - OpenAI's fine-tuning lines, {"messages", "tools"}: the last assistant message is the answer.

    A value that is written as its schema's type would be ("5" for 5) is turned into it; optional
    arguments that are empty and refused by the schema are dropped. Records that still break their
    schemas, and those that are `excluded`, are returned as `Rejected`. Ids are made unique among
    files. Raises `ProblemError`, which names file and line, where a file can't be read or isn't
    JSON.
    """
    problems: list[Problem] = []
    rejected: list[Rejected] = []
    taken: set[str] = set()
    for path in map(Path, paths):
        name = str(path)
        possible = _possible_answers(path)
        here: dict[str, int] = {}
        for line, record in _records(path):
            identity = _identity(record, f"{path.stem}-{line}")
            try:
                if excluded is not None and (entry := excluded.line(path, identity)) is not None:
                    raise _Refuse(
                        "excluded", f"excluded by {excluded.path}, line {entry}",
                        "take that line out to use it",
                    )  # fmt: skip
                if not isinstance(record, dict):
                    raise _Refuse(
                        "record", "the record is no object", 'write {"id", "messages", "tools", …}'
                    )
                if identity in here:
                    raise _Refuse(
                        "id", f"the id is line {here[identity]}'s already", "give each its own"
                    )
                here[identity] = line
                problem = _problem(record, identity, path, possible)
            except _Refuse as refusal:
                known = identity if isinstance(record, dict) else None
                rejected.append(
                    Rejected(name, line, known, refusal.kind, refusal.reason, refusal.mend)
                )
                continue
            unique, number = identity, 1
            while unique in taken:
                unique = f"{path.stem}/{identity}" + (f"~{number}" if number > 1 else "")
                number += 1
            taken.add(unique)
            problems.append(replace(problem, id=unique, file=name))
    return problems, rejected


def count_problems(
    problems: Sequence[Problem], rejected: Sequence[Rejected]
) -> dict[str, dict[str, Any]]:
    """For each file: how many records were kept, how many of those mended, and why others not.

    {file: {"kept", "repaired", "rejected", "reasons": {kind: count}}}.
    """
    files = dict.fromkeys([*(p.file for p in problems), *(r.file for r in rejected)])
    report: dict[str, dict[str, Any]] = {}
    for name in files:
        kept = [problem for problem in problems if problem.file == name]
        reasons = Counter(record.kind for record in rejected if record.file == name)
        report[name] = {
            "kept": len(kept),
            "repaired": sum(bool(problem.repairs) for problem in kept),
            "rejected": sum(reasons.values()),
            "reasons": dict(sorted(reasons.items())),
        }
    return report


# Files


def _records(path: Path) -> list[tuple[int, Any]]:
    try:
        text = read_text(path, MOST_PROBLEMS)
    except FileNotFoundError:
        raise ProblemError(f"{path}: no such file; give the path of a file of problems") from None
    except UnicodeDecodeError as error:
        raise ProblemError(
            f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise ProblemError(f"{path}: can't be read: {error.strerror or error}") from None
    if not text.strip():
        raise ProblemError(f"{path}: the file is empty; write one problem a line into it")
    try:
        return _parsed(text)
    except RecursionError:
        raise ProblemError(f"{path}: the JSON is nested too deep; flatten it") from None
    except _Broken as broken:
        raise ProblemError(f"{path}: not JSON: {broken}; mend it there") from None


class _Broken(Exception):
    """Says what is wrong with a file's JSON, and where."""

    def __init__(self, error: ValueError, line: int) -> None:
        if isinstance(error, json.JSONDecodeError):
            super().__init__(f"{error.msg} at line {line}, column {error.colno}")
        else:
            super().__init__(f"{error} at line {line}")


def _parsed(text: str) -> list[tuple[int, Any]]:
    """The records of JSON lines, or of one JSON list or object, numbered from 1."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    records: list[tuple[int, Any]] = []
    broken = None
    for number, line in lines:
        try:
            records.append((number, _loads(line)))
        except ValueError as error:
            broken = broken or _Broken(error, number)
    if broken is None and (len(records) > 1 or not isinstance(records[0][1], list)):
        return records
    try:
        value = _loads(text)
    except ValueError as error:
        # Other lines are records of their own: JSON lines, and one of them broken.
        by_lines = text.lstrip().startswith("{") and any(isinstance(r, dict) for _, r in records)
        if by_lines and broken is not None:
            raise broken from None
        raise _Broken(error, getattr(error, "lineno", lines[0][0])) from None
    return list(enumerate(value if isinstance(value, list) else [value], 1))


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _identity(record: Any, otherwise: str) -> str:
    given = record.get("id") if isinstance(record, dict) else None
    if isinstance(given, bool) or not isinstance(given, (str, int)) or given == "":
        return otherwise
    return str(given)


def _possible_answers(path: Path) -> dict[str, Any] | None:
    """BFCL's answers by id, where the file has such a sibling."""
    beside = path.parent / "possible_answer" / path.name
    if not beside.is_file():
        return None
    return {
        str(record.get("id")): record.get("ground_truth")
        for _, record in _records(beside)
        if isinstance(record, dict)
    }


# Records


def _problem(
    record: dict[str, Any], identity: str, path: Path, possible: dict[str, Any] | None
) -> Problem:
    source = record.get("source")
    conversation, definitions, answers = _parts(record, identity, path, possible)
    try:
        messages = parse_messages(conversation)
    except ToolprmError as error:
        raise _refusal("messages", error) from None
    try:
        tools = parse_tools(definitions)
    except ToolprmError as error:
        raise _refusal("tools", error) from None
    repairs: list[str] = []
    messages = _mended(messages, repairs)
    calls = [
        _checked(call, f"answer {number}", tools, repairs)
        for number, call in enumerate(_calls(answers), 1)
    ]
    return Problem(
        identity,
        source if isinstance(source, str) and source else path.stem,
        messages,
        tools,
        calls,
        repairs=tuple(repairs),
        possible=None if possible is None else possible.get(identity),
    )


def _mended(messages: list[Message], repairs: list[str]) -> list[Message]:
    """The conversation as a model is asked: the user, or a tool, has spoken last."""
    last = len(messages)
    while messages[last - 1]["role"] == "assistant" and not messages[last - 1].get("tool_calls"):
        last -= 1
    if last < len(messages):
        repairs.append("messages: the assistant's text after the question is left out")
        messages = messages[:last]
    if len(messages) == 1:
        wrapped = _WRAPPED.match(messages[0]["content"])
        if wrapped:
            repairs.append("messages: the marks around the question are left out")
            messages = [{**messages[0], "content": wrapped.group(1)}]
    return messages


def _refusal(kind: str, error: ToolprmError) -> _Refuse:
    reason, _, mend = str(error).rpartition("; ")
    return _Refuse(kind, reason or str(error), mend if reason else "mend it")


def _parts(
    record: dict[str, Any], identity: str, path: Path, possible: dict[str, Any] | None
) -> tuple[Any, Any, Any]:
    """The conversation, the tool definitions and the answers, still as they are written."""
    if "question" in record and "function" in record:
        return _bfcl(record, identity, path, possible)
    definitions = _decoded(record.get("tools", record.get("functions")), "tools")
    conversation = record.get("messages", record.get("query"))
    if conversation is None:
        raise _Refuse("messages", "no question", 'add "messages" or "query"')
    answers = _decoded(record.get("answers"), "answers")
    if answers is None and isinstance(conversation, list):
        last = next(
            (
                number
                for number in reversed(range(len(conversation)))
                if isinstance(conversation[number], dict)
                and conversation[number].get("role") == "assistant"
            ),
            None,
        )
        rest = [] if last is None else conversation[last + 1 :]
        if last is not None and not any(
            isinstance(message, dict) and message.get("role") == "user" for message in rest
        ):
            message = conversation[last]
            calls = message.get("tool_calls")
            if calls is None and message.get("function_call") is not None:
                calls = [{"function": message["function_call"]}]
            return conversation[:last], definitions, [] if calls is None else calls
    if answers is None:
        raise _Refuse("answers", "no answers", _ANSWERS)
    return conversation, definitions, answers


def _decoded(value: Any, what: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return _loads(value)
    except (ValueError, RecursionError):
        raise _Refuse(what, f'"{what}" is text that is not JSON', "mend it") from None


def _bfcl(
    record: dict[str, Any], identity: str, path: Path, possible: dict[str, Any] | None
) -> tuple[Any, Any, Any]:
    turns = record["question"]
    if isinstance(turns, list) and turns and isinstance(turns[0], list):
        if len(turns) > 1:
            raise _Refuse("messages", f"{len(turns)} turns to answer", "give one turn a problem")
        turns = turns[0]
    if possible is None and "irrelevance" in path.name:
        return turns, record["function"], []
    truth = None if possible is None else possible.get(identity)
    if truth is None:
        folder = path.parent / "possible_answer" / path.name
        raise _Refuse("answers", "no answers", f"add its ground truth to {folder}")
    if not isinstance(truth, list) or not all(
        isinstance(call, dict)
        and len(call) == 1
        and all(isinstance(value, dict) for value in call.values())
        for call in truth
    ):
        raise _Refuse("answers", "its ground truth is no list of calls", _ANSWERS)
    calls = [
        {"name": name, "arguments": _first_possible(arguments)}
        for call in truth
        for name, arguments in call.items()
    ]
    return turns, record["function"], calls


def _first_possible(arguments: dict[str, Any]) -> dict[str, Any]:
    """Of each parameter the first possible answer; objects inside list theirs likewise."""
    chosen: dict[str, Any] = {}
    for name, values in arguments.items():
        value = values[0] if isinstance(values, list) and values else values
        if isinstance(values, list) and (not values or value == ""):
            continue
        if isinstance(value, dict):
            value = _first_possible(value)
        elif isinstance(value, list):
            value = [_first_possible(part) if isinstance(part, dict) else part for part in value]
        chosen[name] = value
    return chosen


def _calls(answers: Any) -> list[Call]:
    if not isinstance(answers, list):
        raise _Refuse("answers", "answers are no list", _ANSWERS)
    calls: list[Call] = []
    for number, answer in enumerate(answers, 1):
        call = answer.get("function", answer) if isinstance(answer, dict) else None
        if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
            raise _Refuse("answers", f"answer {number} has no name", _ANSWERS)
        arguments = call.get("arguments")
        if isinstance(arguments, str):
            arguments = _decoded(arguments or "{}", "answers")
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            raise _Refuse(
                "answers", f"answer {number} has arguments that are no object", "make them one"
            )
        calls.append({"name": call["name"], "arguments": arguments})
    return calls


# Checks and repairs


class _Checker:
    """jsonschema's validator of one tool, told what it knows about repairs."""

    def __init__(self, parameters: Schema) -> None:
        from jsonschema import Draft202012Validator

        self.schema = closed_schema(parameters)
        self.validator: Any = Draft202012Validator(self.schema)

    def valid(self, value: Any, schema: Any) -> bool:
        return bool(self.validator.evolve(schema=schema).is_valid(value))

    def error(self, value: Any) -> Any:
        from jsonschema.exceptions import best_match

        return best_match(self.validator.iter_errors(value))

    def resolve(self, schema: Any) -> Any:
        """The schema that local references lead to."""
        for _ in range(16):
            if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
                return schema
            target: Any = self.schema
            for part in schema["$ref"].removeprefix("#").strip("/").split("/"):
                key = part.replace("~1", "/").replace("~0", "~")
                target = target.get(key) if isinstance(target, dict) and key else target
            schema = target
        return schema


@lru_cache(maxsize=4096)
def _checker(parameters: str) -> _Checker:
    return _Checker(json.loads(parameters))


def _checked(call: Call, where: str, tools: Sequence[Tool], repairs: list[str]) -> Call:
    """The call, mended where it must be; raises `_Refuse` where it can't."""
    name = call["name"]
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None:
        raise _Refuse(
            "function",
            f"{where} calls {name!r}, which is no tool",
            "add the tool, or mend the name",
        )
    try:
        checker = _checker(json.dumps(tool.parameters))
        arguments = call["arguments"]
        if not checker.valid(arguments, checker.schema):
            arguments = _repaired(arguments, checker, f"{where} ({name})", repairs)
        error = checker.error(arguments)
    except RecursionError:
        raise _Refuse(
            "tools", f"the schema of {name!r} refers to itself without end", "mend it"
        ) from None
    except Exception as broken:  # a pattern that is no expression, a reference to nothing
        raise _Refuse(
            "tools",
            f"the schema of {name!r} can't be checked: {type(broken).__name__}: {broken}",
            "mend the schema",
        ) from None
    if error is None:
        return {"name": name, "arguments": arguments}
    declared = checker.schema.get("properties", {})
    given = ", ".join(map(repr, declared)) or "none"
    if error.validator == "additionalProperties" and not error.absolute_path:
        extra = next((key for key in arguments if key not in declared), "?")
        raise _Refuse(
            "argument",
            f"{where} gives {name} the argument {extra!r}, which its schema doesn't have",
            f"use its parameters ({given})",
        )
    if error.validator == "required" and not error.absolute_path:
        missing = next((key for key in error.validator_value if key not in arguments), "?")
        raise _Refuse(
            "required",
            f"{where} leaves out {missing!r}, which {name} requires",
            "add it, or make it optional",
        )
    place = "/".join(map(str, error.absolute_path)) or "its arguments"
    message = error.message if len(error.message) <= 200 else f"{error.message[:200]}…"
    raise _Refuse("value", f"{where}: {place} of {name}: {message}", "mend the value or the schema")


def _repaired(
    arguments: dict[str, Any], checker: _Checker, where: str, repairs: list[str]
) -> dict[str, Any]:
    schema = checker.schema
    if "properties" not in schema:
        schema = checker.resolve(schema)
        schema = schema if isinstance(schema, dict) else {}
    declared = schema.get("properties", {})
    required = schema.get("required", [])
    others = schema.get("additionalProperties", True)
    result: dict[str, Any] = {}
    for name, value in arguments.items():
        part = declared.get(name, others)
        if checker.valid(value, part):
            result[name] = value
            continue
        mended = _coerced(value, part, checker)
        if mended is not _NOTHING:
            result[name] = mended
            repairs.append(f"{where}: {name}: {_short(value)} became {_short(mended)}")
        elif value in ("", None) and name not in required:
            repairs.append(f"{where}: {name}: {_short(value)} dropped")
        else:
            result[name] = value
    return result


_NOTHING: Any = object()


def _coerced(value: Any, schema: Any, checker: _Checker) -> Any:
    """`value` as the schema wants it, if it is that in another writing, or `_NOTHING`."""
    if checker.valid(value, schema):
        return value
    schema = checker.resolve(schema)
    if not isinstance(schema, dict):
        return _NOTHING
    for branch in [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        mended = _coerced(value, branch, checker)
        if mended is not _NOTHING and checker.valid(mended, schema):
            return mended
    for candidate in _writings(value, schema, checker):
        if checker.valid(candidate, schema):
            return candidate
    return _NOTHING


def _writings(value: Any, schema: Schema, checker: _Checker) -> Iterator[Any]:
    """What `value` may have been meant to be, likeliest first."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if isinstance(value, dict) and isinstance(schema.get("properties"), dict):
        required = schema.get("required", [])
        inner: dict[str, Any] = {}
        for name, part in value.items():
            declared = schema["properties"].get(name, schema.get("additionalProperties", True))
            mended = _coerced(part, declared, checker)
            if mended is _NOTHING and part in ("", None) and name not in required:
                continue
            inner[name] = part if mended is _NOTHING else mended
        yield inner
    if isinstance(value, list) and "items" in schema:
        items = [_coerced(part, schema["items"], checker) for part in value]
        if _NOTHING not in items:
            yield items
    if isinstance(value, str):
        read = _read_value(value.strip())
        if isinstance(read, (list, dict)):
            read = _coerced(read, schema, checker)
        if read is not _NOTHING:
            yield read
    elif isinstance(value, (bool, int, float)) and ("string" in kinds or not kinds):
        yield json.dumps(value)
    written = isinstance(value, str) and value.lstrip().startswith(("[", "{"))
    if "array" in kinds and not isinstance(value, list) and value not in ("", None) and not written:
        item = _coerced(value, schema.get("items", True), checker)
        if item is not _NOTHING:
            yield [item]


def _read_value(text: str) -> Any:
    """The JSON (or Python) value that `text` writes, or `_NOTHING`."""
    try:
        return _loads(text.lower() if text in ("True", "False") else text)
    except RecursionError:
        return _NOTHING
    except ValueError:
        if not text.startswith(("[", "{")):
            return _NOTHING
    try:
        return json.loads(json.dumps(ast.literal_eval(text), allow_nan=False))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _NOTHING


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}…"
