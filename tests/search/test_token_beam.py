"""The beam search over tokens that the benchmarks compare with."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from support.mock_backend import MockBackend
from support.mock_models import RandomModel
from support.weather import DEAD, RESPONSES, TOOLS, call, search

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
as_request = importlib.import_module("request").as_request
TokenBeamSearch = importlib.import_module("token_beam").TokenBeamSearch

MESSAGES = [{"role": "user", "content": "Weather in Rome?"}]


def token_beam(backend: MockBackend, beams: int, **settings: Any) -> Any:
    """The search that has run, and its responses."""
    made = TokenBeamSearch(backend, beams, **settings)
    return made, made.run(as_request(backend, MESSAGES, TOOLS))


@pytest.mark.parametrize("constrain", [False, True])
def test_one_beam_is_greedy(constrain: bool) -> None:
    complete = 0
    models = [MockBackend({text: 1.0}) for text in (*RESPONSES, *DEAD.values())]
    models += [RandomModel([*RESPONSES, *DEAD.values()], seed) for seed in range(10)]
    for model in models:
        greedy = search(
            strategy="greedy", constrain="on" if constrain else "off", max_tokens=60, backend=model
        )
        made, beams = token_beam(model, 1, constrain=constrain, max_tokens=60)
        assert bool(beams and beams[0].complete) == greedy.complete
        if greedy.complete:
            (beam,) = beams
            assert (beam.tokens, beam.calls) == (greedy.tokens, greedy.calls)
            assert made.decoded == greedy.stats.decode_tokens + greedy.stats.forced_tokens
            complete += 1
    assert complete > 8


@pytest.mark.parametrize("constrain", [False, True])
def test_it_finds_what_greedy_misses(constrain: bool) -> None:
    responses = {call("Paris"): 0.25, call("Parma"): 0.2, call("Rome"): 0.35, "[]": 0.2}
    assert search(responses, strategy="greedy").text == call("Paris")
    made, (best, other) = token_beam(MockBackend(responses), 2, constrain=constrain)
    assert best.calls[0]["arguments"] == {"city": "Rome"}
    assert best.score == pytest.approx(0.35 ** (1 / best.sampled), rel=1e-4)
    assert other.complete
    assert best.score > other.score
    # Two beams share what they have in common, and only that.
    assert len(best.tokens) < made.decoded < 2 * len(best.tokens)


def test_what_has_finished_is_kept() -> None:
    responses = {"[]": 0.3, call("Rome"): 0.7}
    _, (short, *_) = token_beam(MockBackend(responses), 2, constrain=False, max_tokens=12)
    assert (short.calls, short.complete) == ([], True)
    _, (cut,) = token_beam(MockBackend(responses), 1, constrain=False, max_tokens=12)
    assert (len(cut.tokens), cut.complete) == (12, False)
    _, (best, other) = token_beam(MockBackend(responses), 2, constrain=False)
    assert [beam.complete for beam in (best, other)] == [True, True]
    assert best.calls[0]["arguments"] == {"city": "Rome"}
    assert other.calls == []
