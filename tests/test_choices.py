"""Steps of finite choices, decoded as one tree and judged whole."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_steps import log_softmax
from mock_backend import MockBackend, tokenize
from test_doubt import Paths, chance, sure
from test_search import RESPONSES, TOOLS, RandomModel, StateReward, call, city_reward, search
from tiny_model import TinyLlama

from toolprm_lite import SearchConfig, Searcher, SearchRequest, SearchResult, Tool
from toolprm_lite._core import CallFormat, StepSearch
from toolprm_lite._core import Vocabulary as CoreVocabulary
from toolprm_lite.backends.base import Backend, Batch, MaskArray, Output
from toolprm_lite.backends.encoder import Encoder
from toolprm_lite.constraint import Vocabulary
from toolprm_lite.errors import ConfigError
from toolprm_lite.formats import JSON_LIST
from toolprm_lite.reward.base import CandidateStep, StepBatch
from toolprm_lite.search.choices import Choices
from toolprm_lite.search.loop import Masks


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": name, "parameters": {**schema, "additionalProperties": False}}


def value(schema: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Tools whose next step behind the prefix is a value of this schema."""
    return [tool("f", x=schema)], '[{"name": "f", "arguments": {"x":'


class Trace:
    """Remembers the paths that a backend decoded, and its batches."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._open: dict[int, list[int]] = {}
        self.paths: list[tuple[int, ...]] = []
        self.batches: list[Batch] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def decode(self, batch: Batch, masks: MaskArray | None, k: int) -> Output:
        output = self._backend.decode(batch, masks, k)
        self.batches.append(batch)
        for kind, source, destination in batch.ops.tolist():
            if kind == 0:
                self._open[destination] = list(self._open.get(source, []))
            else:
                del self._open[source]
        forks = batch.forks.tolist()
        for place, (token, sequence) in enumerate(
            zip(batch.tokens.tolist(), batch.sequences.tolist(), strict=True)
        ):
            self._open[sequence].append(token)
            self.paths.append(tuple(self._open[sequence]))
            for _, source, destination in (fork for fork in forks if fork[0] == place):
                self._open[destination] = list(self._open[source])
        return output


@dataclass
class Round:
    """The first round of a search that stands behind a prefix."""

    backend: Backend
    tools: list[dict[str, Any]]
    prefix: str
    constrain: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        backend, info = self.backend, self.backend.info
        self.trace = Trace(backend)
        self.prompt = backend.tokenize("ask")
        encode = Encoder(backend.token_bytes, backend.tokenize)
        choices = Choices(backend.token_bytes, encode)
        self.given = encode(self.prefix)
        settings = {
            "max_calls": None, "require_call": False, "beams": 2, "root_draws": 16,
            "beam_draws": 8, "follow_argmax": True, "whole_responses": False,
            "rank_by_draws": False, "policy_rewards": False, "states_wanted": True,
            "pool_states": False, "grounding": None, "aggregate": "last", "policy_weight": 0.0,
            "way_floor": 1.0, "max_tokens": 400, "max_step_tokens": 200, "max_text_tokens": 64,
            "max_batch_tokens": 512, "temperature": 1.0, "top_k": 64, "top_p": 1.0, "seed": 0,
            "prompt_hash": 0, "trace": True, "token_level": False, "doubt": 1.0, "choices": 30,
            "judge": None,
            "forks_within": True, **self.settings,
        }  # fmt: skip
        self.search = StepSearch(
            tools_json=json.dumps(self.tools),
            format=CallFormat(),
            vocabulary=CoreVocabulary(list(backend.token_bytes), sorted(info.eog_tokens)),
            sequences=info.max_sequences,
            cells=info.context,
            prompt_tokens=len(self.prompt),
            **settings,
        )
        backend.tap((2,))
        backend.prefill(self.prompt, None, 1)
        masks = None
        if self.constrain:
            tools = [Tool.from_dict(each) for each in self.tools]
            masks = Masks(
                Vocabulary.of(backend).constraint(tools, JSON_LIST, tool_choice="required")
            )
            matcher = masks.constraint._root.deep_copy()
            assert matcher.consume_tokens(self.given)
            masks.matchers[0] = matcher
        search = self.search
        search.start_forced(
            [*self.given, *(masks.constraint._consume_forced(matcher) if masks else [])]
        )
        while True:
            if masks is not None:
                masks.follow(search)
            else:
                while search.take_new():
                    pass
            choices.plant(search, masks)
            rows = search.next_batch()
            if rows is None:
                # The prefix may hold steps of its own.
                waiting = [response for _, response in search.pending()]
                if any(len(response) > len(self.prefix.encode()) for response in waiting):
                    break
                search.keep(np.full(len(waiting), 0.9, np.float32))
                if search.done:
                    break
                continue
            *arrays, branches = rows
            allowed = masks.fill(branches) if masks is not None else None
            if search.narrowed:
                if allowed is None:
                    words = (info.vocab_size + 31) // 32
                    allowed = np.full((len(branches), words), 0xFFFFFFFF, np.uint32)
                search.narrow(allowed)
            output = self.trace.decode(Batch(*arrays), allowed, max(64, search.choice_width))
            search.observe(output.top_ids, output.top_logprobs, output.entropy, output.hidden)

    def candidates(self) -> Iterator[tuple[str, bytes, np.ndarray, np.ndarray, Any]]:
        """(kind, response, features, state, step) of each step that waits for a reward."""
        kinds, features, hidden = self.search.features()
        assert len(kinds)
        assert hidden is not None
        for (step, response), row, state in zip(
            self.search.pending(), features, hidden, strict=True
        ):
            yield step.kind, response, row, state, step

    def values(self, kind: str = "ARG_VALUE") -> set[str]:
        """What steps of this kind decide, as JSON."""
        return {
            json.dumps(json.loads(response[step.begin : step.end]))
            for found, response, _, _, step in self.candidates()
            if found == kind
        }


NAMES = [f"get_{a}_{b}" for a in ("car", "cat", "weather") for b in "abcdefghij"]

ODD = ['"', "\\", "a\nb", "\t", "\x01"]
FOREIGN = ["é", "日本", "日光", "🙂", "e"]
SETS: dict[str, tuple[list[dict[str, Any]], str, list[Any]]] = {
    "one name": ([tool("only")], '[{"name": "', ["only"]),
    "two names": ([tool("cats"), tool("dogs")], '[{"name": "', ["cats", "dogs"]),
    "thirty names": ([tool(name) for name in NAMES], '[{"name": "', NAMES),
    "prefixes": ([tool(n) for n in ("a", "ab", "abc", "b")], '[{"name":', ["a", "ab", "abc", "b"]),
    "inside": ([tool(n) for n in ("cat", "car", "dog")], '[{"name": "ca', ["cat", "car"]),
    "boolean": (*value({"type": "boolean"}), [True, False]),
    "nullable": (*value({"type": ["boolean", "null"]}), [True, False, None]),
    "enum": (*value({"enum": ["city", "cities", "Paris", ""]}), ["city", "cities", "Paris", ""]),
    "escapes": (*value({"enum": ODD}), ODD),
    "unicode": (*value({"enum": FOREIGN}), FOREIGN),
    "numbers": (*value({"enum": [1, 10, 2.5, -3]}), [1, 10, 2.5, -3]),
    "mixed": (*value({"enum": ["1", 1, None, True]}), ["1", 1, None, True]),
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> TinyLlama:
    return TinyLlama(attention_scale=0.01, seed=3)


@pytest.fixture(scope="module")
def gguf_file(model: TinyLlama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.write(tmp_path_factory.mktemp("choices") / "tiny.gguf")


@pytest.fixture(params=["llamacpp", "torch"])
def backend(request: pytest.FixtureRequest, gguf_file: Path) -> Iterator[Backend]:
    if request.param == "llamacpp":
        from toolprm_lite.backends.llamacpp import LlamaCppBackend

        opened: Backend = LlamaCppBackend(gguf_file, threads=1)
    else:
        from test_torch import opened as open_torch

        opened = open_torch()
    yield opened
    opened.close()


def reference(
    backend: Backend, model: TinyLlama, tokens: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities [tokens, vocabulary] and the second block's outputs of one full pass."""
    if backend.info.architecture == "llama":
        logits, hidden = model.forward(tokens)
        return log_softmax(logits), hidden[2]
    import torch

    with torch.inference_mode():
        output = backend._model(  # type: ignore[attr-defined]
            torch.tensor([tokens]), output_hidden_states=True, use_cache=False
        )
    return log_softmax(output.logits[0].numpy()), output.hidden_states[2][0].numpy()


