"""The documentation: its Python examples run, its links exist, and it names all that is public.

A line `expression  # -> value` of an example is checked: `value` is the expression's repr.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import toolprm_lite
from support.mock_backend import MockBackend
from toolprm_lite import Searcher

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
FIRST_PAGES = [ROOT / "README.md", ROOT / "docs" / "getting-started.md"]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
EXPECTED = re.compile(r"#\s+-> (.*)$")


def call(name: str) -> str:
    return json.dumps([{"name": name, "arguments": {"city": "Rome"}}])


def mock_searcher(*unused: object, **more: object) -> Searcher:
    """Answers the questions of the examples."""
    backend = MockBackend(
        {call("get_forecast"): 0.8, call("get_air_quality"): 0.1, "[]": 0.1},
        by_prompt={
            "get_time": {call("get_time"): 0.9, "[]": 0.1},
            "How clean is the air": {call("get_air_quality"): 0.9, "[]": 0.1},
        },
        context=1 << 16,
    )
    return Searcher(backend)


def examples(page: Path) -> Iterator[tuple[int, str]]:
    """The page's Python blocks, each with the number of its first line."""
    text = page.read_text()
    for block in FENCE.finditer(text):
        if block[1] == "python":
            yield text.count("\n", 0, block.start(2)) + 1, block[2]


def run_examples(page: Path) -> int:
    """Run a page's blocks in turn, as one program; return how many values were compared."""
    names: dict[str, Any] = {"__name__": "example"}
    checked = 0
    for first, code in examples(page):
        lines = code.splitlines()
        for statement in ast.parse(code).body:
            assert statement.end_lineno is not None
            expected = EXPECTED.search(lines[statement.end_lineno - 1])
            ast.increment_lineno(statement, first - 1)
            if not isinstance(statement, ast.Expr):
                exec(compile(ast.Module([statement], []), str(page), "exec"), names)
                continue
            value = eval(compile(ast.Expression(statement.value), str(page), "eval"), names)
            if expected is not None:
                assert repr(value) == expected[1], f"{page.name}, line {statement.lineno}"
                checked += 1
    return checked


@pytest.fixture
def at_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Examples name files relative to the repository's root, and may set filters of warnings."""
    monkeypatch.chdir(ROOT)
    with warnings.catch_warnings():
        yield


@pytest.mark.usefixtures("at_root")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(examples(page))], ids=lambda page: page.stem
)
def test_the_examples_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Searcher, "from_model", mock_searcher)
    checked = run_examples(page)
    if page.stem == "api":
        assert checked > 15


@pytest.mark.usefixtures("at_root")
@pytest.mark.parametrize("page", FIRST_PAGES, ids=lambda page: page.stem)
def test_the_first_examples_run_on_the_embedded_model(
    page: Path, monkeypatch: pytest.MonkeyPatch, smollm2_path: Path
) -> None:
    with contextlib.closing(Searcher.from_model(smollm2_path, threads=1)) as opened:
        monkeypatch.setattr(opened, "close", lambda: None)
        monkeypatch.setattr(Searcher, "from_model", lambda *model, **options: opened)
        run_examples(page)
        monkeypatch.undo()


def test_the_page_of_the_api_names_all_that_is_public() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    code = "".join(block for _, block in examples(ROOT / "docs" / "api.md"))
    for name in toolprm_lite.__all__:
        assert f"`{name}" in page, f"docs/api.md does not describe {name}"
        assert re.search(rf"\b{name}\b", code), f"docs/api.md has no example of {name}"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) < 900
