"""BFCL v4, its categories of a single turn: questions, checkers, and its own layout of results.

The data are bfcl-eval's, from its wheel, unpacked:

    pip download --no-deps bfcl-eval==2026.3.23 && unzip bfcl_eval-*.whl -d bfcl
"""

from __future__ import annotations

import copy
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from toolprm_lite.errors import DatasetError, ProblemError
from toolprm_lite.evaluation.items import Item, Judge
from toolprm_lite.evaluation.matching import CallLike, bfcl_right
from toolprm_lite.files import replace_file
from toolprm_lite.prompt import parse_messages

Record = dict[str, Any]
OfficialChecker = Callable[[Item, Sequence[CallLike]], bool]

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

# Looked at while the project was built, and so no test.
BRING_UP = {"simple_python": 100, "multiple": 50}

_PREFIX = "BFCL_v4"


def package_folder(data: Path) -> Path:
    """The folder that holds `bfcl_eval`: `data` or one below. Raises `DatasetError`."""
    for folder in (data, *sorted(data.glob("*/"))):
        if (folder / "bfcl_eval" / "data").is_dir():
            return folder
    raise DatasetError(f"{data}: no bfcl_eval/data in it; unpack the bfcl-eval wheel there")


def read_bfcl(data: Path, categories: Sequence[str] = DEFAULT) -> list[Item]:
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
    return [item for category in categories for item in _read_category(folder, category)]


def _read_category(folder: Path, category: str) -> Iterator[Item]:
    path = folder / f"{_PREFIX}_{category}.json"
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
        number = identity.rpartition("_")[2]
        bring_up = number.isdigit() and int(number) < BRING_UP.get(category, 0)
        yield Item(
            id=identity,
            category=f"{category} (bring-up)" if bring_up else category,
            messages=parse_messages(turn, where),
            tools=_shown(functions, category),
            judge=_judge(category, truth, functions),
            answers=_answers(category, truth),
            rule="bfcl",
            source={**record, "ground_truth": truth, "category": category},
            declines=category.endswith("irrelevance"),
            bring_up=bring_up,
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
        raise ProblemError(f"{path}: not UTF-8 text; unpack the bfcl-eval wheel anew") from None
    except OSError as error:
        raise DatasetError(
            f"{path}: {error.strerror}; unpack the bfcl-eval wheel into --data"
        ) from None


def _answers(category: str, truth: Any) -> Any:
    if category.endswith("irrelevance"):
        return []
    return None if category in OTHER_LANGUAGES else truth


def _judge(category: str, truth: Any, functions: Sequence[Mapping[str, Any]]) -> Judge:
    if category.endswith("irrelevance"):
        return lambda calls: not calls
    if category.endswith("relevance"):
        return lambda calls: bool(calls)
    if category in OTHER_LANGUAGES:
        return lambda calls: None
    return lambda calls: bfcl_right(calls, truth, functions)


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


# BFCL's own checker


def load_checker(package: Path) -> OfficialChecker:
    """BFCL's own check of single responses, from the unpacked wheel.

    The package's table of models imports a client library for every vendor; the checker only asks
    it whether a model's names have underscores for dots, so an empty one stands in for it. Raises
    `DatasetError` where it can't be imported.
    """
    table = ModuleType("bfcl_eval.constants.model_config")
    names = SimpleNamespace(underscore_to_dot=False)
    vars(table)["MODEL_CONFIG_MAPPING"] = defaultdict(lambda: names)
    folder = package_folder(package)
    sys.modules[table.__name__] = table
    sys.path.insert(0, str(folder))
    try:
        languages = import_module("bfcl_eval.constants.enums").Language
        check = import_module("bfcl_eval.eval_checker.ast_eval.ast_checker").ast_checker
    except ImportError as error:
        raise DatasetError(
            f"{folder}: BFCL's checker can't be imported ({error}); pip install "
            "tree_sitter==0.21.3 tree-sitter-java==0.21.0 tree-sitter-javascript==0.21.4"
        ) from None
    finally:
        sys.path.remove(str(folder))
    language_of = {"simple_java": languages.JAVA, "simple_javascript": languages.JAVASCRIPT}

    def right(item: Item, calls: Sequence[CallLike]) -> bool:
        source = item.source
        category = source["category"]
        if category.endswith("relevance"):
            return bool(calls) != bool(category.endswith("irrelevance"))
        output = [{call["name"]: call["arguments"]} for call in calls]
        language = language_of.get(category, languages.PYTHON)
        functions, truth = copy.deepcopy((source["function"], source["ground_truth"]))
        try:
            verdict = check(functions, output, truth, language, category, "any")
        except (TypeError, KeyError, AttributeError, ValueError, IndexError):
            return False  # it stumbles over some values of unexpected types
        return bool(verdict["valid"])

    return right


# Its layout of results


def write_results(
    folder: Path, model: str, answers: Iterable[tuple[Item, Mapping[str, Any]]]
) -> None:
    """Write answers where `bfcl evaluate --result-dir FOLDER --partial-eval` finds them.

    The calls stand there as a JSON list in text, which bfcl-eval's handler of the Hammer models
    reads; `model` is the name of their folder, such as "MadeAgents_Hammer2.1-0.5b". A response that
    did not end is written as it was, for it to fail on.
    """
    files: dict[Path, list[Record]] = {}
    for item, answer in answers:
        category = item.source["category"]
        group = "live" if category.startswith("live_") else "non_live"
        path = folder / model / group / f"{_PREFIX}_{category}_result.json"
        text = answer.get("text", "")
        if answer.get("complete"):
            text = json.dumps(answer["calls"], ensure_ascii=False)
        files.setdefault(path, []).append({"id": item.id, "result": text})
    for path, records in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, "".join(f"{json.dumps(record)}\n" for record in records).encode())
