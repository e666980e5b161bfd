"""Each call between <tool_call> and </tool_call> on lines of their own, as Hermes and Qwen write
them; other text declines."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from toolprm_lite.formats.base import Allowed, CallFormat
from toolprm_lite.formats.json_calls import call_schema, literal, other_text, write_call

if TYPE_CHECKING:
    from toolprm_lite import _core

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_TAUGHT = (_OPEN, _CLOSE, '"name"', '"arguments"')
_OTHER_BODIES = ("<function=", "<arg_key>", "<parameter=")


class Hermes(CallFormat):
    name = "hermes"
    answer = "function calls"
    declining = "a short text without a call"

    def core(self) -> _core.CallFormat:
        from toolprm_lite import _core  # `--help` needs no core

        return _core.CallFormat(open_marker=_OPEN, close_marker=_CLOSE)

    def write(self, calls: Sequence[Mapping[str, Any]]) -> str:
        return "\n".join(f"{_OPEN}\n{write_call(call)}\n{_CLOSE}" for call in calls)

    def grammar(self, allowed: Allowed, special_tokens: Mapping[str, int]) -> str:
        if allowed.max_calls == 0:
            lines = ['start: TEXT | ""']
        else:
            more = f' ("\\n" call){{0,{allowed.max_calls - 1}}}' if allowed.max_calls > 1 else ""
            opening, closing = (literal(marker, special_tokens) for marker in (_OPEN, _CLOSE))
            lines = [
                "start: calls" + ("" if allowed.required else ' | TEXT | ""'),
                f"calls: call{more}",
                f'call: {opening} "\\n" body "\\n" {closing}',
                f"body: %json {json.dumps(call_schema(allowed.tools))}",
            ]
        if not allowed.required:
            lines.append(other_text(_OPEN))
        return "\n".join(lines) + "\n"

    def taught_by(self, chat_template: str) -> bool:
        """Templates with other bodies between the same markers (XML parameters, as in Qwen3-Coder
        and GLM) do not teach it."""
        if "tools" not in chat_template:
            return False
        plain = chat_template.replace('\\"', '"').replace("\\n", "\n")
        return all(mark in plain for mark in _TAUGHT) and not any(
            mark in plain for mark in _OTHER_BODIES
        )

    def written_by(self, chat_template: str, model: str) -> bool:
        """Qwen2.5-Coder has Qwen2.5's template, but its 0.5B model never writes the markers (it
        fences plain JSON), and loops when forced to."""
        if "qwen2.5coder" in re.sub(r"[^a-z0-9.]", "", model.lower()):
            return False
        return self.taught_by(chat_template)
