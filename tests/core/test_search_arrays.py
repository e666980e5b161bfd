"""What the search's arrays may hold: numbers that point outside of its memory are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from toolprm_lite._core import SearchOptions, Segmenter, StepSearch, Vocabulary

TOKENS = [b'[{"name": "', b"f", b'"', b"}]", b""]
END = len(TOKENS) - 1


def new_search(**settings: Any) -> StepSearch:
    options = SearchOptions()
    changes = {
        "root_draws": 4, "beam_draws": 4, "aggregate": "last", "max_tokens": 16,
        "max_step_tokens": 16, "max_text_tokens": 4, "max_batch_tokens": 16, "temperature": 1.0,
        "top_k": 8, **settings,
    }  # fmt: skip
    for name, value in changes.items():
        setattr(options, name, value)
    return StepSearch(
        segmenter=Segmenter('[{"name": "f"}]'), vocabulary=Vocabulary(TOKENS, [END]),
        grounding=None, options=options, sequences=4, cells=64, prompt_tokens=2,
    )  # fmt: skip


def row(*tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A distribution in which these are equally likely."""
    logprobs = np.full(len(tokens), -np.log(len(tokens)), np.float32)
    return np.array([tokens], np.int32), logprobs[None], np.zeros(1, np.float32)


def started(**settings: Any) -> tuple[StepSearch, Any]:
    search = new_search(**settings)
    search.start(*row(0))
    assert search.take_new() == [(1, 0, 0)]
    return search, search.next_batch()


@pytest.mark.parametrize("token", [len(TOKENS), 1 << 30])
def test_token_outside_the_vocabulary(token: int) -> None:
    with pytest.raises(ValueError, match=f"token {token} is not in the vocabulary of 5 tokens"):
        new_search().start(*row(1, token))
    with pytest.raises(ValueError, match=f"token {token} is not"):
        new_search().start_forced([0, token])
    search, _ = started()
    with pytest.raises(ValueError, match=f"token {token} is not"):
        search.observe(*row(token), None)
    with pytest.raises(ValueError, match=f"token {token} is not"):
        search.set_forced(1, [token])
    with pytest.raises(ValueError, match="token -1 is not"):
        search.set_forced(1, [-1])


@pytest.mark.parametrize("branch", [-1, 2, 1 << 30])
def test_branch_that_is_not_there(branch: int) -> None:
    search, _ = started()
    with pytest.raises(ValueError, match=f"there is no branch {branch}"):
        search.set_forced(branch, [0])


def test_states_of_another_width() -> None:
    search, batch = started(states_wanted=True, pool_states=True)
    assert len(batch.hidden_at) == 1
    search.observe(*row(1), np.zeros((1, 3), np.float32))
    assert len(search.take_new()) == 1
    batch = search.next_batch()
    assert len(batch.hidden_at) == 1
    with pytest.raises(ValueError, match="another width"):
        search.observe(*row(2), np.zeros((1, 5), np.float32))
    search.observe(*row(2), np.zeros((1, 3), np.float32))


def test_second_stop_changes_nothing() -> None:
    search, _ = started()
    for token in (1, 2):  # the name is decided, so its branch replaces the beam it came from
        search.observe(*row(token), None)
        search.take_new()
        search.next_batch()
    search.stop()
    search.stop()
    assert search.next_batch() is None
    search.keep(np.ones(len(search.pending()), np.float32))
    assert search.done
    search.stop()
    assert [(answer.text, answer.score) for answer in search.answers()] == [(b'[{"name": "f"', 1.0)]
