"""The heads that ship: whole, small, and honest about where they come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from toolprm_lite.backends.base import ModelInfo
from toolprm_lite.reward.base import FEATURES, STEP_KINDS
from toolprm_lite.reward.head import Head
from toolprm_lite.reward.head_file import load_head
from toolprm_lite.reward.shipped import FOLDER, shipped_head

FILES = sorted(FOLDER.glob("*.safetensors"))


def info_of(head: Head) -> ModelInfo:
    model = head.card.model
    return ModelInfo(
        model.name, model.architecture, 1000, model.width, model.layers, 4096, 64, frozenset()
    )


def test_there_is_one_for_each_model() -> None:
    models = [load_head(path).card.model for path in FILES]
    assert {model.architecture for model in models} == {"llama", "qwen2"}
    assert len({(model.vocabulary, model.architecture, model.width) for model in models}) == 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_head(path: Path) -> None:
    head = load_head(path)
    card = head.card
    assert path.stat().st_size < 5_000_000
    assert card.features == FEATURES[: len(card.features)]  # others were added later
    assert card.kinds == STEP_KINDS
    assert "Apache-2.0" in card.notes["about"]
    assert set(card.notes["scores"]) == {"validation", "test"}
    assert card.notes["data"]["train"]["problems"] > 100
    info = info_of(head)
    found = shipped_head(info, card.model.vocabulary, card.call_format)
    assert found is not None
    assert found.source == str(path)
    assert shipped_head(info, "another vocabulary", card.call_format) is None
    assert shipped_head(info, card.model.vocabulary, "hermes") is None
    assert shipped_head(replace(info, width=8), card.model.vocabulary, card.call_format) is None
