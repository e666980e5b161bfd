"""What a response is, how it is cut into steps and of what it dies: the specification of the step
segmenter (`csrc/format`), as a plain-Python twin that is written to be read.

The native one must agree with it on every prefix of every response (`test_segmenter.py`): a change
of the rules is a change here first. Formats may differ in what is around calls (`response`,
`tagged`, `list_of_calls`) and in how one call is written (`call`); the rest asks the schemas.

It answers every question by reading the whole response again from its first byte, by recursive
descent. Where the native segmenter keeps a state, this one has only its current place: running
out of bytes raises `_More`, a response that can't become valid raises `_Dead`, and a response that
has come to its end raises `_Finished`. Whole values are judged by the jsonschema library.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn
from urllib.parse import unquote

from jsonschema import Draft202012Validator

Schema = dict[str, Any] | bool
Tool = dict[str, Any]  # {"name", "parameters"}

SPACE = b" \n\r\t"
MAX_DEPTH = 32

# Why a response is dead, in the native segmenter's words.
MALFORMED = "malformed JSON"
UNKNOWN_FUNCTION = "unknown function"
UNKNOWN_PARAMETER = "a parameter that the schema does not allow"
KEY_TWICE = "a key twice"
WRONG_VALUE = "a value that breaks the schema"
MISSING_PARAMETER = "a required parameter is missing"
ORDER = "arguments before the name"
TOO_MANY_CALLS = "too many calls"
NO_CALL = "no call where one is required"
UNEXPECTED_END = "the response ends inside a call"

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


class _More(Exception):
    """The bytes end here."""


class _Finished(Exception):
    """The response is complete; what follows is ignored."""


class _Dead(Exception):
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
    """Read a response, which has `ended` or may continue."""
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
                raise _Dead(UNEXPECTED_END) from None
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
                raise _Dead(MALFORMED)

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
                    self.list_of_calls()
                self.tagged()
            elif opening["list"] is not None:
                self.at = opening.start()
                self.list_of_calls()
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
        """The calls after an open marker, and the close marker."""
        while True:
            self.call()
            if self.close_marker:
                self.place = "after a call"
                self.skip_space()
                if self.peek() == ord("{"):
                    self.place = "inside"
                    continue
                self.place = "inside"
                self.expect(self.close_marker)
            if self.calls == self.max_calls:
                self.end_response()
            return

    def list_of_calls(self) -> NoReturn:
        self.take()
        self.skip_space()
        if self.peek() == ord("]"):
            self.at += 1
            self.end_response()
        while True:
            self.call()
            self.skip_space()
            if self.peek() == ord("]"):
                self.at += 1
                self.end_response()
            self.expect(b",")
            if self.calls == self.max_calls:
                raise _Dead(TOO_MANY_CALLS)
            self.skip_space()

    def end_response(self) -> NoReturn:
        if self.require_call and self.calls == 0:
            raise _Dead(NO_CALL)
        self.steps.append(Step("TOTAL_FINISH", None, None, None, self.at, self.at, self.at))
        raise _Finished

    # A call

    def call(self) -> None:
        if self.peek() != ord("{"):
            raise _Dead(MALFORMED)
        if self.calls == self.max_calls:
            raise _Dead(TOO_MANY_CALLS)
        begin = self.at
        function: str | None = None
        seen: set[str] = set()
        for key in self.keys(None, 1):
            if key in seen and key in (self.name_key, self.arguments_key):
                raise _Dead(KEY_TWICE)
            seen.add(key)
            if key == self.arguments_key and function is None:
                raise _Dead(ORDER)
            self.colon()
            start = self.at
            if key == self.name_key:
                self.check_type({"string"}, UNKNOWN_FUNCTION)
                function = self.string(self.tools, UNKNOWN_FUNCTION)
                self.emit("FUNC_NAME", function, start, self.at)
            elif key == self.arguments_key and function is not None:
                self.check_type({"object"}, WRONG_VALUE)
                self.arguments(function)
                self.emit("PARAM_FINISH", function, start, self.at)
            else:
                self.value(True, True, 2, b"}")
        if function is None:
            raise _Dead(UNKNOWN_FUNCTION)
        if self.arguments_key not in seen:
            check_arguments(self.tools[function], b"{}")
            self.emit("PARAM_FINISH", function, self.at, self.at)
        self.emit("FUNC_FINISH", function, begin, self.at)
        self.calls += 1

    def arguments(self, function: str) -> None:
        schema = self.tools[function]
        begin = self.at
        seen: set[str] = set()
        for key in self.keys(names(schema, schema), 2):
            if key in seen and key in direct(schema, schema).get("properties", ()):
                raise _Dead(KEY_TWICE)
            seen.add(key)
            node = child(schema, schema, key)
            if node is False:
                raise _Dead(UNKNOWN_PARAMETER)
            self.colon()
            start = self.at
            self.value(schema, node, 3, b"}")
            end = self.at
            text = self.data[start:end]
            if not valid_alone(schema, key, text):
                raise _Dead(WRONG_VALUE)
            delimiter = 1 if NUMBER.fullmatch(text) else 0
            self.emit("ARG_VALUE", function, start, end, key, end + delimiter)
        check_arguments(schema, self.data[begin : self.at])

    def emit(
        self,
        kind: str,
        function: str,
        begin: int,
        end: int,
        argument: str | None = None,
        boundary: int | None = None,
    ) -> None:
        boundary = self.at if boundary is None else boundary
        self.steps.append(Step(kind, self.calls, function, argument, begin, end, boundary))

    # JSON

    def value(self, root: Schema, schema: Schema, depth: int, closer: bytes) -> None:
        """Read a value at `depth`, of a container that ends with `closer`."""
        kind = self.check_type(types(root, schema), WRONG_VALUE)
        if kind == "string":
            self.string(listed_strings(root, schema), WRONG_VALUE)
        elif kind == "number":
            self.number(closer)
        elif kind == "array":
            self.array(root, schema, depth)
        elif kind == "object":
            for key in self.keys(names(root, schema), depth):
                node = child(root, schema, key)
                if node is False:
                    raise _Dead(UNKNOWN_PARAMETER)
                self.colon()
                self.value(root, node, depth + 1, b"}")
        else:
            self.expect({ord("t"): b"true", ord("f"): b"false", ord("n"): b"null"}[self.peek()])

    def check_type(self, allowed: Set[str], reason: str) -> str:
        """The type of the value that begins here."""
        kind = TYPE_OF_FIRST_BYTE.get(self.peek())
        if kind is None:
            raise _Dead(MALFORMED)
        if kind not in allowed:
            raise _Dead(reason)
        return kind

    def keys(self, names: Iterable[str] | None, depth: int) -> Iterator[str]:
        """The keys of an object as they are read; the caller reads the rest of each member."""
        if depth > MAX_DEPTH:
            raise _Dead(MALFORMED)
        self.expect(b"{")
        self.skip_space()
        if self.peek() == ord("}"):
            self.at += 1
            return
        while True:
            self.skip_space()
            yield self.string(names, UNKNOWN_PARAMETER)
            self.skip_space()
            if self.peek() == ord("}"):
                self.at += 1
                return
            self.expect(b",")

    def colon(self) -> None:
        self.skip_space()
        self.expect(b":")
        self.skip_space()

    def array(self, root: Schema, schema: Schema, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _Dead(MALFORMED)
        self.expect(b"[")
        self.skip_space()
        if self.peek() == ord("]"):
            self.at += 1
            return
        while True:
            self.skip_space()
            self.value(root, item(root, schema), depth + 1, b"]")
            self.skip_space()
            if self.peek() == ord("]"):
                self.at += 1
                return
            self.expect(b",")

    def number(self, closer: bytes) -> None:
        """Read a number; its end is known by the byte after it, which is not taken."""
        begin = self.at
        while self.peek() in b"+-.0123456789eE":
            self.at += 1
            if not NUMBER_PREFIX.fullmatch(self.data, begin, self.at):
                raise _Dead(MALFORMED)
        whole = NUMBER.fullmatch(self.data, begin, self.at)
        if not whole or self.peek() not in SPACE + b"," + closer:
            raise _Dead(MALFORMED)

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
        character = b""  # as far as it has been read
        while True:
            byte = self.take()
            if not character and byte == ord('"'):
                return
            if not character and byte == ord("\\"):
                yield self.escape()
                continue
            character += bytes([byte])
            if byte < 0x20 or not begins_utf8(character):
                raise _Dead(MALFORMED)
            yield bytes([byte])
            if is_utf8(character):
                character = b""

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
                raise _Dead(MALFORMED)
            return chr(0x10000 + (unit - 0xD800) * 0x400 + low - 0xDC00).encode()
        if 0xDC00 <= unit < 0xE000:
            raise _Dead(MALFORMED)
        return chr(unit).encode()

    def utf16_unit(self) -> int:
        self.expect(b"u")
        digits = b""
        for _ in range(4):
            digits += bytes([self.take()])
            if not re.fullmatch(rb"[0-9a-fA-F]+", digits):
                raise _Dead(MALFORMED)
        return int(digits, 16)


# Text, values and schemas


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def begins_utf8(text: bytes) -> bool:
    """Whether the bytes begin a character: its lowest or its highest continuation is one."""
    return any(is_utf8(text + rest * count) for rest in (b"\x80", b"\xbf") for count in range(4))


def parse(text: bytes) -> Any:
    """The value of a well-formed JSON text in which no object may repeat a key."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise _Dead(KEY_TWICE)
        return dict(pairs)

    return json.loads(text, object_pairs_hook=members)


