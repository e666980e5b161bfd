"""Chat templates are untrusted programs: they always end soon, with a prompt."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.templates import HERMES_TEMPLATE, TOOLS, USER
from support.tiny_model import TinyLlama
from toolprm_lite.errors import TemplateWarning
from toolprm_lite.formats import HERMES, JSON_LIST
from toolprm_lite.prompt import render_prompt
from toolprm_lite.special_texts import SpecialTexts
from toolprm_lite.template import TemplateFailed, render_template, template_literals


def grow(step: str, start: str = "'aa'") -> str:
    """Sixty times `step` of ns.x."""
    return (
        f"{{% set ns = namespace(x={start}) %}}{{% for i in range(60) %}}{step}{{% endfor %}}"
        "{{ ns.x }}"
    )


def twice(expression: str, start: str = "'aa'") -> str:
    return grow(f"{{% set ns.x = {expression} %}}", start)


TOO_LONG, TOO_MANY, TOO_LARGE = "too long a text", "too many steps", "too large a"
# Each of these ran for hours, took all memory, or escaped as an error of Python's.
HOSTILE = {
    "{{ 1/0 }}": "ZeroDivisionError: division by zero",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "without end",
    "{% macro f(n) %}{{ f(n) ~ f(n) }}{% endmacro %}{{ f(1) }}": "without end",
    "{% macro f() %}{{ caller() }}{% endmacro %}"
    "{% macro g() %}{% call f() %}{{ g() }}{% endcall %}{% endmacro %}{{ g() }}": "without end",
    "{% block a %}{{ self.a() }}{% endblock %}": "without end",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}": "without end",
    "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}": (
        TOO_MANY
    ),
    "{% for i in range(90000) %}{% for j in range(90000) %}x{% endfor %}{% endfor %}": TOO_MANY,
    "{% for i in range(90000) %}{% for j in range(90000) if false %}{% endfor %}{% endfor %}": (
        TOO_MANY
    ),
    "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}": "too",
    "{% for i in range(90000) %}{{ range(90000)|map('string')|list|length }}{% endfor %}": TOO_MANY,
    "{% for i in range(90000) %}{{ range(90000)|sum }}{% endfor %}": "too",
    "{% for x in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}"
    "{% endfor %}": TOO_MANY,
    "{% for i in range(10**9) %}{% endfor %}": "Range too big",
    "{{ 'a' * 10**9 }}": TOO_LONG,
    "{{ 10**9 * 'a' }}": TOO_LONG,
    "{{ [1] * 10**9 }}": TOO_LONG,
    "{{ (['a' * 900000] * 90000)|join }}": TOO_LARGE,
    "{{ (['a' * 900000] * 90000)|string }}": TOO_LARGE,
    "{% set x = 'a' * 900000 %}{% for i in range(90000) %}{{ x }}{% endfor %}": TOO_LONG,
    "{{ '%1000000000d' % 1 }}": "a field",
    "{{ '%*d' % (10**9, 1) }}": "a field",
    "{{ '%1000000000d'|format(1) }}": "a field",
    "{{ '{:1000000000}'.format(1) }}": "a field",
    "{{ '{:{}}'.format(1, 10**9) }}": TOO_LONG,
    "{{ 'a'.ljust(10**9) }}": TOO_LONG,
    "{{ 'a'|center(1000000000) }}": TOO_LONG,
    "{{ ('a\n' * 100000)|indent(100000) }}": TOO_LONG,
    "{{ [1]|batch(10**9, 'x')|list }}": TOO_LONG,
    "{{ [1]|tojson(indent=10**9) }}": "it indents JSON",
    "{{ 'a'.expandtabs(10**9) }}": "unsafe",
    "{{ (1).to_bytes(10**9, 'big') }}": "unsafe",
    "{{ lipsum(10**8) }}": "'lipsum' is undefined",
    "{{ 10**(10**10) }}": "too large a number",
    twice("ns.x * ns.x", "10"): "too large a number",
    twice("ns.x ~ ns.x"): TOO_LONG,
    twice("ns.x + ns.x"): TOO_LONG,
    twice("'%s%s' % (ns.x, ns.x)"): TOO_LONG,
    twice("'{}{}'.format(ns.x, ns.x)"): TOO_LONG,
    twice("ns.x.replace('a', ns.x)"): TOO_LONG,
    twice("ns.x|replace('a', ns.x)"): TOO_LONG,
    twice("ns.x.join(ns.x)"): TOO_LONG,
    twice("ns.x|join(ns.x)"): TOO_LONG,
    grow("{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"): TOO_LONG,
    twice("ns.x + ns.x", "[1]"): TOO_LARGE,
    twice("[ns.x, ns.x]"): TOO_LARGE,
    twice("(ns.x, ns.x)"): TOO_LARGE,
    twice("{'a': ns.x, 'b': ns.x}"): TOO_LARGE,
    twice("dict(a=ns.x, b=ns.x)"): TOO_LARGE,
    "{% for i in [1] %}" * 60 + "x" + "{% endfor %}" * 60: "SyntaxError",
    "{{ 1 + }}": "unexpected",
    "{{ nothing.more }}": "'nothing' is undefined",
    "{{ 1|nofilter }}": "No filter named",
    "{% include '/etc/passwd' %}": "no loader",
    "{{ ''.__class__.__mro__ }}": "unsafe",
    "x" * (1 << 20): "it has 1,048,576 characters",
}


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """What each of them fails with, in a process of its own, with ceilings far above the need."""
    script = """
        import json, re, sys
        from toolprm_lite.template import TemplateFailed, render_template
        failures = {}
        for template in json.load(sys.stdin):
            try:
                render_template(template, {"messages": []})
            except TemplateFailed as failure:
                failures[template] = str(failure)
        # Not ru_maxrss: a child begins with what its parent had.
        peak = re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())
        assert int(peak[1]) < 1 << 20
        json.dump(failures, sys.stdout)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        input=json.dumps(list(HOSTILE)).encode(),
        check=True,
        timeout=300,
        stdout=subprocess.PIPE,
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("template", HOSTILE, ids=lambda text: text[:40])
def test_hostile_templates_fail_soon(failures: dict[str, str], template: str) -> None:
    assert HOSTILE[template] in failures[template]
    assert failures[template].isprintable()
    assert len(failures[template]) < 250


