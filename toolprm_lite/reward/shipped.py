"""The heads that ship with the package, found by the model they were fitted to."""

from __future__ import annotations

from pathlib import Path

from toolprm_lite.backends.base import ModelInfo
from toolprm_lite.errors import HeadError
from toolprm_lite.reward.base import FEATURES
from toolprm_lite.reward.head import Head
from toolprm_lite.reward.head_file import load_head

FOLDER = Path(__file__).parents[1] / "assets" / "heads"


def shipped_head(info: ModelInfo, vocabulary: str, call_format: str) -> Head | None:
    """The head for a model and a way of writing calls, or None. `vocabulary` is the hash of the
    model's vocabulary."""
    for path in sorted(FOLDER.glob("*.safetensors")):
        head = load_head(path)
        try:
            head.check(info, vocabulary, call_format, FEATURES)
        except HeadError:
            continue
        return head
    return None
