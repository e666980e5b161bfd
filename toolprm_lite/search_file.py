"""A file of questions in, one JSON line each, and a file of results out.

The output is valid at every moment. Each result is one whole line; what an interrupt leaves of a
line is cut off by the next run, which skips the ids that are answered and retries those that
failed. The settings that the results were made with are in a file next to the output, so that
results of different settings are never mixed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolprm_lite.described import described
from toolprm_lite.errors import ConfigError
from toolprm_lite.files import append, digest_of, locked
from toolprm_lite.json_lines import json_line
from toolprm_lite.models import weights_of
from toolprm_lite.search.config import SearchConfig
from toolprm_lite.store import (
    BrokenLine,
    KeyedLines,
    Record,
    as_json,
    changes,
    describe,
    read_settings,
    write_settings,
)
from toolprm_lite.tasks.requests import RequestLine, id_key
from toolprm_lite.tools import Tool

if TYPE_CHECKING:
    from toolprm_lite.search.searcher import Searcher  # slow to import

Report = Callable[[Exception | None, str], None]
"""Called after each line: with the error of one that failed, and its message."""

Watch = Callable[[int], AbstractContextManager[Report]]
"""Called with the number of lines to answer. Wraps the answering, so that it sees an interrupt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFileSettings:
    """How the lines of a file are answered.

    Attributes:
        source: the file's name, for the record.
        tools: of the lines that have none.
        config: how to search.
        reward: what judges steps: auto, policy, a head's file, generative[:PATH].
        model: the model's name, as `find_model` takes it.
        adapter: its adapter, as `adapter_for` takes it.
    """

    source: str
    tools: tuple[Tool, ...] | None = None
    config: SearchConfig
    reward: str = "auto"
    model: str | None = None
    adapter: str | None = "auto"

    def recorded(self) -> Record:
        """What results depend on. A larger context or more threads don't change them."""
        digest = None
        if self.tools is not None:
            listing = json.dumps([tool.to_dict() for tool in self.tools], sort_keys=True)
            digest = hashlib.sha256(listing.encode()).hexdigest()[:16]
        head = Path(self.reward)
        return as_json(
            {
                "input": self.source,
                "tools": digest,
                **weights_of(self.model, self.adapter),
                "reward": self.reward,
                "reward_file": digest_of(head) if head.is_file() else None,
                **self.config.to_json(),
            }
        )


@dataclass(frozen=True, slots=True)
class Answered:
    """How many lines were answered now, how many failed, and how many had an answer before."""

    answered: int
    failed: int
    before: int


def search_file(
    lines: Sequence[RequestLine],
    output: Path | Callable[[bytes], None],
    settings: SearchFileSettings,
    open_searcher: Callable[[], AbstractContextManager[Searcher]],
    watch: Watch,
) -> Answered:
    """Answer the lines into the file `output`, or give each result's line to what `output` is.

    The model is opened only where a line is left to be answered. A line that fails gets a result
    with "error". Raises `ConfigError` where the file holds something else, or results of other
    settings, or another run is writing to it; `ModelError`, `HeadError` and `OSError`.
    """
    recorded = settings.recorded()
    tools = None if settings.tools is None else list(settings.tools)
    failed = written = 0
    with ExitStack() as stack:
        results = None
        if isinstance(output, Path):
            results = stack.enter_context(_opened(output, recorded))
        done = set() if results is None else results.done
        todo = [line for line in lines if id_key(line.id) not in done or line.error is not None]
        searcher = reward = None
        if any(line.error is None for line in todo):
            searcher = stack.enter_context(open_searcher())
            # Once for all lines: a bad one fails at once, and a file's change changes nothing.
            reward = searcher.reward(settings.reward, settings.config.call_format)
        if results is not None:
            results.begin(stack)
        report = stack.enter_context(watch(len(todo)))
        for line in todo:
            failure: Exception | None = None
            message = ""
            try:
                problem = line.problem(tools)
                assert searcher is not None
                assert reward is not None
                result = searcher.search(
                    problem.messages, problem.tools, settings.config, reward=reward
                )
                record = {"id": line.id, **result.to_dict()}
                data = json_line(record)
            except Exception as error:  # whatever it is, the other lines are answered
                message, failure = f"line {line.number}: {described(error)}", error
                record = {"id": line.id, "error": message}
                data = json_line(record)
                failed += 1
            if results is not None:
                results.put(record, data)
            elif not isinstance(output, Path):
                output(data)
            written += 1
            report(failure, message)
    return Answered(written - failed, failed, len(lines) - len(todo))


# The output


class _Results:
    """A file of results, and the file of its settings."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path, self._settings = path, settings
        self._beside = path.with_name(f"{path.name}.settings.json")
        try:
            self._lines = KeyedLines(path, _key)
        except BrokenLine as broken:
            raise ConfigError(
                f"{path}: line {broken.number} is not a result; give another --output"
            ) from None
        rest = self._lines.rest
        if rest and not (self._beside.exists() and _begins_a_result(rest)):
            raise ConfigError(f"{path} holds something else than results; give another --output")
        self.done = set(self._lines.records)
        """The keys of the ids that have answers."""
        if self.done:
            self._check_settings()
        self._lines.repair()

    def begin(self, stack: ExitStack) -> None:
        """Called before the first line is put."""
        if not self.done:
            write_settings(self._beside, self._settings)

    def put(self, record: Record, line: bytes) -> None:
        self._lines.add(record, line)

    def _check_settings(self) -> None:
        path, beside = self._path, self._beside
        try:
            before = read_settings(beside)
        except (OSError, ValueError):
            before = None
        if before is None:
            raise ConfigError(
                f"{path} holds results, but {beside.name}, which says how they were made, is "
                "missing; give another --output"
            )
        found = changes(before, self._settings)
        if found:
            raise ConfigError(
                f"{path} holds results of other settings ({describe(found)}); "
                "give another --output, or the settings it has"
            )


class _Stream:
    """A pipe, /dev/null or the like, which keeps nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.done: set[str] = set()

    def begin(self, stack: ExitStack) -> None:
        """Called before the first line is put; `stack` closes the stream."""
        self._file = stack.enter_context(self._path.open("ab", buffering=0))

    def put(self, record: Record, line: bytes) -> None:
        append(self._file, line)


@contextmanager
def _opened(path: Path, settings: Mapping[str, Any]) -> Iterator[_Results | _Stream]:
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give --output the path of a file")
    if not path.parent.is_dir():
        raise ConfigError(
            f"{path}: there is no folder {path.parent}; create it, or change --output"
        )
    if path.exists() and not path.is_file():
        yield _Stream(path)
        return
    with locked(path):
        yield _Results(path, settings)


def _key(record: Any) -> str | None:
    """The key of an answer, None of an error, which is run again."""
    if "calls" not in record and "error" not in record:
        raise ValueError("no result")
    key = id_key(record["id"])
    return key if "calls" in record else None


def _begins_a_result(rest: bytes) -> bool:
    """Whether this may be a line that an interrupt cut off."""
    start = b'{"id": '
    return rest.startswith(start) or start.startswith(rest)
