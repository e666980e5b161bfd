"""Token masks from the tools' schemas, by llguidance. Knows neither beams nor the model itself.

A mask fixes one writing of each response, the one models use (separators ", " and ": ", properties
in the schema's order), and always leaves declining possible unless a call is required.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, WeakMethod

import numpy as np
import numpy.typing as npt
from llguidance import LLExecutor, LLMatcher, LLTokenizer, TokenizerWrapper

from toolprm_lite.backends.base import Backend
from toolprm_lite.backends.encoder import Encoder
from toolprm_lite.errors import ConfigError, ConstraintError
from toolprm_lite.formats import Allowed, CallFormat
from toolprm_lite.formats.json_calls import GUIDANCE, grammar_of
from toolprm_lite.mask_schema import loosened, without_long_enums
from toolprm_lite.schema import Schema
from toolprm_lite.special_texts import SpecialTexts
from toolprm_lite.tools import Tool

Matcher: TypeAlias = LLMatcher
MaskArray = npt.NDArray[np.uint32]

_GRAMMARS_KEPT = 64


def build_grammar(
    tools: Sequence[Tool],
    format: CallFormat,
    *,
    tool_choice: str = "auto",
    max_calls: int = 16,
    special_tokens: Mapping[str, int] | None = None,
) -> str:
    """The grammar, in llguidance's form, of every response that `tools` allow.

    `tool_choice` is `auto` (declining stays possible), `required` (at least one call), `none`, or
    the name of the one tool to call. A marker that is one special token of the model must be found
    in `special_tokens`; otherwise it is text. Raises `ConfigError` when no tool has that name.
    """
    names = [tool.name for tool in tools]
    if tool_choice not in ("auto", "required", "none"):
        if tool_choice not in names:
            raise ConfigError(
                f"tool_choice is {tool_choice!r}; it must be auto, required, none, or a tool's "
                f"name: {', '.join(names)}"
            )
        tools = [tool for tool in tools if tool.name == tool_choice]
    allowed = Allowed(
        tools,
        required=tool_choice not in ("auto", "none"),
        max_calls=0 if tool_choice == "none" else max_calls,
    )
    return format.grammar(allowed, special_tokens or {})


class Vocabulary:
    """A model's tokens as llguidance wants them. Build it once a model: `Vocabulary.of(backend)`.

    `words` is the width of a mask row: ceil(tokens / 32). `special_tokens` are the control tokens
    and markers that are tokens of their own, by their text.
    """

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        eog_tokens: Collection[int],
        tokenize: Callable[[str], list[int]],
        special: SpecialTexts | None = None,
    ) -> None:
        if not eog_tokens:
            raise ConstraintError(
                "the model has no end-of-generation token, so a mask can't end; use --constrain off"
            )
        self.size = len(token_bytes)
        self.words = (self.size + 31) // 32
        self.eog_tokens = frozenset(eog_tokens)
        encode = Encoder(token_bytes, tokenize, special)
        tokens = list(token_bytes)
        for token in self.eog_tokens:
            tokens[token] = b"\xff<|end-of-generation-%d|>" % token
        self.special_tokens = encode.special_tokens
        markers = [token for token in encode.special_tokens.values() if token not in eog_tokens]
        end = sorted(self.eog_tokens)
        wrapper = TokenizerWrapper(_Tokens(tokens, end[0], markers, encode))
        self._tokenizer = LLTokenizer(wrapper, n_vocab=self.size, eos_token=end)
        self._executor = LLExecutor()
        self._matchers: OrderedDict[str, LLMatcher] = OrderedDict()
        self._loose: dict[str, Tool] = {}

    @classmethod
    def of(cls, backend: Backend) -> Vocabulary:
        """The backend's vocabulary, built at the first call and kept as long as the backend."""
        vocabulary = _vocabularies.get(backend)
        if vocabulary is None:
            method = WeakMethod(backend.tokenize)  # else the value would keep its key alive

            def tokenize(text: str) -> list[int]:
                of_backend = method()
                assert of_backend is not None
                return of_backend(text)

            vocabulary = cls(
                backend.token_bytes, backend.info.eog_tokens, tokenize, backend.special_texts
            )
            _vocabularies[backend] = vocabulary
        return vocabulary

    def constraint(
        self,
        tools: Sequence[Tool],
        format: CallFormat,
        *,
        tool_choice: str = "auto",
        max_calls: int = 16,
    ) -> Constraint:
        """The constraint of these tools; see `build_grammar`. The last few are kept.

        What the grammar compiler refuses of a schema is left out of the mask: see `mask_schema`.

        Raises `ConstraintError`, which names the tool whose schema llguidance refuses.
        """

        def compiled(tools: Sequence[Tool]) -> Constraint:
            return Constraint(
                self,
                build_grammar(
                    tools,
                    format,
                    tool_choice=tool_choice,
                    max_calls=max_calls,
                    special_tokens=self.special_tokens,
                ),
            )

        tools = [replace(tool, parameters=without_long_enums(tool.parameters)) for tool in tools]
        try:
            return compiled(tools)
        except (ConstraintError, ValueError):  # ValueError: text that is no Unicode
            tools = [self._loosened(tool, format) for tool in tools]
        try:
            return compiled(tools)
        except (ConstraintError, ValueError) as error:
            raise ConstraintError(
                f"the {len(tools)} tools together can't become a token mask ({error}); "
                "give fewer tools, or use --constrain off"
            ) from None

    def _loosened(self, tool: Tool, format: CallFormat) -> Tool:
        """The tool without what of its schema can't become a token mask."""
        key = json.dumps(tool.to_dict())
        known = self._loose.get(key)
        if known is not None:
            return known

        def compiles(schema: Schema) -> bool:
            return not self._matcher(grammar_of({**schema, "x-guidance": GUIDANCE})).is_error()

        try:
            self._compile(build_grammar([tool], format))
            found = tool
        except (ConstraintError, ValueError):
            found = replace(tool, parameters=loosened(tool.parameters, compiles))
            try:
                self._compile(build_grammar([found], format))
            except (ConstraintError, ValueError) as error:
                raise ConstraintError(
                    f"tool {tool.name!r}: its schema can't become a token mask ({error}); "
                    "simplify the schema, or use --constrain off"
                ) from None
        if len(self._loose) >= _GRAMMARS_KEPT:
            self._loose.clear()
        self._loose[key] = found
        return found

    def _matcher(self, grammar: str) -> LLMatcher:
        return LLMatcher(self._tokenizer, grammar, log_level=0)

    def _compile(self, grammar: str) -> LLMatcher:
        matcher = self._matchers.get(grammar)
        if matcher is None:
            matcher = self._matcher(grammar)
            if matcher.is_error():
                raise ConstraintError(_reason(matcher))
            self._matchers[grammar] = matcher
            if len(self._matchers) > _GRAMMARS_KEPT:
                self._matchers.popitem(last=False)
        else:
            self._matchers.move_to_end(grammar)
        return matcher


