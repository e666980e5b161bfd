"""A clock that moves by one second a model step."""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """Seconds, and the tokens of every model step."""

    def __init__(self) -> None:
        self.now = 100.0
        self.steps: list[int] = []
        self.hook: Callable[[int], None] = lambda steps: None

    def __call__(self) -> float:
        return self.now

    def step(self, tokens: int) -> None:
        self.now += 1.0
        self.steps.append(tokens)
        self.hook(len(self.steps))
