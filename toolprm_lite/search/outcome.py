"""What a search has found, as a result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from toolprm_lite._core import Answer
from toolprm_lite.backends.base import Prefill
from toolprm_lite.reward.base import STEP_KINDS, Reward
from toolprm_lite.reward.head import Head
from toolprm_lite.reward.margin import Margin, deviations
from toolprm_lite.search.config import SearchConfig
from toolprm_lite.search.loop import Prepared, Timing
from toolprm_lite.search.result import (
    Alternative,
    SearchResult,
    Stats,
    Stop,
    confidence,
)
from toolprm_lite.search.steps import Call
from toolprm_lite.search.text import closed_calls, made_step, missing_parts
from toolprm_lite.search.trace import trace_node
from toolprm_lite.tools import Tool


def found_result(
    prepared: Prepared,
    config: SearchConfig,
    reward: Reward,
    model: str,
    stats: Stats,
    tools: Iterable[Tool],
    stopped: Stop | None,
) -> SearchResult:
    """The answer of a search that has ended, with what else it has found."""
    search = prepared.search
    best, others, kept_greedy = _chosen(search.answers(), prepared.margin)
    kinds = judged_kinds(reward)
    steps = [made_step(scored, kinds) for scored in best.steps]
    calls, whole = confidence(steps)
    return SearchResult(
        calls=_calls(best),
        complete=best.complete,
        score=best.score if steps else 0.0,
        probability=whole if best.complete else None,
        steps=steps,
        alternatives=[
            Alternative(_calls(other), other.score, other.complete, other.draws) for other in others
        ],
        model=model,
        reward=reward.name,
        strategy=config.strategy,
        stats=stats,
        text=best.text.decode("utf-8", "replace"),
        tokens=best.tokens,
        stopped=stopped,
        missing=[] if best.complete else missing_parts(steps, tools),
        confidence=calls if reward.calibrated else None,
        kept_greedy=kept_greedy,
        trace=[trace_node(node, kinds) for node in search.trace()] if config.trace else None,
    )


def _chosen(answers: list[Answer], margin: Margin) -> tuple[Answer, list[Answer], bool]:
    """The answer, all others, and whether it is the greedy one for want of a margin."""
    best = next((answer for answer in answers if not answer.companion), answers[0])
    greedy = next((answer for answer in answers if answer.greedy and answer.complete), None)
    chosen = best
    if margin.largest > 0 and greedy is not None:
        if not best.complete:
            chosen = answers[0]
        elif not margin.met(best.score, greedy.score, deviations(_calls(best), _calls(greedy))):
            chosen = greedy
    others = [answer for answer in answers if answer is not chosen]
    # A response that was found in another spelling, too, is listed once.
    same = [_calls(answer) for answer in answers if answer.complete and not answer.companion]
    others = [each for each in others if not (each.companion and _calls(each) in same)]
    if chosen.companion:
        others = [each for each in others if not each.complete or _calls(each) != _calls(chosen)]
    return chosen, others, chosen is not best


def _calls(answer: Answer) -> list[Call]:
    return closed_calls(scored.step for scored in answer.steps)


def unsearched_result(
    config: SearchConfig, reward: Reward, model: str, tools: Iterable[Tool], stopped: Stop | None
) -> SearchResult:
    """The result where nothing may be called (`stopped` is None), or no model step was made."""
    if stopped is None:
        return SearchResult(
            [], True, 1.0, None, [], [], model, reward.name, config.strategy, Stats()
        )
    return SearchResult(
        [], False, 0.0, None, [], [], model, reward.name, config.strategy, Stats(),
        stopped=stopped, missing=missing_parts([], tools),
        confidence=[] if reward.calibrated else None, trace=[] if config.trace else None,
    )  # fmt: skip


def found_stats(prepared: Prepared, prefill: Prefill, timing: Timing) -> Stats:
    """The counts of a search that has ended, and its times but for the total."""
    counts = prepared.search.counts()
    stats = Stats(
        prompt_tokens=len(prepared.prompt),
        prefill_tokens=prefill.prefill_tokens,
        reused_tokens=prefill.reused_tokens,
        decode_tokens=counts.decode_tokens,
        forced_tokens=counts.forced_tokens,
        drawn_tokens=counts.drawn_tokens,
        rounds=counts.rounds,
        widened=counts.widened,
        steps=timing.steps,
        reward_calls=timing.reward_calls,
        kv_cells=counts.kv_cells,
        rows_max=counts.rows_max,
    )
    stats.ms |= {
        "prefill": 1e3 * timing.prefill,
        "decode": 1e3 * timing.decode,
        "core": 1e3 * timing.core,
        "reward": 1e3 * timing.reward,
    }
    return stats


def judged_kinds(reward: Reward) -> Sequence[str]:
    """The kinds of step whose reward is a probability."""
    if isinstance(reward, Head):
        return reward.card.kinds  # it gives the others 1.0
    return STEP_KINDS if reward.calibrated else ()
