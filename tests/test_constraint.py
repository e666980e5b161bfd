"""Token masks, on a small byte-level vocabulary."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from toolprm_lite.constraint import Constraint, Vocabulary
from toolprm_lite.errors import ConfigError, ConstraintError
from toolprm_lite.formats import HERMES, JSON_LIST, CallFormat
from toolprm_lite.mask_schema import MAX_CHOICES
from toolprm_lite.schema import closed_schema
from toolprm_lite.tools import Tool, parse_tools

MERGED = [
    '{"',
    '": ',
    '", "',
    '"}}',
    "}]",
    "[]",
    "name",
    "arguments",
    "},",
    " {",
    "<t",
    "city",
    " 1",
]
SPECIAL = ["<|start|>", "<tool_call>", "</tool_call>"]
TOKENS = [bytes([value]) for value in range(256)] + [text.encode() for text in MERGED]
END, OTHER_END = 256 + len(MERGED), 257 + len(MERGED)


def make_vocabulary(special: bool, bos: bool = False, space: bool = False) -> Vocabulary:
    """Greedy longest match; the special tokens may be there or not, and SentencePiece's habits."""
    tokens = [*TOKENS, b"", b""]
    if special:
        tokens += [text.encode() for text in SPECIAL]
    if bos:
        tokens.append(b"<s>")
    by_text = {text: token for token, text in enumerate(tokens) if text}

    def tokenize(text: str) -> list[int]:
        data = (" " if space and text else "").encode() + text.encode()
        ids = [len(tokens) - 1] if bos else []
        while data:
            size = next(n for n in range(min(12, len(data)), 0, -1) if data[:n] in by_text)
            ids.append(by_text[data[:size]])
            data = data[size:]
        return ids

    return Vocabulary(tokens, {END, OTHER_END}, tokenize)


VOCABULARIES = {
    "special": make_vocabulary(True),
    "plain": make_vocabulary(False),
    "bos-and-space": make_vocabulary(False, bos=True, space=True),
}
TEXTS = [*TOKENS, b"", b"", *(text.encode() for text in SPECIAL)]

TOOLS = parse_tools(
    [
        {
            "name": "weather.now",
            "description": "",
            "parameters": {
                "type": "dict",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "unit": {"type": "string", "enum": ["C", "F"]},
                },
                "required": ["city"],
            },
        },
        {"name": "clock", "parameters": {}},
    ]
)
CALLS: list[dict[str, Any]] = [
    {"name": "weather.now", "arguments": {"city": "Paris", "days": 3, "unit": "C"}},
    {"name": "clock", "arguments": {}},
]


def allowed(constraint: Constraint, matcher: Any) -> list[int]:
    masks = np.zeros((1, constraint.words), np.uint32)
    constraint.fill([matcher], masks)
    bits = np.unpackbits(masks.view(np.uint8), bitorder="little")
    return [int(token) for token in np.flatnonzero(bits)]


def accepts(vocabulary: Vocabulary, constraint: Constraint, text: str) -> bool:
    """Whether the masks let a model write `text`, byte by byte, and then end."""
    matcher, forced = constraint.start()
    written = b"".join(TEXTS[token] for token in forced)
    markers = {text: token for text, token in vocabulary.special_tokens.items() if text in SPECIAL}
    while True:
        rest = text.encode()[len(written) :]
        if not text.encode().startswith(written):
            return False
        if not rest:
            return END in allowed(constraint, matcher)
        marker = next((m for m in markers if rest.startswith(m.encode())), None)
        token = markers[marker] if marker else rest[0]
        if token not in allowed(constraint, matcher):
            return False
        forced = constraint.advance(matcher, token)
        written += b"".join(TEXTS[token] for token in [token, *forced])


FORMS = pytest.mark.parametrize("form", [JSON_LIST, HERMES], ids=lambda form: form.name)
NAMES = pytest.mark.parametrize("name", VOCABULARIES)


