"""Tool definitions of every common form, read into one: a name and a plain JSON Schema.

Knows nothing of models, prompts or calls.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolprm_lite.errors import ToolsError
from toolprm_lite.files import MOST_DEFINITIONS, read_text

Schema = dict[str, Any]

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
# Keywords whose value is one subschema, a list of them, or a map to them.
_ONE = ("additionalProperties", "items", "not", "if", "then", "else", "contains", "propertyNames")
_MANY = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_COUNTS = (
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
)  # fmt: skip
_TEXTS = ("title", "description", "pattern", "format", "$ref")
_MAX_DEPTH = 128  # of the parameters' JSON
_AS_IS = ("const", "default", "examples", "uniqueItems", "dependentRequired")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call.

    `parameters` is a JSON Schema of type "object" with standard type names. Don't change it.
    """

    name: str
    description: str
    parameters: Schema

    @classmethod
    def from_dict(cls, definition: Any, where: str = "") -> Tool:
        """Read one definition: OpenAI, bare, Anthropic or MCP (`input_schema`), BFCL or xLAM.

        `where` says in error messages where the definition stands. Raises `ToolsError`. The
        definition is not changed.
        """
        where = where or "tool"
        if isinstance(definition, Tool):
            return definition
        if not isinstance(definition, Mapping):
            raise ToolsError(
                f"{where}: a tool must be an object with a name and parameters, "
                f"not {_kind(definition)}"
            )
        if isinstance(definition.get("function"), Mapping):
            definition = definition["function"]
        if "name" not in definition:
            raise ToolsError(f'{where}: the tool has no name; add "name"')
        name = definition["name"]
        if not isinstance(name, str):
            raise ToolsError(f"{where}: the tool's name is {_kind(name)}; it must be a string")
        if not name.strip():
            raise ToolsError(f"{where}: the tool's name is empty; give it one")
        parameters: object = None
        for key in ("parameters", "input_schema", "inputSchema"):
            if definition.get(key) is not None:
                parameters = definition[key]
                break
        where = f"{where} ({name!r})"
        if parameters is None:
            parameters = {}
        if not isinstance(parameters, Mapping):
            raise ToolsError(
                f"{where}: its parameters are {_kind(parameters)}; write a JSON Schema object"
            )
        description = definition.get("description")
        if _deeper_than(parameters, _MAX_DEPTH):
            raise ToolsError(f"{where}: its parameters are nested too deep; flatten them")
        try:
            json.dumps([name, description, parameters], ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise ToolsError(
                f"{where}: half of a surrogate pair (\\ud800) stands in its text; take it out"
            ) from None
        schema = _parameters(parameters, where)
        return cls(name, description if isinstance(description, str) else "", schema)

    def to_openai(self) -> dict[str, Any]:
        """The tool in OpenAI's form, which chat templates read."""
        return {"type": "function", "function": self.to_dict()}

    def to_dict(self) -> dict[str, Any]:
        """The tool as a plain object: name, description and parameters."""
        return {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }


def parse_tools(definitions: Any, where: str = "") -> list[Tool]:
    """Read one tool, a list of them, or an object that holds a list under "tools".

    Raises `ToolsError` when a definition can't be read, none is given, or two share a name.
    """
    if isinstance(definitions, Mapping):
        for key in ("tools", "functions", "function"):
            if isinstance(definitions.get(key), list):
                definitions = definitions[key]
                break
        else:
            definitions = [definitions]
    prefix = f"{where}: " if where else ""
    if isinstance(definitions, (str, bytes)) or not isinstance(definitions, (list, tuple)):
        raise ToolsError(
            f"{prefix}tools must be a list of tool definitions, not {_kind(definitions)}"
        )
    if not definitions:
        raise ToolsError(f"{prefix}the list of tools is empty; give at least one tool")
    tools: list[Tool] = []
    seen: dict[str, int] = {}
    for number, definition in enumerate(definitions, 1):
        tool = Tool.from_dict(definition, f"{prefix}tool {number}")
        if tool.name in seen:
            raise ToolsError(
                f"{prefix}tools {seen[tool.name]} and {number} are both named {tool.name!r}; "
                "rename one of them"
            )
        seen[tool.name] = number
        tools.append(tool)
    return tools


def load_tools(path: str | Path) -> list[Tool]:
    """Read the tools of a JSON file (see `parse_tools`) or of a JSONL file, one tool a line.

    Raises `ToolsError`, which names the file and the record.
    """
    path = Path(path)
    try:
        text = read_text(path, MOST_DEFINITIONS)
    except FileNotFoundError:
        raise ToolsError(f"{path}: no such file; give the path of a JSON file of tools") from None
    except UnicodeDecodeError as error:
        raise ToolsError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ToolsError(f"{path}: can't be read: {error.strerror or error}") from None
    if not text.strip():
        raise ToolsError(f"{path}: the file is empty; write a JSON list of tools into it")
    try:
        return parse_tools(json.loads(text), str(path))
    except json.JSONDecodeError as error:
        failure = error
    except RecursionError:
        raise ToolsError(f"{path}: the JSON is nested too deep; flatten it") from None
    except ValueError:
        raise ToolsError(
            f"{path}: an integer in it has thousands of digits; write a shorter one"
        ) from None
    records: list[Any] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if records:  # earlier lines are records of their own: JSONL with a broken line
                failure = json.JSONDecodeError(error.msg, line, error.pos)
                failure.lineno = number
            raise ToolsError(
                f"{path}: not JSON: {failure.msg} at line {failure.lineno}, "
                f"column {failure.colno}; mend it there"
            ) from None
        except ValueError:
            raise ToolsError(
                f"{path}, line {number}: an integer in it has thousands of digits; write a shorter "
                "one"
            ) from None
        except RecursionError:
            raise ToolsError(f"{path}, line {number}: nested too deep; flatten it") from None
    return parse_tools(records, str(path))


def closed_schema(parameters: Schema) -> Schema:
    """The schema with every object that declares properties closed to others.

    An explicit `additionalProperties` or `patternProperties` is respected; nested objects that
    declare nothing stay open. Models must not invent parameters that a schema merely doesn't
    forbid. Returns a new schema.
    """
    has_all_of = '"allOf"' in json.dumps(parameters)

    def close(schema: Any, root: bool = False, branch: bool = False) -> Any:
        if not isinstance(schema, dict):
            return schema
        branches = [part for key in ("anyOf", "oneOf", "allOf") for part in schema.get(key, ())]
        declares = bool(schema.get("properties"))
        # A closed branch would forbid what its parent or its siblings under allOf declare.
        shared = declares or "allOf" in schema
        split = shared and any(
            isinstance(part, dict) and ("properties" in part or "$ref" in part) for part in branches
        )

        def inner(key: str, part: Any) -> Any:
            if key in ("anyOf", "oneOf", "allOf"):
                return close(part, branch=shared)
            if key in ("$defs", "definitions"):
                return close(part, branch=has_all_of)
            if key in ("not", "if", "then", "else", "dependentSchemas"):
                return part
            return close(part)

        result = map_subschemas(schema, inner)
        if (
            (declares or (root and not branches and "$ref" not in schema))
            and not branch
            and not split
            and not ("$ref" in schema and declares)
            and "additionalProperties" not in schema
            and "patternProperties" not in schema
        ):
            result.setdefault("type", "object")
            result["additionalProperties"] = False
        return result

    result: Schema = close(parameters, root=True)
    return result


def map_subschemas(schema: Schema, function: Callable[[str, Any], Any]) -> Schema:
    """A copy of `schema` with `function(keyword, subschema)` in place of each direct subschema."""
    result = dict(schema)
    for key in _ONE:
        if isinstance(schema.get(key), (dict, bool)):
            result[key] = function(key, schema[key])
    for key in _MANY:
        if isinstance(schema.get(key), list):
            result[key] = [function(key, part) for part in schema[key]]
    for key in _NAMED:
        if isinstance(schema.get(key), dict):
            result[key] = {name: function(key, part) for name, part in schema[key].items()}
    return result


def _parameters(raw: Mapping[str, Any], where: str) -> Schema:
    """The normalised schema of a tool's parameters, whatever their form."""
    if _is_schema(raw):
        kind = raw.get("type")
        if isinstance(kind, str) and (_parse_type(kind)[0] or {}).get("type") != "object":
            raise ToolsError(f'{where}: its parameters have type {kind!r}; make it "object"')
        # What is said of the arguments as one value says nothing of any parameter.
        whole = ("enum", "const", "default", "examples", "nullable")
        rest = {key: value for key, value in raw.items() if key not in whole}
        schema: Schema = _normalise({**rest, "type": "object"})[0]
        if "$ref" not in schema and not any(key in schema for key in ("anyOf", "oneOf", "allOf")):
            schema.setdefault("properties", {})
            declared = schema["properties"]
            if not declared and "additionalProperties" not in schema:
                schema.pop("required", None)
        return schema
    if all(isinstance(value, (Mapping, str)) for value in raw.values()):
        properties, required = _properties(raw, bare=True)
        return {"type": "object", "properties": properties, "required": required}
    raise ToolsError(
        f'{where}: its parameters are not a JSON Schema; write {{"type": "object", '
        '"properties": {...}, "required": [...]}'
    )


def _is_schema(raw: Mapping[str, Any]) -> bool:
    """Whether this is a schema, not xLAM's bare map from parameter to description.

    A parameter may be named like a keyword; its value is then an object, which no type is.
    """
    if isinstance(raw.get("type"), (str, list)) and not (
        isinstance(raw.get("properties"), Mapping)
        and isinstance(raw["properties"].get("type"), str)
    ):
        others = [value for key, value in raw.items() if key != "type"]
        return not others or not _all_shorthand(raw)
    if isinstance(raw.get("type"), Mapping):
        return False
    if isinstance(raw.get("properties"), Mapping):
        return not isinstance(raw["properties"].get("type"), str)
    if any(isinstance(raw.get(key), list) for key in ("anyOf", "oneOf", "allOf")):
        return True
    if isinstance(raw.get("$ref"), str):
        return True
    return all(
        key in ("additionalProperties", "required", "title", "description", "$schema", "strict")
        and not isinstance(value, Mapping)
        for key, value in raw.items()
    )


def _all_shorthand(raw: Mapping[str, Any]) -> bool:
    """{"type": "string", "city": "string"}: parameters given by type names alone."""
    return all(
        isinstance(value, str)
        and key not in ("title", "description", "$ref", "$schema", "$id", "format")
        and _parse_type(value)[0] not in (None, {})
        for key, value in raw.items()
    ) and raw.get("type") not in ("object", "dict")


def _properties(raw: Mapping[str, Any], *, bare: bool) -> tuple[dict[str, Any], list[str]]:
    """Normalised properties, and those that say themselves that they are required.

    `bare` maps have no list of required names: what has no default and isn't optional is.
    """
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, part in raw.items():
        schema, optional = _normalise(part)
        properties[str(name)] = schema
        flag = part.get("required") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and part.get("optional") is True:
            optional = True
        if isinstance(flag, bool):
            needed = flag
        else:
            has_default = isinstance(part, Mapping) and "default" in part
            needed = bare and not optional and not has_default
        if needed:
            required.append(str(name))
    return properties, required


def _normalise(raw: Any) -> tuple[Any, bool]:
    """A standard schema, and whether its type says "optional"."""
    if isinstance(raw, bool):
        return raw, False
    if isinstance(raw, str):
        parsed, optional = _parse_type(raw)
        return dict(parsed or {}), optional
    if not isinstance(raw, Mapping):
        return {}, False
    schema: Schema = {}
    optional = False
    kind = raw.get("type")
    if isinstance(kind, str):
        parsed, optional = _parse_type(kind)
        schema.update(parsed or {})
    elif isinstance(kind, list):
        names = [_parse_type(name)[0] for name in kind if isinstance(name, str)]
        if names and all(name and set(name) == {"type"} for name in names):
            unique = list(dict.fromkeys(name["type"] for name in names if name))
            schema["type"] = unique if len(unique) > 1 else unique[0]
    for key in _TEXTS:
        if isinstance(raw.get(key), str):
            schema[key] = raw[key]
    for key in _AS_IS:
        if key in raw:
            schema[key] = _plain(raw[key])
    _copy_numbers(raw, schema)
    for key in _ONE:
        value = raw.get(key)
        if key == "items" and isinstance(value, list):  # a tuple, as drafts before 2020-12 write it
            if value:
                schema["prefixItems"] = [_normalise(part)[0] for part in value]
        elif isinstance(value, (Mapping, bool)) or (key == "items" and isinstance(value, str)):
            schema[key] = _normalise(value)[0]
    for key in _MANY:
        value = raw.get(key)
        if isinstance(value, list) and value:
            schema[key] = [_normalise(part)[0] for part in value]
    for key in _NAMED:
        value = raw.get(key)
        if key != "properties" and isinstance(value, Mapping):
            schema[key] = {str(name): _normalise(part)[0] for name, part in value.items()}
    if isinstance(raw.get("properties"), Mapping):
        schema["properties"], flagged = _properties(raw["properties"], bare=False)
        listed = raw.get("required")
        names = listed if isinstance(listed, list) else []
        open_ended = bool(schema.get("additionalProperties")) or "patternProperties" in schema
        required = [
            name
            for name in dict.fromkeys([*(n for n in names if isinstance(n, str)), *flagged])
            if name in schema["properties"] or open_ended
        ]
        if required or isinstance(listed, list):
            schema["required"] = required
    elif isinstance(raw.get("required"), list):
        schema["required"] = list(
            dict.fromkeys(name for name in raw["required"] if isinstance(name, str))
        )
    _infer_type(schema)
    if raw.get("nullable") is True and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    if isinstance(raw.get("enum"), list) and raw["enum"]:
        _fit_enum(schema, _plain(raw["enum"]))
    if "default" in schema:
        fitted = _fit(schema["default"], schema)
        if fitted is _MISFIT:
            del schema["default"]
        else:
            schema["default"] = fitted
    return schema, optional


def _infer_type(schema: Schema) -> None:
    if "type" in schema or any(key in schema for key in ("anyOf", "oneOf", "allOf", "$ref")):
        return
    if schema.get("properties"):
        schema["type"] = "object"
    elif "items" in schema or "prefixItems" in schema:
        schema["type"] = "array"


def _copy_numbers(raw: Mapping[str, Any], schema: Schema) -> None:
    for key in _NUMBERS:
        value = raw.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            schema[key] = value
    for limit in ("inimum", "aximum"):  # draft 4: exclusiveMinimum is a switch on minimum
        exclusive, inclusive = f"exclusiveM{limit}", f"m{limit}"
        if raw.get(exclusive) is True and inclusive in schema:
            schema[exclusive] = schema.pop(inclusive)
    for key in _COUNTS:
        value = raw.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            schema[key] = value


def _fit_enum(schema: Schema, values: list[Any]) -> None:
    """Keep the values that fit the type; where none does, believe the values."""
    fitting = [value for value in values if _fits(value, schema)]
    items = schema.get("items")
    if fitting:
        schema["enum"] = fitting
    elif schema.get("type") == "array" and not any(isinstance(value, list) for value in values):
        inner = dict(items) if isinstance(items, dict) else {}
        if "enum" not in inner:  # said of the list, meant of its items
            _fit_enum(inner, values)
            schema["items"] = inner
    else:
        schema.pop("type", None)
        schema["enum"] = values


_MISFIT = object()


def _fit(value: Any, schema: Schema) -> Any:
    """`value`, read as the schema's type where it is that in another writing, or `_MISFIT`."""
    if value is None or _fits(value, schema):
        return value
    if isinstance(value, str):
        try:
            read = json.loads(value.strip().lower() if value in ("True", "False") else value)
        except ValueError:
            return _MISFIT
        if read is not None and _fits(read, schema):
            return read
    return _MISFIT


def _fits(value: Any, schema: Schema) -> bool:
    kinds = schema.get("type")
    if kinds is None:
        return True
    return any(_fits_kind(value, kind) for kind in (kinds if isinstance(kinds, list) else [kinds]))


def _fits_kind(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or kind == "boolean":
        return isinstance(value, bool) and kind == "boolean"
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    types: dict[str, type | tuple[type, ...]] = {
        "string": str, "number": (int, float), "array": list, "object": dict, "null": type(None),
    }  # fmt: skip
    return isinstance(value, types[kind])


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            part
            for parent in level
            if isinstance(parent, (Mapping, list, tuple))
            for part in (parent.values() if isinstance(parent, Mapping) else parent)
        ]
        if not level:
            return False
    return True


def _plain(value: Any) -> Any:
    """A deep copy in JSON's own types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names: dict[type, str] = {
        bool: "a boolean", str: "a string", int: "a number", float: "a number", list: "a list",
        dict: "an object",
    }  # fmt: skip
    return names.get(type(value), f"a {type(value).__name__}")


# Type expressions: "List[int]", "Dict[str, Any]", "Union[int, str]", "str, optional", "int | None",
# "list<string>", "string[]", "array of strings".

_TYPE_TOKEN = re.compile(
    r"""\s*('[^']*'|"[^"]*"|[A-Za-z_][\w.\-]*|\.\.\.|-?\d+|\[\]|[\[\]<>(),|])"""
)
_OPTIONAL = re.compile(r"[,;]?\s*[(\[]?\s*\boptional\b\s*[)\]]?(?!\s*\[)", re.IGNORECASE)
_ASIDE = re.compile(r",\s*(?:default\b|required\b).*$", re.IGNORECASE)


def _parse_type(text: str) -> tuple[Schema | None, bool]:
    """The schema of a type expression ({} for any, None when not understood), and whether it says
    "optional"."""
    name = _TYPE_NAMES.get(text.strip().lower())
    if name is not None:
        return {"type": name}, False
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
    """Recursive descent over the tokens of a type expression; None stands for a failure."""

    def __init__(self, tokens: list[str]) -> None:
        self.rest = tokens[::-1]

    def take(self, *wanted: str) -> bool:
        if self.rest and self.rest[-1].lower() in wanted:
            self.rest.pop()
            return True
        return False

    def union(self) -> Schema | None:
        parts: list[Schema] = []
        while True:
            part = self.single()
            if part is None:
                return None
            parts.append(part)
            if not self.take("|", "or"):
                return _any_of(parts)

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
    unique: list[Schema] = []
    for part in parts:
        if part not in unique:
            unique.append(part)
    if {} in unique:
        return {}
    return unique[0] if len(unique) == 1 else {"anyOf": unique}
