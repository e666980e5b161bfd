"""A clock for searches."""

from __future__ import annotations

import pytest

from support.clock import Clock
from toolprm_lite.search import clock as search_clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(search_clock, "now", made)
    return made
