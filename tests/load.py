"""Many threads that ask one queue for many searches, good and bad ones mixed.

    python tests/load.py                              the mock model: answers are compared exactly
    python tests/load.py --model FILE.gguf            a real model: the share of equal answers
    python tests/load.py --threads 16 --requests 1000

Every future must end as its request says, every answer that nothing has disturbed must be that of
the same search alone, no thread may be left over, and memory must stay flat. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.mock_backend import MockBackend
from support.numbered_tools import CITIES, backend, request
from toolprm_lite import SearchConfig, Searcher, SearchQueue, SearchResult
from toolprm_lite.errors import (
    ConfigError,
    ContextError,
    ModelError,
    ProblemError,
    QueueFull,
    ToolprmError,
    ToolsError,
)
from toolprm_lite.reward.policy import PolicyReward

LIMIT = 600.0  # seconds in which a future must end
PROBLEMS = 12

# What is asked for, and how often.
KINDS = {
    "plain": 50, "cancel": 10, "deadline": 10, "raises": 6, "leaves": 2, "not a number": 5,
    "no such layer": 5, "tools": 4, "messages": 4, "tool_choice": 2, "too long": 2,
}  # fmt: skip
# What a request that can't be answered must raise.
RAISES: dict[str, type[BaseException]] = {
    "raises": KeyError, "leaves": SystemExit, "not a number": ToolprmError,
    "no such layer": ModelError, "tools": ToolsError, "messages": ProblemError,
    "tool_choice": ConfigError, "too long": ContextError,
}  # fmt: skip


class Layer(PolicyReward):
    """Reads a layer that no model has."""

    name = "layer"
    layers = (999,)


def raises(steps: list[Any]) -> list[float]:
    raise KeyError("a reward's own fault")


def leaves(steps: list[Any]) -> list[float]:
    raise SystemExit("a reward that would end its thread")


def not_a_number(steps: list[Any]) -> list[float]:
    return [float("nan")] * len(steps)


REWARDS = {
    "raises": raises, "leaves": leaves, "not a number": not_a_number, "no such layer": Layer(),
}  # fmt: skip


class LoadedMock(MockBackend):
    """Remembers no step, and has the layers it says."""

    def tap(self, layers: Any) -> None:
        if any(not 0 <= layer <= self.info.layers for layer in layers):
            raise ModelError(f"layers {layers} can't be tapped")
        super().tap(layers)


def mock_model() -> MockBackend:
    """The mock of `test_many`, with less room than the searches would take together."""
    usual = backend(PROBLEMS)
    model = LoadedMock({"[]": 1.0}, context=6000, max_prompts=8)
    model._by_prompt = usual._by_prompt
    model.decoded = deque(maxlen=0)  # type: ignore[assignment]
    model.step_tokens = deque(maxlen=0)  # type: ignore[assignment]
    return model


@dataclass
class Outcome:
    """What came of a run; `faults` are what must not be."""

    ended: Counter[str] = field(default_factory=Counter)
    equal: int = 0  # to the last digit
    same_text: int = 0
    compared: int = 0
    refusals: int = 0
    seconds: float = 0.0
    warm_bytes: int = 0
    end_bytes: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.ended.items()))
        mib = 1 << 20
        return (
            f"{sum(self.ended.values())} requests in {self.seconds:.1f} s: {kinds}\n"
            f"{self.refusals} refusals of a full queue\n"
            f"{self.equal} of {self.compared} undisturbed answers equal those alone "
            f"({100 * self.equal / max(1, self.compared):.2f}%), {self.same_text} have its text\n"
            f"resident memory {self.warm_bytes / mib:.1f} MiB warm, {self.end_bytes / mib:.1f} MiB "
            f"at the end\n{len(self.faults)} faults" + "".join(f"\n  {f}" for f in self.faults[:20])
        )


def resident() -> int:
    """Bytes of this process in memory; 0 where the system doesn't say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * 4096


def answer(result: SearchResult) -> tuple[Any, ...]:
    """What must not depend on the company a search was in."""
    steps = [(step.kind, step.text, step.reward, step.logprob) for step in result.steps]
    return result.text, result.score, result.complete, steps