@pytest.mark.parametrize("form", [JSON_LIST, HERMES], ids=["json-list", "hermes"])
def test_a_failure_is_a_warning(form: Any) -> None:
    template = HERMES_TEMPLATE + "{{ 1/0 }}"
    with pytest.warns(TemplateWarning, match="division by zero.*ChatML is used instead") as raised:
        text = "".join(
            render_prompt(
                [USER], TOOLS, format=form, chat_template=template, special=SpecialTexts()
            )
        )
    assert text.startswith("<|im_start|>system\n")
    assert text.endswith("<|im_start|>assistant\n")
    assert [warning.category for warning in raised] == [TemplateWarning] * (1 + (form == HERMES))


def test_a_template_that_knows_no_system_role_is_no_failure(
    recwarn: pytest.WarningsRecorder,
) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    pieces = render_prompt(
        [USER], TOOLS, format=JSON_LIST, chat_template=template, special=SpecialTexts()
    )
    assert pieces[0].startswith("You answer")
    assert not recwarn.list


def test_reasons_are_visible_text() -> None:
    with pytest.raises(TemplateFailed) as failure:
        render_template("{{ raise_exception('\x1b[31mred\n\u202e' + 'x' * 1000) }}", {})
    assert str(failure.value).startswith("\\x1b[31mred \\x202ex")
    assert len(str(failure.value)) < 250