@pytest.mark.parametrize("constrain", [False, True])
@pytest.mark.parametrize("name", SETS)
def test_every_choice_is_scored_as_a_pass_of_its_own_does(
    backend: Backend, model: TinyLlama, name: str, constrain: bool
) -> None:
    tools, prefix, expected = SETS[name]
    round = Round(backend, tools, prefix, constrain)
    kind = "ARG_VALUE" if "arguments" in prefix else "FUNC_NAME"
    assert round.values(kind) == set(map(json.dumps, expected))
    forced = constrain and len(expected) == 1
    assert round.search.counts()["choice_sets"] == (0 if forced else 1)
    paths = round.trace.paths
    assert len(paths) == len(set(paths)), "decoded twice"
    assert len(paths) == sum(round.search.counts()[f"{k}_tokens"] for k in ("decode", "forced"))
    # The tree at once, and what ends the choices.
    assert len(round.trace.batches) <= 3
    table = backend.token_bytes
    passes: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
    for found, response, features, state, _ in round.candidates():
        if found != kind:
            continue
        close = False
        for path in paths:
            written = b"".join(table[token] for token in path)
            before = len(written) - len(table[path[-1]])
            if not written.startswith(response) or before >= len(response):
                continue
            if path not in passes:
                passes[path] = reference(backend, model, [*round.prompt, *path])
            logprobs, states = passes[path]
            first = len(round.prompt) + len(round.given) - 1
            step = [
                float(logprobs[first + place, token])
                for place, token in enumerate(path[len(round.given) :])
            ]
            entropy = float(-(np.exp(logprobs[first]) * logprobs[first]).sum())
            if constrain:  # forced tokens count in no certainty
                close |= np.allclose(state, states[-1], atol=1e-4)
                continue
            wanted = [sum(step), min(step), sum(step) / len(step), entropy, sum(step), min(step)]
            close |= np.allclose(features, wanted, atol=1e-4) and np.allclose(
                state, states[-1], atol=1e-4
            )
        assert close, (response, features)


