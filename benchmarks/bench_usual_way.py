"""Step beam search as it is usually done, against this project's, on one model and the same N, M.

    python benchmarks/bench_usual_way.py problems.jsonl --model model.gguf --limit 5

- usual: at every step each beam's whole text, prompt included, is prefilled again, M continuations
  are drawn each on its own row, and every candidate is read from its beginning by a second language
  model, which here is the same model opened twice.
- cached: a stronger baseline: prefixes stay in the cache and there is no second model (the policy's
  log-probability ranks); the M draws still have a row each.
- ours: `Searcher.search`.

All three draw under the same constraint, take forced tokens as they are, and stop a row at its
step's boundary. Both baselines score equal candidates once. Time is wall clock; "after the prompt"
leaves out the first prefill of the prompt, which all three need.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from problems import load
from request import PROMPT, as_request

from toolprm_lite import SearchConfig, Searcher
from toolprm_lite._core import KvLedger, Segmenter
from toolprm_lite.backends.base import Backend, Batch, Output
from toolprm_lite.backends.open import open_backend
from toolprm_lite.constraint import Matcher
from toolprm_lite.evaluation.generative import GenerativeReward
from toolprm_lite.reward.base import CandidateStep
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tools import parse_tools

MAX_STEPS = 40  # rounds of a search
MAX_STEP_TOKENS = 48
TOP_K = 64
TEMPERATURE = 0.8

Scorer = Callable[[list["Row"]], list[float]]


@dataclass
class Row:
    """A partial response with a sequence of its own; 0 is the prompt's."""

    segmenter: Segmenter
    matcher: Matcher
    forced: list[int]  # that must follow, in order
    sequence: int = 0
    tokens: list[int] = field(default_factory=list)
    cached: int = 0  # tokens that the sequence holds
    logprob: float = 0.0
    score: float = 0.0
    kind: str = "FUNC_NAME"
    open: bool = True  # no step is decided since it was forked

    @property
    def finished(self) -> bool:
        return self.segmenter.finished


