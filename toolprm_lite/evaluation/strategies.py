"""Strategies on one problem: the answer and the cost of each.

Problems are the outer loop and strategies the inner one, so that one prefill serves all of them;
every strategy that draws whole responses chooses from one recorded pool.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from toolprm_lite.errors import (
    ConfigError,
    ConstraintError,
    ContextError,
    ProblemError,
    ToolsError,
)
from toolprm_lite.evaluation.failures import failure
from toolprm_lite.evaluation.pool import Drawn, Pool
from toolprm_lite.evaluation.runs import Column
from toolprm_lite.reward.base import Reward
from toolprm_lite.reward.head import Head
from toolprm_lite.reward.states import StateReader
from toolprm_lite.search.config import SearchConfig
from toolprm_lite.search.result import SearchResult, Stats
from toolprm_lite.search.searcher import Searcher
from toolprm_lite.tasks.problem import Problem

Record = dict[str, Any]

POOLED = ("majority", "best-of-n", "weighted-vote")
STEPWISE = ("step-beam", "doubt")
REWARDED = ("best-of-n", "weighted-vote", *STEPWISE)
KINDS = ("greedy", *POOLED, *STEPWISE)

_PATTERN = re.compile(r"([a-z-]+)(?::([\w.-]+))?(?:@(\d+)(?:x(\d+))?)?(?:/(\d*\.?\d+))?")


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to search, with its sizes.

    `samples` responses are drawn for the kinds of `POOLED`; `beams` are kept by those of
    `STEPWISE`, and `expand` drawn for each. `reward` is a name; `doubt` is the threshold of doubt,
    None the reward's own.
    """

    kind: str
    reward: str | None = None
    beams: int = 1
    expand: int = 1
    samples: int = 0
    doubt: float | None = None

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        beams: int = 2,
        expand: int = 8,
        samples: int = 16,
        doubt: float | None = None,
    ) -> Strategy:
        """Read KIND[:REWARD][@SIZE][/DOUBT]; a size is NxM for step-beam and doubt, else K.

        What is not written the arguments give; without a reward it is "auto". Raises `ConfigError`.
        """
        match = _PATTERN.fullmatch(text)
        kind, reward, first, second, threshold = match.groups() if match else (None,) * 5
        if kind not in KINDS:
            raise ConfigError(
                f"strategy {text!r} is none of {', '.join(KINDS)}; write it as "
                "step-beam:toolprm@2x8 or best-of-n:orm@16"
            )
        if reward is not None and kind not in REWARDED:
            raise ConfigError(f"strategy {text!r}: {kind} has no reward; leave it out")
        stepwise = kind in STEPWISE
        if stepwise != (second is not None) and first is not None:
            form = "NxM" if stepwise else "one number"
            raise ConfigError(f"strategy {text!r}: the size of {kind} is {form}")
        if kind == "greedy" and first is not None:
            raise ConfigError(f"strategy {text!r}: greedy has no size")
        if threshold is not None and (kind != "doubt" or float(threshold) > 1):
            raise ConfigError(
                f"strategy {text!r}: /{threshold} is no threshold of doubt, 0 .. 1, as in "
                "doubt:toolprm@2x8/0.5"
            )
        if first == "0" or second == "0":
            raise ConfigError(f"strategy {text!r}: a size is 0; it must be at least 1")
        size = int(first) if first else None
        if kind in REWARDED and reward is None:
            reward = "auto"
        if kind in POOLED:
            return cls(kind, reward, samples=size or samples)
        if kind == "greedy":
            return cls(kind)
        sizes = size or beams, int(second) if second else expand
        if kind == "step-beam":
            return cls(kind, reward, *sizes)
        limit = doubt if threshold is None else float(threshold)
        return cls(kind, reward, *sizes, doubt=limit)

    def __str__(self) -> str:
        reward = f":{self.reward}" if self.reward else ""
        if self.kind in POOLED:
            return f"{self.kind}{reward}@{self.samples}"
        if self.kind == "greedy":
            return self.kind
        threshold = "" if self.doubt is None else f"/{self.doubt:g}"
        return f"{self.kind}{reward}@{self.beams}x{self.expand}{threshold}"

    def config(self, base: SearchConfig) -> SearchConfig:
        """The settings of its search; those of a pool are `Searcher.record`'s.

        A pool holds what was drawn, and the most likely response, but no undrawn ways on.
        """
        if self.kind in POOLED:
            base = replace(base, way_floor=1.0)
        kind = "best-of-n" if self.kind in POOLED else self.kind
        samples = self.samples or base.samples
        return replace(
            base,
            strategy=kind,  # type: ignore[arg-type]
            beams=self.beams,
            expand=self.expand,
            samples=samples,
            doubt=self.doubt,
        )

    def draws(self, base: SearchConfig) -> bool:
        """Whether the answer depends on the seed."""
        if self.kind == "greedy" or self.doubt == 0:
            return False
        return base.temperature > 0 and base.top_k > 1


