"""A plain-Python twin of the step segmenter, written to be read.

It answers every question by reading the whole response again from its first byte, by recursive
descent. Where the native segmenter keeps a state, this one has only the place it stands at: running
out of bytes raises `_More`, a response that can't become valid raises `_Dead`, and a response that
has come to its end raises `_Finished`. Whole values are judged by the jsonschema library.
"""

from __future__ import annotations

import codecs
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn
from urllib.parse import unquote

from jsonschema.validators import Draft202012Validator, extend

Schema = dict[str, Any] | bool
Tool = dict[str, Any]  # {"name", "parameters"}

SPACE = b" \n\r\t"
MAX_DEPTH = 32

# Nothing of these is checked while a response is written.
UNCHECKED = (
    "pattern", "format", "contains", "if", "then", "else", "dependentRequired", "dependentSchemas",
)  # fmt: skip
ANNOTATIONS = {
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
    "$comment", "$defs", "definitions", "$schema", "$id",
}  # fmt: skip

NUMBER = re.compile(rb"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
NUMBER_PREFIX = re.compile(rb"-?((0|[1-9][0-9]*)(\.[0-9]*)?((?<=[0-9])[eE][+-]?[0-9]*)?)?")
ESCAPES = {
    ord(key): value
    for key, value in {
        '"': b'"', "\\": b"\\", "/": b"/", "b": b"\b", "f": b"\f", "n": b"\n", "r": b"\r",
        "t": b"\t",
    }.items()
}  # fmt: skip
TYPE_OF_FIRST_BYTE = {
    ord(byte): kind
    for kind, firsts in {
        "string": '"', "object": "{", "array": "[", "boolean": "tf", "null": "n",
        "number": "-0123456789",
    }.items()
    for byte in firsts
}  # fmt: skip
ALL_TYPES = frozenset(TYPE_OF_FIRST_BYTE.values())


@dataclass(frozen=True)
class Step:
    """As the native `Step`; `call` and `function` are None for TOTAL_FINISH, `argument` is the
    parameter's decoded name for ARG_VALUE."""

    kind: str
    call: int | None
    function: str | None
    argument: str | None
    begin: int
    end: int
    boundary: int


@dataclass(frozen=True)
class Verdict:
    """What is known of a response; `reason` is set when it is dead."""

    steps: list[Step] = field(default_factory=list)
    dead: bool = False
    finished: bool = False
    in_text: bool = False
    reason: str | None = None


class _More(Exception):  # noqa: N818
    """The bytes end here."""


class _Finished(Exception):  # noqa: N818
    """The response is complete; what follows is ignored."""


class _Dead(Exception):  # noqa: N818
    """No continuation of these bytes is a valid response."""


def segment(
    tools: list[Tool],
    response: bytes,
    *,
    ended: bool,
    open_marker: str = "",
    close_marker: str = "",
    name_key: str = "name",
    arguments_key: str = "arguments",
    max_calls: int | None = None,
    require_call: bool = False,
) -> Verdict:
    """Read a response, which its writer has `ended` or may go on with."""
    reading = _Reading(
        response,
        tools={tool["name"]: tool["parameters"] for tool in tools},
        open_marker=open_marker.encode(),
        close_marker=close_marker.encode(),
        name_key=name_key,
        arguments_key=arguments_key,
        max_calls=max_calls,
        require_call=require_call,
    )
    verdict = Verdict(reading.steps)
    try:
        try:
            reading.response()
        except _More:
            if not ended:
                return replace(verdict, in_text=reading.place == "text")
            if reading.place not in ("text", "after a call"):
                raise _Dead("the response ends inside a call") from None
            reading.end_response()
    except _Dead as death:
        return replace(verdict, dead=True, reason=str(death))
    except _Finished:
        return replace(verdict, finished=True)
    raise AssertionError("reading a response never returns")


@dataclass
class _Reading:
    data: bytes
    tools: dict[str, Schema]
    open_marker: bytes
    close_marker: bytes
    name_key: str
    arguments_key: str
    max_calls: int | None
    require_call: bool
    at: int = 0
    place: str = "text"  # where a response may end: "text", "after a call"; or "inside"
    calls: int = 0
    steps: list[Step] = field(default_factory=list)

    # Bytes

    def peek(self) -> int:
        if self.at == len(self.data):
            raise _More
        return self.data[self.at]

    def take(self) -> int:
        byte = self.peek()
        self.at += 1
        return byte

    def skip_space(self) -> None:
        while self.peek() in SPACE:
            self.at += 1

    def expect(self, text: bytes) -> None:
        for byte in text:
            if self.take() != byte:
                raise _Dead("malformed JSON")

    # The response

    def response(self) -> NoReturn:
        while True:
            self.place = "text"
            opening = self.opening().search(self.data, self.at)
            if opening is None:
                self.at = len(self.data)
                raise _More
            self.place = "inside"
            if opening["marker"] is not None:
                self.at = opening.end()
                self.skip_space()
                if self.peek() == ord("["):
                    self.list()
                self.tagged()
            elif opening["list"] is not None:
                self.at = opening.start()
                self.list()
            else:
                self.at = opening.start()
                self.call()
                if self.calls == self.max_calls:
                    self.end_response()

    def opening(self) -> re.Pattern[bytes]:
        """What ends a text. A bare call is known by its name key, a list by what it begins with."""
        marker = re.escape(self.open_marker) if self.open_marker else b"(?!)"
        name = re.escape(b'"' + self.name_key.encode() + b'"')
        return re.compile(
            b"(?P<marker>%s)" % marker
            + rb"|(?P<call>\{[ \n\r\t]*%s)" % name
            + rb"|(?P<list>\[[ \n\r\t]*[{\]])"
        )

    def tagged(self) -> None:
        """The calls behind an open marker, and the close marker."""
        while True:
            self.call()
            if self.close_marker:
                self.place = "after a call"
                self.skip_space()
                if self.peek() == ord("{"):
                    self.place = "inside"
                    continue
                self.expect(self.close_marker)
            if self.calls == self.max_calls:
                self.end_response()
            return

    def list(self) -> NoReturn:
        self.take()
        self.skip_space()
        if self.peek() == ord("]"):
            self.at += 1
            self.end_response()
        while True:
            self.call()
            self.skip_space()
            if self.take() == ord("]"):
                self.end_response()
            self.at -= 1
            self.expect(b",")
            if self.calls == self.max_calls:
                raise _Dead("too many calls")
            self.skip_space()

    def end_response(self) -> NoReturn:
        if self.require_call and self.calls == 0:
            raise _Dead("no call where one is required")
        self.steps.append(Step("TOTAL_FINISH", None, None, None, self.at, self.at, self.at))
        raise _Finished

    # A call

    def call(self) -> None:
        if self.peek() != ord("{"):
            raise _Dead("malformed JSON")
        if self.calls == self.max_calls:
            raise _Dead("too many calls")
        begin = self.at
        function: str | None = None
        has_arguments = False

        def emit(kind: str, begin: int, end: int, argument: str | None = None) -> None:
            assert function is not None
            self.steps.append(Step(kind, self.calls, function, argument, begin, end, self.at))

        def member(key: str) -> None:
            nonlocal function, has_arguments
            if key == self.name_key:
                start = self.start_value(frozenset({"string"}))
                function = self.string(self.tools, "unknown function")
                emit("FUNC_NAME", start, self.at)
            elif key == self.arguments_key:
                has_arguments = True
                assert function is not None
                start = self.start_value(frozenset({"object"}))
                self.arguments(self.tools[function], emit)
                emit("PARAM_FINISH", start, self.at)
            else:
                start = self.start_value(ALL_TYPES)
                self.value(True, True, 2)
                parse(self.data[start : self.at])

        def check_key(key: str) -> None:
            if key == self.arguments_key and function is None:
                raise _Dead("arguments before the name")

        self.object(None, 1, check_key, member)
        if function is None:
            raise _Dead("malformed JSON")
        if not has_arguments:
            check_arguments(self.tools[function], b"{}")
            emit("PARAM_FINISH", self.at, self.at)
        emit("FUNC_FINISH", begin, self.at)
        self.calls += 1

    def arguments(self, schema: Schema, emit: Callable[..., None]) -> None:
        begin = self.at

        def member(key: str) -> None:
            node = child(schema, schema, key)
            start = self.start_value(types(schema, node))
            number = self.peek() in b"-0123456789"
            self.value(schema, node, 3)
            end = self.at
            if not valid(schema, node, self.data[start:end]):
                raise _Dead("a value that breaks the schema")
            self.at += number  # a number is decided by its delimiter
            emit("ARG_VALUE", start, end, key)
            self.at = end

        self.object(names(schema, schema), 2, lambda key: None, member)
        check_arguments(schema, self.data[begin : self.at])

    # JSON

    def start_value(self, allowed: frozenset[str]) -> int:
        """Go to a value's first byte, which must be of an allowed type."""
        self.skip_space()
        kind = TYPE_OF_FIRST_BYTE.get(self.peek())
        if kind is None:
            raise _Dead("malformed JSON")
        if kind not in allowed:
            raise _Dead("a value that breaks the schema")
        return self.at

    def value(self, root: Schema, schema: Schema, depth: int) -> None:
        """Read a value whose schema is `schema`; a container in it would be at `depth`."""
        self.start_value(types(root, schema))
        kind = TYPE_OF_FIRST_BYTE[self.peek()]
        if kind == "string":
            self.string(listed_strings(root, schema), "a value that breaks the schema")
        elif kind == "number":
            self.number()
        elif kind == "array":
            self.array(root, schema, depth)
        elif kind == "object":
            self.object(
                names(root, schema),
                depth,
                lambda key: None,
                lambda key: self.value(root, child(root, schema, key), depth + 1),
                nested=True,
            )
        else:
            text = {ord("t"): b"true", ord("f"): b"false", ord("n"): b"null"}[self.peek()]
            self.expect(text)

    def object(
        self,
        names: Iterable[str] | None,
        depth: int,
        check_key: Callable[[str], None],
        member: Callable[[str], None],
        nested: bool = False,
    ) -> None:
        """Read an object; `member` reads the value of a key. Inside a value, a repeated key is
        found when the value ends."""
        if depth > MAX_DEPTH:
            raise _Dead("malformed JSON")
        seen: set[str] = set()
        self.expect(b"{")
        self.skip_space()
        if self.peek() == ord("}"):
            self.at += 1
            return
        while True:
            self.skip_space()
            key = self.string(names, "a parameter that the schema does not allow")
            if key in seen and not nested:
                raise _Dead("a key twice")
            seen.add(key)
            check_key(key)
            self.skip_space()
            self.expect(b":")
            self.skip_space()
            member(key)
            self.skip_space()
            if self.take() == ord("}"):
                return
            self.at -= 1
            self.expect(b",")

    def array(self, root: Schema, schema: Schema, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _Dead("malformed JSON")
        self.expect(b"[")
        self.skip_space()
        if self.peek() == ord("]"):
            self.at += 1
            return
        while True:
            self.value(root, item(root, schema), depth + 1)
            self.skip_space()
            if self.take() == ord("]"):
                return
            self.at -= 1
            self.expect(b",")

    def number(self) -> None:
        """Read a number; its end is known by the byte after it, which is not taken."""
        begin = self.at
        while self.peek() in b"+-.0123456789eE":
            self.at += 1
            if not NUMBER_PREFIX.fullmatch(self.data, begin, self.at):
                raise _Dead("malformed JSON")
        if not NUMBER.fullmatch(self.data, begin, self.at):
            raise _Dead("malformed JSON")

    def string(self, listed: Iterable[str] | None, reason: str) -> str:
        """Read a string, one of the `listed` ones unless that is None."""
        open_strings = None if listed is None else [text.encode() for text in listed]
        text = b""
        self.expect(b'"')
        for piece in self.characters():
            text += piece
            if open_strings is not None:
                open_strings = [each for each in open_strings if each.startswith(text)]
                if not open_strings:
                    raise _Dead(reason)
        if open_strings is not None and text not in open_strings:
            raise _Dead(reason)
        return text.decode()

    def characters(self) -> Iterator[bytes]:
        """The decoded bytes of a string, up to its closing quote, as each becomes known."""
        utf8 = codecs.getincrementaldecoder("utf-8")()
        inside = False  # a character of several bytes
        while True:
            byte = self.take()
            if not inside and byte == ord('"'):
                return
            if not inside and byte == ord("\\"):
                yield self.escape()
                continue
            if not inside and byte < 0x20:
                raise _Dead("malformed JSON")
            try:
                inside = utf8.decode(bytes([byte])) == ""
            except UnicodeDecodeError:
                raise _Dead("malformed JSON") from None
            yield bytes([byte])

    def escape(self) -> bytes:
        byte = self.take()
        if byte in ESCAPES:
            return ESCAPES[byte]
        self.at -= 1
        unit = self.utf16_unit()
        if 0xD800 <= unit < 0xDC00:
            self.expect(b"\\")
            low = self.utf16_unit()
            if not 0xDC00 <= low < 0xE000:
                raise _Dead("malformed JSON")
            return chr(0x10000 + (unit - 0xD800) * 0x400 + low - 0xDC00).encode()
        if 0xDC00 <= unit < 0xE000:
            raise _Dead("malformed JSON")
        return chr(unit).encode()

    def utf16_unit(self) -> int:
        self.expect(b"u")
        digits = b""
        for _ in range(4):
            digits += bytes([self.take()])
            if not re.fullmatch(rb"[0-9a-fA-F]+", digits):
                raise _Dead("malformed JSON")
        return int(digits, 16)


# Values and schemas


def parse(text: bytes) -> Any:
    """The value of a well-formed JSON text in which no object may repeat a key."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise _Dead("a key twice")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=members)


_Validator = extend(
    Draft202012Validator,
    {name: lambda validator, value, instance, schema: None for name in UNCHECKED},
)


def valid(root: Schema, schema: Schema, text: bytes) -> bool:
    """Whether a JSON text is valid by a schema, which stands somewhere in `root`."""
    parse(text)
    return _valid(json.dumps(root), json.dumps(schema), text)


@functools.lru_cache(maxsize=100_000)
def _valid(root: str, schema: str, text: bytes) -> bool:
    errors = _Validator(json.loads(root)).descend(json.loads(text), json.loads(schema))
    return next(iter(errors), None) is None


def check_arguments(schema: Schema, text: bytes) -> None:
    if {*direct(schema, schema).get("required", ())} - {*parse(text)}:
        raise _Dead("a required parameter is missing")
    if not valid(schema, schema, text):
        raise _Dead("a value that breaks the schema")


def resolve(root: Schema, reference: str) -> Schema:
    node: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        part = unquote(part).replace("~1", "/").replace("~0", "~")
        node = node[int(part) if isinstance(node, list) else part]
    return node  # type: ignore[no-any-return]


def direct(root: Schema, schema: Schema) -> dict[str, Any]:
    """A schema's own keywords; those of its target when it is nothing but a reference."""
    while isinstance(schema, dict) and "$ref" in schema and not {*schema} - ANNOTATIONS - {"$ref"}:
        schema = resolve(root, schema["$ref"])
    if isinstance(schema, dict):
        return schema
    return {} if schema else {"enum": []}


def types(root: Schema, schema: Schema) -> frozenset[str]:
    """The types of value that a schema may allow, as far as they are known without a value."""
    node = direct(root, schema)
    found = set(ALL_TYPES)
    if "type" in node:
        named = [node["type"]] if isinstance(node["type"], str) else node["type"]
        found &= {"number" if name == "integer" else name for name in named}
    if "enum" in node:
        found &= {type_of(value) for value in node["enum"]}
    if "const" in node:
        found &= {type_of(node["const"])}
    for part in node.get("allOf", ()):
        found &= types(root, part)
    for key in ("anyOf", "oneOf"):
        if key in node:
            found &= set().union(*(types(root, part) for part in node[key]))
    if "$ref" in node:
        found &= types(root, resolve(root, node["$ref"]))
    return frozenset(found)


def type_of(value: Any) -> str:
    return TYPE_OF_FIRST_BYTE[json.dumps(value).encode()[0]]


def listed_strings(root: Schema, schema: Schema) -> list[str] | None:
    """The strings of an enum or a const; None when any string may come."""
    node = direct(root, schema)
    lists = [node["enum"]] if "enum" in node else []
    if "const" in node:
        lists.append([node["const"]])
    if not lists:
        return None
    return [text for text in lists[0] if isinstance(text, str) and all(text in x for x in lists)]


def names(root: Schema, schema: Schema) -> list[str] | None:
    """The names that an object's members may have; None when any name may come."""
    node = direct(root, schema)
    return [*node.get("properties", ())] if node.get("additionalProperties") is False else None


def child(root: Schema, schema: Schema, key: str) -> Schema:
    """The schema of an object's member."""
    node = direct(root, schema)
    return node.get("properties", {}).get(key, node.get("additionalProperties", True))


def item(root: Schema, schema: Schema) -> Schema:
    """The schema of an array's items, as far as it is known before the array ends."""
    node = direct(root, schema)
    return True if "prefixItems" in node else node.get("items", True)
