"""Records the results of many searches, and compares a later version's with them to the last digit.

    python tests/golden.py record FILE [--only mock,tiny,torch,smollm2]
    python tests/golden.py compare FILE

Each line of FILE is one search: which it was, and its calls, steps, rewards, scores and token
counts. A refactoring is right when `compare` finds no difference. The problems are made by a
seeded generator; the models are the mock, a tiny random model on both backends and SmolLM2.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from support.made_problems import Problem, problems
from support.mock_backend import MockBackend
from support.tiny_model import TinyLlama
from toolprm_lite import SearchConfig, Searcher, SearchResult
from toolprm_lite.reward.base import CandidateStep, Float32Array, StepBatch
from toolprm_lite.search.config import Aggregate

COUNTS = (
    "prompt_tokens", "decode_tokens", "forced_tokens", "drawn_tokens", "rounds", "widened",
    "steps", "reward_calls", "kv_cells", "rows_max",
)  # fmt: skip


def judge(steps: Sequence[CandidateStep]) -> list[float]:
    """A reward that depends on the whole response, the same on every machine."""
    return [
        0.2 + 0.8 * (zlib.crc32(f"{step.kind} {step.response}".encode()) % 1000) / 999
        for step in steps
    ]


@dataclass
class StateReward:
    """A reward that reads hidden states, features and, when asked, the conversation."""

    layers: tuple[int, ...] = (1,)
    pooled: bool = False
    grounded: bool = False
    aggregate: Aggregate = "prod"
    name: str = "states"
    calibrated: bool = True

    def score(self, batch: StepBatch) -> Float32Array:
        assert batch.hidden is not None
        total = batch.hidden[:, ::3].sum(axis=1) + 0.1 * batch.features.sum(axis=1)
        return (1 / (1 + np.exp(-0.3 * total))).astype(np.float32)


@dataclass
class Case:
    """One way to search, over the first `problems` problems."""

    name: str
    config: SearchConfig
    reward: Any = "auto"
    problems: int = 60
    many: bool = False
    streamed: bool = False
    seeds: Sequence[int] = field(default=(0, 1))


def cases(model: str) -> Iterator[Case]:
    small = SearchConfig(max_tokens=96, beams=2, expand=4)
    if model == "smollm2":
        yield Case("doubt", SearchConfig(), problems=30, seeds=(0,))
        yield Case("greedy", SearchConfig(strategy="greedy"), problems=20, seeds=(0,))
        beam = replace(SearchConfig(), strategy="step-beam", expand=4)
        yield Case("step-beam", beam, problems=12)
        yield Case("policy", beam, "policy", problems=6)
        yield Case("best-of-n", replace(beam, strategy="best-of-n", samples=6), problems=6)
        yield Case("free", replace(beam, constrain="off"), problems=6)
        yield Case("hermes", replace(beam, call_format="hermes"), "policy", problems=6)
        yield Case("many", SearchConfig(), problems=12, many=True, seeds=(0,))
        yield Case("stream", SearchConfig(), problems=8, streamed=True, seeds=(0,))
        return
    for strategy in ("step-beam", "doubt", "best-of-n", "greedy"):
        config = replace(small, strategy=strategy, samples=6)
        yield Case(strategy, config, judge)
        yield Case(f"{strategy}-policy", config, "policy")
        yield Case(f"{strategy}-states", config, StateReward(grounded=True))
        yield Case(f"{strategy}-hermes", replace(config, call_format="hermes"), judge, problems=30)
    beam = replace(small, strategy="step-beam")
    yield Case("pooled", beam, StateReward(layers=(1, 2), pooled=True, aggregate="min"))
    for aggregate in ("last", "min", "mean"):
        yield Case(aggregate, replace(beam, aggregate=aggregate), judge, problems=20)
    yield Case("free", replace(beam, constrain="off", max_text_tokens=16), judge)
    yield Case("no-ways", replace(beam, way_floor=1.0), judge, problems=30)
    yield Case("one-call", replace(beam, parallel=False), judge, problems=30)
    yield Case("required", replace(beam, tool_choice="required"), judge, problems=30)
    yield Case("named", replace(beam, tool_choice="set_light"), judge, problems=10)
    yield Case("budget", replace(beam, max_decode_tokens=40), judge)
    yield Case("wide", replace(beam, beams=4, expand=8), judge, problems=20)
    yield Case("half-doubt", replace(small, strategy="doubt", doubt=0.8), judge)
    yield Case("many", beam, judge, many=True)
    yield Case("stream", beam, judge, streamed=True, problems=20)


def searchers(model: str, folder: Path, known: list[Problem]) -> Callable[[], Searcher]:
    """What opens a fresh model."""
    if model == "mock":
        answers = {problem.question: problem.responses for problem in known}
        # The longest question first: the mock takes the first that the prompt holds.
        ordered = dict(sorted(answers.items(), key=lambda item: -len(item[0])))
        return lambda: Searcher(MockBackend({"[]": 1.0}, by_prompt=ordered, context=1 << 14))
    if model == "smollm2":
        return lambda: Searcher.from_model(threads=1)
    path = TinyLlama().write(folder / "tiny.gguf")
    backend: Any = "llamacpp" if model == "tiny" else "torch"
    threads = 1 if model == "tiny" else None
    return lambda: Searcher.from_model(path, backend=backend, threads=threads, context=4096)


def record(result: SearchResult) -> dict[str, Any]:
    """What must not change of a result."""
    stats = {name: getattr(result.stats, name) for name in COUNTS}
    return {
        "calls": result.calls,
        "complete": result.complete,
        "score": result.score,
        "probability": result.probability,
        "steps": [[s.call, s.kind, s.text, s.reward, s.logprob] for s in result.steps],
        "tokens": result.tokens,
        "alternatives": [[a.calls, a.score, a.complete, a.draws] for a in result.alternatives],
        "missing": result.missing,
        "stopped": result.stopped,
        "stats": stats,
    }


def run(model: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The key and the record of every search with a model."""
    known = problems()
    with tempfile.TemporaryDirectory() as folder:
        opened = searchers(model, Path(folder), known)
        for case in cases(model):
            if model == "torch":  # slow, and the core is the same
                case.problems, case.seeds = min(case.problems, 6), (0,)
            with opened() as searcher:
                for seed in case.seeds:
                    config = replace(case.config, seed=seed)
                    some = known[: case.problems]
                    results = _results(searcher, case, config, some)
                    for number, result in enumerate(results):
                        yield f"{model} {case.name} seed {seed} problem {number}", record(result)


