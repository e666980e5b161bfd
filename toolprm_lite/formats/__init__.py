"""How model families write calls: one file a family, and the registry of all."""

from __future__ import annotations

from toolprm_lite.errors import ConfigError
from toolprm_lite.formats.base import Allowed, CallFormat
from toolprm_lite.formats.hermes import Hermes
from toolprm_lite.formats.json_calls import write_json
from toolprm_lite.formats.json_list import JsonList

__all__ = [
    "FORMATS", "HERMES", "JSON_LIST", "Allowed", "CallFormat", "detect_format", "get_format",
    "write_json",
]  # fmt: skip

JSON_LIST = JsonList()
HERMES = Hermes()

# By name. The first that a model's template teaches is its own.
FORMATS: dict[str, CallFormat] = {form.name: form for form in (JSON_LIST, HERMES)}


def get_format(name: str) -> CallFormat:
    """The format of that name; raises `ConfigError`."""
    try:
        return FORMATS[name]
    except KeyError:
        raise ConfigError(
            f"call format is {name!r}; it must be one of {', '.join(FORMATS)}"
        ) from None


def detect_format(chat_template: str | None, model: str = "") -> CallFormat:
    """The format that a model writes, by its chat template and name; the JSON list when that is
    none of ours."""
    for form in FORMATS.values():
        if chat_template and form.written_by(chat_template, model):
            return form
    return JSON_LIST
