"""BFCL's own checker, and its own layout of results.

The data are bfcl-eval's, from its wheel, unpacked (see `tasks.bfcl`).
"""

from __future__ import annotations

import copy
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from toolprm_lite.errors import DatasetError
from toolprm_lite.files import replace_file
from toolprm_lite.tasks.bfcl import PREFIX, package_folder
from toolprm_lite.tasks.matching import CallLike
from toolprm_lite.tasks.problem import Problem

Record = dict[str, Any]
OfficialChecker = Callable[[Problem, Sequence[CallLike]], bool]


def load_checker(package: Path) -> OfficialChecker:
    """BFCL's own check of single responses, from the unpacked wheel.

    The package's table of models imports a client library for every vendor; the checker only asks
    it whether a model's names have underscores for dots, so an empty one replaces it. Raises
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

    def right(problem: Problem, calls: Sequence[CallLike]) -> bool:
        record = problem.record
        category = record["category"]
        if category.endswith("relevance"):
            return bool(calls) != bool(category.endswith("irrelevance"))
        output = [{call["name"]: call["arguments"]} for call in calls]
        language = language_of.get(category, languages.PYTHON)
        functions, truth = copy.deepcopy((record["function"], record["ground_truth"]))
        try:
            verdict = check(functions, output, truth, language, category, "any")
        except (TypeError, KeyError, AttributeError, ValueError, IndexError):
            return False  # it fails on some values of unexpected types
        return bool(verdict["valid"])

    return right


# Its layout of results


def write_results(
    folder: Path, model: str, answers: Iterable[tuple[Problem, Mapping[str, Any]]]
) -> None:
    """Write answers where `bfcl evaluate --result-dir FOLDER --partial-eval` finds them.

    The calls are a JSON list in text, which bfcl-eval's handler of the Hammer models
    reads; `model` is the name of their folder, such as "MadeAgents_Hammer2.1-0.5b". A response that
    did not end is written unchanged, and fails there.
    """
    files: dict[Path, list[Record]] = {}
    for problem, answer in answers:
        category = problem.record["category"]
        group = "live" if category.startswith("live_") else "non_live"
        path = folder / model / group / f"{PREFIX}_{category}_result.json"
        text = answer.get("text", "")
        if answer.get("complete"):
            text = json.dumps(answer["calls"], ensure_ascii=False)
        files.setdefault(path, []).append({"id": problem.id, "result": text})
    for path, records in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, "".join(f"{json.dumps(record)}\n" for record in records).encode())
