"""`--input` and `--output`: problems in, one JSON line each, and their results out.

The output is valid at every moment. Each result is one whole line; what an interrupt leaves of a
line is cut off by the next run, which skips the ids that are answered and retries those that
failed. Beside the output lies the record of the settings it was made with, so that results of
different settings never mix.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from toolprm_lite.cli import described, say_traceback
from toolprm_lite.cli.options import open_searcher
from toolprm_lite.cli.output import json_line, say, write
from toolprm_lite.cli.progress import progress
from toolprm_lite.errors import ConfigError, ProblemError
from toolprm_lite.files import (
    MOST_DEFINITIONS,
    MOST_PROBLEMS,
    append,
    digest_of,
    locked,
    read_bounded,
    replace_file,
)
from toolprm_lite.models import weights_of
from toolprm_lite.prompt import Message, parse_messages
from toolprm_lite.search.config import SearchConfig
from toolprm_lite.tools import Tool, parse_tools

_LONG = 5  # problems; fewer need no progress bar


@dataclass(frozen=True, slots=True)
class Problem:
    """What a search is asked."""

    messages: list[Message]
    tools: list[Tool]


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the input, not read further than its id."""

    number: int
    text: bytes
    id: str | int
    error: str | None


def run(
    source: str,
    output: str | None,
    tools: list[Tool] | None,
    config: SearchConfig,
    reward: str,
    model: Mapping[str, Any],
) -> None:
    """Answer the problems of `source`. Ends with exit code 1 if some failed, 130 by Ctrl-C.

    `tools` are for the problems that carry none. `model` is as `open_searcher` takes it.
    """
    path = None if output in (None, "-") else Path(str(output))
    lines = _read_lines(source)
    settings = _settings(source, tools, config, reward, model["model"])
    failed = written = 0
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        done: set[str] = set()
        if path is not None:
            _check_place(path)
            if not _is_special(path):
                stack.enter_context(locked(path))
                done = _prepare(path, settings)
        todo = [line for line in lines if _key(line.id) not in done or line.error is not None]
        searcher = judge = None
        if any(line.error is None for line in todo):
            searcher = stack.enter_context(open_searcher(model))
            # Once for all lines: a bad one fails at once, and a file's change changes nothing.
            judge = searcher.reward(reward, config.call_format)
        put: Callable[[bytes], None] = write
        if path is not None:
            if not done:
                _note_settings(path, settings)
            put = partial(append, stack.enter_context(path.open("ab", buffering=0)))
        visible = sys.stderr.isatty() and (path is not None or not sys.stdout.isatty())
        advance, tell = stack.enter_context(progress(len(todo), visible and len(todo) >= _LONG))
        try:
            for line in todo:
                try:
                    if searcher is None or judge is None or line.error is not None:
                        raise ProblemError(line.error)
                    problem = parse_problem(_record(line.text), tools)
                    result = searcher.search(problem.messages, problem.tools, config, reward=judge)
                    record = json_line({"id": line.id, **result.to_dict()})
                except Exception as error:  # whatever it is, the other lines are answered
                    message = f"line {line.number}: {described(error)}"
                    record = json_line({"id": line.id, "error": message})
                    failed += 1
                    tell(f"Error: {message}")
                    if model["verbose"]:
                        say_traceback(error)
                put(record)
                written += 1
                advance()
        except KeyboardInterrupt:
            how = "; the same command goes on from there" if path is not None else ""
            tell(f"stopped after {written} of {len(todo)}{how}")
            raise click.exceptions.Exit(130) from None
    if path is not None:
        before = f", {len(lines) - len(todo)} there already" if len(todo) < len(lines) else ""
        seconds = time.perf_counter() - started
        say(f"{path}: {written - failed} answered, {failed} failed{before} · {seconds:.1f} s")
    if failed:
        raise click.exceptions.Exit(1)


def parse_problem(record: Mapping[str, Any], tools: list[Tool] | None) -> Problem:
    """Read {"messages" or "query", "tools"}; `tools` are used where it has none.

    Raises `ProblemError` or `ToolsError`.
    """
    given = [key for key in ("messages", "query") if record.get(key) is not None]
    if not given:
        raise ProblemError('no question; add "query" or "messages"')
    if len(given) > 1:
        raise ProblemError('both "messages" and "query"; leave one out')
    question = record[given[0]]
    if given[0] == "query" and not isinstance(question, str):
        raise ProblemError('"query" must be a string; write conversations as "messages"')
    messages = parse_messages(question)
    if record.get("tools") is not None:
        tools = parse_tools(record["tools"])
    if tools is None:
        raise ProblemError('no tools; add "tools", or give --tools for all')
    return Problem(messages, tools)


def read_problem(source: str, tools: list[Tool] | None) -> Problem:
    """Read a JSON file: a list of messages, or an object as `parse_problem` takes it."""
    name = _name(source)
    try:
        content = _parse(read_text(source))
        record = content if isinstance(content, dict) else {"messages": content}
        return parse_problem(record, tools)
    except ProblemError as error:
        message = str(error)
        raise ProblemError(message if message.startswith(name) else f"{name}: {message}") from None


def read_text(source: str) -> str:
    """The text of a file, or of stdin for "-". Raises `ProblemError`."""
    try:
        return _read_bytes(source, MOST_DEFINITIONS).decode("utf-8-sig").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ProblemError(
            f"{_name(source)}: not UTF-8 text (byte {error.start}); save it so"
        ) from None


