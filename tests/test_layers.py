"""The picture of the rooms: which may import which. No files import each other in a circle.

A room is a folder of the package, or a file directly in it. All imports count, those within
functions and for type checkers included.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "toolprm_lite"
NAME = PACKAGE.name

# From top to bottom. A room may import those of the lines below its own; those of one line know
# nothing of each other.
ROOMS = """
    __main__
    cli
    training tuning
    evaluation supervision search_file
    search
    reward
    constraint
    backends
    tasks
    prompt
    instruction
    formats signatures grounded
    template tools
    special_texts judge type_names mask_schema
    schema store
    models
    described files json_lines process checks
    errors interrupt terminal _core
"""

LEVELS = {
    room: level
    for level, line in enumerate(reversed(ROOMS.strip().splitlines()))
    for room in line.split()
}


def _files() -> dict[str, Path]:
    """All modules by their names within the package; the package itself is "__init__"."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


FILES = _files()


def _names(path: Path) -> Iterator[str]:
    """What a file imports, by whole names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import; write the whole name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _imports(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, by their names within it."""
    for name in _names(path):
        package, _, rest = name.partition(".")
        while package == NAME and rest and rest not in FILES and rest != "_core":
            rest = rest.rpartition(".")[0]  # from a module its names
        if package == NAME and rest:
            yield rest


GRAPH = {name: {other for other in _imports(path) if other != name} for name, path in FILES.items()}


def test_every_room_is_in_the_picture() -> None:
    rooms = {name.partition(".")[0] for name in FILES} - {"__init__"} | {"_core"}
    assert rooms == LEVELS.keys()


def test_rooms_import_only_from_rooms_below() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in sorted(GRAPH.items())
        for other in sorted(others)
        if name != "__init__"  # the public names of all rooms, imported when they are asked for
        and name.partition(".")[0] != other.partition(".")[0]
        and LEVELS[name.partition(".")[0]] <= LEVELS[other.partition(".")[0]]
    ]
    assert not wrong


def test_no_files_import_each_other_in_a_circle() -> None:
    left = {name: set(others) & GRAPH.keys() for name, others in GRAPH.items()}
    while outside := {
        name
        for name, others in left.items()
        if not others or not any(name in theirs for theirs in left.values())
    }:
        left = {name: others - outside for name, others in left.items() if name not in outside}
    assert not left
