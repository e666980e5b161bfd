"""Tool definitions of every common form, read into one: a name and a plain JSON Schema.

Knows nothing of models, prompts or calls.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from toolprm_lite.checks import deeper_than
from toolprm_lite.errors import SchemaWarning, ToolsError
from toolprm_lite.files import MOST_DEFINITIONS, read_text
from toolprm_lite.judge import make_validator
from toolprm_lite.schema import (
    MANY,
    NAMED,
    ONE,
    Schema,
    UnusableSchema,
    check_size,
    direct_subschemas,
    why_empty,
)
from toolprm_lite.type_names import parse_type

_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_COUNTS = (
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
    "minContains", "maxContains",
)  # fmt: skip
_TEXTS = ("title", "description", "pattern", "format", "$ref")
_AS_IS = ("const", "default")
# Read otherwise, or known to say nothing of a value.
_OTHERS = (
    "type", "enum", "required", "nullable", "optional", "uniqueItems", "examples", "dependencies",
    "dependentRequired", "additionalItems", "$anchor", "$schema", "$id", "id", "$comment",
    "example", "deprecated", "readOnly", "writeOnly", "contentEncoding", "contentMediaType",
    "contentSchema", "discriminator", "xml", "externalDocs", "strict", "enumDescriptions",
)  # fmt: skip
_KNOWN = frozenset((*_NUMBERS, *_COUNTS, *_TEXTS, *_AS_IS, *_OTHERS, *ONE, *MANY, *NAMED))
# What the core and the token masks decide alone; with another keyword a validator is made.
_PLAIN = frozenset(
    (
        "type", "enum", "const", "properties", "required", "additionalProperties", "items",
        "prefixItems", "title", "description", "default", "examples", "minimum", "maximum",
        "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems",
        "minProperties", "maxProperties",
    )
)  # fmt: skip
_MAX_DEPTH = 128  # of the parameters' JSON
_LARGEST = 1.797e308  # number that JSON readers hold as a double


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

        `where` names the definition's place in error messages. Raises `ToolsError`. The
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
        if deeper_than(parameters, _MAX_DEPTH):
            raise ToolsError(f"{where}: its parameters are nested too deep; flatten them")
        try:
            json.dumps([name, description, parameters], ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise ToolsError(
                f"{where}: half of a surrogate pair (\\ud800) is in its text; remove it"
            ) from None
        except ValueError:  # Python writes no integer of more than 4,300 digits
            raise ToolsError(
                f"{where}: a number in its schema has thousands of digits; write a smaller one"
            ) from None
        try:
            schema = _parameters(parameters, where)
            _check(schema)
        except UnusableSchema as error:
            raise ToolsError(f"{where}: {error}") from None
        _warn_of_unknown(parameters, where)
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
                f"column {failure.colno}; fix it there"
            ) from None
        except ValueError:
            raise ToolsError(
                f"{path}, line {number}: an integer in it has thousands of digits; write a shorter "
                "one"
            ) from None
        except RecursionError:
            raise ToolsError(f"{path}, line {number}: nested too deep; flatten it") from None
    return parse_tools(records, str(path))


def _parameters(raw: Mapping[str, Any], where: str) -> Schema:
    """The normalised schema of a tool's parameters, whatever their form."""
    if _is_schema(raw):
        kind = raw.get("type")
        if isinstance(kind, str) and (parse_type(kind)[0] or {}).get("type") != "object":
            raise ToolsError(f'{where}: its parameters have type {kind!r}; make it "object"')
        # What is said of the arguments as one value says nothing of any parameter.
        whole = ("enum", "const", "default", "examples", "nullable")
        rest = {key: value for key, value in raw.items() if key not in whole}
        schema: Schema = _normalise({**rest, "type": "object"})[0]
        if "$ref" not in schema and not any(key in schema for key in ("anyOf", "oneOf", "allOf")):
            schema.setdefault("properties", {})
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
        and parse_type(value)[0] not in (None, {})
        for key, value in raw.items()
    ) and raw.get("type") not in ("object", "dict")


def _check(schema: Schema) -> None:
    """Refuse a schema that no call fits, that is too much, or that no validator takes."""
    check_size(schema)
    reason = why_empty(schema)
    if reason is not None:
        raise UnusableSchema(f"{reason}; correct its schema")
    if not _is_plain(schema):
        make_validator(schema)


def _is_plain(schema: Schema) -> bool:
    return schema.keys() <= _PLAIN and all(_is_plain(part) for _, part in direct_subschemas(schema))


def _warn_of_unknown(raw: Mapping[str, Any], where: str) -> None:
    """Name keywords that constrain nothing here, though they may be meant to."""
    unknown: dict[str, None] = {}

    def look(schema: Any) -> None:
        if not isinstance(schema, Mapping):
            return
        if _is_schema(schema):
            unknown.update((key, None) for key in schema if _is_unknown(key))
        for key, part in schema.items():
            if key in ONE:
                look(part)
            elif key in MANY and isinstance(part, list):
                for one in part:
                    look(one)
            elif key in NAMED and isinstance(part, Mapping):
                for one in part.values():
                    look(one)

    if _is_schema(raw):
        look(raw)
    if unknown:
        names = ", ".join(repr(key) for key in list(unknown)[:8])
        warnings.warn(
            f"{where}: {names} in its schema: not known, so it constrains no value",
            SchemaWarning,
            stacklevel=3,
        )