class UsualSearch:
    """Step beam search with a row for each draw. `refill` prefills each beam's text again."""

    def __init__(self, backend: Backend, refill: bool) -> None:
        self.backend = backend
        self.refill = refill
        self.decoded = self.prefilled = 0
        self._random = np.random.default_rng(0)

    def run(
        self, item: Problem, beams: int, draws: int, scorer: Scorer
    ) -> tuple[Row | None, float]:
        """The best response, and the seconds of the prompt's first prefill."""
        request = as_request(self.backend, item.messages, item.tools)
        self._prompt = request.prompt
        self._constraint = request.constraint
        matcher, forced = self._constraint.start()
        live = [Row(request.segmenter, matcher, list(forced))]
        self.backend.clear()
        began = time.perf_counter()
        self._prefill([])
        first = time.perf_counter() - began
        if forced and not self.refill:
            live[0].sequence = self._ledger.fork(0)  # its tokens are not the prompt's
        best: Row | None = None
        for _ in range(MAX_STEPS):
            candidates = self._expand(live, draws)
            for row, score in zip(candidates, scorer(candidates), strict=True):
                row.score = score
            ranked = sorted(candidates, key=lambda row: -row.score)
            done = [row for row in ranked if row.finished]
            if done and (best is None or done[0].score > best.score):
                best = done[0]
            live = [row for row in ranked if not row.finished][:beams]
            for row in candidates:
                if row not in live:
                    self._drop(row)
            if not live or (best is not None and best.score >= live[0].score):
                break
        return best, first

    def _expand(self, live: list[Row], draws: int) -> list[Row]:
        """The distinct candidates of a round."""
        for beam in live:
            beam.open = True
            while beam.open and beam.forced:
                self._append(beam, beam.forced.pop(0))
        found = [beam for beam in live if not beam.open]  # forced to its boundary
        going = [beam for beam in live if beam.open]
        if self.refill:
            for beam in going:
                beam.sequence, beam.cached = 0, len(beam.tokens)  # behind the new prompt
                output = self._prefill(beam.tokens, beam)
                rows = self._follow(self._children(beam, draws, output, 0))
                for row in rows:
                    self._drop(row)
                found += rows
        elif going:
            at_prompt = going[0].sequence == 0 and not going[0].tokens
            output = self._prefill([], going[0]) if at_prompt else self._decode(going)
            rows = []
            for place, beam in enumerate(going):
                rows += self._children(beam, draws, output, place)
            found += self._follow(rows)
        distinct: dict[tuple[int, ...], Row] = {}
        for row in found:
            if row.segmenter.dead or tuple(row.tokens) in distinct:
                self._drop(row)
            else:
                distinct[tuple(row.tokens)] = row
        return list(distinct.values())

    def _children(self, beam: Row, draws: int, output: Output, place: int) -> list[Row]:
        rows = []
        for _ in range(draws):
            sequence = self._ledger.fork(beam.sequence)
            assert sequence > 0, "no sequence is free; give fewer beams or draws"
            row = Row(
                beam.segmenter.copy(), self._constraint.fork(beam.matcher), [], sequence,
                list(beam.tokens), beam.cached, beam.logprob,
            )  # fmt: skip
            self._draw(row, output, place)
            rows.append(row)
        self._drop(beam)
        return rows

    def _follow(self, rows: list[Row]) -> list[Row]:
        """Each row on its own to its boundary; those that don't get there are given up."""
        for _ in range(MAX_STEP_TOKENS):
            going = [row for row in rows if row.open]
            if not going:
                break
            output = self._decode(going)
            for place, row in enumerate(going):
                self._draw(row, output, place)
        for row in rows:
            if row.open:
                self._drop(row)
        return [row for row in rows if not row.open]

    def _draw(self, row: Row, output: Output, place: int) -> None:
        logprobs = output.top_logprobs[place][output.top_ids[place] >= 0]
        noise = self._random.gumbel(size=len(logprobs))
        chosen = int(np.argmax(logprobs / TEMPERATURE + noise))
        row.logprob += float(logprobs[chosen])
        token = int(output.top_ids[place][chosen])
        self._append(row, token)
        if not row.finished and not row.segmenter.dead:
            row.forced = list(self._constraint.advance(row.matcher, token))
        while row.open and row.forced:
            self._append(row, row.forced.pop(0))

    def _append(self, row: Row, token: int) -> None:
        row.tokens.append(token)
        if token in self.backend.info.eog_tokens:
            steps = row.segmenter.finish()
        else:
            steps = row.segmenter.feed(self.backend.token_bytes[token])
        if steps:
            row.kind = steps[-1].kind
        row.open = not (steps or row.finished or row.segmenter.dead)

    def _drop(self, row: Row) -> None:
        if row.sequence > 0:
            self._ledger.drop(row.sequence)
            row.sequence = 0

    def _masks(self, rows: Sequence[Row]) -> Any:
        masks = np.empty((len(rows), self._constraint.words), np.uint32)
        self._constraint.fill([row.matcher for row in rows], masks)
        return masks

    def _prefill(self, tokens: list[int], row: Row | None = None) -> Output:
        """The next token behind the prompt and `tokens`; with `refill` from nothing."""
        if self.refill:
            self.backend.clear()
        text = [*self._prompt, *tokens]
        info = self.backend.info
        self._ledger = KvLedger(info.max_sequences, info.context, len(text))
        prefill = self.backend.prefill(text, None if row is None else self._masks([row]), TOP_K)
        self.prefilled += prefill.prefill_tokens
        return prefill.output

    def _decode(self, rows: Sequence[Row]) -> Output:
        new = [row.tokens[row.cached :] for row in rows]
        counts = [len(tokens) for tokens in new]
        first = len(self._prompt)
        batch = Batch(
            ops=self._ledger.take_ops(),
            tokens=np.array([token for tokens in new for token in tokens], np.int32),
            positions=np.concatenate(
                [np.arange(first + r.cached, first + len(r.tokens), dtype=np.int32) for r in rows]
            ),
            sequences=np.repeat(np.array([r.sequence for r in rows], np.int32), counts),
            logits_at=np.cumsum(counts, dtype=np.int32) - 1,
            hidden_at=np.empty(0, np.int32),
        )
        for row, tokens in zip(rows, new, strict=True):
            for _ in tokens:
                self._ledger.append(row.sequence)
            row.cached = len(row.tokens)
        self.decoded += len(batch.tokens)
        return self.backend.decode(batch, self._masks(rows), TOP_K)


