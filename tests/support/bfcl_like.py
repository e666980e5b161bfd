"""A folder in the form of bfcl-eval's unpacked wheel, with problems of our own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHECKER = """
def ast_checker(functions, output, truth, language, category, model):
    assert language in ("python", "java", "javascript") and model == "any"
    if output and "explode" in list(output[0].values())[0]:
        raise KeyError("explode")
    names = [list(call)[0] for call in output]
    return {"valid": names == [list(call)[0] for call in truth]}
"""


def function(name: str = "book", **properties: Any) -> dict[str, Any]:
    return {
        "name": name,
        "description": "Books a seat.",
        "parameters": {
            "type": "dict",
            "properties": {"city": {"type": "string", "description": "Where."}, **properties},
            "required": ["city"],
        },
    }


def question(identity: str, *functions: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": identity,
        "question": [[{"role": "user", "content": "Book a seat in Paris"}]],
        "function": list(functions or [function()]),
    }


def write_category(
    folder: Path,
    category: str,
    questions: Sequence[Mapping[str, Any]],
    truth: Sequence[Mapping[str, Any]] | None = ({"book": {"city": ["Paris", "paris"]}},),
) -> None:
    """`truth` of every question; None writes no file of answers."""
    data = folder / "bfcl_eval" / "data"
    (data / "possible_answer").mkdir(parents=True, exist_ok=True)
    name = f"BFCL_v4_{category}.json"
    (data / name).write_text("".join(f"{json.dumps(each)}\n" for each in questions))
    if truth is not None:
        answers = [{"id": each["id"], "ground_truth": list(truth)} for each in questions]
        text = "".join(f"{json.dumps(each)}\n" for each in answers)
        (data / "possible_answer" / name).write_text(text)


def write_checker(folder: Path) -> None:
    """A replacement of the official checker: the functions' names decide."""
    package = folder / "bfcl_eval"
    for inner in ("constants", "eval_checker", "eval_checker/ast_eval"):
        (package / inner).mkdir(parents=True, exist_ok=True)
        (package / inner / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "constants" / "enums.py").write_text(
        'class Language:\n    PYTHON, JAVA, JAVASCRIPT = "python", "java", "javascript"\n'
    )
    # As there: the module asks for the table of models.
    text = f"from bfcl_eval.constants.model_config import MODEL_CONFIG_MAPPING\n{CHECKER}"
    (package / "eval_checker" / "ast_eval" / "ast_checker.py").write_text(text)
