"""What a search records of its candidates, and who is evicted where the cache is too small."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict
from typing import Any

import pytest

from support.mock_backend import MockBackend
from support.mock_models import Paths, RandomModel
from support.step_rewards import KindReward, city_reward, equal_rewards, sure
from support.weather import DEAD, RESPONSES, call, search, two_calls
from toolprm_lite import SearchConfig, Searcher, SearchResult
from toolprm_lite.search.config import STRATEGIES
from toolprm_lite.search.trace import TraceNode


def traced(*arguments: Any, **settings: Any) -> tuple[SearchResult, list[TraceNode]]:
    result = search(*arguments, trace=True, **settings)
    assert result.trace is not None
    return result, result.trace


def path_of(node: TraceNode, by_id: dict[int, TraceNode]) -> list[TraceNode]:
    """The nodes of the response, first to last."""
    path = [node]
    while path[-1].parent is not None:
        path.append(by_id[path[-1].parent])
    return path[::-1]


def check(result: SearchResult, nodes: list[TraceNode], calibrated: bool) -> None:
    by_id = {node.id: node for node in nodes}
    assert len(by_id) == len(nodes)
    assert [node.round for node in nodes] == sorted(node.round for node in nodes)
    for node in nodes:
        assert (node.parent is None) == (node.round == 1)
        if node.parent is not None:
            parent = by_id[node.parent]
            assert parent.fate == "kept"
            assert parent.round < node.round
        assert (node.merged_into is not None) == (node.fate == "merged")
        if node.merged_into is not None:
            into = by_id[node.merged_into]
            assert into.fate != "merged"
            assert into.round <= node.round
            assert into.score >= node.score
        for step in node.steps:
            assert 0 <= step.reward <= 1
            assert step.logprob <= 0
            if scored(node):
                assert step.probability == (step.reward if calibrated else None)
            else:  # another candidate may have the same step, and be scored
                assert step.probability in ((None, step.reward) if calibrated else (None,))
        assert scored(node) or node.score == 0


def scored(node: TraceNode) -> bool:
    return node.fate in ("kept", "merged", "variant", "outscored")


@pytest.mark.parametrize("reward", ["policy", KindReward()])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nodes_are_a_tree_of_candidates(strategy: str, reward: Any) -> None:
    fates: Counter[str] = Counter()
    responses = [*RESPONSES, *DEAD.values(), two_calls(("clock", {}), ("weather", {"city": "X"}))]
    for seed in range(12):
        model = MockBackend(RESPONSES) if seed == 0 else RandomModel(responses, seed)
        result, nodes = traced(
            reward=reward, backend=model, strategy=strategy, seed=seed, beams=1 + seed % 3,
            max_tokens=60, samples=8, constrain="on" if seed % 2 else "off",
        )  # fmt: skip
        check(result, nodes, reward != "policy")
        fates.update(node.fate for node in nodes)
        by_id = {node.id: node for node in nodes}
        kept = [node for node in nodes if node.fate == "kept"]
        assert {node.round for node in nodes} <= set(range(1, result.stats.rounds + 1))
        if result.complete:
            # The answer is one of the paths, to the last step.
            answers = [
                path
                for path in (path_of(node, by_id) for node in kept if node.finished)
                if "".join(node.text for node in path) == result.text
            ]
            (answer,) = answers
            assert [step for node in answer for step in node.steps] == result.steps
            assert answer[-1].score == result.score
    assert fates["kept"]
    assert strategy == "greedy" or len(fates) > 2


def test_merged_nodes_name_what_they_are_merged_into() -> None:
    one = '[{"name": "weather", "arguments": {"city": "Oslo", "days": 5}}]'
    two = '[{"name":"weather","arguments":{"days":5.0,"city":"Os\\u006co"}}]'
    _, nodes = traced(
        {one: 0.5, two: 0.3, "[]": 0.2}, equal_rewards, strategy="best-of-n", samples=64
    )
    (merged,) = [node for node in nodes if node.fate == "merged"]
    (into,) = [node for node in nodes if node.id == merged.merged_into]
    assert (merged.text, into.text, into.fate) == (two, one, "kept")


def test_an_ended_beam_that_is_outscored_is_a_node_of_the_round_it_leaves() -> None:
    def later(steps: Any) -> list[float]:
        return [0.5 if s.response == "[]" else 0.4 if s.kind == "FUNC_NAME" else 0.9 for s in steps]

    responses = {"[]": 0.4, call("Rome"): 0.4, call("Oslo"): 0.2}
    _, nodes = traced(responses, later, beams=2, expand=32, aggregate="last", way_floor=1.0)
    by_id = {node.id: node for node in nodes}
    left = [node for node in nodes if node.fate == "outscored" and not node.steps]
    (ended,) = left
    assert ended.parent is not None
    declined = by_id[ended.parent]
    assert (declined.text, declined.fate, declined.finished) == ("[]", "kept", True)
    assert (ended.text, ended.finished) == ("", True)
    assert ended.round > declined.round


def test_widened_tells_where_doubt_looked_further() -> None:
    quiet, nodes = traced(reward=sure, strategy="doubt")
    assert quiet.stats.widened == 0
    assert not any(node.widened for node in nodes)
    assert all(node.greedy for node in nodes)
    found, nodes = traced(
        reward=city_reward("Rome"), strategy="doubt", aggregate="min", tool_choice="weather",
        expand=16, seed=1,
    )  # fmt: skip
    assert found.calls[0]["arguments"]["city"] == "Rome"
    rounds = {node.round for node in nodes if node.widened}
    assert len(rounds) == found.stats.widened == 1
    # All that was tried in that round is there, and only the drawn ones of it are not greedy.
    (round,) = rounds
    tried = [node for node in nodes if node.round == round]
    assert len(tried) > 1
    assert all(node.greedy for node in nodes if node.round < round and node.fate == "kept")
    assert sum(node.greedy for node in tried) == 1
    everywhere, nodes = traced(strategy="step-beam")
    assert everywhere.complete
    assert all(node.widened for node in nodes)


def test_a_step_that_was_never_scored_has_the_policys_probability() -> None:
    result, nodes = traced({call("Rome"): 0.5, DEAD["wrong enum"]: 0.5}, KindReward(), expand=32)
    assert result.complete
    dead = [node for node in nodes if node.fate not in ("kept", "outscored", "merged", "variant")]
    assert dead
    for node in dead:
        assert node.score == 0
        for step in node.steps:
            assert step.probability is None
            assert step.reward == pytest.approx(math.exp(step.logprob))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_trace_is_json(strategy: str) -> None:
    result, nodes = traced(strategy=strategy, reward=KindReward())
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert record["trace"] == json.loads(json.dumps([asdict(node) for node in nodes]))
    assert record["trace"][0]["steps"][0].keys() >= {"kind", "reward", "probability", "logprob"}
    assert "trace" not in search(strategy=strategy).to_dict()


# A cache that is too small


def outline(nodes: list[TraceNode]) -> Counter[tuple[Any, ...]]:
    return Counter(
        (node.round, node.beam, node.text, node.fate, node.score, node.draws) for node in nodes
    )


def test_what_is_evicted_is_decoded_again() -> None:
    settings = {"beams": 4, "expand": 16, "seed": 2}
    wide, nodes = traced(**settings)
    prompt = wide.stats.prompt_tokens
    narrow, others = traced(**settings, backend=MockBackend(RESPONSES, context=prompt + 25))
    assert outline(others) == outline(nodes)
    assert (narrow.text, narrow.score) == (wide.text, wide.score)
    assert narrow.stats.decode_tokens > wide.stats.decode_tokens
    assert narrow.stats.kv_cells <= prompt + 25 < wide.stats.kv_cells


def test_a_response_that_fits_in_no_cells_is_given_up() -> None:
    short, long = call("Rome"), call("R" + "o" * 80)
    whole, _ = traced({short: 0.4, long: 0.6}, max_step_tokens=100)
    assert whole.text == long
    context = whole.stats.prompt_tokens + 60
    backend = MockBackend({short: 0.4, long: 0.6}, context=context)
    result, nodes = traced(backend=backend, expand=16, max_step_tokens=100)
    assert result.text == short
    (cut,) = [node for node in nodes if node.fate == "unfinished"]
    assert "ooo" in cut.text
    assert backend.cells_max <= context


def test_the_least_likely_open_branch_is_evicted_first() -> None:
    tools = [
        {"name": name, "parameters": {"properties": {"x": {"type": "string"}}}} for name in "ab"
    ]

    def write(name: str) -> str:
        return json.dumps([{"name": name, "arguments": {"x": name * 40}}])

    responses = {write("a"): 0.7, write("b"): 0.3}
    config = SearchConfig(
        strategy="step-beam", constrain="off", temperature=1.0, beams=2, expand=16, way_floor=1.0
    )
    searcher = Searcher(MockBackend(responses))
    wide = searcher.search("?", tools, config, reward=equal_rewards)
    backend = Paths(responses, context=wide.stats.prompt_tokens + 75)
    narrow = Searcher(backend).search("?", tools, config, reward=equal_rewards)
    assert narrow.text == wide.text
    seen: set[tuple[int, ...]] = set()
    again = next(path for path in backend.paths if path in seen or seen.add(path))  # type: ignore
    text = b"".join(backend.token_bytes[token] for token in again).decode()
    assert text.startswith('[{"name": "b"') or text == '[{"', text