def test_what_is_no_set_is_drawn() -> None:
    backend = MockBackend({"[]": 1.0})
    for schema in (
        {"type": "string"}, {"type": "integer"}, {}, {"enum": [[1], "a"]}, {"enum": [{}, 1]},
        {"enum": list("abcdefghij")}, {"type": ["boolean", "string"]},
    ):  # fmt: skip
        tools, prefix = value(schema)
        settings = {"choices": 9, "max_step_tokens": 5}
        round = Round(backend, tools, prefix, settings=settings)
        assert round.search.counts()["choice_sets"] == 0, schema
    # A list that has been cut down by what was written is small enough.
    tools = [tool(name) for name in NAMES]
    found = Round(backend, tools, '[{"name": "get_car_', settings={"choices": 10})
    assert len(found.values("FUNC_NAME")) == 10
    none = Round(
        backend, tools, '[{"name": "get_ca', settings={"choices": 10, "max_step_tokens": 9}
    )
    assert none.search.counts()["choice_sets"] == 0


@pytest.mark.parametrize("constrain", ["off", "on"])
def test_the_numbers_are_those_of_a_step_that_is_drawn(constrain: str) -> None:
    class Seen(StateReward):
        def score(self, batch: StepBatch) -> np.ndarray:
            for step, features, state in zip(
                batch.candidates(), batch.features, batch.hidden, strict=True
            ):
                seen[step.kind, step.response, tuple(state)] = features
            return np.full(len(batch.kinds), 0.5, np.float32)

    sums, draws = [], []
    for choices in (0, 8):
        seen: dict[Any, np.ndarray] = {}
        result = search(
            reward=Seen(), choices=choices, constrain=constrain, expand=128, trace=True, seed=4
        )
        sums.append(seen)
        draws.append(Counter((c.round, c.text, c.draws) for c in result.trace or []))
    drawn, chosen = sums
    assert drawn.keys() <= chosen.keys()
    for key, features in drawn.items():
        np.testing.assert_array_equal(features, chosen[key])
    # A choice's share of the draws is what it would be without.
    assert draws[0] <= draws[1]


