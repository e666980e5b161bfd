"""What every public method of a backend checks: a forked child is refused, the end of the process
waits, and an interrupt in the middle leaves nothing half done for the next call."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from toolprm_lite.process import compute, forks, native_work, refuse_inherited


class Guard:
    """The state of one backend that `guarded` keeps."""

    def __init__(self) -> None:
        self.forks = forks()
        self.interrupted = False


class Guarded(Protocol):
    """A backend with a guard."""

    _guard: Guard

    def _require(self) -> None:
        """Raise `ModelError` when the model is closed."""

    def _renew(self) -> None:
        """Empty the context, whatever state it is in."""


B = TypeVar("B", bound=Guarded)
P = ParamSpec("P")
T = TypeVar("T")


def guarded(method: Callable[Concatenate[B, P], T]) -> Callable[Concatenate[B, P], T]:
    """A method of a backend that uses its model."""

    @wraps(method)
    def inside(backend: B, /, *args: P.args, **more: P.kwargs) -> T:
        guard = backend._guard
        refuse_inherited(guard.forks)
        with native_work:
            backend._require()
            if guard.interrupted:
                backend._renew()
                guard.interrupted = False
            try:
                return compute(lambda: method(backend, *args, **more))
            except Exception:
                raise
            except BaseException:
                guard.interrupted = True
                raise

    return inside