class Judge:
    """A second model that reads every candidate from its beginning."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._reward = GenerativeReward(backend)
        self.prefilled = 0

    def begin(self, item: Problem) -> None:
        self._reward = self._reward.for_request(item.messages, parse_tools(item.tools))

    def score(self, rows: list[Row], token_bytes: Sequence[bytes]) -> list[float]:
        scores = []
        for row in rows:
            response = b"".join(token_bytes[token] for token in row.tokens).decode(
                "utf-8", "replace"
            )
            step = CandidateStep(row.kind, None, None, None, None, "", response)
            tokens = self._backend.tokenize(self._reward.prompt(step))
            self._backend.clear()
            prefill = self._backend.prefill(tokens, None, 1)
            self.prefilled += prefill.prefill_tokens
            scores.append(float(np.exp(prefill.output.top_logprobs[0, 0])))
        return scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("problems", type=Path, help="a file of them, a set, or BFCL's wheel")
    parser.add_argument("--model", help="GGUF file; the embedded model without it")
    parser.add_argument("--reward", default="auto", help="ours: a head's file (default auto)")
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--expand", type=int, default=16)
    parser.add_argument("--limit", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--context", type=int, help="KV cells of each model")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    items = load(options.problems, options.limit)
    config = SearchConfig(
        beams=options.beams, expand=options.expand, max_step_tokens=MAX_STEP_TOKENS,
        prompt=PROMPT,
    )  # fmt: skip
    opened = {"threads": options.threads, "context": options.context}
    records: list[dict[str, dict[str, float]]] = []
    with Searcher.from_model(options.model, **opened) as searcher:
        policy = open_backend(options.model, **opened)
        judge = Judge(open_backend(options.model, **opened))
        searcher.search(items[0].messages, items[0].tools, config, reward=options.reward)
        for item in items:
            record = {}
            searcher.forget()
            began = time.perf_counter()
            result = searcher.search(item.messages, item.tools, config, reward=options.reward)
            seconds = time.perf_counter() - began
            record["ours"] = {
                "seconds": seconds,
                "after_prompt": seconds - result.stats.ms["prefill"] / 1e3,
                "decoded": result.stats.decode_tokens + result.stats.forced_tokens,
                "prefilled": result.stats.prefill_tokens,
                "right": float(result.complete and bool(item.judge(result.calls))),
            }
            for name, refill in (("cached", False), ("usual", True)):
                rival = UsualSearch(policy, refill)
                judge.begin(item)
                judge.prefilled = 0

                def by_judge(rows: list[Row]) -> list[float]:
                    return judge.score(rows, policy.token_bytes)

                def by_policy(rows: list[Row]) -> list[float]:
                    return [float(np.exp(row.logprob)) for row in rows]

                began = time.perf_counter()
                _, first = rival.run(
                    item, options.beams, options.expand, by_judge if refill else by_policy
                )
                seconds = time.perf_counter() - began
                record[name] = {
                    "seconds": seconds,
                    "after_prompt": seconds - first,
                    "decoded": rival.decoded,
                    "prefilled": rival.prefilled,
                    "judge_prefilled": judge.prefilled,
                }
            records.append(record)
            if not options.json:
                told = ", ".join(f"{n} {r['after_prompt']:.1f} s" for n, r in record.items())
                print(f"{item.id}: {told}", flush=True)
    ratios = {
        name: [r[name]["after_prompt"] / r["ours"]["after_prompt"] for r in records]
        for name in ("cached", "usual")
    }
    if options.json:
        print(json.dumps({"problems": records, "ratios": ratios}))
        return
    for name, values in ratios.items():
        print(
            f"{name} / ours, after the prompt: median {statistics.median(values):.1f} x "
            f"({min(values):.1f} .. {max(values):.1f})"
        )


if __name__ == "__main__":
    main()