def valid_alone(schema: Schema, key: str, text: bytes) -> bool:
    """Whether one argument is valid, whatever the others are."""
    node = direct(schema, schema)
    asked = ("properties", "patternProperties", "additionalProperties", "propertyNames")
    alone = {keyword: node[keyword] for keyword in asked if keyword in node}
    return valid(schema, alone, b"{" + json.dumps(key).encode() + b": " + text + b"}")


def valid(root: Schema, schema: Schema, text: bytes) -> bool:
    """Whether a JSON text is valid by a schema, which is somewhere in `root`."""
    if not finite(parse(text)):
        return False
    return _valid(json.dumps(root), json.dumps(schema), text)


@functools.lru_cache(maxsize=100_000)
def _valid(root: str, schema: str, text: bytes) -> bool:
    errors = Draft202012Validator(json.loads(root)).descend(json.loads(text), json.loads(schema))
    return next(iter(errors), None) is None


def finite(value: Any) -> bool:
    """Whether doubles hold all numbers of a value."""
    if isinstance(value, (int, float)):
        return abs(value) <= sys.float_info.max
    parts = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return all(finite(part) for part in parts)


def check_arguments(schema: Schema, text: bytes) -> None:
    """What is asked of the arguments together; undeclared ones that come twice are found here."""
    if {*direct(schema, schema).get("required", ())} - {*parse(text)}:
        raise _Dead(MISSING_PARAMETER)
    if not valid(schema, schema, text):
        raise _Dead(WRONG_VALUE)


def resolve(root: Schema, reference: str) -> Schema:
    node: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        part = unquote(part).replace("~1", "/").replace("~0", "~")
        node = node[int(part) if isinstance(node, list) else part]
    resolved: Schema = node
    return resolved


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
    closed = node.get("additionalProperties") is False and not node.get("patternProperties")
    return [*node.get("properties", ())] if closed else None


def child(root: Schema, schema: Schema, key: str) -> Schema:
    """The schema of an object's member."""
    node = direct(root, schema)
    others = node.get("additionalProperties", True)
    if node.get("patternProperties"):
        others = True  # what a pattern allows is judged with the whole value
    found: Schema = node.get("properties", {}).get(key, others)
    return found


def item(root: Schema, schema: Schema) -> Schema:
    """The schema of an array's items, as far as it is known before the array ends."""
    node = direct(root, schema)
    return True if "prefixItems" in node else node.get("items", True)