@FORMS
@NAMES
@pytest.mark.parametrize(
    ("calls", "choice", "parallel", "possible"),
    [
        (CALLS[:1], "auto", True, True),
        (CALLS, "auto", True, True),
        (CALLS, "required", True, True),
        (CALLS, "auto", False, False),
        (CALLS[1:], "auto", False, True),
        (CALLS[1:], "clock", True, True),
        (CALLS[1:] * 2, "clock", True, True),
        (CALLS[:1], "clock", True, False),
        (CALLS[:1], "none", True, False),
        ([{"name": "clock", "arguments": {"zone": 1}}], "auto", True, False),
        ([{"name": "weather.now", "arguments": {"days": 1}}], "auto", True, False),
        ([{"name": "weather.now", "arguments": {"city": "x", "unit": "K"}}], "auto", True, False),
        ([{"name": "weather.now", "arguments": {"city": 1}}], "auto", True, False),
        ([{"name": "clocks", "arguments": {}}], "auto", True, False),
        ([{"arguments": {}, "name": "clock"}], "auto", True, False),
    ],
)
def test_calls(
    name: str, form: CallFormat, calls: Any, choice: str, parallel: bool, possible: bool
) -> None:
    vocabulary = VOCABULARIES[name]
    constraint = vocabulary.constraint(
        TOOLS, form, tool_choice=choice, max_calls=16 if parallel else 1
    )
    text = form.write([{**call} for call in calls])
    if "arguments" in calls[0] and next(iter(calls[0])) == "arguments":
        text = text.replace('"name": "clock", "arguments": {}', '"arguments": {}, "name": "clock"')
    assert accepts(vocabulary, constraint, text) is possible


@NAMES
@pytest.mark.parametrize(
    ("form", "text"),
    [(JSON_LIST, "[]"), (HERMES, "I can't do that."), (HERMES, ""), (HERMES, "a < b {x}\n")],
)
def test_declining(name: str, form: CallFormat, text: str) -> None:
    vocabulary = VOCABULARIES[name]
    for choice, possible in [("auto", True), ("none", True), ("required", False), ("clock", False)]:
        constraint = vocabulary.constraint(TOOLS, form, tool_choice=choice)
        assert accepts(vocabulary, constraint, text) is possible


@NAMES
@pytest.mark.parametrize(
    "text",
    ["<tool", '{"name": "clock"}', "[]", "```json", "Well: <tool_call>\n{}", " \n<tool_call>"],
)
def test_text_is_not_half_a_call(name: str, text: str) -> None:
    vocabulary = VOCABULARIES[name]
    assert not accepts(vocabulary, vocabulary.constraint(TOOLS, HERMES), text)


@FORMS
@NAMES
def test_forced_tokens_write_the_call(name: str, form: CallFormat) -> None:
    """What has no choice is forced, in the model's own tokens, up to the very end."""
    vocabulary = VOCABULARIES[name]
    constraint = vocabulary.constraint(TOOLS, form, tool_choice="clock", max_calls=1)
    matcher, forced = constraint.start()
    text = form.write(CALLS[1:])
    assert b"".join(TEXTS[token] for token in forced).decode() == text
    assert allowed(constraint, matcher) == [END, OTHER_END]
    assert constraint.advance(matcher, END) == []
    if form is HERMES:
        markers = [TEXTS[token] in (b"<tool_call>", b"</tool_call>") for token in forced]
        assert sum(markers) == (2 if name == "special" else 0)


def test_forced_tokens_after_a_choice() -> None:
    constraint = VOCABULARIES["special"].constraint(TOOLS, JSON_LIST)
    matcher, forced = constraint.start()
    assert forced == []  # "[", "[]"
    assert constraint.advance(matcher, ord("[")) == []  # "]", "{", '{"'
    forced = constraint.advance(matcher, TOKENS.index(b'{"'))
    assert b"".join(TEXTS[token] for token in forced) == b'name": "'
    forced = constraint.advance(matcher, ord("w"))
    # The value's opening quote is a choice: a token may hold more of the value.
    assert b"".join(TEXTS[t] for t in forced) == b'eather.now", "arguments": {"city": '


def test_forks_are_independent() -> None:
    constraint = VOCABULARIES["plain"].constraint(TOOLS, JSON_LIST, tool_choice="required")
    matcher, _ = constraint.start()
    fork = constraint.fork(matcher)
    constraint.advance(matcher, ord("c"))
    assert ord("w") in allowed(constraint, fork)
    assert b"eather" in b"".join(TEXTS[t] for t in constraint.advance(fork, ord("w")))