def test_large_input_is_no_failure() -> None:
    """What a template may do grows with what it is given."""
    messages = [{"role": "user", "content": "a" * 1000}] * 3000
    template = "{% for m in messages %}{{ '<' + m.content|trim ~ '>' }}{% endfor %}"
    assert len(render_template(template, {"messages": messages})) == 3000 * 1002
    one = [{"role": "user", "content": "a" * 5_000_000}]
    assert len(render_template(template, {"messages": one})) == 5_000_002
    many = [{"role": "user", "content": "a"}] * 400_000
    assert len(render_template("{% for m in messages %}x{% endfor %}", {"messages": many})) == (
        400_000
    )


def test_templates_do_what_they_did() -> None:
    """The constructs that templates in use are made of."""
    template = """\
{%- macro kind(schema, depth=0) -%}
{%- if schema.type == 'array' %}list[{{ kind(schema['items'], depth + 1) }}]
{%- elif schema.type is string %}{{ schema.type }}
{%- else %}{{ schema.type|join(' | ') }}{% endif %}
{%- endmacro -%}
{%- set ns = namespace(last=-1, seen=[]) %}
{%- for m in messages[::-1] if m.role != 'system' %}
{%- set index = (messages|length - 1) - loop.index0 %}
{%- if ns.last < 0 and m.role == 'user' %}{% set ns.last = index %}{% endif %}
{%- set ns.seen = ns.seen + [m.role] %}
{%- endfor %}
{{- ns.last }} {{ ns.seen|join(',') }} {{ kind({'type': 'array', 'items': {'type': ['a', 'b']}}) }}
{%- for key, value in {'b': 1, 'a': 2}|dictsort %} {{ key }}={{ value }}{% endfor %}
{{- ' ' ~ ('x y'.split()|last|upper) + '%s-%03d' % ('z', 7) + '{}'.format(1) + '-' * 3 }}
{%- for x in [1, [2, [3]]] recursive %}{{ x if x is number else loop(x) }}{% endfor %}
{{- ' ' }}{{ {'a': 'é"'}|tojson }}{{ ['é']|tojson(ensure_ascii=true) }}{{ [1]|tojson(indent=1) }}
{{- ' ' }}{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|list|length }}
"""
    messages = [{"role": role, "content": role} for role in ("system", "user", "assistant")]
    assert render_template(template, {"messages": messages}) == (
        '1 assistant,user list[a | b] a=2 b=1 Yz-0071---123 {"a": "é\\""}["\\u00e9"][\n 1\n] 1'
    )


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["{{", "}}", "{%", "%}", "{#", "#}", " for ", "x", " in ", "messages", "|", "length",
             "tojson", ".", "[", "]", "(", ")", "'", '"', "if ", "endif ", "endfor ", "set ", "=",
             "macro ", "endmacro ", "~", "+", "*", "**", "%", "9", "\n", "-", "loop", "range", "{",
             "}", ":", ",", "is ", "not ", "call ", "block ", "generation ", "endgeneration "]
        ),
        max_size=30,
    ).map("".join)
)  # fmt: skip
def test_any_template_renders_or_fails(template: str) -> None:
    template_literals(template)
    with contextlib.suppress(TemplateFailed):
        assert isinstance(render_template(template, {"messages": [USER]}), str)


def test_the_command_line_says_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.tiny_model.CHAT_TEMPLATE", "{{ 1/0 }}")
    model = str(TinyLlama().write(tmp_path / "odd.gguf"))
    tools = tmp_path / "tools.json"
    tools.write_text('{"name": "f", "parameters": {"type": "object", "properties": {}}}')
    command = [sys.executable, "-m", "toolprm_lite", "search", "--model", model, "--tools"]
    done = subprocess.run(
        [*command, str(tools), "--strategy", "greedy", "--context", "1024", "hi"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr.count("warning: the model's chat template failed (ZeroDivisionError") == 1
    assert "prompt.py" not in done.stderr
