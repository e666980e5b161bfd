"""BFCL v4, its categories of a single turn.

The data are bfcl-eval's, from its wheel, unpacked:

    pip download --no-deps bfcl-eval==2026.3.23 && unzip bfcl_eval-*.whl -d bfcl
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolprm_lite.errors import DatasetError, ProblemError
from toolprm_lite.prompt import parse_messages
from toolprm_lite.tasks.forms import is_ground_truth, possible_calls
from toolprm_lite.tasks.problem import Check, Problem
from toolprm_lite.tools import Tool

Record = dict[str, Any]

PYTHON = ("simple_python", "multiple", "parallel", "parallel_multiple")
OTHER_LANGUAGES = ("simple_java", "simple_javascript")
NON_LIVE = (*PYTHON, *OTHER_LANGUAGES, "irrelevance")
LIVE = (
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
    "live_irrelevance",
    "live_relevance",
)
CATEGORIES = (*NON_LIVE, *LIVE)
DEFAULT = (*PYTHON, "irrelevance")

# Used during development, so not for tests.
BRING_UP = {"simple_python": 100, "multiple": 50}

PREFIX = "BFCL_v4"


def package_folder(data: Path) -> Path:
    """The folder that holds `bfcl_eval`: `data` or one below. Raises `DatasetError`."""
    for folder in (data, *sorted(data.glob("*/"))):
        if (folder / "bfcl_eval" / "data").is_dir():
            return folder
    raise DatasetError(f"{data}: no bfcl_eval/data in it; unpack the bfcl-eval wheel there")


def read_bfcl(data: Path, categories: Sequence[str] = DEFAULT) -> list[Problem]:
    """The problems of the categories, in the order of their files.

    Those of the bring-up set have a category of their own. Raises `DatasetError` where the data are
    not there, `ProblemError` for a record that is not of BFCL's form.
    """
    unknown = [category for category in categories if category not in CATEGORIES]
    if unknown:
        raise DatasetError(
            f"BFCL has no category {unknown[0]!r} of a single turn; give some of "
            f"{', '.join(CATEGORIES)}"
        )
    folder = package_folder(data) / "bfcl_eval" / "data"
    return [problem for category in categories for problem in _read_category(folder, category)]


def _read_category(folder: Path, category: str) -> Iterator[Problem]:
    path = folder / f"{PREFIX}_{category}.json"
    truths: dict[str, Any] = {}
    if "relevance" not in category:
        answers = folder / "possible_answer" / path.name
        for line, record in _lines(answers):
            if not {"id", "ground_truth"} <= record.keys():
                raise ProblemError(f"{answers}, line {line}: no ground truth; is this BFCL v4?")
            truths[record["id"]] = record["ground_truth"]
    for line, record in _lines(path):
        where = f"{path}, line {line}"
        try:
            identity, functions = record["id"], record["function"]
            (turn,) = record["question"]
        except (KeyError, ValueError, TypeError):
            raise ProblemError(f"{where}: not a question of one turn; is this BFCL v4?") from None
        truth = truths.get(identity)
        if truth is None and truths:
            raise ProblemError(f"{where}: {identity} has no ground truth; is this BFCL v4?")
        if truth is not None and not is_ground_truth(truth) and category not in OTHER_LANGUAGES:
            raise ProblemError(f"{where}: its ground truth is no list of calls; is this BFCL v4?")
        number = identity.rpartition("_")[2]
        bring_up = number.isdigit() and int(number) < BRING_UP.get(category, 0)
        check = _check(category)
        possible = (truth or []) if check == "bfcl" else None
        yield Problem(
            id=identity,
            source=category,
            messages=parse_messages(turn, where),
            tools=_tools(functions, category, where),
            answers=possible_calls(possible or ()),
            possible=possible,
            check=check,
            bring_up=bring_up,
            record={**record, "ground_truth": truth, "category": category},
        )


def _lines(path: Path) -> Iterator[tuple[int, Record]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise ProblemError(f"{path}, line {number}: not JSON ({error})") from None
                if not isinstance(record, dict):
                    raise ProblemError(f"{path}, line {number}: not an object; is this BFCL v4?")
                yield number, record
    except UnicodeDecodeError:
        raise ProblemError(f"{path}: not UTF-8 text; unpack the bfcl-eval wheel again") from None
    except OSError as error:
        raise DatasetError(
            f"{path}: {error.strerror}; unpack the bfcl-eval wheel into --data"
        ) from None


def _check(category: str) -> Check:
    if category.endswith("irrelevance"):
        return "bfcl"  # against no possible answer
    if category.endswith("relevance"):
        return "any_call"
    return "unknown" if category in OTHER_LANGUAGES else "bfcl"


def _tools(functions: Sequence[Record], category: str, where: str) -> list[Tool]:
    shown = _shown(functions, category)
    return [Tool.from_dict(function, f"{where}: tool {n}") for n, function in enumerate(shown, 1)]


def _shown(functions: Sequence[Record], category: str) -> list[Mapping[str, Any]]:
    """The functions as a model is shown them. Values of Java and JavaScript are written as strings,
    with the notes about their types that BFCL itself adds."""
    if category not in OTHER_LANGUAGES:
        return list(functions)
    language = "Java" if category == "simple_java" else "JavaScript"
    syntax = "Java 8 SDK" if language == "Java" else language
    shown = copy.deepcopy(functions)
    for function in shown:
        function["description"] += f" Note that the provided function is in {syntax} syntax."
        for schema in function["parameters"]["properties"].values():
            kind = schema["type"]
            note = f"This is {language} {kind} type parameter in string representation."
            if kind == "any":
                note = f"This parameter can be of any type of {language} object in string "
                note += "representation."
            items = schema.pop("items", None)
            if kind in ("ArrayList", "Array", "array") and items is not None:
                note += f" The list elements are of type {items['type']}; they are not in string "
                note += "representation."
            inner = schema.pop("properties", None)
            if kind == "dict" and inner is not None:
                note += " The dictionary entries have the following schema; they are not in string "
                note += f"representation. {json.dumps(inner)}"
            schema["description"] = f"{schema.get('description', '')} {note}".lstrip()
            schema["type"] = "string"
    return list(shown)
