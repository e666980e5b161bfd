"""Chat templates, rendered within bounds. A template comes with a model's file: it is a program of
a stranger's. It can't reach out of Jinja's sandbox; here it can't run long or write much either.

Knows nothing of tools, formats or tokens.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, update_wrapper
from types import BuiltinMethodType
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.compiler import CodeGenerator, CompilerExit, Frame
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from toolprm_lite.special_texts import is_mark

# The longest template in use is some 20,000 characters. What renders a prompt of 500 tools takes
# some 100,000 steps; long input has more.
_SOURCE = 1 << 17  # characters of a template
_STEPS = 300_000  # statements, calls, filters; long strings count by their length
_SECONDS = 2.0  # of this thread's processor time: a paused process doesn't fail
_SIZE = 1_000_000  # characters and items of a value, on top of four times the input's
_DEPTH = 200  # calls within calls
_DIGITS = 100  # of a width
_BITS = 4096  # of an integer
_STEP_CHARACTERS = 256  # characters that cost as much as a statement

_DATE = "26 July 2024"  # what Llama's template falls back to, too

# Names that no chat template needs, whose results can't be bounded by looking at the arguments.
_NO_FILTERS = ("pprint", "striptags", "urlize", "wordwrap", "xmlattr")
_NO_METHODS = frozenset(
    {"encode", "expandtabs", "format_map", "maketrans", "to_bytes", "translate"}
)
_WIDTHS = frozenset({"batch", "center", "indent", "slice", "truncate"})
_WIDE = re.compile(r"\d{4}|\*")


class TemplateFailed(Exception):
    """A template that could not be rendered; the message says why, in one line."""


class _Bound(Exception):
    """A template went over one of the bounds."""


def render_template(source: str, variables: Mapping[str, Any]) -> str:
    """What the template writes. Raises `TemplateFailed`, whatever the template does."""
    try:
        template = _compile(source)
        budget = template.environment.budget  # type: ignore[attr-defined]
        budget.start(variables)
        return template.render(variables)
    except Exception as error:
        # A template can raise anything: ZeroDivisionError, RecursionError, MemoryError, ...
        raise TemplateFailed(_reason(error)) from None


def template_literals(source: str) -> tuple[str, ...]:
    """The constant strings of a template, in no order; none of one that can't be read."""
    try:
        tree = _environment().parse(source) if len(source) <= _SOURCE else nodes.Template([])
    except Exception:
        return ()
    texts = {node.data for node in tree.find_all(nodes.TemplateData)}
    texts |= {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    return tuple(texts)


@lru_cache(maxsize=8)
def _compile(source: str) -> Template:
    if len(source) > _SOURCE:
        raise _Bound(f"it has {len(source):,} characters, more than {_SOURCE:,}")
    environment = _environment()
    environment.budget.start({})  # constant expressions are computed now
    return environment.from_string(source)


def _environment() -> _Environment:
    """What transformers gives chat templates, with bounds."""
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _tojson
    for name in _NO_FILTERS:
        del environment.filters[name]
    environment.filters = {
        name: _bounded(environment, name, function)
        for name, function in environment.filters.items()
    }
    del environment.globals["lipsum"]
    environment.globals["namespace"] = _Namespace
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda _: _DATE
    return environment


class _Budget(threading.local):
    """What one rendering may still do, separate for each thread."""

    def start(self, variables: Mapping[str, Any]) -> None:
        self.steps, self.size = _STEPS, _SIZE
        self.depth = 0
        self.until = time.thread_time() + _SECONDS
        self.look = self.steps - 64
        self.input: list[Any] = list(variables.values())

    def spend(self, steps: int = 1) -> None:
        self.steps -= steps
        if self.steps < self.look:
            if self.steps < 0 and not self.extend():
                raise _Bound("it takes too many steps")
            if time.thread_time() > self.until:
                raise _Bound("it takes too long")
            self.look = self.steps - 64

    def extend(self) -> bool:
        """Add what a large input has on top, once; whether that leaves something."""
        if self.input:
            weight = _weight(self.input, 1 << 62)
            self.input = []
            self.steps += weight
            self.size += 4 * weight
        return self.steps >= 0

    def fits(self, size: int) -> bool:
        """Whether a value may be so large."""
        return size <= self.size or (bool(self.input) and self.extend() and size <= self.size)

    def check(self, value: Any) -> Any:
        """The value, if it is not too large."""
        kind = type(value)
        if kind is str:
            if len(value) > _STEP_CHARACTERS:
                self.product(len(value), 1)
                self.spend(len(value) // _STEP_CHARACTERS)
        elif kind is list or kind is tuple or kind is dict:
            self.weigh(value)
        elif kind is int and value.bit_length() > _BITS:
            raise _Bound("it makes too large a number")
        elif isinstance(value, Iterator):
            return self.count(value)
        return value

    def weigh(self, value: Any) -> int:
        """The weight of a value that is not too large."""
        weight = _weight(value, self.size)
        if weight > self.size:
            if not self.input or not self.extend():
                raise _Bound("it makes too large a list")
            return self.weigh(value)
        self.spend(weight // 16)
        return weight

    def count(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.spend()
            yield item

    def product(self, length: int, times: int) -> None:
        """Refuse a text or list of this length, so many times."""
        if not self.fits(length * times):
            raise _Bound("it makes too long a text")


def _weight(value: Any, limit: int) -> int:
    """The characters and items that a value has when it is written in full, for a list may hold
    another one twice; more than `limit` when it has more."""
    total = 0
    waiting = [value]
    while waiting and total + len(waiting) <= limit:
        each = waiting.pop()
        total += 1
        if isinstance(each, str):
            total += len(each)
        elif isinstance(each, (list, tuple)):
            waiting += each
        elif isinstance(each, dict):
            waiting += each.keys()
            waiting += each.values()
        elif isinstance(each, int):
            total += each.bit_length() // 3
    return total + len(waiting)


class _Generator(CodeGenerator):
    """Statements are counted, and what concatenates strings is bounded."""

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        try:
            self.writeline("pass")
            for node in nodes:
                self.writeline("environment.spend()")
                self.visit(node, frame)
        except CompilerExit:
            pass

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802
        if node.test is not None:  # its items may all be left out, before any statement
            count = nodes.EnvironmentAttribute("count", lineno=node.lineno)
            node.iter = nodes.Call(count, [node.iter], [], None, None, lineno=node.lineno)
        super().visit_For(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.join((")
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write("))")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802
        self.write("environment.check(")
        super().visit_List(node, frame)
        self.write(")")

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802
        if node.ctx != "load":
            super().visit_Tuple(node, frame)
            return
        self.write("environment.check(")
        super().visit_Tuple(node, frame)
        self.write(")")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802
        self.write("environment.check(")
        super().visit_Dict(node, frame)
        self.write(")")


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class = _Generator
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.budget = _Budget()
        self.spend = self.budget.spend
        self.check = self.budget.check
        self.count = self.budget.count

    def concat(self, parts: Iterable[str]) -> str:
        """What joins a template's or a macro's output."""
        texts = list(parts)
        self.budget.product(sum(map(len, texts)), 1)
        text = "".join(texts)
        self.budget.spend(len(text) // _STEP_CHARACTERS)
        return text

    def join(self, parts: Iterable[Any]) -> str:
        """The operator ~."""
        return self.concat(map(str, parts))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and type(left) is str is type(right):
            return self.check(left + right)
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, (str, bytes, list, tuple)) and isinstance(other, int):
                    self.budget.product(len(one), other)
            _check_number(left, right, lambda one, other: one + other)
        elif operator == "**":
            _check_number(left, right, lambda one, _: one * abs(right))
        elif operator == "%" and isinstance(left, (str, bytes)):
            self._check_format(left, "%", right)
        return self.check(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _NO_METHODS and super().is_safe_attribute(obj, attr, value)

    def call(
        __self,  # noqa: N805
        __context: Context,
        __obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        budget = __self.budget
        budget.spend()
        if not isinstance(__obj, Macro):
            args = __self._check_call(__obj, args, kwargs)
        budget.depth += 1
        if budget.depth > _DEPTH:
            raise _Bound(f"its macros call each other more than {_DEPTH} deep")
        result = super().call(__context, __obj, *args, **kwargs)
        budget.depth -= 1
        return budget.check(result)

    def _check_call(self, called: Any, args: tuple[Any, ...], kwargs: Any) -> tuple[Any, ...]:
        """Refuse a method of a string whose result would be too long; returns its arguments."""
        called = getattr(called, "__wrapped__", called)  # the sandbox wraps str.format
        owner = getattr(called, "__self__", None)
        if not isinstance(called, BuiltinMethodType) or not isinstance(owner, str):
            return args
        name = called.__name__
        if name == "join" and args:
            return (self._bounded_parts(owner, args[0]), *args[1:])
        if name == "replace" and len(args) > 1:
            self._check_replace(owner, args[0], args[1])
        elif name == "format":
            self._check_format(owner, "{", [*args, *kwargs.values()])
        else:
            self._check_widths(args)
        return args

    def _bounded_parts(self, separator: Any, parts: Any) -> list[Any]:
        found = list(self.count(parts))
        self.budget.product(len(str(separator)), len(found))
        self.budget.weigh(found)
        return found

    def _check_replace(self, text: Any, old: Any, new: Any) -> None:
        self.budget.product(len(str(new)), str(text).count(str(old)))

    def _check_format(self, text: Any, sign: str, values: Any) -> None:
        written = text.decode("latin-1") if isinstance(text, bytes) else str(text)
        if _WIDE.search(written):
            raise _Bound("it writes a field of more than 999 characters")
        self._check_widths(values if isinstance(values, (list, tuple)) else (values,))
        self.budget.product(self.budget.weigh(values), written.count(sign))

    def _check_widths(self, values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, int):
                self.budget.product(abs(value), 1)


def _check_number(left: Any, right: Any, bits: Callable[[int, int], int]) -> None:
    whole = isinstance(left, int) and isinstance(right, int)
    if whole and bits(left.bit_length(), right.bit_length()) > _BITS:
        raise _Bound("it makes too large a number")


def _bounded(
    environment: _Environment, name: str, function: Callable[..., Any]
) -> Callable[..., Any]:
    """A filter within the budget. Jinja gives some of them its context first."""
    skip = 1 if hasattr(function, "jinja_pass_arg") else 0
    budget = environment.budget

    def bounded(*args: Any, **kwargs: Any) -> Any:
        budget.spend()
        value, rest = args[skip], [*args[skip + 1 :], *kwargs.values()]
        if name in _WIDTHS:
            environment._check_widths(rest)
        if name == "join":
            separator = args[skip + 1] if len(args) > skip + 1 else kwargs.get("d", "")
            value = environment._bounded_parts(separator, value)
            args = (*args[:skip], value, *args[skip + 1 :])
        elif name == "replace" and len(rest) > 1:
            environment._check_replace(value, rest[0], rest[1])
        elif name == "format":
            environment._check_format(value, "%", rest)
        elif name == "indent":
            width = rest[0] if rest else 4
            width = width if isinstance(width, int) else len(str(width))
            budget.product(width, str(value).count("\n") + 1)
        return budget.check(function(*args, **kwargs))

    return update_wrapper(bounded, function)


class _Namespace(Namespace):
    """Written as its name: one that holds others would be written in full."""

    def __repr__(self) -> str:
        return "namespace"


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %} marks what is learnt from: nothing to do here."""

    tags = {"generation"}  # noqa: RUF012 (the base class declares an instance variable)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= _DIGITS):
        raise _Bound(f"it indents JSON by {indent!r:.20}")
    text = json.dumps(
        value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if ensure_ascii:  # but not marks, which no text contains
        text = re.sub(r"[^\x00-\x7f]", _escaped, text)
    return text


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    return character if is_mark(character) else json.dumps(character)[1:-1]


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _reason(error: Exception) -> str:
    """An error in one short line of visible characters."""
    if isinstance(error, _Bound):
        return str(error)
    if isinstance(error, RecursionError):
        return "it calls itself without end"
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, TemplateError):
        text = f"{type(error).__name__}: {text}"
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return text if len(text) <= 200 else f"{text[:200]}..."