def test_fill_rows() -> None:
    """Row i is matcher i's, and rows beyond are left alone."""
    constraint = VOCABULARIES["plain"].constraint(TOOLS, JSON_LIST, tool_choice="required")
    first, _ = constraint.start()
    second = constraint.fork(first)
    constraint.advance(second, ord("w"))
    masks = np.full((3, constraint.words), 7, np.uint32)
    constraint.fill([second, first], masks)
    single = np.zeros((1, constraint.words), np.uint32)
    for row, matcher in enumerate([second, first]):
        constraint.fill([matcher], single)
        assert (masks[row] == single[0]).all()
    assert (masks[2] == 7).all()
    assert masks[0].tolist() != masks[1].tolist()
    with pytest.raises(ValueError, match="masks is"):
        constraint.fill([first], masks.astype(np.int32))


def test_refused_token() -> None:
    constraint = VOCABULARIES["plain"].constraint(TOOLS, JSON_LIST)
    matcher, _ = constraint.start()
    with pytest.raises(ConstraintError, match="token mask failed"):
        constraint.advance(matcher, ord("x"))
    with pytest.raises(ConstraintError, match="token mask failed"):
        constraint.fill([matcher], np.zeros((1, constraint.words), np.uint32))


def test_special_tokens_stay_out_of_strings() -> None:
    vocabulary = VOCABULARIES["special"]
    assert set(vocabulary.special_tokens) == set(SPECIAL)
    tools = parse_tools(
        {
            "name": "f",
            "parameters": {
                "type": "object",
                "properties": {"a": {"enum": ["<tool_call>"]}, "b": {"type": "string"}},
                "required": ["a", "b"],
            },
        }
    )
    constraint = vocabulary.constraint(tools, JSON_LIST, tool_choice="f")
    matcher, forced = constraint.start()
    assert b"".join(TEXTS[t] for t in forced).endswith(b'{"a": "<tool_call>", "b": ')
    forced += constraint.advance(matcher, ord('"'))
    assert not set(forced) & set(vocabulary.special_tokens.values())
    assert not set(allowed(constraint, matcher)) & set(vocabulary.special_tokens.values())


def test_unknown_choice() -> None:
    with pytest.raises(ConfigError, match=r"'clocks'.*weather\.now, clock"):
        VOCABULARIES["plain"].constraint(TOOLS, JSON_LIST, tool_choice="clocks")


@FORMS
@pytest.mark.parametrize("count", [1, 3, 4])
def test_the_number_of_calls_is_bounded(form: CallFormat, count: int) -> None:
    vocabulary = VOCABULARIES["plain"]
    constraint = vocabulary.constraint(TOOLS, form, max_calls=3)
    assert accepts(vocabulary, constraint, form.write([CALLS[1]] * count)) == (count <= 3)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, "5", '"5"'),
        ({"type": "number", "minimum": -1.79e308, "maximum": 1.79e308, "multipleOf": 2}, "4", "[]"),
        ({"type": "string", "pattern": "^(?=.*[A-Z]).+$"}, '"aB"', "5"),
        ({"type": "array", "items": {"pattern": "^(?!x)", "maxLength": 2}}, '["ab"]', '["abc"]'),
        ({"$ref": "#/$defs/code"}, '"A1"', "5"),
    ],
)  # fmt: skip
def test_what_a_mask_cannot_express_is_left_out(schema: Any, good: str, bad: str) -> None:
    """One such tool must not cost the others, or its own other parameters, their masks."""
    odd = Tool(
        "odd",
        "",
        {
            "type": "object",
            "properties": {"p": schema, "q": {"enum": ["x"]}},
            "required": ["p", "q"],
            "$defs": {"code": {"type": "string", "pattern": "^(?=[A-Z])"}},
        },
    )
    vocabulary = VOCABULARIES["plain"]
    constraint = vocabulary.constraint([*TOOLS, odd], JSON_LIST)
    written = '[{"name": "odd", "arguments": {"p": %s, "q": "%s"}}]'
    assert accepts(vocabulary, constraint, written % (good, "x"))
    assert not accepts(vocabulary, constraint, written % (good, "y"))
    assert not accepts(vocabulary, constraint, written % (bad, "x"))
    wrong = '[{"name": "weather.now", "arguments": {"city": "Oslo", "unit": "K"}}]'
    assert not accepts(vocabulary, constraint, wrong)


