"""A clock for searches."""

from __future__ import annotations

import pytest

from support.clock import Clock
from toolprm_lite.search import limits


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(limits, "clock", made)
    return made
