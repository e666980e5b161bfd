"""The native segmenter against its plain-Python twin.

Responses in the tables carry marks: «N», «V», «P», «F», «T» stand just behind the byte at which a
FUNC_NAME, ARG_VALUE, PARAM_FINISH, FUNC_FINISH or TOTAL_FINISH is decided, a reason (see `WHY`)
behind the byte that makes the response invalid, «end» where the model ends it, «more» at the end of
a response that is still open.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slow_segmenter import Tool, Verdict, segment

from toolprm_lite import _core

settings.register_profile(
    "segmenter", deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
settings.load_profile("segmenter")

Options = dict[str, Any]

KINDS = {
    "N": "FUNC_NAME", "V": "ARG_VALUE", "P": "PARAM_FINISH", "F": "FUNC_FINISH",
    "T": "TOTAL_FINISH",
}  # fmt: skip

WHY = {
    "malformed": "malformed JSON",
    "unknown function": "unknown function",
    "unknown parameter": "a parameter that the schema does not allow",
    "key twice": "a key twice",
    "wrong value": "a value that breaks the schema",
    "missing parameter": "a required parameter is missing",
    "order": "arguments before the name",
    "too many calls": "too many calls",
    "no call": "no call where one is required",
    "unexpected end": "the response ends inside a call",
}

LIST: Options = {}
HERMES: Options = {"open_marker": "<tool_call>", "close_marker": "</tool_call>"}
MISTRAL: Options = {"open_marker": "[TOOL_CALLS]"}
PHI: Options = {"open_marker": "functools"}
LLAMA: Options = {"arguments_key": "parameters"}
OTHER_KEYS: Options = {"name_key": "tool", "arguments_key": "args"}


def tool(name: str, properties: dict[str, Any], *required: str, **more: Any) -> Tool:
    """A tool that allows no other parameters, unless `more` says so."""
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
        **more,
    }
    return {"name": name, "parameters": parameters}


def one(schema: Any, **more: Any) -> list[Tool]:
    """One tool `f` with one parameter `a`."""
    return [tool("f", {"a": schema}, **more)]


WEATHER = [
    tool(
        "weather",
        {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "unit": {"enum": ["celsius", "fahrenheit", "kelvin"]},
            "rain": {"type": "boolean"},
        },
        "city",
    ),
    tool("weather_map", {"zoom": {"type": "number"}}),
    tool("now", {}),
]
EMPTY = {"type": "object", "properties": {}}


class Case(NamedTuple):
    group: str
    tools: list[Tool]
    options: Options
    marked: str


CASES: list[Case] = []


def table(
    group: str, tools: list[Tool], options: Options, *marked: str, before: str = ""
) -> None:
    """Responses that begin with `before`; `@` stands for a whole call."""
    for each in marked:
        each = (before + each).replace("@", '{"name": "now"«N»}«P»«F»')
        CASES.append(Case(group, tools, options, each))


def value_table(group: str, tools: list[Tool], *marked: str) -> None:
    """Values of parameter `a` of tool `f`; `}}]` and its steps follow a value that lives."""
    for each in marked:
        if not any(f"«{mark}»" in each for mark in ("more", *WHY)):
            each += "«P»}«F»]«T»"
        table(group, tools, LIST, each, before='[{"name": "f"«N», "arguments": {"a": ')


table(
    "one list", WEATHER, LIST,
    '[]«T»',
    ' \n[ ]«T»',
    '[\t\r\n ]«T» and more',
    '[{"name": "now"«N», "arguments": {}«P»}«F»]«T»',
    '[@]«T»',
    '[{"name":"now"«N»,"arguments":{}«P»}«F»,{"name":"now"«N»,"arguments":{}«P»}«F»]«T»[]',
    '[ { "name" : "now"«N» , "arguments" : { }«P» }«F» , { "name" : "now"«N» }«P»«F» ]«T»',
    '[{"id": [1, {"a": "]}"}], "name": "now"«N», "why": null, "arguments": {}«P», "x": 1e3}«F»]«T»',
    '[{"name": "weather_map"«N», "arguments": {"zoom": 1.5e-3,«V» "zoom"«key twice»: 2',
)  # fmt: skip

table(
    "lists that die", WEATHER, LIST,
    '[@,]«malformed»',
    '[@}«malformed»',
    '[@ {«malformed»',
    '[@, [«malformed»',
    '[@, n«malformed»ull',
    '[{}«malformed»]',
    '[{"id": 1}«malformed»]',
    '[{"name": "now"«N»]«malformed»',
    '[{"name": "now"«N»,}«malformed»',
    '[{"name": "now"«N», "arguments": {}«P»,«more»',
    '[{,«malformed»',
    '[{"name" "«malformed»now"',
    '[{"name": n«wrong value»',
    '[{"name": x«malformed»',
    '[{"name": 5«wrong value»',
    '[{"name": {«wrong value»',
    '[{"name": "now"«N», "name"«key twice»: "now"}]',
    '[{"name": "now"«N», "arguments": {}«P», "arguments"«key twice»: {}}]',
    '[{"name": "now"«N», "arguments": [«wrong value»]',
    '[{"name": "now"«N», "arguments": "«wrong value»{}"',
    '[{"name": "now"«N», "arguments": n«wrong value»ull',
    '[{"name": "now"«N», "arguments": {"«unknown parameter»a"',
    '[{"name": "weather"«N»}«missing parameter»',
    '[{"name": "weather"«N», "id": 0}«missing parameter»',
    '[{"arguments"«order»: {}, "name": "now"}]',
    '[{"id": 1, "arguments"«order»: {}',
    '[{"id": 1, "id"«key twice»: 2',
    '[{"name": "now"«N», "id": 1, "id"«key twice»: 2',
    '[{"id": {"a": 1, "a": 2}«key twice»',
    '[{"name": "now"«N», "id": [{"a": 1, "a": 2}]«key twice»',
)  # fmt: skip

table(
    "names", WEATHER, LIST,
    '[{"name": "m«unknown function»',
    '[{"name": "«more»',
    '[{"name": ""«unknown function»',
    '[{"name": "wea"«unknown function»',
    '[{"name": "weather_"«unknown function»',
    '[{"name": "weather_mapp«unknown function»',
    '[{"name": "weather «unknown function»"',
    '[{"name": "N«unknown function»ow',
    '[{"name": "weather_map"«N», "arguments": {"zoom": 2}«V»«P»}«F»]«T»',
    '[{"name": "n\\u006Fw"«N», "arguments": {}«P»}«F»]«T»',
    '[{"name": "n\\u006f«more»',
    '[{"name": "n\\u006e«unknown function»',
    '[{"name": "n\\n«unknown function»',
    '[{"n\\u0061me": "now"«N», "argument\\u0073": {}«P»}«F»]«T»',
    '[{"n\\u0061me": "now"«N», "name"«key twice»',
)  # fmt: skip

table(
    "parameters", WEATHER, LIST,
    '"city": "Oslo"«V»}«P»}«F»]«T»',
    '"city": "Oslo"«V», "days": 5,«V» "rain": true«V»}«P»}«F»]«T»',
    '"days": 5 «V», "city": "Oslo"«V», "unit": "kelvin"«V»}«P»}«F»]«T»',
    '"city": ""«V», "days": 5}«V»«P»}«F»]«T»',
    '"city": "a\\"}]"«V», "days": 14\n«V»}«P»}«F»]«T»',
    '"x«unknown parameter»',
    '"cit"«unknown parameter»',
    '"citys«unknown parameter»',
    '""«unknown parameter»',
    '"c\\u0069ty": "x"«V»}«P»}«F»]«T»',
    '"city": "x"«V», "c\\u0069ty"«key twice»',
    '}«missing parameter»',
    '"days": 3}«V»«missing parameter»',
    '"city": "x"«V»,}«malformed»',
    '"city": "x"«V» "«malformed»',
    '"city": "x"«V»]«malformed»',
    '"city" "«malformed»x"',
    '"city": 5«wrong value»',
    '"city": ,«malformed»',
    '"days": 5]«malformed»',
    '"days": 5:«malformed»',
    '"days": 0,«wrong value»',
    '"days": 15}«wrong value»',
    '"rain": "«wrong value»',
    '"rain": n«wrong value»',
    '"rain": tru}«malformed»',
    '"rain": tr«more»',
    before='[{"name": "weather"«N», "arguments": {',
)  # fmt: skip

table(
    "text", WEATHER, LIST,
    '«end»«T»',
    'Sure, I can\'t do that.«end»«T»',
    '\xff\x00 any } bytes ] "\\'.encode("latin-1").decode("utf-8", "surrogateescape") + '«end»«T»',
    'Let me see: [@]«T»',
    'an array a[0] and a set {1, 2}, {"nam": 1}«end»«T»',
    '[1, 2] {} { } [«end»«T»',
    '[ [ [«end»«T»',
    '[[]«T»',
    'x = [\n]«T»',
    '{«end»«T»',
    '{ "na«end»«T»',
    '{ "na"name" {"name" : "now"«N»}«P»«F» more«end»«T»',
    '{@}«end»«T»',
    '{ { \n"name": "now"«N»}«P»«F»«end»«T»',
    '{"name" «more»',
    '{"name",«malformed»',
    '@ and @ {"name": "now"«N», "arguments": {}«P»}«F»«end»«T»',
    '@, [@]«T»',
    '@]«end»«T»',
    '[@«end»«unexpected end»',
    '[@,«end»«unexpected end»',
    '{"name": "now"«N»«end»«unexpected end»',
    '{"name": "no«end»«unexpected end»',
    '[{«end»«unexpected end»',
    '[]«T»«end»',
    '[x@«end»«T»',
    '{"id": 1, "name": "now"}«end»«T»',
    '{"n\\u0061me": "now"}«end»«T»',
    '[{"id": 1, "name": "now"«N»}«P»«F»]«T»',
    '{"name"{«malformed»"name"',
    '"@"«end»«T»',
    '```json\n[{"name": "now"«N», "arguments": {}«P»}«F»]«T»\n```«end»',
    '[ { "a": 1, "name": "now"«N»}«P»«F»]«T»',
)  # fmt: skip

table(
    "hermes", WEATHER, HERMES,
    '<tool_call>\n{"name": "now"«N», "arguments": {}«P»}«F»\n</tool_call>«end»«T»',
    '<tool_call>@</tool_call>\n<tool_call>@</tool_call>«end»«T»',
    'Well. <tool_call> @ </tool_call> Done, {"name"«more»',
    '<tool_call>@@\n@</tool_call>«end»«T»',
    '<tool_call>{"id": 1, "name": "now"«N»}«P»«F»</tool_call>«end»«T»',
    '<tool_call>@«end»«T»',
    '<tool_call>@ \n«end»«T»',
    '<tool_call>@</tool«more»',
    '<tool_call>@</tool«end»«unexpected end»',
    '<tool_call>@</tool-«malformed»',
    '<tool_call>@<t«malformed»ool_call>',
    '<tool_call>@,«malformed»',
    '<tool_call>@]«malformed»',
    '<tool_call>«end»«unexpected end»',
    '<tool_call> \n«end»«unexpected end»',
    '<tool_call>{«end»«unexpected end»',
    '<tool_call><«malformed»/tool_call>',
    '<tool_call>"«malformed»',
    '<tool_call>c«malformed»all {',
    '<tool_call>{}«malformed»',
    '<tool_call>{"name": "l«unknown function»ater',
    '<tool_call>[@, @]«T»</tool_call>«end»',
    '<tool_call>[]«T»</tool_call>',
    '<tool_call>\n[ ]«T»',
    '<tool_call>[1«malformed»',
    '<tool_<tool_call>@</tool_call>«end»«T»',
    '<<tool_call>@</tool_call>«end»«T»',
    '<tool_call<tool_call>@</tool_call>«end»«T»',
    '<tool_«end»«T»',
    '<tool_call «end»«T»',
    '</tool_call><tool_call>@</tool_call>x«end»«T»',
    '@</tool_call><tool_call>@</tool_call>«end»«T»',
    '[@]«T»',
    'a [ <tool_call>@</tool_call>«end»«T»',
    '{ <tool_call>@</tool_call>[«end»«T»',
    '{"na<tool_call>@</tool_call>[]«T»',
    '{"name"<«malformed»',
)  # fmt: skip

table(
    "empty close marker", WEATHER, MISTRAL,
    '[TOOL_CALLS][@]«T»',
    '[TOOL_CALLS] [@, @]«T»',
    '[TOOL_CALLS]@«end»«T»',
    '[TOOL_CALLS]@, [«end»«T»',
    '[TOOL_CALLS]@{"x": 1}«end»«T»',
    '[TOOL_CALLS]@@«end»«T»',
    '[TOOL_CALLS]@[TOOL_CALLS]@«end»«T»',
    '[TOOL_CALLS]{"x": 1, "name": "now"«N»}«P»«F»«end»«T»',
    '[[TOOL_CALLS]@«end»«T»',
    '[ [TOOL_CALLS]@«end»«T»',
    '{[TOOL_CALLS]@«end»«T»',
    '[TOOL_[TOOL_CALLS]@«end»«T»',
    '[TOOL_CALLS][]«T»',
    '[TOOL_CALLS]]«malformed»',
    '[TOOL_CALLS «end»«T»',
    '[TOOL_CALLS]«end»«unexpected end»',
    '[]«T»',
    '@[TOOL_CALLS]x«malformed»',
)  # fmt: skip

table(
    "other keys", WEATHER, LLAMA,
    '{"name": "weather"«N», "parameters": {"city": "Oslo"«V»}«P»}«F»«end»«T»',
    '{"name": "now"«N», "arguments": {"parameters": 1}, "parameters": {}«P»}«F»«end»«T»',
    '[{"parameters"«order»',
)  # fmt: skip
table(
    "other keys", WEATHER, OTHER_KEYS,
    '{"tool": "weather"«N», "args": {"city": "Oslo"«V»}«P»}«F»«end»«T»',
    '{"name": "now"} [{"name": "now", "tool": "now"«N»}«P»«F»]«T»',
)  # fmt: skip
table(
    "other keys", WEATHER, PHI,
    'functools[@]«T»',
    'funcfunctools[@]«T»',
    'functools @ functools [@]«T»',
    'functools.«malformed»',
)  # fmt: skip
table(
    "a marker that repeats its own beginning", WEATHER, {"open_marker": "aabaaab"},
    'aabaabaaab@«end»«T»',
    'aaabaaab[]«T»',
    'aabaaaab[]«T»',
    'aabaaaba«malformed»aab[',
)  # fmt: skip

table(
    "limits", WEATHER, {"max_calls": 1},
    '[@]«T»',
    '[@,«too many calls»',
    'So: @«T» and {"name": "now"}',
    '[]«T»',
    'no«end»«T»',
)  # fmt: skip
table(
    "limits", WEATHER, {"max_calls": 2, **HERMES},
    '<tool_call>@</tool_call><tool_call>@ </tool_call>«T» x',
    '<tool_call>@@ {«too many calls»',
    '<tool_call>@@«end»«T»',
    '<tool_call>[@, @]«T»',
    '@ @«T» {"name": "now"}',
)  # fmt: skip
table(
    "limits", WEATHER, {"max_calls": 1, **MISTRAL},
    '[TOOL_CALLS]@«T»{',
    '[TOOL_CALLS][@]«T»',
)  # fmt: skip
table(
    "limits", WEATHER, {"max_calls": 0, **HERMES},
    'no {"nam[1«end»«T»',
    '[]«T»',
    '{ "name"«too many calls»',
    '[ {«too many calls»',
    '<tool_call>{«too many calls»',
    '<tool_call>[]«T»',
)  # fmt: skip
table(
    "limits", WEATHER, {"require_call": True},
    'no«end»«no call»',
    '«end»«no call»',
    '[]«no call»',
    '@«end»«T»',
    '[@]«T»',
)  # fmt: skip

value_table(
    "numbers", one({"type": "number"}),
    '0}«V»', '-0 «V»}', '10,«V» "a"«key twice»', '-1.50}«V»', '1e5\n«V»}', '1E+05\t«V»}',
    '0.5e-10\r«V»}', '01«malformed»', '-}«malformed»', '+«malformed»',
    '.«malformed»', '1.}«malformed»', '1.e«malformed»', '1e}«malformed»',
    '1e+,«malformed»', '1.5.«malformed»', '1e5e«malformed»',
    '1-«malformed»', '0x«malformed»', '1"«malformed»', '1]«malformed»',
    '--«malformed»', '-a«malformed»', '1 «V»2«malformed»', 'N«malformed»',
    'I«malformed»', '1_«malformed»', '"«wrong value»', '00«malformed»',
    '-01«malformed»', '1.0E1}«V»', '12345678901234567890}«V»',
)  # fmt: skip
value_table(
    "integers", one({"type": "integer"}),
    '5}«V»', '5.0}«V»', '-5.00e0}«V»', '5e2}«V»', '50e-1}«V»', '-0.0}«V»', '1e300}«V»',
    '5.5}«wrong value»', '5e-1}«wrong value»', '5.5 «wrong value»',
    '123456789012345678901234567890}«V»', '5.0000000001,«wrong value»',
)  # fmt: skip
value_table(
    "bounds", one({"type": "number", "exclusiveMinimum": 0, "maximum": 2.5, "multipleOf": 0.5}),
    '0}«wrong value»', '0.5}«V»', '2.5}«V»', '3}«wrong value»',
    '1.25 «wrong value»',
)  # fmt: skip
value_table(
    "strings", one({"type": "string"}),
    '""«V»}', '"a b"«V»}', '"\\"\\\\\\/\\b\\f\\n\\r\\t"«V»}', '"\\u00e9\\ud83d\\ude00"«V»}',
    '"é€😀\x7f"«V»}', '"\\x«malformed»', '"\\u12g«malformed»', '"\\U«malformed»',
    '"\n«malformed»', '"\x00«malformed»', '"\x1f«malformed»',
    '"\\ud83d"«malformed»', '"\\ud83dx«malformed»', '"\\ud83d\\n«malformed»',
    '"\\ud83d\\u0041«malformed»', '"\\ude00«malformed»', '"\\uD83D\\uDE00"«V»}',
    '"\\ud83d\\ud83d«malformed»', "'«malformed»", '"a«more»',
    '"\udc80«malformed»', '"\udcc0«malformed»', '"\udcc1«malformed»',
    '"\udcc3"«malformed»', '"\udcc3(«malformed»', '"\udcc3\\«malformed»',
    '"\udce0\udc9f«malformed»', '"\udced\udca0«malformed»',
    '"\udcf0\udc8f«malformed»', '"\udcf4\udc90«malformed»', '"\udcf5«malformed»',
    '"\udcff«malformed»', '"\udce2\udc82"«malformed»', '"\udcfe«malformed»',
    '"\udced\udc9f\udcbf\udcee\udc80\udc80\udcf4\udc8f\udcbf\udcbf"«V»}',
)  # fmt: skip
value_table(
    "lengths", one({"type": "string", "minLength": 2, "maxLength": 3}),
    '"a"«wrong value»', '"éé"«V»}', '"😀😀😀"«V»}', '"\\ud83d\\ude00"«wrong value»',
    '"abcd"«wrong value»',
)  # fmt: skip
value_table(
    "listed strings", one({"type": "string", "enum": ["red", "redder", "blå", 'q"', "", "\n"]}),
    '"red"«V»}', '"redder"«V»}', '"redd"«wrong value»', '"re"«wrong value»',
    '"g«wrong value»', '""«V»}', '"bl\udcc3\udca5"«V»}', '"bl\udcc3\udca6«wrong value»',
    '"bl\\u00e5"«V»}', '"bl\\u00e6«wrong value»', '"q\\""«V»}', '"\\u006e«wrong value»o',
    '"\\n"«V»}', '"\\u0072ed"«V»}', '"bl\udcc4«wrong value»', '"reds«wrong value»',
    '5«wrong value»',
)  # fmt: skip
value_table(
    "listed values", one({"enum": [5, "five", None, True, [1, 2], {"x": 1, "y": 2}]}),
    '5}«V»', '5.0}«V»', '0.5e1 «V»}', '6}«wrong value»', '"five"«V»}', 'null«V»}', 'true«V»}',
    'false«wrong value»', '[1, 2.0]«V»}', '[2, 1]«wrong value»',
    '{"y": 2, "x": 1}«V»}', '{"x": 1}«wrong value»', '"f\\u0069ve"«V»}',
    '["a"]«wrong value»',
)  # fmt: skip
value_table(
    "listed numbers", one({"enum": [1, 2.5]}),
    '1}«V»', '2.50}«V»', '"«wrong value»', 't«wrong value»', '1.5}«wrong value»',
)  # fmt: skip
value_table(
    "const", one({"const": "only"}), '"only"«V»}', '"onl"«wrong value»', '"x«wrong value»',
    'n«wrong value»',
)  # fmt: skip
value_table(
    "types", one({"type": ["string", "null"]}),
    '"x"«V»}', 'null«V»}', 't«wrong value»', '1«wrong value»', '[«wrong value»',
    '{«wrong value»', 'nul"«malformed»', 'nulll«malformed»',
)  # fmt: skip
value_table(
    "anything", one({}),
    '{"a": {"a": [1, "x", {"b": null}]}, "b": -1}«V»}', '[[], {}, ""]«V»}', 'true«V»}', '1}«V»',
    '{"a": 1, "a": 2}«key twice»', '[{"b": {"a": 1, "\\u0061": 2}}]«key twice»',
    '{"a": 1,}«malformed»', '[1,]«malformed»', '[1}«malformed»',
    '{"a"]«malformed»', '[,«malformed»', '{1«malformed»', '[1 2«malformed»',
    '[' * 30 + ']' * 30 + '«V»}', '[' * 31 + '«malformed»', '{"a": ' * 30 + '{«malformed»',
    '[{"a": ' * 15 + '0' + '}]' * 15 + '«V»}', '[tru]«malformed»', '[1.]«malformed»',
    '[-]«malformed»', '[1, 2 , 3\n]«V»}', '{"": ""}«V»}',
)  # fmt: skip
value_table("nothing", one(False), '1«wrong value»', '"«wrong value»', '{«wrong value»')
value_table(
    "arrays", one({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3}),
    '[1]«V»}', '[1, 2.0 ,3]«V»}', '[]«wrong value»', '[1,2,3,4]«wrong value»',
    '["«wrong value»', '[1, t«wrong value»', '[1.5]«wrong value»',
    '[[«wrong value»',
)  # fmt: skip
value_table(
    "unique items", one({"type": "array", "uniqueItems": True}),
    '[1, "1", true, [1], {"a": 1}]«V»}', '[1, 1.0]«wrong value»',
    '[{"a": 1, "b": 2}, {"b": 2, "a": 1}]«wrong value»', '["a", "\\u0061"]«wrong value»',
)  # fmt: skip
value_table(
    "arrays of listed strings", one({"type": "array", "items": {"enum": ["up", "down"]}}),
    '["up", "down"]«V»}', '["up", "up"]«V»}', '["u"«wrong value»', '["up", "l«wrong value»',
    '["up", 1«wrong value»',
)  # fmt: skip
value_table(
    "tuples", one({"type": "array", "prefixItems": [{"type": "integer"}, {"enum": ["x"]}], "items": False}),
    '[1, "x"]«V»}', '["a", "x"]«wrong value»', '[1, "y"]«wrong value»', '[1]«V»}',
    '[1, "x", 2]«wrong value»',
)  # fmt: skip
value_table("no items", one({"type": "array", "items": False}), '[]«V»}', '[1«wrong value»')

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "kind": {"enum": ["p", "q"]}},
    "required": ["x"],
    "additionalProperties": False,
}
value_table(
    "objects", one(POINT),
    '{"x": 1}«V»}', '{"kind": "p", "x": 1}«V»}', '{"y«unknown parameter»', '{}«wrong value»',
    '{"x": "«wrong value»', '{"kind": "r«wrong value»', '{"kind": "p"}«wrong value»',
    '{"x": 1, "x": 1}«key twice»', '{"x"«more»', '{"x": 1.5}«wrong value»',
    '{"kin"«unknown parameter»', '{"k\\u0069nd": "q", "x": 0}«V»}',
)  # fmt: skip
value_table(
    "open objects", one({"type": "object", "properties": {"x": {"type": "integer"}}}),
    '{"x": 1, "y": [], "xx": ""}«V»}', '{"x": "«wrong value»', '{"\\u0078": n«wrong value»',
)  # fmt: skip
value_table(
    "maps", one({"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 1}),
    '{"x": 1, "y": 2.5}«V»}', '{}«wrong value»', '{"x": "«wrong value»',
)  # fmt: skip
value_table(
    "nested lists of objects", one({"type": "array", "items": POINT}),
    '[{"x": 1}, {"x": 2, "kind": "q"}]«V»}', '[{"x": 1}, {"z«unknown parameter»',
    '[{"x": 1}, {}]«wrong value»', '[{"x": 1}, [«wrong value»',
)  # fmt: skip
value_table(
    "any of", one({"anyOf": [{"type": "integer", "minimum": 3}, {"enum": ["low", "high"]}, {"type": "null"}]}),
    '3}«V»', '2}«wrong value»', '"low"«V»}', '"mid"«wrong value»', 'null«V»}',
    't«wrong value»', '[«wrong value»', '"high\\u0021"«wrong value»',
)  # fmt: skip
value_table(
    "one of", one({"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 3}]}),
    '2}«V»', '3}«wrong value»', '3.5}«V»', '2.5}«wrong value»', '"«wrong value»',
)  # fmt: skip
value_table(
    "all of", one({"allOf": [{"type": ["integer", "string"]}, {"type": ["integer", "null"], "maximum": 3}]}),
    '3}«V»', '4}«wrong value»', '"«wrong value»', 'n«wrong value»',
)  # fmt: skip
value_table(
    "not", one({"not": {"type": "string"}}), '1}«V»', '"x"«wrong value»', '["x"]«V»}',
)  # fmt: skip
value_table(
    "combinations with more", one({"type": "object", "properties": {"x": {"type": "integer"}},
                                   "anyOf": [{"required": ["x"]}, {"required": ["y"]}]}),
    '{"x": 1}«V»}', '{"y": 1}«V»}', '{"z": 1}«wrong value»', '{"x": "«wrong value»',
)  # fmt: skip
value_table(
    "any of objects", one({"anyOf": [POINT, {"type": "array", "items": {"type": "string"}}]}),
    '{"x": 1}«V»}', '{"y": 1}«wrong value»', '["a"]«V»}', '[1]«wrong value»',
    '{"x": "a"}«wrong value»', '{"x": 1, "x": 1}«key twice»',
)  # fmt: skip

TREE = {
    "tree": {
        "type": "object",
        "properties": {
            "leaf": {"type": "string"},
            "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
        },
        "additionalProperties": False,
    },
    "size": {"type": "integer", "minimum": 1},
    "same": {"$ref": "#/$defs/size", "description": "again"},
}
REFERENCES = [
    tool(
        "f",
        {
            "a": {"$ref": "#/$defs/tree", "description": "recursive"},
            "size": {"$ref": "#/$defs/same"},
            "large": {"$ref": "#/$defs/size", "minimum": 100},
            "maybe": {"anyOf": [{"$ref": "#/$defs/size"}, {"type": "null"}]},
            "other/~": {"$ref": "#/properties/size"},
            "like": {"$ref": "#/properties/other~1~0"},
        },
        **{"$defs": TREE},
    )
]
value_table(
    "references", REFERENCES,
    '{"leaf": "x"}«V»}', '{"kids": [{"kids": []}, {"leaf": ""}]}«V»}', '{"kids": [{"leaf": 1«wrong value»',
    '{"kids": [{"x«unknown parameter»', '[«wrong value»',
    '{}«V», "size": 1,«V» "large": 100,«V» "maybe": null«V», "other/~": 3}«V»',
    '{}«V», "size": "«wrong value»', '{}«V», "size": 0}«wrong value»',
    '{}«V», "large": 99}«wrong value»', '{}«V», "large": n«wrong value»',
    '{}«V», "maybe": "«wrong value»', '{}«V», "maybe": 0}«wrong value»',
    '{}«V», "like": "«wrong value»', '{}«V», "like": 0,«wrong value»',
)  # fmt: skip

table(
    "open arguments", one({"type": "integer"}, additionalProperties=True), LIST,
    '[{"name": "f"«N», "arguments": {"a": 1,«V» "b": "x"«V», "aa": []«V»}«P»}«F»]«T»',
    '[{"name": "f"«N», "arguments": {"b": 1,«V» "b"«key twice»',
    '[{"name": "f"«N», "arguments": {"b": {"c": 1, "c": 1}«key twice»',
    '[{"name": "f"«N», "arguments": {"": 1}«V»«P»}«F»]«T»',
    '[{"name": "f"«N», "arguments": {"\\u0061": "«wrong value»',
)  # fmt: skip
table(
    "typed other arguments", one({"type": "integer"}, additionalProperties={"enum": ["v", "w"]}), LIST,
    '[{"name": "f"«N», "arguments": {"b": "v"«V», "a": 1}«V»«P»}«F»]«T»',
    '[{"name": "f"«N», "arguments": {"b": "x«wrong value»',
)  # fmt: skip
table(
    "arguments judged as a whole",
    [tool("f", {"a": {}, "b": {}}, minProperties=1, anyOf=[{"required": ["a"]}, {"required": ["b"]}],
          maxProperties=1)],
    LIST,
    '[{"name": "f"«N», "arguments": {"b": 1}«V»«P»}«F»]«T»',
    '[{"name": "f"«N», "arguments": {}«wrong value»',
    '[{"name": "f"«N», "arguments": {"a": 1,«V» "b": 1}«V»«wrong value»',
    '[{"name": "f"«N»}«wrong value»',
)  # fmt: skip
table(
    "arguments judged as a whole",
    [{"name": "f", "parameters": {"$ref": "#/$defs/p", "$defs": {"p": one({"type": "null"})[0]["parameters"]}}}],
    LIST,
    '[{"name": "f"«N», "arguments": {"a": null«V»}«P»}«F»]«T»',
    '[{"name": "f"«N», "arguments": {"a": 1«wrong value»',
    '[{"name": "f"«N», "arguments": {"b«unknown parameter»',
)  # fmt: skip
table(
    "a schema that says nothing", [{"name": "f", "parameters": {}}, {"name": "g", "parameters": {"type": "object"}}],
    LIST,
    '[{"name": "f"«N», "arguments": {"a": 1,«V» "b": {}«V»}«P»}«F»]«T»',
    '[{"name": "g"«N»}«P»«F»]«T»',
)  # fmt: skip
table(
    "a required parameter that is not declared", [tool("f", {}, "a", additionalProperties=True)], LIST,
    '[{"name": "f"«N», "arguments": {"a": 1}«V»«P»}«F»]«T»',
    '[{"name": "f"«N», "arguments": {"b": 1}«V»«missing parameter»',
)  # fmt: skip
table(
    "what is not checked",
    one({"type": "string", "pattern": "^x$", "format": "date", "if": True, "then": False}), LIST,
    '[{"name": "f"«N», "arguments": {"a": "y"«V»}«P»}«F»]«T»',
)  # fmt: skip
table(
    "names beyond ASCII", [tool("météo", {"où": {"type": "string"}, "ox": {}}), tool("mét", {})], LIST,
    '[{"name": "météo"«N», "arguments": {"où": "ici"«V», "ox": 1}«V»«P»}«F»]«T»',
    '[{"name": "m\\u00e9t\\u00E9o"«N», "arguments": {"o\\u00f9": ""«V»}«P»}«F»]«T»',
    '[{"name": "m\udcc3\udca8«unknown function»',
    '[{"name": "mét\udcc3\udca9"«unknown function»',
)  # fmt: skip

class Expected(NamedTuple):
    """A marked response read: its bytes, and what its marks say."""

    response: bytes
    steps: list[tuple[str, int]]
    dies_at: int | None
    reason: str | None
    ends_at: int | None


def read_marks(marked: str) -> Expected:
    response = b""
    steps: list[tuple[str, int]] = []
    dies_at = ends_at = reason = None
    for part in re.split("(«.*?»)", marked):
        mark = part[1:-1]
        if not part.startswith("«"):
            response += part.encode("utf-8", "surrogateescape")
        elif mark in KINDS:
            steps.append((KINDS[mark], len(response)))
        elif mark == "end":
            ends_at = len(response)
        elif mark in WHY:
            dies_at, reason = len(response), WHY[mark]
    return Expected(response, steps, dies_at, reason, ends_at)


# Asking both


Observed = tuple[list[tuple[Any, ...]], bool, bool, bool]  # steps, dead, finished, in_text


def fields(step: Any) -> tuple[Any, ...]:
    argument = step.argument.decode() if isinstance(step.argument, bytes) else step.argument
    return step.kind, step.call, step.function, argument, step.begin, step.end, step.boundary


def native(tools: list[Tool], options: Options) -> _core.Segmenter:
    return _core.Segmenter(json.dumps(tools), **options)


def observe(segmenter: _core.Segmenter, steps: list[_core.Step]) -> Observed:
    return (
        [fields(step) for step in steps],
        segmenter.dead,
        segmenter.finished,
        segmenter.in_text,
    )


def ask_native(tools: list[Tool], options: Options, pieces: list[bytes], ended: bool) -> Observed:
    segmenter = native(tools, options)
    steps = [step for piece in pieces for step in segmenter.feed(piece)]
    if ended:
        steps += segmenter.finish()
    return observe(segmenter, steps)


def ask_twin(tools: list[Tool], options: Options, response: bytes, ended: bool) -> Observed:
    verdict = segment(tools, response, ended=ended, **options)
    steps = [fields(step) for step in verdict.steps]
    return steps, verdict.dead, verdict.finished, verdict.in_text


def agree_on_prefixes(
    tools: list[Tool], options: Options, response: bytes, stride: int = 1
) -> None:
    """Fed byte by byte, both say the same of every `stride`-th prefix, open and ended."""
    segmenter = native(tools, options)
    steps: list[_core.Step] = []
    for length in range(len(response) + 1):
        if length > 0:
            steps += segmenter.feed(response[length - 1 : length])
        if length % stride and length < len(response):
            continue
        prefix = response[:length]
        assert observe(segmenter, steps) == ask_twin(tools, options, prefix, False), prefix
        ended = segmenter.copy()
        ended_steps = steps + ended.finish()
        assert observe(ended, ended_steps) == ask_twin(tools, options, prefix, True), prefix


def split_at(response: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cuts), len(response)]
    return [response[begin:end] for begin, end in itertools.pairwise(edges)]


# The tables


def case_id(case: Case) -> str:
    return f"{case.group}: {case.marked}".encode("ascii", "backslashreplace").decode()


@pytest.fixture(scope="module", params=CASES, ids=case_id)
def case(request: pytest.FixtureRequest) -> Case:
    result: Case = request.param
    return result


def test_table_native(case: Case) -> None:
    expected = read_marks(case.marked)
    stop = len(expected.response) if expected.ends_at is None else expected.ends_at
    segmenter = native(case.tools, case.options)
    steps = segmenter.feed(expected.response[:stop])
    if expected.ends_at is not None:
        steps += segmenter.finish()
    assert [(step.kind, step.boundary) for step in steps] == expected.steps
    assert segmenter.death == (expected.reason or "")
    assert segmenter.finished == (expected.steps[-1:] != [] and steps[-1].kind == "TOTAL_FINISH")
    if expected.dies_at is not None and expected.ends_at is None:
        before = native(case.tools, case.options)
        before.feed(expected.response[: expected.dies_at - 1])
        assert not before.dead
        before.feed(expected.response[expected.dies_at - 1 : expected.dies_at])
        assert before.dead


def test_table_twin(case: Case) -> None:
    expected = read_marks(case.marked)
    stop = len(expected.response) if expected.ends_at is None else expected.ends_at
    verdict = segment(
        case.tools,
        expected.response[:stop],
        ended=expected.ends_at is not None,
        **case.options,
    )
    assert [(step.kind, step.boundary) for step in verdict.steps] == expected.steps
    assert verdict.reason == expected.reason


def test_table_splits(case: Case) -> None:
    response = read_marks(case.marked).response
    for ended in (False, True):
        whole = ask_twin(case.tools, case.options, response, ended)
        for cut in range(len(response) + 1):
            pieces = [response[:cut], response[cut:]]
            assert ask_native(case.tools, case.options, pieces, ended) == whole, pieces
        singles = [bytes([byte]) for byte in response]
        assert ask_native(case.tools, case.options, singles, ended) == whole
        rng = random.Random(response)
        for _ in range(8):
            pieces = split_at(response, [rng.randint(0, len(response)) for _ in range(6)])
            assert ask_native(case.tools, case.options, pieces, ended) == whole, pieces


def test_table_prefixes(case: Case) -> None:
    agree_on_prefixes(case.tools, case.options, read_marks(case.marked).response)