class Comparison:
    """Runs a list of strategies on problems.

    `rewards` are by name, each "policy" or a `Reward`; a pool is judged by heads only. What draws
    is asked with each of `seeds` seeds from the base's on, what does not once. Raises `ConfigError`
    for a reward that is missing or that can't judge a pool, and for heads of different prompts.
    """

    def __init__(
        self,
        searcher: Searcher,
        strategies: Sequence[Strategy],
        rewards: Mapping[str, Reward | str],
        base: SearchConfig,
        seeds: int = 1,
    ) -> None:
        for strategy in strategies:
            if strategy.reward is not None and strategy.reward not in rewards:
                raise ConfigError(f"strategy {strategy}: there is no reward {strategy.reward!r}")
            pooled = strategy.kind in POOLED and strategy.reward is not None
            if pooled and not isinstance(rewards[strategy.reward], Head):  # type: ignore[index]
                raise ConfigError(
                    f"strategy {strategy}: whole responses are judged by a head, and "
                    f"{strategy.reward} is none; give --heads"
                )
        base = replace(base, prompt=_common_prompt(searcher, rewards, base))
        self._searcher = searcher
        self._strategies = list(strategies)
        heads = {name: head for name, head in rewards.items() if isinstance(head, Head)}
        odds = base.decline_odds
        if odds is not None:
            heads = {name: head.with_decline_odds(odds) for name, head in heads.items()}
        self._rewards = {**rewards, **heads}
        self._bases = {
            seed: replace(base, seed=seed) for seed in range(base.seed, base.seed + seeds)
        }
        self.columns: dict[str, list[Column]] = {
            str(strategy): [
                Column(str(strategy), seed)
                for seed in (self._bases if strategy.draws(base) else (None,))
            ]
            for strategy in strategies
        }
        """What is run on each problem, by strategy."""
        self._base = base
        self._layers = tuple(sorted({layer for head in heads.values() for layer in head.layers}))

    def ask(self, problem: Problem, known: Collection[Column] = ()) -> dict[Column, Record]:
        """An answer for each column that is not in `known`.

        A problem that can't be run, because of its tools or its length, gives a record with
        "error".
        """
        answers: dict[Column, Record] = {}
        for seed in (None, *self._bases):
            wanted = [
                strategy
                for strategy in self._strategies
                for column in self.columns[str(strategy)]
                if column.seed == seed and column not in known
            ]
            found = self._ask(problem, wanted, self._base if seed is None else self._bases[seed])
            answers |= {Column(name, seed): record for name, record in found.items()}
        return answers

    def _ask(
        self, problem: Problem, wanted: Sequence[Strategy], base: SearchConfig
    ) -> dict[str, Record]:
        answers: dict[str, Record] = {}
        groups = [
            [strategy for strategy in wanted if strategy.samples == samples]
            for samples in sorted({strategy.samples for strategy in wanted if strategy.samples})
        ]
        groups += [[strategy] for strategy in wanted if strategy.kind not in POOLED]
        for group in groups:
            try:
                if group[0].kind in POOLED:
                    answers |= self._choose(problem, group, base)
                else:
                    answers[str(group[0])] = self._search(problem, group[0], base)
            except (ContextError, ConstraintError, ToolsError, ProblemError) as error:
                answer = {"right": _wrong(problem), "error": " ".join(str(error).splitlines())}
                answers |= {str(strategy): {**_named(problem), **answer} for strategy in group}
        return answers

    def _choose(
        self, problem: Problem, strategies: Sequence[Strategy], base: SearchConfig
    ) -> dict[str, Record]:
        """Answers from one pool of responses."""
        reader = StateReader(self._layers)
        config = strategies[0].config(base)
        record = self._searcher.record(problem.messages, problem.tools, config, reader)
        pool, stats = Pool(record, self._layers), record["stats"]
        responses = [response.calls for response in pool.responses]
        greedy = [] if pool.greedy is None else [pool.greedy.calls]
        any_right = any(problem.judge(calls) for calls in (*responses, *greedy))
        answers = {}
        for strategy in strategies:
            began = time.perf_counter()
            drawn, score = _chosen(pool, strategy, self._rewards, base)
            spent = 1e3 * (time.perf_counter() - began)
            pooled = Stats(**{**asdict(stats), "ms": {**stats.ms, "reward": spent}})
            answers[str(strategy)] = _answer(
                problem,
                [] if drawn is None else drawn.calls,
                complete=drawn is not None,
                score=score,
                any_right=any_right,
                stats=pooled,
            )
        return answers

    def _search(self, problem: Problem, strategy: Strategy, base: SearchConfig) -> Record:
        reward = self._rewards.get(strategy.reward or "", "policy")
        config = strategy.config(base)
        before = _judge_tokens(reward)
        result = self._searcher.search(problem.messages, problem.tools, config, reward=reward)
        found = [calls for calls in _complete(result) if problem.judge(calls)]
        answer = _answer(
            problem,
            result.calls,
            complete=result.complete,
            score=result.score,
            any_right=bool(found),
            stats=result.stats,
        )
        if not result.complete:
            answer["text"] = result.text
        if result.probability is not None:
            answer["probability"] = result.probability
        if before is not None:
            after = _judge_tokens(reward) or before
            answer["judge_tokens"] = after - before
        return answer