def run(
    searcher: Searcher,
    threads: int,
    requests: int,
    *,
    seed: int = 0,
    exact: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """`threads` threads ask for `requests` searches each. `exact`: an undisturbed answer that is
    not that of the search alone is a fault."""
    outcome, mutex = Outcome(), threading.Lock()
    config = SearchConfig(beams=2, expand=4, strategy="step-beam", max_tokens=80)
    asked = [request(n, config) for n in range(PROBLEMS)]
    alone = [answer(searcher.search(one.messages, one.tools, config)) for one in asked]
    before = set(threading.enumerate())
    queue = SearchQueue(searcher, length=max(1, 3 * threads // 4))
    total = threads * requests

    def ask(kind: str, draw: random.Random) -> None:
        place = draw.randrange(PROBLEMS)
        one = asked[place]
        messages, tools, chosen = one.messages, one.tools, config
        cancel = None
        if kind == "cancel":
            cancel = threading.Event()
            threading.Timer(draw.expovariate(1 / 0.05), cancel.set).start()
        elif kind == "deadline":
            chosen = SearchConfig(
                beams=2, expand=4, strategy="step-beam", max_tokens=80,
                deadline_ms=1 + draw.expovariate(1 / 300),
            )  # fmt: skip
        elif kind == "tools":
            tools = [{"name": "f", "parameters": {"type": "nonsense"}}]
        elif kind == "messages":
            messages = draw.choice([7, "", [{"role": "user"}]])  # type: ignore[assignment]
        elif kind == "tool_choice":
            chosen = SearchConfig(tool_choice="nobody")
        elif kind == "too long":
            messages = CITIES[0] + " word" * searcher.info.context
        reward = REWARDS.get(kind, "policy")

        def once() -> SearchResult:
            if draw.random() < 0.5:
                return queue.search(messages, tools, chosen, reward=reward, cancel=cancel)
            future: Future[SearchResult] = queue.submit(
                messages, tools, chosen, reward=reward, cancel=cancel
            )
            return future.result(LIMIT)

        while True:
            try:
                result = once()
                break
            except QueueFull:
                with mutex:
                    outcome.refusals += 1
                time.sleep(draw.random() * 0.02)
        stopped = {"cancel": "cancelled", "deadline": "deadline"}.get(kind)
        with mutex:
            if kind in RAISES:
                outcome.faults.append(f"{kind}: an answer, and no {RAISES[kind].__name__}")
            elif result.stopped is None:
                outcome.compared += 1
                outcome.same_text += result.text == alone[place][0]
                if answer(result) == alone[place]:
                    outcome.equal += 1
                elif exact:
                    outcome.faults.append(f"{kind}: {result.text!r} is not the answer alone")
            elif result.stopped != stopped:
                outcome.faults.append(f"{kind}: stopped by {result.stopped}")

    def work(thread: int) -> None:
        for n in range(requests):
            draw = random.Random(f"{seed} {thread} {n}")
            (kind,) = draw.choices(list(KINDS), list(KINDS.values()))
            try:
                ask(kind, draw)
            except BaseException as error:
                if not isinstance(error, RAISES.get(kind, ())):
                    with mutex:
                        outcome.faults.append(f"{kind}: {type(error).__name__}: {error}")
            with mutex:
                outcome.ended[kind] += 1
                count = sum(outcome.ended.values())
                if count == total // 5:
                    outcome.warm_bytes = resident()
                if count % 1000 == 0:
                    tell(
                        f"{count} of {total}, {resident() >> 20} MiB, {len(outcome.faults)} faults"
                    )

    began = time.monotonic()
    workers = [
        threading.Thread(target=work, args=(n,), name=f"load-{n}", daemon=True)
        for n in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    outcome.seconds = time.monotonic() - began
    if len(queue):
        outcome.faults.append(f"the queue still holds {len(queue)} searches")
    ends = time.monotonic() + 10
    while (left := set(threading.enumerate()) - before) and time.monotonic() < ends:
        time.sleep(0.05)
    outcome.faults += [f"thread {thread.name} is left over" for thread in left]
    outcome.end_bytes = resident()
    again = [answer(searcher.search(one.messages, one.tools, config)) for one in asked]
    if exact and again != alone:
        outcome.faults.append("the answers alone are others than before")
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description="Load one queue with many searches.")
    parser.add_argument("--model", help="a GGUF file; without one the mock model")
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--requests", type=int, default=1000, help="of each thread")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with (
        Searcher(mock_model())
        if chosen.model is None
        else Searcher.from_model(chosen.model) as searcher
    ):
        outcome = run(
            searcher, chosen.threads, chosen.requests, seed=chosen.seed,
            exact=chosen.model is None, tell=lambda line: print(line, flush=True),
        )  # fmt: skip
    print(outcome)
    growth = outcome.end_bytes / max(1, outcome.warm_bytes)
    if growth > 1.1:
        print(f"resident memory grew by {growth - 1:.0%}")
    return 1 if outcome.faults or growth > 1.1 else 0


if __name__ == "__main__":
    sys.exit(main())