@pytest.mark.parametrize("constrain", ["off", "on"])
def test_draws_are_those_of_the_vocabulary(constrain: str) -> None:
    for seed in range(10):
        settings = {"seed": seed, "expand": 12, "constrain": constrain, "trace": True}
        without, whole = (search(choices=choices, **settings) for choices in (0, 8))
        counts = [
            Counter({c.text: c.draws for c in result.trace or [] if "FUNC_NAME" in c.kinds})
            for result in (without, whole)
        ]
        assert +counts[0] == +counts[1]


def fahrenheit(steps: Sequence[CandidateStep]) -> list[float]:
    """Likes this unit, and dislikes a response that has none."""
    return [
        0.1 if s.argument == "unit" and s.value == "C"
        else 0.05 if s.kind == "PARAM_FINISH" and "unit" not in s.response
        else 0.9
        for s in steps
    ]  # fmt: skip


@pytest.mark.parametrize("constrain", ["off", "on"])
def test_a_choice_that_nobody_draws_may_win(constrain: str) -> None:
    responses = {call("Rome", unit="C"): 1 - 1e-6, call("Rome", unit="F"): 1e-6}

    for choices, unit in ((0, "C"), (2, "F")):
        result = search(responses, fahrenheit, choices=choices, constrain=constrain)
        assert result.calls[0]["arguments"]["unit"] == unit
        assert result.complete


def test_fewer_model_steps() -> None:
    tools = [tool(f"get_the_{name}") for name in ("weather", "weekday", "time")]
    responses = {json.dumps([{"name": each["name"], "arguments": {}}]): 1.0 for each in tools}
    searcher = Searcher(MockBackend(responses))
    for constrain in ("off", "on"):
        without, whole = (
            searcher.search(
                "?",
                tools,
                SearchConfig(strategy="step-beam", choices=choices, constrain=constrain),
                reward=StateReward(),
            )
            for choices in (0, 3)
        )
        assert whole.stats.steps < without.stats.steps
        assert whole.stats.choice_sets >= 1


class ByChance(StateReward):
    """Reads states, and likes one response better than another."""

    def score(self, batch: StepBatch) -> np.ndarray:
        super().score(batch)
        return np.array(chance(batch.candidates()), np.float32)


def plain(result: SearchResult) -> Any:
    return result.text, result.score, result.steps, result.alternatives


@pytest.mark.parametrize("constrain", ["off", "on"])
@pytest.mark.parametrize("reward", ["policy", "cities", "states"])
def test_a_small_cache_costs_time_and_not_answers(reward: str, constrain: str) -> None:
    def ask(**settings: Any) -> SearchResult:
        judge: Any = {"cities": city_reward("Rome"), "states": ByChance()}.get(reward, reward)
        return search(
            reward=judge, choices=8, constrain=constrain, beams=3, expand=8, seed=3, **settings
        )

    wide = ask()
    assert wide.stats.choice_sets > 0
    for sequences, room, refuse in itertools.product([1, 2, 5, 64], [70, 4000], [0.0, 0.3]):
        context = wide.stats.prompt_tokens + room
        backend = MockBackend(RESPONSES, context=context, max_sequences=sequences, refuse=refuse)
        narrow = ask(backend=backend)
        assert narrow.complete
        assert backend.cells_max <= context
        if room > 100:
            assert narrow.text == wide.text
            assert [a.calls for a in narrow.alternatives] == [a.calls for a in wide.alternatives]