def _common_prompt(
    searcher: Searcher, rewards: Mapping[str, Reward | str], base: SearchConfig
) -> str:
    """The prompt style for all strategies. Raises `ConfigError` where heads want different ones."""
    if base.prompt != "auto":
        return base.prompt
    heads: list[Head | None] = [each for each in rewards.values() if isinstance(each, Head)]
    styles = {
        searcher.prompt_style("auto", head, base.call_format).name for head in heads or [None]
    }
    if len(styles) > 1:
        raise ConfigError(
            f"the heads were fitted with different prompts ({', '.join(sorted(styles))}); set "
            "--prompt, or compare them in several runs"
        )
    return styles.pop()


def _chosen(
    pool: Pool, strategy: Strategy, rewards: Mapping[str, Reward | str], base: SearchConfig
) -> tuple[Drawn | None, float | None]:
    if strategy.kind == "majority":
        return pool.majority(), None
    head = rewards[strategy.reward or ""]
    assert isinstance(head, Head)
    scores = pool.scores(head, base.policy_gap)
    drawn = pool.best(scores, weighted=strategy.kind == "weighted-vote")
    if strategy.kind == "best-of-n":
        kept = pool.kept_to_greedy(drawn, head, base.policy_gap, base.margin)
        if kept is not None:
            return kept
    return drawn, None if drawn is None else float(scores[pool.responses.index(drawn)])


def _complete(result: SearchResult) -> list[list[dict[str, Any]]]:
    others = [other.calls for other in result.alternatives if other.complete]
    return [result.calls, *others] if result.complete else others


def _judge_tokens(reward: Reward | str) -> int | None:
    """Tokens that a second model has read so far for this reward."""
    prefill, decode = (getattr(reward, f"{kind}_tokens", None) for kind in ("prefill", "decode"))
    return None if prefill is None or decode is None else prefill + decode


def _named(problem: Problem) -> Record:
    return {"id": problem.id, "category": problem.category}


def _wrong(problem: Problem) -> bool | None:
    """The verdict on a missing answer: None if only an external checker can judge."""
    return None if problem.judge([]) is None else False


def _answer(
    problem: Problem,
    calls: list[dict[str, Any]],
    *,
    complete: bool,
    score: float | None,
    any_right: bool,
    stats: Stats,
) -> Record:
    right = problem.judge(calls) if complete else _wrong(problem)
    record = {
        **_named(problem),
        "calls": calls,
        "complete": complete,
        "right": right,
        "any_right": any_right,
        "score": score,
        "stats": asdict(stats),
    }
    if right is False and problem.expected is not None:
        kind = failure(calls, problem.expected, problem.rule) if complete else "incomplete"
        record["failure"] = kind
    return record
