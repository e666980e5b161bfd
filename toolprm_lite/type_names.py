"""Type expressions: "List[int]", "Dict[str, Any]", "Union[int, str]", "str, optional",
"int | None", "list<string>", "string[]", "array of strings"."""

from __future__ import annotations

import json
import re
from typing import Any

from toolprm_lite.schema import Schema

_MAX_LENGTH = 4000  # characters; a longer text is no type expression
_MAX_DEPTH = 32

# What the sources call their types (Python, Java, JavaScript, BFCL, xLAM), in lower case.
_TYPE_NAMES: dict[str, str] = {
    alias: name
    for name, aliases in {
        "string": "string str text char character varchar date datetime date-time time timestamp "
        "uuid uri url email path file filepath bytes",
        "integer": "integer int long short byte bigint biginteger int32 int64 uint",
        "number": "number num numeric float double decimal bigdecimal real float32 float64",
        "boolean": "boolean bool",
        "array": "array list tuple set frozenset sequence iterable collection arraylist "
        "linkedlist queue stack vector",
        "object": "object dict dictionary map mapping hashmap hashtable json record struct "
        "defaultdict ordereddict",
        "null": "null none nonetype void undefined",
    }.items()
    for alias in aliases.split()
}
_TYPE_TOKEN = re.compile(
    r"""\s*('[^']*'|"[^"]*"|[A-Za-z_][\w.\-]*|\.\.\.|-?\d+|\[\]|[\[\]<>(),|])"""
)
# White space is counted: unbounded runs side by side would take cubic time.
_OPTIONAL = re.compile(
    r"[,;]?\s{0,8}[(\[]?\s{0,8}\boptional\b\s{0,8}[)\]]?(?!\s{0,8}\[)", re.IGNORECASE
)
_ASIDE = re.compile(r",\s*(?:default\b|required\b).*$", re.IGNORECASE)


def parse_type(text: str) -> tuple[Schema | None, bool]:
    """The schema of a type expression ({} for any, None when not understood), and whether it says
    "optional"."""
    name = _TYPE_NAMES.get(text.strip().lower())
    if name is not None:
        return {"type": name}, False
    if len(text) > _MAX_LENGTH:
        return None, False
    expression = _ASIDE.sub("", text)
    expression, count = _OPTIONAL.subn("", expression)
    optional = count > 0
    tokens: list[str] = []
    position = 0
    expression = expression.strip()
    while position < len(expression):
        match = _TYPE_TOKEN.match(expression, position)
        if match is None:
            return None, optional
        tokens.append(match.group(1))
        position = match.end()
    parser = _TypeParser(tokens)
    schema = parser.union()
    if schema is None or parser.rest:
        return None, optional
    if isinstance(schema.get("anyOf"), list):  # Optional[X] of a parameter: X, if given at all
        parts = [part for part in schema["anyOf"] if part != {"type": "null"}]
        if len(parts) < len(schema["anyOf"]):
            optional = True
            schema = parts[0] if len(parts) == 1 else _any_of(parts)
    return schema, optional


class _TypeParser:
    """Recursive descent over the tokens of a type expression; None is a failure."""

    def __init__(self, tokens: list[str]) -> None:
        self.rest = tokens[::-1]
        self.depth = 0

    def take(self, *wanted: str) -> bool:
        if self.rest and self.rest[-1].lower() in wanted:
            self.rest.pop()
            return True
        return False

    def union(self) -> Schema | None:
        if self.depth >= _MAX_DEPTH:
            return None
        self.depth += 1
        parts: list[Schema] = []
        while (part := self.single()) is not None:
            parts.append(part)
            if not self.take("|", "or"):
                self.depth -= 1
                return _any_of(parts)
        return None

    def single(self) -> Schema | None:
        if not self.rest:
            return None
        word = self.rest.pop().lower().removeprefix("typing.")
        arguments: list[Schema] | None = []
        if word == "literal" and self.take("[", "<"):
            return self.literal()
        if self.take("["):
            arguments = self.arguments("]")
        elif self.take("<"):
            arguments = self.arguments(">")
        elif self.take("of"):
            part = self.union()
            arguments = None if part is None else [part]
        if arguments is None:
            return None
        schema = self.build(word, arguments)
        while schema is not None and self.take("[]"):
            schema = {"type": "array", "items": schema} if schema else {"type": "array"}
        return schema

    def arguments(self, closing: str) -> list[Schema] | None:
        parts: list[Schema] = []
        while not self.take(closing):
            if self.take("..."):
                parts.append({"...": True})
            else:
                part = self.union()
                if part is None:
                    return None
                parts.append(part)
            if not self.take(","):
                return parts if self.take(closing) else None
        return parts

    def literal(self) -> Schema | None:
        values: list[Any] = []
        while self.rest and not self.take("]", ">"):
            word = self.rest.pop()
            if word[0] in "'\"":
                values.append(word[1:-1])
            elif word.lstrip("-").isdigit():
                values.append(int(word))
            elif word != ",":
                return None
        return {"enum": values} if values else None

    def build(self, word: str, arguments: list[Schema]) -> Schema | None:
        if word in ("any", "anything", "mixed", "unknown"):
            return {}
        if word == "optional":
            return _any_of([*arguments, {"type": "null"}]) if arguments else None
        if word == "union":
            return _any_of(arguments) if arguments else None
        name = _TYPE_NAMES.get(word) or _TYPE_NAMES.get(word.removesuffix("s"))
        if name is None:
            return None
        schema: Schema = {"type": name}
        if name == "array" and arguments:
            if word == "tuple" and arguments[-1] != {"...": True}:
                count = len(arguments)
                if all(part == arguments[0] for part in arguments):
                    schema["items"] = arguments[0]
                else:
                    schema["prefixItems"] = arguments
                    schema["items"] = False
                schema["minItems"] = schema["maxItems"] = count
            elif arguments[0]:
                schema["items"] = arguments[0]
        elif name == "object" and len(arguments) == 2 and arguments[1]:
            schema["additionalProperties"] = arguments[1]
        return schema


def _any_of(parts: list[Schema]) -> Schema:
    unique = list({json.dumps(part): part for part in parts}.values())
    if {} in unique:
        return {}
    return unique[0] if len(unique) == 1 else {"anyOf": unique}