@pytest.mark.parametrize("constrain", ["off", "on"])
@pytest.mark.parametrize("reward", ["policy", "states"])
def test_one_by_one_is_the_same_search(reward: str, constrain: str) -> None:
    # A model whose branches can't fork in the middle of a batch.
    for seed in range(4):
        results = []
        for within in (True, False):
            backend = Paths(RESPONSES)
            backend.logits = RandomModel(RESPONSES, seed).logits  # type: ignore[method-assign]
            object.__setattr__(backend.info, "forks_within", within)
            judge: Any = ByChance() if reward == "states" else reward
            results.append(
                search(
                    reward=judge,
                    backend=backend,
                    choices=8,
                    constrain=constrain,
                    seed=seed,
                    trace=True,
                    max_tokens=80,
                )
            )
            assert (results[-1].stats.choice_sets > 0) == within
        assert plain(results[0]) == plain(results[1])


def test_limits_in_the_middle_of_a_set() -> None:
    names = {"weather": "weather", "clock": "clock"}
    for budget in range(1, 40):
        result = search(choices=8, max_decode_tokens=budget, reward=StateReward())
        assert result.stats.decode_tokens <= budget
        assert all(made["name"] in names for made in result.calls)
    for limit in range(1, 40):
        result = search(choices=8, max_tokens=limit, reward=StateReward())
        assert len(result.tokens) <= limit
    # No step of more than 64 tokens where there is a deadline.
    tools = [tool(f"{name}_of_the_day") for name in ("news", "weather", "picture", "word", "song")]
    response = json.dumps([{"name": tools[0]["name"], "arguments": {}}])
    steps: list[int] = []
    backend = MockBackend({response: 1.0})
    backend.on_step = steps.append
    result = Searcher(backend).search(
        "?",
        tools,
        SearchConfig(
            strategy="step-beam", choices=8, deadline_ms=1e6, constrain="off", max_step_tokens=40
        ),
    )
    assert result.complete
    assert max(steps) <= 64


def test_a_choice_that_is_too_long_is_given_up() -> None:
    long = "x" * 60
    tools, prefix = value({"enum": ["ab", "cd", long]})
    limit = len(tokenize(prefix)) + 30
    found = Round(MockBackend({"[]": 1.0}), tools, prefix, settings={"max_step_tokens": limit})
    assert found.values() == {'"ab"', '"cd"'}
    assert max(len(path) for path in found.trace.paths) < len(found.given) + len(long)


@pytest.mark.parametrize("constrain", ["off", "on"])
def test_doubt_looks_at_the_set_only_where_it_doubts(constrain: str) -> None:
    text = call("Rome", unit="C")
    responses = {text: 0.9, call("Rome", unit="F"): 0.1}
    for reward in (sure, StateReward()):
        backend = Paths(responses)
        settings = {"constrain": constrain, "expand": 16}
        greedy = search(responses, reward, strategy="greedy", constrain=constrain)
        found = search(reward=reward, strategy="doubt", backend=backend, choices=8, **settings)
        assert found.text == greedy.text == text
        assert found.stats.decode_tokens == greedy.stats.decode_tokens
        assert found.stats.steps == greedy.stats.steps
        assert found.stats.choice_sets == 0

    rare = {text: 1 - 1e-6, call("Rome", unit="F"): 1e-6}
    for choices, unit in ((0, "C"), (2, "F")):
        backend = Paths(rare)
        found = search(
            reward=fahrenheit, strategy="doubt", choices=choices, backend=backend,
            constrain=constrain,
        )  # fmt: skip
        assert found.calls[0]["arguments"]["unit"] == unit
        assert len(backend.paths) == len(set(backend.paths))


def test_other_strategies_know_no_choices() -> None:
    for strategy in ("greedy", "token-beam", "majority", "best-of-n"):
        without, whole = (search(strategy=strategy, choices=choices) for choices in (0, 8))
        assert without.text == whole.text
        assert without.stats.decode_tokens == whole.stats.decode_tokens
        assert whole.stats.choice_sets == 0


@pytest.mark.parametrize("choices", [-1, 257, 1.5, True])
def test_a_size_out_of_range_is_named(choices: Any) -> None:
    with pytest.raises(ConfigError, match="choices"):
        SearchConfig(choices=choices)


def test_trees_that_make_no_sense_are_refused() -> None:
    backend = MockBackend({"[]": 1.0})
    round = Round(backend, TOOLS, '[{"name": "', settings={"max_step_tokens": 9})
    with pytest.raises(ValueError, match="no tree"):
        round.search.set_choices(0, [0], [5], [False], [1])