def test_a_long_enum_is_left_to_the_core() -> None:
    values = [f"value {number}" for number in range(MAX_CHOICES + 1)]
    tools = parse_tools({"name": "f", "parameters": {"p": {"type": "string", "enum": values}}})
    vocabulary = VOCABULARIES["plain"]
    constraint = vocabulary.constraint(tools, JSON_LIST)
    assert accepts(vocabulary, constraint, '[{"name": "f", "arguments": {"p": "else"}}]')
    assert not accepts(vocabulary, constraint, '[{"name": "f", "arguments": {"p": 5}}]')


def test_nothing_without_an_end() -> None:
    with pytest.raises(ConstraintError, match="end-of-generation"):
        Vocabulary(TOKENS, set(), lambda text: list(text.encode()))


names = st.sampled_from(["a", "b", "type", "properties", "é", 'quo"te', "x y"])
leaves = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "maxLength": 3},
        {"type": "integer"},
        {"type": "integer", "minimum": -3, "maximum": 12},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "null"},
        {"type": ["integer", "null"]},
        {"enum": ["red", "né", 3, None]},
        {"const": "fixed"},
        {"$ref": "#/$defs/pair"},
        {},
    ]
)


def objects(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(names, parts, max_size=3).flatmap(
        lambda properties: st.builds(
            lambda required: {
                "type": "object",
                "properties": properties,
                "required": sorted(required),
            },
            st.sets(st.sampled_from(sorted(properties))) if properties else st.just(set()),
        )
    )


schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        objects(inner),
        st.builds(lambda items: {"type": "array", "items": items, "maxItems": 2}, inner),
        st.builds(lambda a, b: {"anyOf": [a, b]}, inner, inner),
        st.builds(lambda part: {"type": "object", "additionalProperties": part}, inner),
    ),
    max_leaves=5,
)
PAIR = {
    "type": "array",
    "prefixItems": [{"type": "integer"}, {"type": "string"}],
    "items": False,
    "minItems": 2,
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    parameters=st.lists(objects(schemas), min_size=1, max_size=3),
    form=st.sampled_from([JSON_LIST, HERMES]),
    name=st.sampled_from(sorted(VOCABULARIES)),
    seed=st.integers(0, 2**32),
)
def test_random_walks_write_valid_calls(
    parameters: Sequence[dict[str, Any]], form: CallFormat, name: str, seed: int
) -> None:
    """Whatever the masks allow ends in calls that the tools' schemas accept."""
    vocabulary = VOCABULARIES[name]
    tools = [
        Tool.from_dict({"name": f"tool{i}", "parameters": {**schema, "$defs": {"pair": PAIR}}})
        for i, schema in enumerate(parameters)
    ]
    constraint = vocabulary.constraint(tools, form, tool_choice="required")
    draw = random.Random(seed)
    matcher, written = constraint.start()
    while True:
        every = allowed(constraint, matcher)
        choices = [token for token in every if token not in (END, OTHER_END)]
        if not choices or (END in every and draw.random() < 0.7):
            break
        closing = [token for token in choices if TEXTS[token][:1] in (b'"', b"}", b"]", b",")]
        if closing and (draw.random() < 0.4 or len(written) > 300):
            choices = closing
        token = draw.choice(choices)
        written = [*written, token, *constraint.advance(matcher, token)]
        assume(len(written) <= 3000)
    assert END in every
    text = b"".join(TEXTS[token] for token in written).decode()
    if form is JSON_LIST:
        calls = json.loads(text)
    else:
        parts = text.removesuffix("\n</tool_call>").split("\n</tool_call>\n")
        calls = [json.loads(part.removeprefix("<tool_call>\n")) for part in parts]
    assert calls
    by_name = {tool.name: tool for tool in tools}
    for call in calls:
        assert list(call) == ["name", "arguments"]
        jsonschema.validate(call["arguments"], closed_schema(by_name[call["name"]].parameters))
