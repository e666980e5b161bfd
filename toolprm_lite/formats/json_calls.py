"""Calls that are JSON objects, {"name": ..., "arguments": {...}}: how they are written, and parts
of grammars of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from toolprm_lite.formats.base import Allowed
from toolprm_lite.schema import Schema, closed_schema, moved_references
from toolprm_lite.tools import Tool

# Forced tokens exist only where white space is fixed. What a mask can't express (formats,
# uniqueItems, not, ...) it allows: the segmenter judges the value.
GUIDANCE = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": True,
}


def write_json(value: Any) -> str:
    """JSON with the separators models write, ", " and ": ", and text unescaped."""
    return json.dumps(value, ensure_ascii=False)


def write_call(
    call: Mapping[str, Any], name_key: str = "name", arguments_key: str = "arguments"
) -> str:
    """A call, {"name", "arguments"}, as a JSON object."""
    return write_json({name_key: call["name"], arguments_key: call["arguments"]})


def write_list(calls: Sequence[Mapping[str, Any]]) -> str:
    """The calls as one JSON list."""
    return f"[{', '.join(map(write_call, calls))}]"


def call_schema(
    tools: Sequence[Tool], name_key: str = "name", arguments_key: str = "arguments"
) -> Schema:
    """The schema of one call of one of the tools, to be given to llguidance."""
    definitions: Schema = {}
    calls = [_schema_of(tool, name_key, arguments_key, definitions) for tool in tools]
    return {**_shared(definitions), "anyOf": calls}


def list_schema(allowed: Allowed) -> Schema:
    """The schema of a list of calls."""
    definitions: Schema = {}
    calls = [_schema_of(tool, "name", "arguments", definitions) for tool in allowed.tools]
    schema: Schema = {**_shared(definitions), "type": "array", "items": {"anyOf": calls}}
    if allowed.required:
        schema["minItems"] = 1
    schema["maxItems"] = allowed.max_calls
    return schema


def grammar_of(schema: Schema) -> str:
    """The grammar of the JSON values that fit a schema."""
    return json.dumps({"grammars": [{"json_schema": schema}]})


def literal(text: str, special_tokens: Mapping[str, int]) -> str:
    """A fixed text in a Lark grammar: a token where it is a special one of the model."""
    token = special_tokens.get(text)
    return json.dumps(text) if token is None else f"<[{token}]>"


def other_text(marker: str) -> str:
    """The rule TEXT of a Lark grammar: text that makes no call.

    Text that begins like a call, bare or in a fence, is a malformed call. The search limits the
    text's length: a counted repetition here would make masks slow.
    """
    escaped = re.escape(marker).replace("/", "\\/")
    first = re.escape(marker[0]).replace("/", "\\/")
    return rf"TEXT: /[^\s\[\{{`{first}](?s:.*)/ & ~/(?s:.*){escaped}(?s:.*)/"


def _shared(definitions: Schema) -> Schema:
    shared: Schema = {"x-guidance": GUIDANCE}
    if definitions:
        shared["$defs"] = definitions
    return shared


def _schema_of(tool: Tool, name_key: str, arguments_key: str, definitions: Schema) -> Schema:
    """The schema of one call of `tool`; references move into `definitions`."""
    arguments = closed_schema(tool.parameters)
    key = f"tool{len(definitions)}"
    moved = moved_references(arguments, f"#/$defs/{key}")
    if moved != arguments:
        definitions[key] = moved
        arguments = {"$ref": f"#/$defs/{key}"}
    return {
        "type": "object",
        "properties": {name_key: {"const": tool.name}, arguments_key: arguments},
        "required": [name_key, arguments_key],
        "additionalProperties": False,
    }
