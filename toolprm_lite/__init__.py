"""Finds the right tool call in a local model: step beam search guided by a process reward model.

from toolprm_lite import Searcher

searcher = Searcher.from_model()
result = searcher.search("What's the weather in Paris?", tools)
result.calls
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in typing, which is slow to import: Ctrl-C is noticed after this file
if TYPE_CHECKING:
    from typing import Any

    from toolprm_lite.errors import QueueFull, ToolprmError
    from toolprm_lite.reward.base import CandidateStep, Reward
    from toolprm_lite.reward.margin import Margin
    from toolprm_lite.search.config import SearchConfig
    from toolprm_lite.search.events import CallFinished, StepDecided
    from toolprm_lite.search.queue import SearchQueue
    from toolprm_lite.search.request import RequestsFailed, SearchRequest
    from toolprm_lite.search.result import SearchResult
    from toolprm_lite.search.searcher import Searcher
    from toolprm_lite.search.trace import TraceNode
    from toolprm_lite.tools import Tool, load_tools

__version__ = "0.1.0"
__all__ = [
    "CallFinished",
    "CandidateStep",
    "Margin",
    "QueueFull",
    "RequestsFailed",
    "Reward",
    "SearchConfig",
    "SearchQueue",
    "SearchRequest",
    "SearchResult",
    "Searcher",
    "StepDecided",
    "Tool",
    "ToolprmError",
    "TraceNode",
    "load_tools",
]

_MODULES = {
    "CallFinished": "search.events",
    "CandidateStep": "reward.base",
    "Margin": "reward.margin",
    "QueueFull": "errors",
    "RequestsFailed": "search.request",
    "Reward": "reward.base",
    "SearchConfig": "search.config",
    "SearchQueue": "search.queue",
    "SearchRequest": "search.request",
    "SearchResult": "search.result",
    "Searcher": "search.searcher",
    "StepDecided": "search.events",
    "Tool": "tools",
    "ToolprmError": "errors",
    "TraceNode": "search.trace",
    "load_tools": "tools",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