# Input


def _read_bytes(source: str, most: int) -> bytes:
    name = _name(source)
    try:
        if source != "-":
            return read_bounded(Path(source), most)
        if sys.stdin is None:
            raise ProblemError("stdin: it is closed; write the text to it, or name a file")
        return read_bounded(sys.stdin.buffer, most)
    except FileNotFoundError:
        raise ProblemError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:  # a path with a null byte
        reason = getattr(error, "strerror", None) or error
        raise ProblemError(f"{name}: can't be read: {reason}") from None


def _name(source: str) -> str:
    return "stdin" if source == "-" else source


def _read_lines(source: str) -> list[_Line]:
    lines: list[_Line] = []
    known: dict[str, int] = {}
    for number, text in enumerate(_read_bytes(source, MOST_PROBLEMS).split(b"\n"), 1):
        if number == 1:
            text = text.removeprefix(b"\xef\xbb\xbf")
        if not text.strip():
            continue
        substitute = f"line-{number}"
        identity: Any = substitute
        error = None
        try:
            given = _record(text).get("id")
            if given is not None:
                identity = given
            if isinstance(identity, bool) or not isinstance(identity, (str, int)):
                raise ProblemError('"id" must be a string or an integer')
            first = known.setdefault(_key(identity), number)
            if first != number:
                raise ProblemError(
                    f"id {json.dumps(identity)} is line {first}'s already; give each its own"
                )
        except ProblemError as failure:
            identity, error = substitute, str(failure)
        lines.append(_Line(number, text, identity, error))
    if not lines:
        raise ProblemError(f"{source}: no problems in it; write one JSON object a line")
    return lines


def _record(text: bytes) -> dict[str, Any]:
    try:
        record = _parse(text.decode())
    except UnicodeDecodeError as error:
        raise ProblemError(f"not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    if not isinstance(record, dict):
        raise ProblemError('not an object; write {"id", "query", "tools"}')
    return record


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise ProblemError(
            f"not JSON: {error.msg} at {line}column {error.colno}; mend it there"
        ) from None
    except ValueError:
        raise ProblemError(
            "an integer in it has thousands of digits; write a shorter one"
        ) from None
    except RecursionError:
        raise ProblemError("the JSON is nested too deep; flatten it") from None


def _key(identity: str | int) -> str:
    return json.dumps(identity)


# Output


def _settings(
    source: str,
    tools: Sequence[Tool] | None,
    config: SearchConfig,
    reward: str,
    model: str | None,
) -> dict[str, Any]:
    """What results depend on. A larger context or more threads don't make them others."""
    digest = None
    if tools is not None:
        listing = json.dumps([tool.to_dict() for tool in tools], sort_keys=True)
        digest = hashlib.sha256(listing.encode()).hexdigest()[:16]
    return {
        "input": "stdin" if source == "-" else Path(source).name,
        "tools": digest,
        **weights_of(model),
        "reward": reward,
        "reward_file": digest_of(Path(reward)) if Path(reward).is_file() else None,
        **asdict(config),
    }


def _check_place(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give --output the path of a file")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it, or mend --output")


def _prepare(path: Path, settings: Mapping[str, Any]) -> set[str]:
    """Make the output ready to be appended to; return the keys of the ids it has answers to."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    done: set[str] = set()
    kept: list[bytes] = []
    for number, text in enumerate(data.split(b"\n")[:-1], 1):
        try:
            record = _record(text)
        except ProblemError:
            record = {}
        if "id" not in record or not ("calls" in record or "error" in record):
            raise ConfigError(f"{path}: line {number} is not a result; give another --output")
        if "calls" in record:
            done.add(_key(record["id"]))
            kept.append(text + b"\n")
    rest = data[data.rfind(b"\n") + 1 :]
    if rest and not (_beside(path).exists() and _begins_a_result(rest)):
        raise ConfigError(f"{path} holds something else than results; give another --output")
    if done:
        _check_settings(path, settings)
    whole = b"".join(kept)
    if whole != data:
        replace_file(path, whole)
    return done


def _begins_a_result(rest: bytes) -> bool:
    """Whether this may be a line that an interrupt cut off."""
    start = b'{"id": '
    return rest.startswith(start) or start.startswith(rest)


def _is_special(path: Path) -> bool:
    """Whether this is a pipe, /dev/null or the like, which remembers nothing."""
    return path.exists() and not path.is_file()


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.settings.json")


def _note_settings(path: Path, settings: Mapping[str, Any]) -> None:
    if not _is_special(path):
        replace_file(_beside(path), json.dumps(settings, indent=1).encode() + b"\n")


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    beside = _beside(path)
    try:
        before = json.loads(beside.read_bytes())
        assert isinstance(before, dict)
    except (OSError, ValueError, AssertionError):
        raise ConfigError(
            f"{path} holds results, but {beside.name}, which says how they were made, is missing; "
            "give another --output"
        ) from None
    # Read back, so that both are of JSON's types.
    now = json.loads(json.dumps(settings))
    changed = [
        f"{key} was {json.dumps(before.get(key))}, is {json.dumps(now.get(key))}"
        for key in dict.fromkeys([*now, *before])
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ConfigError(
            f"{path} holds results of other settings ({'; '.join(changed)}); "
            "give another --output, or the settings it has"
        )
