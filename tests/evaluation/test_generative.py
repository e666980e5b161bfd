"""The reward that a second model gives by + or -: equal to full passes, however it is batched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.judge_backend import MINUS, PLUS, JudgeBackend
from support.mock_backend import MockBackend
from toolprm_lite import SearchConfig, Searcher
from toolprm_lite.backends.base import Backend
from toolprm_lite.backends.llamacpp import LlamaCppBackend
from toolprm_lite.errors import ConfigError, ContextError, ModelError
from toolprm_lite.evaluation.generative import QUESTIONS, GenerativeReward
from toolprm_lite.reward.base import (
    STEP_KINDS,
    CandidateStep,
    RequestReward,
    Reward,
    StepBatch,
)
from toolprm_lite.reward.policy import PolicyReward
from toolprm_lite.tools import Tool, parse_tools

TOOLS = parse_tools(
    [
        {
            "name": "weather",
            "description": "The weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
        {"name": "clock", "description": "The time", "parameters": {"type": "object"}},
    ]
)
QUESTION = [{"role": "user", "content": "Weather in Rome?"}]
OTHER = [{"role": "user", "content": "Is it warm in Oslo?"}]


def response(city: str) -> str:
    return json.dumps([{"name": "weather", "arguments": {"city": city}}])


def step(kind: str, response: str, text: str = "") -> CandidateStep:
    return CandidateStep(kind, 0, None, None, None, text, response)


STEPS = [
    step("FUNC_NAME", '[{"name": "weather"', '"weather"'),
    step("FUNC_NAME", '[{"name": "clock"', '"clock"'),
    *[
        step("ARG_VALUE", response(city)[:-3], f'"city": "{city}"')
        for city in ("Rome", "Paris", "San José", "Ho Chi Minh City")
    ],
    step("PARAM_FINISH", response("Rome")[:-2]),
    step("FUNC_FINISH", response("Rome")[:-1]),
    step("TOTAL_FINISH", response("Rome")),
    step("TOTAL_FINISH", "[]"),
    step("TOTAL_FINISH", ""),
    step("TOTAL_FINISH", "I can't."),
]


def batch_of(steps: Sequence[CandidateStep]) -> StepBatch:
    kinds = np.array([STEP_KINDS.index(step.kind) for step in steps], np.int8)
    return StepBatch(kinds, np.zeros((len(steps), 6), np.float32), None, lambda: list(steps))


def alone(backend: Backend, text: str, labels: tuple[int, int] = (PLUS, MINUS)) -> float:
    """The reward by a full pass over the text, with nothing in the cache."""
    backend.clear()
    output = backend.prefill(backend.tokenize(text), None, backend.info.vocab_size).output
    logprobs = dict(zip(output.top_ids[0].tolist(), output.top_logprobs[0].tolist(), strict=True))
    plus, minus = (np.exp(np.float64(logprobs[label])) for label in labels)
    return float(plus / (plus + minus))


def test_a_reward_is_the_softmax_of_two_logits() -> None:
    reward = GenerativeReward(JudgeBackend()).for_request(QUESTION, TOOLS)
    rewards = reward.score(batch_of(STEPS))
    assert rewards.dtype == np.float32
    expected = [alone(JudgeBackend(), reward.prompt(step)) for step in STEPS]
    assert rewards == pytest.approx(expected, abs=1e-5)
    assert 0 < rewards.min() < 0.2 < 0.8 < rewards.max() < 1
    assert reward.score(batch_of([])).shape == (0,)


def test_the_request_is_prefilled_once() -> None:
    backend = JudgeBackend()
    reward = GenerativeReward(backend).for_request(QUESTION, TOOLS)
    for first in range(0, len(STEPS), 3):
        reward.score(batch_of(STEPS[first : first + 3]))
    (prefill,) = backend.prefills
    assert (prefill.reused_tokens, prefill.prefill_tokens) == (0, len(backend.prompt))
    text = b"".join(backend.token_bytes[token] for token in backend.prompt).decode()
    assert text.endswith("The response so far:\n")
    assert reward.prefill_tokens == len(backend.prompt)
    assert reward.decode_tokens == len(backend.decoded)
    assert reward.decode_tokens == sum(
        len(reward.prompt(step).encode()) - len(backend.prompt) for step in STEPS
    )
    # Another question on the same tools prefills what follows them.
    reward = reward.for_request([{"role": "user", "content": "And in Oslo?"}], TOOLS)
    reward.score(batch_of(STEPS[:2]))
    second = backend.prefills[1]
    assert 0 < second.prefill_tokens < 80 < second.reused_tokens
    assert reward.prefill_tokens == prefill.prefill_tokens + second.prefill_tokens


def test_equal_texts_are_judged_once() -> None:
    backend = JudgeBackend()
    reward = GenerativeReward(backend).for_request(QUESTION, TOOLS)
    one, two, three = reward.score(batch_of([STEPS[0], STEPS[1], STEPS[0]]))
    assert one == three != two
    before = reward.decode_tokens
    reward.score(batch_of(STEPS[:2]))
    assert reward.decode_tokens == 2 * before


@pytest.mark.parametrize("sequences", [1, 2, 5, 64])
@pytest.mark.parametrize("room", [200, 500, 4000])
@pytest.mark.parametrize("refuse", [0.0, 0.4])
def test_waves(sequences: int, room: int, refuse: float) -> None:
    wide = GenerativeReward(JudgeBackend()).for_request(QUESTION, TOOLS)
    expected = wide.score(batch_of(STEPS))
    backend = JudgeBackend(
        context=wide.prefill_tokens + room, max_sequences=sequences, refuse=refuse
    )
    reward = GenerativeReward(backend).for_request(QUESTION, TOOLS)
    assert np.array_equal(reward.score(batch_of(STEPS)), expected)
    assert reward.decode_tokens == wide.decode_tokens
    assert len(backend.prefills) == 1
    assert backend._sequences == {}


class JoiningBackend(JudgeBackend):
    """A tokenizer that joins the beginning of a response to what precedes it."""

    def tokenize(self, text: str) -> list[int]:
        left, found, right = text.partition("far:\nI ")
        if not found:
            return super().tokenize(text)
        return [*super().tokenize(left), 200, *super().tokenize(right)]


def test_tokens_that_span_request_and_response() -> None:
    backend = JoiningBackend()
    reward = GenerativeReward(backend).for_request(QUESTION, TOOLS)
    for steps in (STEPS[:3], STEPS, STEPS[:3]):
        expected = [alone(JoiningBackend(), reward.prompt(step)) for step in steps]
        assert reward.score(batch_of(steps)) == pytest.approx(expected, abs=1e-5)
    assert len(backend.prefills) == 2


@pytest.mark.parametrize("label", ["+", "-"])
def test_labels_of_several_tokens_are_refused(label: str) -> None:
    class Splitting(JudgeBackend):
        def tokenize(self, text: str) -> list[int]:
            return super().tokenize(text.replace(label, f"({label})"))

    backend = Splitting()
    with pytest.raises(ModelError, match=rf"mock does not write '\{label}' as one token"):
        GenerativeReward(backend)
    assert backend.closed


def test_no_room_is_an_error() -> None:
    whole = GenerativeReward(JudgeBackend()).for_request(QUESTION, TOOLS)
    whole.score(batch_of(STEPS))
    for room, message in [
        (0, "mock as the judge: the prompt has"),
        (60, "mock as the judge: a step of"),
    ]:
        backend = JudgeBackend(context=whole.prefill_tokens + room)
        reward = GenerativeReward(backend).for_request(QUESTION, TOOLS)
        with pytest.raises(ContextError, match=message):
            reward.score(batch_of(STEPS))
    with pytest.raises(ConfigError, match="for_request"):
        GenerativeReward(JudgeBackend()).score(batch_of(STEPS))


# In a search

RESPONSES = {
    response("Paris"): 0.5,
    response("Rome"): 0.2,
    '[{"name": "clock", "arguments": {}}]': 0.2,
    "[]": 0.1,
}


def likes_rome(text: str) -> float:
    written = text.rpartition("The response so far:\n")[2].partition("\n\n")[0]
    wrong = "clock" in written or "Paris" in written or written == "[]"
    return -2.0 if wrong else 2.0


@pytest.mark.parametrize("strategy", ["step-beam", "best-of-n"])
def test_a_search_finds_what_the_judge_prefers(strategy: Any) -> None:
    backend = JudgeBackend(likes_rome, context=8192)
    with GenerativeReward(backend) as reward, Searcher(MockBackend(RESPONSES)) as searcher:
        config = SearchConfig(
            strategy=strategy, expand=16, samples=32, constrain="off", temperature=1.0
        )
        for _ in range(2):
            result = searcher.search(QUESTION, TOOLS, config, reward=reward)
            assert result.calls == [{"name": "weather", "arguments": {"city": "Rome"}}]
        assert result.reward == "generative"
        assert result.confidence is None
        assert {s.kind for s in result.steps} == set(STEP_KINDS)
        assert [s.reward for s in result.steps] == pytest.approx(
            [1 / (1 + np.exp(-2.0))] * len(result.steps), abs=1e-5
        )
        assert result.score == pytest.approx(result.steps[0].reward)
        assert backend.prefills[1].prefill_tokens == 1
        assert not backend.closed
    assert backend.closed


def test_the_judge_reads_the_whole_request() -> None:
    backend = JudgeBackend(likes_rome, context=8192)
    calls = [{"id": "c1", "function": {"name": "clock", "arguments": {}}}]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "Noon."},
        {"role": "user", "content": "And the weather in Rome?"},
    ]
    config = SearchConfig(strategy="step-beam", expand=16, constrain="off", temperature=1.0)
    Searcher(MockBackend(RESPONSES)).search(
        messages, TOOLS, config, reward=GenerativeReward(backend)
    )
    conversation = (
        "The conversation:\n"
        "system: Be brief.\n"
        "user: What time is it?\n"
        'assistant: [{"name": "clock", "arguments": {}}]\n'
        "user: Result of clock: Noon.\n"
        "user: And the weather in Rome?\n\n"
        "The response so far:\n"
    )
    asked = [text for text in backend.texts if conversation in text]
    assert all('"description": "The weather of a city"' in text for text in asked)
    ends = {text.partition(conversation)[2] for text in asked}
    for kind, question, written in [
        ("FUNC_NAME", f'{QUESTIONS["FUNC_NAME"]} "weather"', '[{"name": "weather"'),
        ("ARG_VALUE", f'{QUESTIONS["ARG_VALUE"]} "city": "Rome"', response("Rome")[:-3]),
        ("PARAM_FINISH", QUESTIONS["PARAM_FINISH"], response("Rome")[:-2]),
        ("FUNC_FINISH", QUESTIONS["FUNC_FINISH"], response("Rome")[:-1]),
        ("TOTAL_FINISH", QUESTIONS["TOTAL_FINISH"], response("Rome")),
    ]:
        end = f"{written}\n\n{question}\nAnswer + or -.<|im_end|>\n<|im_start|>assistant\n"
        assert end in ends, kind


class ForRequest(PolicyReward):
    """Remembers what it was bound to."""

    def __init__(self) -> None:
        self.requests: list[tuple[Any, Any]] = []

    def for_request(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]
    ) -> PolicyReward:
        self.requests.append((messages, tools))
        return PolicyReward()

    def score(self, batch: StepBatch) -> Any:
        raise AssertionError("scored without the request")


def test_request_rewards_get_the_request_once_a_search() -> None:
    reward = ForRequest()
    assert isinstance(reward, RequestReward)
    assert not isinstance(PolicyReward(), RequestReward)
    assert isinstance(GenerativeReward(JudgeBackend()), Reward)
    searcher = Searcher(MockBackend(RESPONSES))
    for count in (1, 2):
        searcher.search("Weather in Rome?", TOOLS, SearchConfig(constrain="off"), reward=reward)
        assert reward.requests == [(QUESTION, TOOLS)] * count


# Real backends


def test_a_judge_is_its_openers_to_close(tiny_gguf: Path) -> None:
    options = {"threads": 1, "context": 2048}
    mine = GenerativeReward.open(tiny_gguf, **options)
    searcher = Searcher.from_model(tiny_gguf, **options)  # type: ignore[arg-type]
    assert searcher.reward(mine) is mine
    searcher.close()
    assert len(mine.for_request(QUESTION, TOOLS).score(batch_of(STEPS))) == len(STEPS)
    mine.close()
    mine.close()
    with pytest.raises(ModelError, match="the model is closed"):
        mine.for_request(QUESTION, TOOLS).score(batch_of(STEPS))
    with pytest.raises(ModelError, match=r"missing\.gguf: no such model file"):
        GenerativeReward.open("missing.gguf")


@pytest.mark.parametrize(
    "settings",
    # The last has room for few candidates after the request.
    [{"context": 4096}, {"context": 4096, "max_sequences": 2}, {"context": 768}],
)
def test_rewards_of_llamacpp_are_those_of_separate_passes(
    settings: dict[str, int], tiny_gguf: Path
) -> None:
    judge = LlamaCppBackend(tiny_gguf, threads=1, **settings)
    assert_as_alone(judge, LlamaCppBackend(tiny_gguf, threads=1, context=4096))


def test_rewards_of_torch_are_those_of_separate_passes(tiny_gguf: Path) -> None:
    pytest.importorskip("torch")
    from toolprm_lite.backends.torch import TorchBackend

    judge, single = (
        TorchBackend.load(tiny_gguf, device="cpu", dtype="float32", context=4096) for _ in range(2)
    )
    assert_as_alone(judge, single)


def assert_as_alone(judge: Backend, single: Backend) -> None:
    plus, minus = (single.tokenize(label)[-1] for label in ("+", "-"))
    steps = STEPS[1::2]
    with GenerativeReward(judge) as opened:
        for question in ("Weather in Rome?", "Is it noon?"):
            reward = opened.for_request([{"role": "user", "content": question}], TOOLS)
            rewards = np.concatenate(
                [reward.score(batch_of(steps[:1])), reward.score(batch_of(steps[1:]))]
            )
            expected = [alone(single, reward.prompt(step), (plus, minus)) for step in steps]
            assert rewards == pytest.approx(expected, abs=1e-3)
            assert np.ptp(rewards) > 0.01
    single.close()


def test_rewards_of_several_requests_take_turns() -> None:
    """Each scores as it does alone, though the model holds another request in between."""
    backend = JudgeBackend()
    judge = GenerativeReward(backend)
    rewards = [judge.for_request(question, TOOLS) for question in (QUESTION, OTHER)]
    texts = [STEPS[:3], STEPS[3:7], STEPS[:1]]
    alone = []
    for question in (QUESTION, OTHER):
        one = GenerativeReward(JudgeBackend()).for_request(question, TOOLS)
        alone.append([one.score(batch_of(text)) for text in texts])
    for place, text in enumerate(texts):
        for reward, expected in zip(rewards, alone, strict=True):
            np.testing.assert_array_equal(reward.score(batch_of(text)), expected[place])
    assert judge.prefill_tokens == rewards[0].prefill_tokens > 0
    assert judge.decode_tokens > 0
