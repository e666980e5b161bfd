"""One JSON list of calls, empty when the model declines: [{"name": ..., "arguments": {...}}]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from toolprm_lite.formats.base import Allowed, CallFormat
from toolprm_lite.formats.json_calls import grammar_of, list_schema, write_list

if TYPE_CHECKING:
    from toolprm_lite import _core


class JsonList(CallFormat):
    name = "json-list"
    answer = "a JSON list of function calls"
    declining = "[]"

    def core(self) -> _core.CallFormat:
        from toolprm_lite import _core  # `--help` needs no core

        return _core.CallFormat()

    def write(self, calls: Sequence[Mapping[str, Any]]) -> str:
        return write_list(calls)

    def grammar(self, allowed: Allowed, special_tokens: Mapping[str, int]) -> str:
        return grammar_of(list_schema(allowed))
