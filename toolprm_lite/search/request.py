"""A question to a search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from toolprm_lite.errors import ConfigError, ProblemError, ToolprmError
from toolprm_lite.search.config import SearchConfig
from toolprm_lite.search.result import SearchResult
from toolprm_lite.tools import Tool, parse_tools

Messages: TypeAlias = str | Sequence[Mapping[str, Any]]
Tools: TypeAlias = Iterable[Tool | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One question of many; the fields are those of `Searcher.search`. `config`: None is that of
    the call."""

    messages: Messages
    tools: Tools
    config: SearchConfig | None = None


def settings(config: SearchConfig | None) -> SearchConfig:
    """The settings, or the usual ones. Raises `ConfigError`."""
    if config is not None and not isinstance(config, SearchConfig):
        raise ConfigError(f"config is a {type(config).__name__}; give a SearchConfig")
    return config or SearchConfig()


def as_request(
    request: SearchRequest | tuple[Messages, Tools], config: SearchConfig
) -> SearchRequest:
    """A request of several, with its settings. Raises `ProblemError`."""
    if not isinstance(request, SearchRequest):
        if not isinstance(request, Sequence) or len(request) not in (2, 3):
            raise ProblemError("a request is a SearchRequest, or a pair of messages and tools")
        request = SearchRequest(*request)
    return request if request.config is not None else replace(request, config=config)


def checked_tools(tools: object) -> list[Tool]:
    """Tools or their definitions as `Tool`s. Raises `ToolsError`."""
    if isinstance(tools, Iterable) and not isinstance(tools, (str, bytes, Mapping)):
        tools = [tool.to_dict() if isinstance(tool, Tool) else tool for tool in tools]
    return parse_tools(tools, "tools")


class RequestsFailed(ToolprmError):
    """Some requests of a `search_many` could not be answered.

    `errors` has what each of them raised, by its index, and `results` what the others gave, in the
    order of the requests, None for those that failed.
    """

    def __init__(
        self, results: Sequence[SearchResult | None], errors: Mapping[int, Exception]
    ) -> None:
        reasons = "; ".join(f"request {index}: {error}" for index, error in errors.items())
        super().__init__(
            f"{len(errors)} of {len(results)} requests failed ({reasons}); the other results are "
            "in this error's `results`"
        )
        self.results = list(results)
        self.errors = dict(errors)