def _results(
    searcher: Searcher, case: Case, config: SearchConfig, some: list[Problem]
) -> Iterator[SearchResult]:
    if case.many:
        requests = [(problem.question, problem.tools) for problem in some]
        yield from searcher.search_many(requests, config, reward=case.reward)
        return
    for problem in some:
        searcher.forget()
        if case.streamed:
            *_, last = searcher.stream(problem.question, problem.tools, config, reward=case.reward)
            assert isinstance(last, SearchResult)
            yield last
        else:
            yield searcher.search(problem.question, problem.tools, config, reward=case.reward)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default="mock,tiny,torch,smollm2", help="models, with commas")
    parser.add_argument("--show", type=int, default=5, help="differences to print of each case")
    options = parser.parse_args()
    models = options.only.split(",")
    if options.command == "record":
        with options.file.open("a", encoding="utf-8") as out:
            for model in models:
                for key, found in run(model):
                    out.write(json.dumps([key, found]) + "\n")
        print(hashlib.sha256(options.file.read_bytes()).hexdigest())
        return 0
    with options.file.open(encoding="utf-8") as lines:
        wanted = dict(json.loads(line) for line in lines)
    different: dict[str, int] = {}
    compared = 0
    for model in models:
        for key, found in run(model):
            if key not in wanted:
                continue
            compared += 1
            now = json.loads(json.dumps(found))
            if now != wanted[key]:
                case = key.split(" seed ")[0]
                different[case] = different.get(case, 0) + 1
                if different[case] <= options.show:
                    fields = [name for name in now if now[name] != wanted[key].get(name)]
                    print(f"{key}: {', '.join(fields)}")
                    for name in fields:
                        print(f"  {name}\n    was {wanted[key].get(name)}\n    is  {now[name]}")
    print(f"{compared} searches compared, {sum(different.values())} differ")
    for case, count in different.items():
        print(f"  {case}: {count}")
    return 1 if different or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
