"""The native segmenter against its plain-Python twin.

Responses in the tables carry marks: «N», «V», «P», «F», «T» are just after the byte at which a
FUNC_NAME, ARG_VALUE, PARAM_FINISH, FUNC_FINISH or TOTAL_FINISH is decided, a reason (see `WHY`)
after the byte that makes the response invalid, «end» where the model ends it, «more» at the end of
a response that is still open.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from support.slow_segmenter import Tool, segment
from toolprm_lite import _core
from toolprm_lite.judge import ArgumentJudge

settings.register_profile(
    "segmenter",
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
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


def table(group: str, tools: list[Tool], options: Options, *marked: str, before: str = "") -> None:
    """Responses that begin with `before`; `@` is a whole call."""
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
    '[{"x": 1, "x": {"a": 1, "a": 2}, "name": "now"«N», "x": 0}«P»«F»]«T»',
    '[{"name": "weather_map"«N», "arguments": {"zoom": 1.5e-3,«V» "zoom"«key twice»: 2',
)  # fmt: skip

table(
    "lists that die", WEATHER, LIST,
    '[@,]«malformed»',
    '[@}«malformed»',
    '[@ {«malformed»',
    '[@, [«malformed»',
    '[@, n«malformed»ull',
    '[{}«unknown function»]',
    '[{"id": 1}«unknown function»]',
    '[{"name": "now"«N»]«malformed»',
    '[{"name": "now"«N»,}«malformed»',
    '[{"name": "now"«N», "arguments": {}«P»,«more»',
    '[{,«malformed»',
    '[{"name" "«malformed»now"',
    '[{"name": n«unknown function»',
    '[{"name": x«malformed»',
    '[{"name": 5«unknown function»',
    '[{"name": {«unknown function»',
    '[{"name": "now"«N», "name"«key twice»: "now"}]',
    '[{"name": "now"«N», "arguments": {}«P», "arguments"«key twice»: {}}]',
    '[{"name": "now"«N», "arguments": [«wrong value»]',
    '[{"name": "now"«N», "arguments": "«wrong value»{}"',
    '[{"name": "now"«N», "arguments": n«wrong value»ull',
    '[{"name": "now"«N», "arguments": {"a«unknown parameter»"',
    '[{"name": "weather"«N»}«missing parameter»',
    '[{"name": "weather"«N», "id": 0}«missing parameter»',
    '[{"arguments"«order»: {}, "name": "now"}]',
    '[{"id": 1, "arguments"«order»: {}',
    '[{"id": 1, "id": {"a": 1, "a": 2}, "arguments"«order»: {}',
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
    '<tool_call>{}«unknown function»',
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
    'So: @«T» and {"name": "now"}',
    '[@,«too many calls»',
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
    '{«wrong value»', 'nul"«malformed»', 'null«V»l«malformed»',
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
table(
    "a parameter that is nothing", one(False), LIST,
    '[{"name": "f"«N», "arguments": {"a"«unknown parameter»',
    '[{"name": "f"«N», "arguments": {}«P»}«F»]«T»',
)  # fmt: skip
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
    "tuples",
    one({
        "type": "array", "prefixItems": [{"type": "integer"}, {"enum": ["x"]}], "items": False,
    }),
    '[1, "x"]«V»}', '["a", "x"]«wrong value»', '[1, "y"]«wrong value»', '[1]«V»}',
    '[1, "x", 2]«wrong value»',
)  # fmt: skip
value_table("no items", one({"type": "array", "items": False}), "[]«V»}", "[1«wrong value»")

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
    "any of",
    one({
        "anyOf": [{"type": "integer", "minimum": 3}, {"enum": ["low", "high"]}, {"type": "null"}],
    }),
    '3}«V»', '2}«wrong value»', '"low"«V»}', '"mid"«wrong value»', 'null«V»}',
    't«wrong value»', '[«wrong value»', '"high\\u0021"«wrong value»',
)  # fmt: skip
value_table(
    "one of", one({"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 3}]}),
    '2}«V»', '3}«wrong value»', '3.5}«V»', '2.5}«wrong value»', '"«wrong value»',
)  # fmt: skip
value_table(
    "all of",
    one({"allOf": [{"type": ["integer", "string"]}, {"type": ["integer", "null"], "maximum": 3}]}),
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
    "bush": {"$ref": "#/$defs/tree"},
    "size": {"type": "integer", "minimum": 1},
    "same": {"$ref": "#/$defs/size", "description": "again"},
}
REFERENCES = [
    tool(
        "f",
        {
            "a": {"$ref": "#/$defs/tree", "description": "recursive"},
            "alias": {"$ref": "#/$defs/bush"},
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
    '{"leaf": "x"}«V»}', '{"kids": [{"kids": []}, {"leaf": ""}]}«V»}',
    '{"kids": [{"leaf": 1«wrong value»',
    '{"kids": [{"x«unknown parameter»', '[«wrong value»',
    '{}«V», "size": 1,«V» "large": 100,«V» "maybe": null«V», "other/~": 3}«V»',
    '{}«V», "size": "«wrong value»', '{}«V», "size": 0}«wrong value»',
    '{}«V», "large": 99}«wrong value»', '{}«V», "large": n«wrong value»',
    '{}«V», "maybe": "«wrong value»', '{}«V», "maybe": 0}«wrong value»',
    '{"kids": [{"y«unknown parameter»',
    '{}«V», "alias": {"y«unknown parameter»', '{}«V», "like": "«wrong value»',
    '{}«V», "like": 0,«wrong value»',
)  # fmt: skip

table(
    "open arguments", one({"type": "integer"}, additionalProperties=True), LIST,
    '[{"name": "f"«N», "arguments": {"a": 1,«V» "b": "x"«V», "aa": []«V»}«P»}«F»]«T»',
    '[{"name": "f"«N», "arguments": {"b": 1,«V» "b": 2,«V» "c": 3}«V»«key twice»',
    '[{"name": "f"«N», "arguments": {"b": 1,«V» "a": 2,«V» "a"«key twice»',
    '[{"name": "f"«N», "arguments": {"b": {"c": 1, "c": 1}«key twice»',
    '[{"name": "f"«N», "arguments": {"": 1}«V»«P»}«F»]«T»',
    '[{"name": "f"«N», "arguments": {"\\u0061": "«wrong value»',
)  # fmt: skip
table(
    "typed other arguments",
    one({"type": "integer"}, additionalProperties={"enum": ["v", "w"]}), LIST,
    '[{"name": "f"«N», "arguments": {"b": "v"«V», "a": 1}«V»«P»}«F»]«T»',
    '[{"name": "f"«N», "arguments": {"b": "x«wrong value»',
)  # fmt: skip
table(
    "arguments judged as a whole",
    [
        tool(
            "f", {"a": {}, "b": {}}, maxProperties=1,
            anyOf=[{"required": ["a"]}, {"required": ["b"]}],
        )
    ],
    LIST,
    '[{"name": "f"«N», "arguments": {"b": 1}«V»«P»}«F»]«T»',
    '[{"name": "f"«N», "arguments": {}«wrong value»',
    '[{"name": "f"«N», "arguments": {"a": 1,«V» "b": 1}«V»«wrong value»',
    '[{"name": "f"«N»}«wrong value»',
)  # fmt: skip
table(
    "arguments judged as a whole",
    [
        {
            "name": "f",
            "parameters": {
                "$ref": "#/$defs/p", "$defs": {"p": one({"type": "null"})[0]["parameters"]},
            },
        }
    ],
    LIST,
    '[{"name": "f"«N», "arguments": {"a": null«V»}«P»}«F»]«T»',
    '[{"name": "f"«N», "arguments": {"a": 1«wrong value»',
    '[{"name": "f"«N», "arguments": {"b«unknown parameter»',
)  # fmt: skip
table(
    "a schema that says nothing",
    [{"name": "f", "parameters": {}}, {"name": "g", "parameters": {"type": "object"}}],
    LIST,
    '[{"name": "f"«N», "arguments": {"a": 1,«V» "b": {}«V»}«P»}«F»]«T»',
    '[{"name": "g"«N»}«P»«F»]«T»',
)  # fmt: skip
table(
    "a required parameter that is not declared",
    [tool("f", {}, "a", additionalProperties=True)], LIST,
    '[{"name": "f"«N», "arguments": {"a": 1}«V»«P»}«F»]«T»',
    '[{"name": "f"«N», "arguments": {"b": 1}«V»«missing parameter»',
)  # fmt: skip
table(
    "patterns, conditions and what must be contained are judged",
    [tool("f", {
        "a": {"type": "string", "pattern": "^x$"},
        "b": {"if": {"type": "string"}, "then": {"minLength": 2}},
        "c": {"type": "array", "contains": {"const": 1}, "minContains": 2},
        "d": {
            "type": "object", "propertyNames": {"maxLength": 1}, "dependentRequired": {"x": ["y"]},
        },
        "e": {"type": "integer", "minimum": -9223372036854775808, "maximum": 9223372036854775807},
    })], LIST,
    '[{"name": "f"«N», "arguments": {"a": "x"«V», "b": "xy"«V», "c": [1, 2, 1]«V»}«P»}«F»]«T»',
    '[{"name": "f"«N», "arguments": {"a": "y"«wrong value»',
    '[{"name": "f"«N», "arguments": {"b": 3,«V» "a": "xx"«wrong value»',
    '[{"name": "f"«N», "arguments": {"b": "x"«wrong value»',
    '[{"name": "f"«N», "arguments": {"c": [1, 2]«wrong value»',
    '[{"name": "f"«N», "arguments": {"d": {"x": 1, "y": 2}«V», "d"«key twice»',
    '[{"name": "f"«N», "arguments": {"d": {"x": 1}«wrong value»',
    '[{"name": "f"«N», "arguments": {"d": {"xy": 1}«wrong value»',
    '[{"name": "f"«N», "arguments": {"e": 9223372036854775807}«V»«P»}«F»]«T»',
    '[{"name": "f"«N», "arguments": {"e": 9223372036854775808}«wrong value»',
)  # fmt: skip
table(
    "names by pattern",
    [{"name": "f", "parameters": {
        "properties": {"a": {"type": "integer"}}, "patternProperties": {"^x_": {"type": "string"}},
        "additionalProperties": False, "required": ["a"],
    }}], LIST,
    '[{"name": "f"«N», "arguments": {"a": 1,«V» "x_1": "s"«V»}«P»}«F»]«T»',
    '[{"name": "f"«N», "arguments": {"x_1": 1,«wrong value»',
    '[{"name": "f"«N», "arguments": {"y_1": "s"«wrong value»',
)  # fmt: skip
table(
    "numbers beyond doubles",
    one({}), LIST,
    '[{"name": "f"«N», "arguments": {"a": 1e308}«V»«P»}«F»]«T»',
    '[{"name": "f"«N», "arguments": {"a": 1e309}«wrong value»',
    '[{"name": "f"«N», "arguments": {"a": [-1e999]«wrong value»',
)  # fmt: skip
table(
    "names beyond ASCII",
    [tool("météo", {"où": {"type": "string"}, "ox": {}}), tool("mét", {})], LIST,
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

Seen = tuple[list[tuple[Any, ...]], bool, bool, bool]  # steps, dead, finished, in_text


def fields(step: Any) -> tuple[Any, ...]:
    argument = step.argument.decode() if isinstance(step.argument, bytes) else step.argument
    return step.kind, step.call, step.function, argument, step.begin, step.end, step.boundary


def native(tools: list[Tool], options: Options) -> _core.Segmenter:
    judge = ArgumentJudge([[tool.get("parameters", {})] for tool in tools])
    limits = {name: options[name] for name in ("max_calls", "require_call") if name in options}
    form = _core.CallFormat(**{key: each for key, each in options.items() if key not in limits})
    return _core.Segmenter(json.dumps(tools), form, judge=judge, **limits)


def seen(segmenter: _core.Segmenter, steps: list[_core.Step]) -> Seen:
    found = [fields(step) for step in steps]
    return found, segmenter.dead, segmenter.finished, segmenter.in_text


def ask_native(tools: list[Tool], options: Options, pieces: list[bytes], ended: bool) -> Seen:
    segmenter = native(tools, options)
    steps = [step for piece in pieces for step in segmenter.feed(piece)]
    if ended:
        steps += segmenter.finish()
    return seen(segmenter, steps)


def ask_twin(tools: list[Tool], options: Options, response: bytes, ended: bool) -> Seen:
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
        assert seen(segmenter, steps) == ask_twin(tools, options, prefix, False), prefix
        copy = segmenter.copy()
        assert seen(copy, steps + copy.finish()) == ask_twin(tools, options, prefix, True), prefix


def cut(response: bytes, *places: int) -> list[bytes]:
    edges = [0, *sorted(places), len(response)]
    return [response[begin:end] for begin, end in itertools.pairwise(edges)]


# The tables


tabled = pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=f"{case.group}: {case.marked}".encode("ascii", "backslashreplace").decode(),
        )
        for case in CASES
    ],
)


@tabled
def test_table_native(case: Case) -> None:
    expected = read_marks(case.marked)
    segmenter = native(case.tools, case.options)
    steps = segmenter.feed(expected.response[: expected.ends_at])
    if expected.ends_at is not None:
        steps += segmenter.finish()
    assert [(step.kind, step.boundary) for step in steps] == expected.steps
    assert segmenter.death == (expected.reason or "")
    assert segmenter.finished == any(kind == "TOTAL_FINISH" for kind, _ in expected.steps)
    for step in steps:
        value = expected.response[step.begin : step.end]
        assert step.value == (value if step.kind == "ARG_VALUE" else None)
        assert step.text.endswith(value)
    if expected.dies_at is not None and expected.ends_at is None:
        begin = native(case.tools, case.options)
        begin.feed(expected.response[: expected.dies_at - 1])
        assert not begin.dead
        begin.feed(expected.response[expected.dies_at - 1 : expected.dies_at])
        assert begin.dead


@tabled
def test_table_twin(case: Case) -> None:
    expected = read_marks(case.marked)
    ended = expected.ends_at is not None
    response = expected.response[: expected.ends_at]
    verdict = segment(case.tools, response, ended=ended, **case.options)
    assert [(step.kind, step.boundary) for step in verdict.steps] == expected.steps
    assert verdict.reason == expected.reason
    if expected.dies_at is not None and not ended:
        begin = response[: expected.dies_at]
        assert not segment(case.tools, begin[:-1], ended=False, **case.options).dead
        assert segment(case.tools, begin, ended=False, **case.options).dead


@tabled
def test_table_splits(case: Case) -> None:
    response = read_marks(case.marked).response
    rng = random.Random(response)
    splits = [cut(response, place) for place in range(len(response) + 1)]
    splits += [cut(response, *range(1, len(response)))]
    splits += [cut(response, *rng.choices(range(len(response) + 1), k=6)) for _ in range(8)]
    for ended in (False, True):
        whole = ask_twin(case.tools, case.options, response, ended)
        for pieces in splits:
            assert ask_native(case.tools, case.options, pieces, ended) == whole, pieces


@tabled
def test_table_prefixes(case: Case) -> None:
    agree_on_prefixes(case.tools, case.options, read_marks(case.marked).response)


def test_spans() -> None:
    call = '{"name": "weather", "arguments": {"city": "Oslo", "days": 5 }}'
    response = f'Hm: [{call}, {{"name": "now"}}]'
    expected = [
        ("FUNC_NAME", 0, "weather", None, '"weather"'),
        ("ARG_VALUE", 0, "weather", "city", '"Oslo"'),
        ("ARG_VALUE", 0, "weather", "days", "5"),
        ("PARAM_FINISH", 0, "weather", None, '{"city": "Oslo", "days": 5 }'),
        ("FUNC_FINISH", 0, "weather", None, call),
        ("FUNC_NAME", 1, "now", None, '"now"'),
        ("PARAM_FINISH", 1, "now", None, ""),
        ("FUNC_FINISH", 1, "now", None, '{"name": "now"}'),
        ("TOTAL_FINISH", None, None, None, ""),
    ]
    for steps, *_ in (
        ask_native(WEATHER, LIST, [response.encode()], False),
        ask_twin(WEATHER, LIST, response.encode(), False),
    ):
        assert [(*step[:4], response[step[4] : step[5]]) for step in steps] == expected


# What is decided, and what merges


def decide(value: str) -> int:
    """The hash of a value, of a parameter that may be anything."""
    segmenter = native(one({}), LIST)
    steps = segmenter.feed(f'[{{"name": "f", "arguments": {{"a": {value}}}}}]'.encode())
    assert [step.kind for step in steps][1] == "ARG_VALUE"
    return steps[1].decided


@pytest.mark.parametrize(
    "spellings",
    [
        ["5", "5.0", "5e0", "50e-1", "0.5E+1", "5.000"],
        ["10", "1e1", "1.0e1", "100E-1"],
        ["0", "-0", "0.0", "-0.0e5"],
        ["2.5", "25e-1", "2.50"],
        ["1e3", "1000"],
        ["0.1", "1e-1", "0.10"],
        ['"A"', '"\\u0041"'],
        ['"é/\\n"', '"\\u00e9\\/\\u000a"', '"\\u00E9/\\u000A"'],
        ['"😀"', '"\\ud83d\\ude00"'],
        ['{"a": 1, "b": [2]}', '{"b":[2.0],"a":1}', '{ "\\u0062" : [ 2 ] , "a" : 1e0 }'],
        ["[1, 2]", "[1.0,\n2]"],
    ],
)
def test_equal_values_decide_the_same(spellings: list[str]) -> None:
    assert len({decide(text) for text in spellings}) == 1


def test_unequal_values_decide_differently() -> None:
    values = [
        "5", "-5", "5.5", '"5"', "[5]", "[[5]]", "true", "false", "null", "0", "1", '""', '"true"',
        "[]", "{}", "[{}]", "[[]]", '{"a": 1}', '{"a": 2}', '{"b": 1}', '{"a": {"b": 1}}', '[1, 2]',
        "[2, 1]", '{"a": 1, "b": 2}', '{"a": 2, "b": 1}', '"a"', '"A"', '"a "', '"é"', '"e"',
        '["a", "b"]', '["ab"]', '["", "ab"]', "[null]", "[0]", "[false]", '"\\u0000"', "[1, 2, 3]",
        "[[1, 2], 3]", "[1, [2, 3]]", '{"a": [], "b": {}}', '{"a": {}, "b": []}', "1e300", "1e-300",
        "9007199254740992", "9007199254740993", "0.1", "0.10000000000000002",
    ]  # fmt: skip
    assert len({decide(value) for value in values}) == len(values)


# Groups of prefixes that have decided the same and are at the same place; `~` is how the
# call of a weather report begins.
MERGING = [
    ['[{"name": "weather"', ' [ {"name":"weather"', '[{ "name" :\n"weathe\\u0072"'],
    ['[{"name": "weather",', '[{"name": "weather" , '],
    ['[~"city": "Oslo"', '[ ~ "city":"Os\\u006co"'],
    ['[~"city": "Oslo",'],
    ['[~"city": "Oslo"}', '[~"city":"Oslo"\n}'],
    ['[~"city": "Oslo", "days": 5,', '[~"days": 5.0, "city": "Oslo",'],
    ['[~"city": "Oslo", "days": 5 ', '[~"days": 5.0\n, "city": "Oslo"'],
    ['[~"city": "Oslo", "rain": true}', '[~"rain": true, "city": "\\u004fslo"}'],
    ['[~"city": "Oslo", "days": 6,'],
    ['[~"city": "oslo"'],
    ['[~"city": "Oslo", "c', '[~"city": "Oslo","c'],
    ['[{"name": "weather_map"'],
    ['[{"name": "now"}', '[{"name":"now" }', '[{"name": "now", "arguments": {}}'],
    ['[{"name": "now", "arguments": {}', '[{"name": "now", "arguments": { }'],
    ['[{"name": "now"},', '[{"name": "now"} ,'],
    ['[{"name": "now"}, ~"city": "Oslo"}}', '[~"city": "Oslo"}}, {"name": "now"}'],
    ['[{"name": "now"}, ~"city": "Oslo"}'],
    ['[{"name": "now"}, {"name": "now"}'],
    ["[]", " [ ]"],
]


def merge_keys(options: Options, prefixes: list[str]) -> set[int]:
    keys = set()
    for prefix in prefixes:
        segmenter = native(WEATHER, options)
        segmenter.feed(prefix.replace("~", '{"name": "weather", "arguments": {').encode())
        assert not segmenter.dead
        keys.add(segmenter.merge_key)
    return keys


@pytest.mark.parametrize("prefixes", MERGING)
def test_prefixes_that_merge(prefixes: list[str]) -> None:
    assert len(merge_keys(LIST, prefixes)) == 1


def test_prefixes_that_do_not_merge() -> None:
    for first, second in itertools.combinations(MERGING, 2):
        assert not merge_keys(LIST, first) & merge_keys(LIST, second), (first, second)


@pytest.mark.parametrize("prefix", ["<tool_", "<tool_call", "<", '{"na', '{ "name'])
def test_texts_that_must_not_merge(prefix: str) -> None:
    assert len(merge_keys(HERMES, [prefix, "Hello {" if "{" in prefix else "Hello"])) == 2


# Random schemas, values and spellings


WORDS = ["a", "b", "ab", "abc", "é", "x y", 'q"', "name", "arguments", "\n", "😀", ""]
SOUP = [
    "{", "}", "[", "]", ",", ":", '"', " ", "\n", '"name"', '"arguments"', '"f"', '"g"', '"a"',
    '"b"', '{"name": "f"', ', "arguments": {', '"a": 1', '"ab": "', "1", "-0.5e3", "true", "null",
    "\\", "\\u00e9", "\\ud83d", "\\ude00", "é", "\udcff", "<tool_call>", "</tool_call>", "<tool",
    "[TOOL_CALLS]", "}}", "}]", "}}]",
]  # fmt: skip
FORMATS: list[Options] = [LIST, LIST, HERMES, HERMES, MISTRAL, LLAMA, OTHER_KEYS]


def random_schema(rng: random.Random, depth: int = 0) -> Any:
    scalars = ["string", "integer", "number", "boolean", "null", "enum", "const", "any", "types"]
    nested = ["array", "tuple", "object", "object", "anyOf", "oneOf", "allOf", "not", "$ref"]
    kind = rng.choice(scalars + (nested if depth < 2 else []))

    def inner() -> Any:
        return random_schema(rng, depth + 1)

    def some(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
        return schema | {key: value for key, value in more.items() if rng.random() < 0.3}

    if kind == "string":
        return some({"type": "string"}, minLength=1, maxLength=rng.randint(1, 4))
    if kind == "integer":
        return some({"type": "integer"}, minimum=-2, maximum=10, multipleOf=2)
    if kind == "number":
        return some({"type": "number"}, exclusiveMinimum=-2, exclusiveMaximum=10, multipleOf=0.5)
    if kind in ("boolean", "null"):
        return {"type": kind}
    if kind == "enum":
        values: list[Any] = [*rng.sample(WORDS, 4), 1, 2.5, None, True, [1], {"a": "b"}]
        return {"enum": rng.sample(values, rng.randint(1, 6))}
    if kind == "const":
        return {"const": rng.choice([*WORDS, 5, False, [], {}])}
    if kind == "types":
        return {"type": rng.sample(["string", "null", "number", "array", "object"], 2)}
    if kind == "array":
        return some({"type": "array", "items": inner()}, minItems=1, maxItems=2, uniqueItems=True)
    if kind == "tuple":
        return some({"type": "array", "prefixItems": [inner(), inner()]}, items=inner())
    if kind == "object":
        return random_object(rng, depth + 1)
    if kind in ("anyOf", "oneOf", "allOf"):
        return {kind: [inner() for _ in range(rng.randint(1, 3))]}
    if kind == "not":
        return {"not": inner()}
    if kind == "$ref":
        return some({"$ref": "#/$defs/" + rng.choice(["tree", "word"])}, description="a reference")
    return {}


def random_object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(WORDS, rng.randint(0, 3))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: random_schema(rng, depth) for name in names},
        "required": [name for name in names if rng.random() < 0.4],
    }
    others = rng.choice(["closed", "closed", "open", "typed"])
    if others != "open":
        schema["additionalProperties"] = others == "typed" and random_schema(rng, depth)
    if rng.random() < 0.1:
        schema["minProperties"] = 1
    return schema


def random_tools(rng: random.Random) -> list[Tool]:
    defs = {
        "word": {"enum": ["ab", "abc", "é"]},
        "tree": {
            "type": "object",
            "properties": {
                "a": {"type": "integer"},
                "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
            },
            "additionalProperties": False,
        },
    }
    names = rng.sample(["f", "g", "ff", "fé", "get"], rng.randint(1, 3))
    tools = [{"name": name, "parameters": random_object(rng, 0)} for name in names]
    for each in tools:
        each["parameters"]["$defs"] = defs
        if rng.random() < 0.1:
            each["parameters"]["anyOf"] = [{"required": ["a"]}, {"maxProperties": 1}]
    return tools


def random_value(rng: random.Random, schema: Any, root: Any, depth: int = 0) -> Any:
    """A value that mostly is valid."""
    if isinstance(schema, bool):
        schema = {}
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema and "properties" not in schema:
            return random_value(rng, rng.choice(schema[key]), root, depth)
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "const" in schema:
        return schema["const"]
    kinds = schema.get("type", ["string", "integer", "number", "boolean", "null", "array"])
    kind = kinds if isinstance(kinds, str) else rng.choice(kinds)
    if kind == "string":
        length = schema.get("maxLength", 5)
        text = "".join(rng.choices('ab é"\\😀\x00', k=length))
        return text[: rng.randint(min(schema.get("minLength", 0), length), length)]
    if kind == "integer":
        return rng.choice([0, 2, 4, 10, -2, 8])
    if kind == "number":
        return rng.choice([0, 2, 0.5, -1.5, 9, 1e-3, 12.25])
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "array":
        if "prefixItems" in schema:
            return [random_value(rng, each, root, depth + 1) for each in schema["prefixItems"]]
        least = schema.get("minItems", 0)
        count = least if depth > 3 else rng.randint(least, schema.get("maxItems", 3))
        items = schema.get("items", {})
        return [random_value(rng, items, root, depth + 1) for _ in range(count)]
    if kind == "object":
        return random_members(rng, schema, root, depth)
    return None


def random_members(rng: random.Random, schema: Any, root: Any, depth: int) -> dict[str, Any]:
    required = schema.get("required", ())
    value = {
        name: random_value(rng, node, root, depth + 1)
        for name, node in schema.get("properties", {}).items()
        if name in required or rng.random() < (0.5 if depth < 4 else 0)
    }
    others = schema.get("additionalProperties", True)
    if others is not False and rng.random() < 0.3:
        value.setdefault(rng.choice(WORDS), random_value(rng, others, root, depth + 1))
    return value


def random_space(rng: random.Random) -> str:
    return rng.choice(["", "", "", " ", " ", "\n", "\t \r\n"])


def spell(rng: random.Random, value: Any) -> str:
    """A value in one of its JSON spellings."""
    if isinstance(value, dict):
        members = [(spell(rng, key), spell(rng, each)) for key, each in value.items()]
        rng.shuffle(members)
        return spell_object(rng, members)
    if isinstance(value, list):
        items = ",".join(random_space(rng) + spell(rng, each) + random_space(rng) for each in value)
        return f"[{items or random_space(rng)}]"
    if isinstance(value, str):
        return '"' + "".join(spell_character(rng, each) for each in value) + '"'
    if isinstance(value, int) and not isinstance(value, bool):
        tens = f"{value}0E-1" if value else "-0e7"
        return rng.choice([f"{value}", f"{value}", f"{value}.0", f"{value}e0", tens])
    if isinstance(value, float):
        return rng.choice([f"{value!r}", f"{value:.6e}", f"{value:f}00"])
    return json.dumps(value)


def spell_object(rng: random.Random, members: list[tuple[str, str]]) -> str:
    def spaced(text: str) -> str:
        return random_space(rng) + text + random_space(rng)

    body = ",".join(f"{spaced(key)}:{spaced(each)}" for key, each in members)
    return "{" + (body or random_space(rng)) + "}"


def spell_character(rng: random.Random, character: str) -> str:
    if character not in '"\\\n\x00' and rng.random() < 0.8:
        return character
    units = character.encode("utf-16-be").hex()
    escaped = "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
    return escaped if rng.random() < 0.5 else escaped.upper().replace("U", "u")


def random_calls(rng: random.Random, tools: list[Tool]) -> list[tuple[str, dict[str, Any]]]:
    chosen = rng.choices(tools, k=rng.choice([0, 1, 1, 1, 2, 3]))
    return [
        (each["name"], random_members(rng, each["parameters"], each["parameters"], 0))
        for each in chosen
    ]


def spell_call(
    rng: random.Random, name: str, arguments: dict[str, Any], options: Options, others: bool
) -> str:
    name_key = '"{}"'.format(options.get("name_key", "name"))
    arguments_key = '"{}"'.format(options.get("arguments_key", "arguments"))
    members = [(name_key, spell(rng, name)), (arguments_key, spell(rng, arguments))]
    if not arguments and others and rng.random() < 0.3:
        members.pop()
    if others and rng.random() < 0.2:
        place = rng.randint(0, len(members))
        members.insert(place, ('"id"', spell(rng, [1, {"a": ["}"]}])))
    return spell_object(rng, members)


def spell_response(
    rng: random.Random, calls: list[tuple[str, dict[str, Any]]], options: Options
) -> bytes:
    texts = [spell_call(rng, *call, options, others=True) for call in calls]
    prose = rng.choice(["", "", "", " \n", "Well, [1] {2}: ", "[", '{"nam', "<tool "])
    opening, closing = options.get("open_marker", ""), options.get("close_marker", "")
    forms = ["list", "bare"] + (["tagged"] * 3 if opening else ["list"] * 3)
    form = rng.choice(forms)
    if form == "list":
        items = ",".join(random_space(rng) + each + random_space(rng) for each in texts)
        text = rng.choice(["", opening]) + f"[{items or random_space(rng)}]"
    elif form == "bare":
        text = random_space(rng).join(texts)
    else:
        text = "".join(
            opening + random_space(rng) + each + random_space(rng) + closing + random_space(rng)
            for each in texts
        )
    return (prose + text + rng.choice(["", "", " tail"])).encode()


def mutate(rng: random.Random, response: bytes) -> bytes:
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        place = rng.randint(0, len(response))
        piece = rng.choice(
            [bytes([rng.randrange(256)]), rng.choice(SOUP).encode("utf-8", "surrogateescape")]
        )
        kind = rng.choice(["replace", "insert", "remove", "truncate", "repeat"])
        if kind == "truncate":
            response = response[:place]
        elif kind == "repeat":
            end = rng.randint(place, min(place + 20, len(response)))
            response = response[:end] + response[place:]
        else:
            skip = 0 if kind == "insert" else rng.randint(1, 3)
            piece = b"" if kind == "remove" else piece
            response = response[:place] + piece + response[place + skip :]
    return response


def random_options(rng: random.Random) -> Options:
    options = dict(rng.choice(FORMATS))
    if rng.random() < 0.2:
        options["max_calls"] = rng.randint(0, 2)
    if rng.random() < 0.1:
        options["require_call"] = True
    return options


RANDOM = st.randoms(use_true_random=False)


def agree(
    rng: random.Random, tools: list[Tool], options: Options, response: bytes, stride: int
) -> None:
    agree_on_prefixes(tools, options, response, stride)
    for ended in (False, True):
        pieces = cut(response, *rng.choices(range(len(response) + 1), k=3))
        whole = ask_twin(tools, options, response, ended)
        assert ask_native(tools, options, pieces, ended) == whole, pieces


@given(RANDOM)
@settings(max_examples=150)
def test_valid_responses(rng: random.Random) -> None:
    tools, options = random_tools(rng), random_options(rng)
    agree(rng, tools, options, spell_response(rng, random_calls(rng, tools), options), 5)


@given(RANDOM)
@settings(max_examples=250)
def test_mutated_responses(rng: random.Random) -> None:
    tools, options = random_tools(rng), random_options(rng)
    response = spell_response(rng, random_calls(rng, tools), options)
    agree(rng, tools, options, mutate(rng, response), 7)


@given(RANDOM, st.lists(st.sampled_from(SOUP), max_size=30))
@settings(max_examples=250)
def test_random_pieces(rng: random.Random, pieces: list[str]) -> None:
    tools, options = random_tools(rng), random_options(rng)
    agree(rng, tools, options, "".join(pieces).encode("utf-8", "surrogateescape"), 3)


@given(RANDOM, st.binary(max_size=60), st.sampled_from(["", "[{", '[{"name": "f", "x": "']))
@settings(max_examples=150)
def test_random_bytes(rng: random.Random, noise: bytes, before: str) -> None:
    agree(rng, random_tools(rng), random_options(rng), before.encode() + noise, 3)


def test_copies_are_independent() -> None:
    for case in CASES:
        response = read_marks(case.marked).response
        original = native(case.tools, case.options)
        for place in range(0, len(response), 5):
            other, twin = original.copy(), original.copy()
            before = (original.text, original.dead, original.merge_key, original.decided)
            other.feed(b'}"]x,')
            other.finish()
            assert (original.text, original.dead, original.merge_key, original.decided) == before
            ahead = original.feed(response[place : place + 5])
            assert [fields(s) for s in twin.feed(response[place : place + 5])] == [
                fields(s) for s in ahead
            ]
            assert (twin.text, twin.merge_key) == (original.text, original.merge_key)


def canonical(value: Any) -> Any:
    """Equal for equal JSON values only; Python holds 1, 1.0 and True for equal."""
    if isinstance(value, dict):
        return "object", frozenset((key, canonical(each)) for key, each in value.items())
    if isinstance(value, list):
        return "array", tuple(map(canonical, value))
    return type(value).__name__.replace("int", "float"), value


def canonical_calls(calls: list[tuple[str, dict[str, Any]]]) -> Any:
    return Counter((name, canonical(arguments)) for name, arguments in calls)


def valid_calls(rng: random.Random, tools: list[Tool]) -> list[tuple[str, dict[str, Any]]]:
    calls = random_calls(rng, tools)
    text = json.dumps([{"name": name, "arguments": arguments} for name, arguments in calls])
    assume(segment(tools, text.encode(), ended=False).finished)
    return calls


def spell_list(rng: random.Random, calls: list[tuple[str, dict[str, Any]]]) -> bytes:
    texts = [spell_call(rng, *call, LIST, others=False) for call in calls]
    return ("[" + ",".join(texts) + "]").encode()


def keys_at_steps(tools: list[Tool], response: bytes) -> dict[tuple[Any, ...], tuple[int, int]]:
    """Merge key and decision at each boundary, by step and boundary byte."""
    steps = native(tools, LIST).feed(response)
    result = {}
    assert steps[-1].kind == "TOTAL_FINISH", (tools, response)
    for step in steps:
        segmenter = native(tools, LIST)
        segmenter.feed(response[: step.boundary])
        byte = response[step.boundary - 1 : step.boundary].replace(b" ", b"\n").strip()
        result[step.kind, step.call, step.argument, byte] = segmenter.merge_key, step.decided
    return result


@given(RANDOM)
@settings(max_examples=150)
def test_spellings_merge(rng: random.Random) -> None:
    tools = random_tools(rng)
    calls = valid_calls(rng, tools)
    first, second = (keys_at_steps(tools, spell_list(rng, calls)) for _ in range(2))
    for step in first.keys() & second.keys():
        # Arguments come in any order: in the middle of a call the same has not been decided.
        if step[0] != "ARG_VALUE" or len(calls[step[1]][1]) == 1:
            assert first[step] == second[step], (step, tools, calls)
    shuffled = calls[:]
    rng.shuffle(shuffled)
    last = ("TOTAL_FINISH", None, None, b"]")
    assert keys_at_steps(tools, spell_list(rng, shuffled))[last] == first[last]


@given(RANDOM)
@settings(max_examples=150)
def test_only_equal_calls_merge(rng: random.Random) -> None:
    tools = random_tools(rng)
    first, second = valid_calls(rng, tools), valid_calls(rng, tools)
    last = ("TOTAL_FINISH", None, None, b"]")
    keys = [keys_at_steps(tools, spell_list(rng, calls))[last] for calls in (first, second)]
    same = canonical_calls(first) == canonical_calls(second)
    assert (keys[0][0] == keys[1][0]) == same
    assert (keys[0][1] == keys[1][1]) == same


def outcome(tools: list[Tool], options: Options, response: bytes) -> Any:
    """What a response that is ended comes to: death, or its calls in any order."""
    segmenter = native(tools, options)
    steps = segmenter.feed(response) + segmenter.finish()
    if segmenter.dead:
        return None
    spans = [response[each.begin : each.end] for each in steps if each.kind == "FUNC_FINISH"]
    keys = options.get("name_key", "name"), options.get("arguments_key", "arguments")
    objects = [json.loads(span) for span in spans]
    return canonical_calls([(each[keys[0]], each.get(keys[1], {})) for each in objects])


@given(RANDOM)
@settings(max_examples=40)
def test_what_merges_continues_equally(rng: random.Random) -> None:
    """Of two prefixes with one merge key, every continuation comes to the same."""
    tools, options = random_tools(rng), dict(rng.choice(FORMATS))
    calls = random_calls(rng, tools)[:2]
    prefixes: dict[int, list[bytes]] = {}
    rests: list[bytes] = []
    for _ in range(3):
        response = spell_response(rng, calls, options)
        segmenter = native(tools, options)
        for place in range(len(response) + 1):
            prefixes.setdefault(segmenter.merge_key, []).append(response[:place])
            rests.append(response[place:])
            segmenter.feed(response[place : place + 1])
            if segmenter.dead:
                break
    for group in prefixes.values():
        for first, second in itertools.pairwise(group[:6]):
            for rest in rng.sample(rests, min(len(rests), 12)):
                known = outcome(tools, options, first + rest)
                assert known == outcome(tools, options, second + rest), (first, second, rest)


@pytest.mark.parametrize("marker", [" </call>", "\n", "{end}"])
def test_a_close_marker_that_could_never_be_read_is_refused(marker: str) -> None:
    with pytest.raises(ValueError, match="the close marker begins with white space or like a call"):
        _core.Segmenter("[]", _core.CallFormat(open_marker="<call>", close_marker=marker))
