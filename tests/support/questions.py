"""Problems that `collect` and `eval` read, and files of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def question(number: int) -> dict[str, Any]:
    """A problem with its right call, as `collect` and `eval` read it."""
    name = f"book{chr(97 + number % 10)}"
    tool = {
        "name": name,
        "description": "Book a seat",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "seats": {"type": "integer"}},
            "required": ["city"],
        },
    }
    return {
        "id": f"p{number}",
        "query": f"Book {number} seats in Paris",
        "tools": [tool],
        "answers": [{"name": name, "arguments": {"city": "Paris", "seats": number}}],
    }


def record(number: int, **changes: Any) -> dict[str, Any]:
    return {**question(number), **changes}


def write_questions(path: Path, count: int) -> Path:
    path.write_text("".join(f"{json.dumps(question(number))}\n" for number in range(count)))
    return path


def write_problems(path: Path, *records: Any) -> Path:
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("".join(line + "\n" for line in lines))
    return path
