"""Problems with their right calls, read from files of the common forms into one type.

Every record is kept, corrected or rejected with a reason; nothing is lost silently. Knows nothing
of models, prompts or plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolprm_lite.errors import ToolprmError
from toolprm_lite.prompt import parse_messages
from toolprm_lite.tasks.exclusion import Exclusions
from toolprm_lite.tasks.forms import asked_messages, possible_answers, read_calls, record_parts
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tasks.records import read_records
from toolprm_lite.tasks.rejected import Refuse, Rejected
from toolprm_lite.tasks.repairs import checked_call
from toolprm_lite.tools import parse_tools


def load_problems(
    paths: Sequence[Path | str], excluded: Exclusions | None = None
) -> tuple[list[Problem], list[Rejected]]:
    """Read the files, each of one of these forms, recognised by its content.

    - This project's: a JSON line each, {"id", "source", "messages" or "query", "tools", "answers"}.
    - BFCL's question files, with their answers in the folder `possible_answer` next to them. The
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
        possible = possible_answers(path)
        here: dict[str, int] = {}
        for line, record in read_records(path):
            identity = _identity(record, f"{path.stem}-{line}")
            try:
                if excluded is not None and (entry := excluded.line(path, identity)) is not None:
                    raise Refuse(
                        "excluded", f"excluded by {excluded.path}, line {entry}",
                        "take that line out to use it",
                    )  # fmt: skip
                if not isinstance(record, dict):
                    raise Refuse(
                        "record", "the record is no object", 'write {"id", "messages", "tools", …}'
                    )
                if identity in here:
                    raise Refuse(
                        "id", f"the id is line {here[identity]}'s already", "give each its own"
                    )
                here[identity] = line
                problem = _problem(record, identity, path, possible)
            except Refuse as refusal:
                known = identity if isinstance(record, dict) else None
                rejected.append(
                    Rejected(name, line, known, refusal.kind, refusal.reason, refusal.fix)
                )
                continue
            unique, number = identity, 1
            while unique in taken:
                unique = f"{path.stem}/{identity}" + (f"~{number}" if number > 1 else "")
                number += 1
            taken.add(unique)
            problems.append(replace(problem, id=unique, file=name))
    return problems, rejected


def _identity(record: Any, otherwise: str) -> str:
    given = record.get("id") if isinstance(record, dict) else None
    if isinstance(given, bool) or not isinstance(given, (str, int)) or given == "":
        return otherwise
    return str(given)


def _problem(
    record: dict[str, Any], identity: str, path: Path, possible: dict[str, Any] | None
) -> Problem:
    source = record.get("source")
    conversation, definitions, answers = record_parts(record, identity, path, possible)
    try:
        messages = parse_messages(conversation)
    except ToolprmError as error:
        raise _refusal("messages", error) from None
    try:
        tools = parse_tools(definitions)
    except ToolprmError as error:
        raise _refusal("tools", error) from None
    repairs: list[str] = []
    messages = asked_messages(messages, repairs)
    calls = [
        checked_call(call, f"answer {number}", tools, repairs)
        for number, call in enumerate(read_calls(answers), 1)
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


def _refusal(kind: str, error: ToolprmError) -> Refuse:
    reason, _, fix = str(error).rpartition("; ")
    return Refuse(kind, reason or str(error), fix if reason else "fix it")
