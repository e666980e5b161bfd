"""A small run of the load harness; `python tests/load.py` is the large one."""

from __future__ import annotations

from pathlib import Path

import load
from toolprm_lite import Searcher


def test_a_mixed_load_on_the_mock() -> None:
    outcome = load.run(Searcher(load.mock_model()), threads=8, requests=15)
    assert outcome.faults == []
    assert sum(outcome.ended.values()) == 120
    assert outcome.compared == outcome.equal > 30
    assert outcome.refusals > 0


def test_a_mixed_load_on_llamacpp(tiny_gguf: Path) -> None:
    with Searcher.from_model(tiny_gguf, threads=1) as searcher:
        outcome = load.run(searcher, threads=8, requests=5, exact=False)
    assert outcome.faults == []
    assert sum(outcome.ended.values()) == 40