# Many searches on one context


CITIES = ("Paris", "Parma", "Rome", "Riga", "Oslo", "Lima")


def asked_at_once(count: int, strategy: str = "step-beam", **more: Any) -> list[SearchRequest]:
    """Every third without choices, every other one under a constraint; two functions each."""
    city, truth = {"type": "string", "enum": list(CITIES)}, {"type": "boolean"}
    return [
        SearchRequest(
            f"What would shop_{n} is say?",
            [tool(f"shop_{n}", city=city, open=truth), tool(f"shop_{n}_b", city=city)],
            SearchConfig(
                strategy=strategy,  # type: ignore[arg-type]
                beams=2, expand=4, seed=n, max_tokens=160,
                choices=0 if n % 3 == 2 else 8,
                constrain="on" if n % 2 else "off",
                **more,
            ),
        )
        for n in range(count)
    ]  # fmt: skip


def shops(count: int, **more: Any) -> MockBackend:
    texts = {}
    for n in range(count):
        found = {"[]": 0.1}
        for place in range(3):
            where = CITIES[(n + 2 * place) % len(CITIES)]
            arguments = {"city": where} if place % 2 else {"city": where, "open": n % 2 == 0}
            name = f"shop_{n}_b" if place % 2 else f"shop_{n}"
            found[json.dumps([{"name": name, "arguments": arguments}])] = 0.9 * (3 - place) / 6
        texts[f"shop_{n} is"] = found
    return MockBackend({"[]": 1.0}, by_prompt=texts, **more)


def one_by_one(asked: Sequence[SearchRequest], reward: Any) -> list[SearchResult]:
    searcher = Searcher(shops(len(asked), context=16384))
    return [searcher.search(one.messages, one.tools, one.config, reward=reward) for one in asked]


@pytest.mark.parametrize("strategy", ["step-beam", "doubt"])
@pytest.mark.parametrize("reward", ["policy", "states"])
def test_many_at_once_choose_as_they_do_alone(reward: str, strategy: str) -> None:
    judge: Any = ByChance() if reward == "states" else reward
    asked = asked_at_once(12, strategy, doubt=0.95)
    expected = one_by_one(asked, judge)
    assert sum(result.stats.choice_sets for result in expected) > 3
    assert all(not result.stats.choice_sets for result in expected[2::3])
    model = shops(12, context=16384, max_sequences=1000)
    found = Searcher(model).search_many(asked, reward=judge)
    assert [plain(result) for result in found] == [plain(result) for result in expected]
    assert model.steps < sum(result.stats.steps for result in expected) / 3
    assert model.prompts == {}


@pytest.mark.parametrize("reward", ["policy", "states"])
@pytest.mark.parametrize(
    ("room", "sequences", "refuse"),
    [(16000, 3, 0.0), (16000, 20, 0.0), (16000, 1000, 0.3), (300, 1000, 0.0), (300, 20, 0.3)],
)
def test_many_in_a_small_cache_choose_the_same(
    reward: str, room: int, sequences: int, refuse: float
) -> None:
    judge: Any = ByChance() if reward == "states" else reward
    asked = asked_at_once(9)
    expected = one_by_one(asked, judge)
    context = max(result.stats.prompt_tokens for result in expected) + room
    model = shops(9, context=context, max_sequences=sequences, refuse=refuse)
    found = Searcher(model).search_many(asked, reward=judge)
    assert [result.calls for result in found] == [result.calls for result in expected]
    assert model.prompts == {}


def test_one_that_is_put_back_keeps_what_it_chose() -> None:
    """There are cells for less than two or three that were begun."""
    asked = asked_at_once(6)
    expected = one_by_one(asked, ByChance())
    most = max(result.stats.kv_cells for result in expected)
    again = []
    for extra in (*range(680, 800, 20), *range(1360, 1500, 20)):
        model = shops(6, context=most + extra)
        found = Searcher(model).search_many(asked, reward=ByChance())
        assert [result.calls for result in found] == [result.calls for result in expected]
        again.append(sum(result.stats.decode_tokens for result in found))
    assert max(again) > sum(result.stats.decode_tokens for result in expected)