def _is_unknown(key: Any) -> bool:
    return isinstance(key, str) and key not in _KNOWN and not key.startswith(("x-", "x_"))


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
        parsed, optional = parse_type(raw)
        return dict(parsed or {}), optional
    if not isinstance(raw, Mapping):
        return {}, False
    schema: Schema = {}
    optional = False
    kind = raw.get("type")
    if isinstance(kind, str):
        parsed, optional = parse_type(kind)
        schema.update(parsed or {})
    elif isinstance(kind, list):
        names = [parse_type(name)[0] for name in kind if isinstance(name, str)]
        if names and all(name and set(name) == {"type"} for name in names):
            unique = list(dict.fromkeys(name["type"] for name in names if name))
            schema["type"] = unique if len(unique) > 1 else unique[0]
    for key in _TEXTS:
        if isinstance(raw.get(key), str):
            schema[key] = raw[key]
    if "$ref" in schema:  # validators want a URI
        schema["$ref"] = quote(schema["$ref"], safe="#%/~:?&=@!$'()*+,;[]")
    for key in _AS_IS:
        if key in raw:
            schema[key] = _plain(raw[key])
    if isinstance(raw.get("uniqueItems"), bool):
        schema["uniqueItems"] = raw["uniqueItems"]
    if isinstance(raw.get("examples"), list):
        schema["examples"] = _plain(raw["examples"])
    _copy_numbers(raw, schema)
    _copy_subschemas(raw, schema)
    _copy_dependencies(raw, schema)
    if isinstance(raw.get("properties"), Mapping):
        schema["properties"], flagged = _properties(raw["properties"], bare=False)
    else:
        flagged = []
    listed = raw.get("required")
    if isinstance(listed, list) or flagged:
        stated = [
            name for name in (listed if isinstance(listed, list) else ()) if isinstance(name, str)
        ]
        schema["required"] = list(dict.fromkeys([*stated, *flagged]))
    _infer_type(schema)
    if raw.get("nullable") is True and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    if isinstance(raw.get("enum"), list):
        _fit_enum(schema, _plain(raw["enum"]))
    if "default" in schema:
        fitted = _fit(schema["default"], schema)
        if fitted is _MISFIT:
            del schema["default"]
        else:
            schema["default"] = fitted
    return schema, optional


def _copy_subschemas(raw: Mapping[str, Any], schema: Schema) -> None:
    for key in ONE:
        value = raw.get(key)
        if key == "items" and isinstance(value, list):  # a tuple, as drafts before 2020-12 write it
            if value:
                schema["prefixItems"] = [_normalise(part)[0] for part in value]
            if isinstance(raw.get("additionalItems"), (Mapping, bool)):
                schema["items"] = _normalise(raw["additionalItems"])[0]
        elif isinstance(value, (Mapping, bool)) or (key == "items" and isinstance(value, str)):
            schema[key] = _normalise(value)[0]
    for key in MANY:
        value = raw.get(key)
        if isinstance(value, list) and value:
            schema[key] = [_normalise(part)[0] for part in value]
    for key in NAMED:
        value = raw.get(key)
        if key != "properties" and isinstance(value, Mapping):
            schema[key] = {str(name): _normalise(part)[0] for name, part in value.items()}


def _copy_dependencies(raw: Mapping[str, Any], schema: Schema) -> None:
    """Both forms: draft 2019-09 split `dependencies` in two."""
    given = {**_mapping(raw.get("dependencies")), **_mapping(raw.get("dependentRequired"))}
    required = {
        str(name): list(dict.fromkeys(other for other in others if isinstance(other, str)))
        for name, others in given.items()
        if isinstance(others, list)
    }
    if required:
        schema["dependentRequired"] = required
    for name, part in _mapping(raw.get("dependencies")).items():
        if isinstance(part, (Mapping, bool)):
            schema.setdefault("dependentSchemas", {}).setdefault(str(name), _normalise(part)[0])


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


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
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        if not -_LARGEST <= value <= _LARGEST:  # so is no infinity, and nothing that is no number
            raise UnusableSchema(f"{key} is beyond the numbers of JSON, 1.8e308; leave it out")
        if key != "multipleOf" or value > 0:
            schema[key] = value
    for limit in ("inimum", "aximum"):  # draft 4: exclusiveMinimum is a switch on minimum
        exclusive, inclusive = f"exclusiveM{limit}", f"m{limit}"
        if raw.get(exclusive) is True and inclusive in schema:
            schema[exclusive] = schema.pop(inclusive)
    for key in _COUNTS:
        value = raw.get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            schema[key] = value


def _fit_enum(schema: Schema, values: list[Any]) -> None:
    """Keep the values that fit the type; where none does, believe the values."""
    fitting = [value for value in values if _fits(value, schema)]
    items = schema.get("items")
    if fitting or not values:
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
