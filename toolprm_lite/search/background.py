"""A search in its own thread, for an event loop that must not block."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Ended:
    error: BaseException | None


async def in_thread(
    make: Callable[[], Iterator[T]], cancel: threading.Event, check: Callable[[], None]
) -> AsyncGenerator[T, None]:
    """The items of the iterator that `make` returns; it is created and read in its own thread.

    In a pool a call would wait for a free thread without checking its deadline. Closed early,
    or in a task that is cancelled, it sets `cancel` and ends when the thread has. `check` is
    called before each wait for the thread and raises where that would have no end.
    """
    check()
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[T | _Ended] = asyncio.Queue()
    done = threading.Event()  # the thread does not need the model any more

    def put(item: T | _Ended) -> None:
        with contextlib.suppress(
            RuntimeError
        ):  # the loop was closed: there is no listener any more
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def work() -> None:
        try:
            for item in make():
                put(item)
        except BaseException as error:
            done.set()
            put(_Ended(error))
        else:
            done.set()
            put(_Ended(None))

    threading.Thread(target=work, name="toolprm-search").start()
    ended = False
    try:
        while True:
            if queue.empty() and not done.is_set():
                check()
            item = await queue.get()
            if isinstance(item, _Ended):
                ended = True
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        if not ended:
            cancel.set()
            while not isinstance(await queue.get(), _Ended):
                pass
