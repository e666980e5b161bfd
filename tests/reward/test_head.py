"""The head's file, its arithmetic and what it refuses. No torch here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from support.heads import CARD, UNITS, make_head, make_steps
from toolprm_lite.backends.base import ModelInfo
from toolprm_lite.errors import HeadError
from toolprm_lite.reward.base import CERTAINTY, STEP_KINDS, Reward
from toolprm_lite.reward.head import LABELS, Head
from toolprm_lite.reward.head_file import load_head, save_head
from toolprm_lite.reward.margin import Margin

INFO = ModelInfo("Small-1", "llama", 100, 6, 4, 512, 8, frozenset())


def slow_probability(head: Head, kind: int, inputs: list[float], label: int) -> float:
    w = head.weights
    x = [
        min(8.0, max(-8.0, (value - shift) / scale))
        for value, shift, scale in zip(inputs, w.shift, w.scale, strict=True)
    ]
    logit = float(w.readout_bias[label, kind])
    for unit in range(UNITS):
        z = float(w.kind_bias[kind, unit]) + sum(
            a * b for a, b in zip(w.weight[unit], x, strict=True)
        )
        z = 0.5 * z * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
        logit += float(w.readout[label, kind, unit]) * z
    slope, offset = w.calibration[label, kind].tolist()
    return 1 / (1 + math.exp(-(slope * logit + offset)))


@pytest.mark.parametrize("label", LABELS)
def test_score_is_the_network_written_out(label: Any) -> None:
    head = make_head(label=label)
    batch = make_steps(head)
    found = head.score(batch)
    assert found.dtype == np.float32
    for row, kind in enumerate(batch.kinds.tolist()):
        inputs = [*batch.hidden[row].tolist(), *batch.features[row].tolist()]  # type: ignore[index]
        expected = slow_probability(head, kind, inputs, LABELS.index(label))
        assert found[row] == pytest.approx(expected, abs=1e-5)


def test_it_is_a_reward() -> None:
    head = make_head()
    assert isinstance(head, Reward)
    assert (head.layers, head.pooled, head.grounded, head.calibrated) == ((1, 3), True, True, True)
    assert not make_head(features=CERTAINTY).grounded


def test_kinds_it_does_not_judge_get_one() -> None:
    whole, coarse = make_head(), make_head(kinds=("FUNC_NAME", "TOTAL_FINISH"))
    batch = make_steps(whole)
    judged = np.isin(batch.kinds, [0, 4])
    found = coarse.score(batch)
    assert (found[~judged] == 1).all()
    assert (found[judged] == whole.score(batch)[judged]).all()


def test_many_rows_score_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    head = make_head()
    batch = make_steps(head)
    expected = head.score(batch)
    monkeypatch.setattr("toolprm_lite.reward.head._CHUNK", 7)
    np.testing.assert_allclose(head.score(batch), expected, rtol=1e-5)
    assert head.score(make_steps(head, 0)).shape == (0,)


def test_huge_states_are_no_overflow() -> None:
    head = make_head()
    batch = make_steps(head)
    batch.hidden[:] = 3e38  # type: ignore[index]
    with np.errstate(all="raise", under="ignore"):
        found = head.score(batch)
    assert ((found >= 0) & (found <= 1)).all()


def test_round_trip(tmp_path: Path) -> None:
    head = make_head(label="local", aggregate="min", kinds=STEP_KINDS[:2])
    path = tmp_path / "head.safetensors"
    save_head(path, head)
    first = path.read_bytes()
    loaded = load_head(path)
    assert loaded.card == head.card
    batch = make_steps(head)
    assert (loaded.score(batch) == head.score(batch)).all()
    save_head(path, loaded)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]
    assert loaded.card.doubt is None
    margin = Margin(declines=math.inf, value=0.25)
    sized = Head(replace(head.card, doubt=0.75, policy_gap=0.5, margin=margin), head.weights)
    save_head(path, sized)
    assert load_head(path).card == sized.card


def test_cards_without_the_later_settings_are_read(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    later = ("doubt", "decline_odds", "policy_gap", "margin")
    _rewritten(path, lambda card: {key: card[key] for key in card if key not in later})
    assert load_head(path).card == CARD


def test_other_odds_of_declining(tmp_path: Path) -> None:
    plain = make_head(features=(*CERTAINTY, "declined"))
    batch = make_steps(plain)
    declines = np.arange(40) % 3 == 0
    batch.features[:, -1] = declines
    before = plain.score(batch)
    rare = plain.with_decline_odds(0.2)
    after = rare.score(batch)
    np.testing.assert_array_equal(after[~declines], before[~declines])
    chance = before[declines]
    np.testing.assert_allclose(after[declines], 0.2 * chance / (1 - 0.8 * chance), atol=1e-5)
    np.testing.assert_array_equal(rare.with_decline_odds(1).score(batch), before)
    save_head(tmp_path / "head.safetensors", rare)
    assert load_head(tmp_path / "head.safetensors").card == rare.card
    with pytest.raises(HeadError, match="doesn't read the feature 'declined'"):
        make_head().with_decline_odds(0.2)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "head.safetensors"
    save_head(path, make_head())
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"head\.safetensors"):
        save_head(path, make_head(name="other"))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("hidden", [None, np.zeros((40, 5), np.float32)])
def test_steps_without_their_states(hidden: Any) -> None:
    head = make_head()
    batch = make_steps(head)
    batch.hidden = hidden  # type: ignore[misc]
    with pytest.raises(HeadError, match=r"toolprm: the head (reads layers 1, 3|wants 24 columns)"):
        head.score(batch)


@pytest.mark.parametrize(
    ("info", "vocabulary", "call_format", "features", "message"),
    [
        (replace(INFO, architecture="qwen2"), "ab12", "json-list", None, "qwen2, 4 layers"),
        (replace(INFO, width=7), "ab12", "json-list", None, "width 6.*width 7"),
        (replace(INFO, layers=5), "ab12", "json-list", None, "4 layers.*5 layers"),
        (INFO, "cd34", "json-list", None, "vocabulary"),
        (INFO, "ab12", "hermes", None, "written as json-list.*written as hermes"),
        (INFO, "ab12", "json-list", CERTAINTY, "features that are not there: found"),
    ],
)
def test_check_refuses(
    info: ModelInfo, vocabulary: str, call_format: str, features: Any, message: str
) -> None:
    with pytest.raises(HeadError, match=message):
        make_head().check(info, vocabulary, call_format, features)


def test_check_lets_the_twin_pass() -> None:
    twin = replace(INFO, name="small in torch", context=99)
    make_head().check(twin, "ab12", "json-list", CARD.features)
    make_head().check(twin, "ab12", "json-list", ("found", "new", *CERTAINTY))


@pytest.mark.parametrize("change", ["appended", "mixed"])
def test_columns_are_read_by_name(change: str) -> None:
    head = make_head()
    batch = make_steps(head)
    expected = head.score(batch)
    names = head.card.features
    more = np.full((len(batch.kinds), 2), np.nan, np.float32)
    batch.columns = (*names, "new", "newer")  # type: ignore[misc]
    batch.features = np.concatenate([batch.features, more], axis=1)  # type: ignore[misc]
    if change == "mixed":
        order = np.random.default_rng(5).permutation(len(batch.columns))
        batch.columns = tuple(batch.columns[place] for place in order)  # type: ignore[misc]
        batch.features = batch.features[:, order]  # type: ignore[misc]
    assert (head.score(batch) == expected).all()  # to the last bit
    batch.columns = batch.columns[:-3]  # type: ignore[misc]
    if change == "appended":
        with pytest.raises(HeadError, match="features that are not there: found"):
            head.score(batch)


def test_a_head_of_the_certainty_alone_needs_no_grounding() -> None:
    assert not make_head(features=CERTAINTY[:2]).grounded
    assert make_head(features=("found",)).grounded


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_truncated_files(tmp_path: Path, share: float) -> None:
    path = tmp_path / "head.safetensors"
    save_head(path, make_head())
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(HeadError, match=r"head\.safetensors: not a whole safetensors file"):
        load_head(path)


def _rewritten(path: Path, card: Any = None, **tensors: Any) -> None:
    """The head's file with another card or other tensors; None leaves a tensor out."""
    save_head(path, make_head())
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    text = json.loads(data[8 : 8 + size])["__metadata__"]["card"]
    stored = {name: value for name, value in load(data).items() if name not in tensors}
    stored |= {name: value for name, value in tensors.items() if value is not None}
    if callable(card):
        text = json.dumps(card(json.loads(text)))
    elif card is not None:
        text = card
    path.write_bytes(save(stored, metadata={"card": text} if text else None))


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("", "no card"),
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        (lambda card: {**card, "format": 2}, "format is 2"),
        (lambda card: {**card, "pooled": 1}, "pooled is 1"),
        (lambda card: {**card, "layers": [True]}, "layers is"),
        (lambda card: {**card, "layers": "1"}, "layers is"),
        (lambda card: {**card, "kinds": []}, "kinds are"),
        (lambda card: {**card, "kinds": ["X"]}, "kinds are X"),
        (lambda card: {**card, "label": "best"}, "label is 'best'"),
        (lambda card: {**card, "aggregate": "max"}, "aggregate is 'max'"),
        (lambda card: {**card, "doubt": 1.5}, "doubt is 1.5"),
        (lambda card: {**card, "doubt": "0.5"}, "doubt is '0.5'"),
        (lambda card: {**card, "decline_odds": 0}, "decline_odds is 0"),
        (lambda card: {**card, "decline_odds": True}, "decline_odds is True"),
        (lambda card: {**card, "policy_gap": -1}, "policy_gap is -1"),
        (lambda card: {**card, "policy_gap": "1"}, "policy_gap is '1'"),
        (lambda card: {**card, "margin": {"value": -1}}, "margin is {'value': -1}"),
        (lambda card: {**card, "margin": {"other": 1}}, "margin is {'other': 1}"),
        (lambda card: {**card, "margin": 1}, "margin is 1"),
        (lambda card: {**card, "model": {**card["model"], "width": None}}, "width is None"),
        (lambda card: {**card, "model": []}, r"model is \[\]"),
        (lambda card: {**card, "layers": [1]}, r"shift is float32 \[31\].*\[19\]"),
        (lambda card: {key: card[key] for key in card if key != "notes"}, "notes is None"),
    ],
)
def test_foreign_cards(tmp_path: Path, card: Any, message: str) -> None:
    path = tmp_path / "head.safetensors"
    _rewritten(path, card)
    with pytest.raises(HeadError, match=message) as caught:
        load_head(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("readout", None, "readout missing"),
        ("shift", np.full(31, np.nan, np.float32), "not finite"),
        ("scale", np.zeros(31, np.float32), "scale must be above 0"),
        ("weight", np.zeros((0, 31), np.float32), "weight is float32"),
        ("weight", np.zeros(31, np.float32), "weight is float32|kind_bias is"),
        ("readout_bias", np.zeros((2, 5)), "readout_bias is float64"),
    ],
)
def test_foreign_tensors(tmp_path: Path, name: str, tensor: Any, message: str) -> None:
    path = tmp_path / "head.safetensors"
    _rewritten(path, **{name: tensor})
    with pytest.raises(HeadError, match=message) as caught:
        load_head(path)
    assert str(path) in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(HeadError, match="no such head file"):
            load_head(path)


def test_a_head_needs_no_torch() -> None:
    code = "import sys, toolprm_lite.reward.head; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
