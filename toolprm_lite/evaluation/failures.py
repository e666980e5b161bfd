"""The kind of error of a response: the first that applies, from the whole to the parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from toolprm_lite.tasks.matching import Answers, CallLike, MatchRule

FAILURES = {
    "error": "the problem could not be run",
    "incomplete": "the response did not end",
    "called": "it should have declined",
    "declined": "it should have called",
    "too few calls": "calls are missing",
    "too many calls": "there are more calls",
    "function": "another function is called",
    "missing argument": "an argument is missing",
    "extra argument": "an argument should not be there",
    "value": "an argument has another value",
}


def failure(calls: Sequence[CallLike], answers: Sequence[CallLike], rule: MatchRule) -> str:
    """Which of `FAILURES` is in the calls of a response that is known to be wrong."""
    key = Answers(answers, (), rule)
    if not key:
        return "called"
    if not calls:
        return "declined"
    if len(calls) != len(key):
        return "too few calls" if len(calls) < len(key) else "too many calls"
    written = Counter(call["name"] for call in calls)
    if any(written[name] != key.count(name) for name in key.names):
        return "function"
    arguments = [(call["name"], call["arguments"].keys()) for call in calls]
    if any(all(required - given for required in key.required(name)) for name, given in arguments):
        return "missing argument"
    if any(all(given - allowed for allowed in key.parameters(name)) for name, given in arguments):
        return "extra argument"
    return "value"