_vocabularies: WeakKeyDictionary[Any, Vocabulary] = WeakKeyDictionary()


class Constraint:
    """A compiled grammar. A matcher is one branch's place in it; forking one is cheap."""

    def __init__(self, vocabulary: Vocabulary, grammar: str) -> None:
        self.words = vocabulary.words
        self._root = vocabulary._compile(grammar)
        self._eog_tokens = vocabulary.eog_tokens
        self._fill_many = vocabulary._executor.unsafe_compute_mask_ptr

    def start(self) -> tuple[Matcher, list[int]]:
        """A matcher at the response's beginning, and the tokens forced there, already consumed."""
        matcher = self._root.deep_copy()
        return matcher, self._consume_forced(matcher)

    def fork(self, matcher: Matcher) -> Matcher:
        """An independent copy."""
        return matcher.deep_copy()

    def advance(self, matcher: Matcher, token: int) -> list[int]:
        """Consume a token; return the tokens that are forced after it, consumed as well.

        An end-of-generation token may be consumed where the response may end. Raises
        `ConstraintError` when the mask didn't allow the token; the matcher is then useless.
        """
        if not matcher.consume_token(token):
            raise ConstraintError(_refusal(matcher))
        return self._consume_forced(matcher)

    def _consume_forced(self, matcher: Matcher) -> list[int]:
        forced = matcher.compute_ff_tokens()
        if forced and forced[-1] in self._eog_tokens:
            forced = forced[:-1]
        if forced and not matcher.consume_tokens(forced):
            raise ConstraintError(_refusal(matcher))
        return forced

    def fill(self, matchers: Sequence[Matcher], masks: MaskArray) -> None:
        """Write the mask of matcher i into row i of `masks`.

        `masks` is uint32, C-contiguous, at least [len(matchers), words]: bit t % 32 of word t // 32
        allows token t. The matchers must be distinct objects. Raises `ConstraintError`.
        """
        if (
            masks.dtype != np.uint32
            or masks.ndim != 2
            or masks.shape[0] < len(matchers)
            or masks.shape[1] != self.words
            or not masks.flags.c_contiguous
        ):
            raise ValueError(
                f"masks is {masks.dtype} {masks.shape}; it must be C-contiguous uint32 of at least "
                f"{len(matchers)} rows and {self.words} columns"
            )
        row = self.words * 4
        if len(matchers) == 1:
            matchers[0].unsafe_compute_mask_ptr(masks.ctypes.data, row)
        elif matchers:
            rows = [(matcher, index) for index, matcher in enumerate(matchers)]
            self._fill_many(rows, masks.ctypes.data, row, masks.shape[0])
        for matcher in matchers:
            if matcher.is_error():
                raise ConstraintError(_refusal(matcher))


class _Tokens:
    """The object that llguidance's `TokenizerWrapper` wraps."""

    def __init__(
        self, tokens: list[bytes], eos: int, special: list[int], encode: Callable[[str], list[int]]
    ) -> None:
        self.tokens = tokens
        self.eos_token_id = eos
        self.bos_token_id = None
        self.special_token_ids = special
        self._encode = encode

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):  # the wrapper asks whether bytes are taken, too
            raise TypeError("text must be str")
        return self._encode(text)


def _refusal(matcher: LLMatcher) -> str:
    return f"the token mask failed: {_reason(matcher)}; use --constrain off"


def _reason(matcher: LLMatcher) -> str:
    """Why a matcher failed. Raises the interrupt that came while llguidance called Python."""
    message = matcher.get_error()
    if "KeyboardInterrupt" in message:
        raise KeyboardInterrupt
    return _one_line(message)


def _one_line(message: str) -> str:
    return " ".join(message.split())[:300] or "no reason given"
