"""Chooses the threshold of doubt from a run of `toolprm-lite eval`, and writes it on a head's card.

toolprm-lite eval SET --split validation --heads HEADS --output RUN --strategy greedy \\
    --strategy step-beam:toolprm@2x8 --strategy doubt:toolprm@2x8/0.3 --strategy ...
python benchmarks/choose_doubt.py RUN [--head HEADS/toolprm.safetensors] [--json]

All thresholds must be of one reward and size. greedy counts as 0, step-beam as 1. Of several seeds
the first is read.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from toolprm_lite.errors import ConfigError, ToolprmError
from toolprm_lite.evaluation.runs import slug
from toolprm_lite.evaluation.strategies import Strategy
from toolprm_lite.reward.head import Head, load_head, save_head
from toolprm_lite.training.doubt import Measured, choose_doubt


def read_run(folder: Path) -> list[Measured]:
    """What a run measured, over the problems that all its thresholds have answered."""
    summary = json.loads((folder / "summary.json").read_text())
    answers: dict[float, dict[str, dict[str, object]]] = {}
    ways = set()
    for row in summary["strategies"]:
        strategy = Strategy.parse(row["strategy"])
        place = {"greedy": 0.0, "step-beam": 1.0}.get(strategy.kind, strategy.doubt)
        if place is None:
            continue
        if strategy.kind != "greedy":
            ways.add((strategy.reward, strategy.beams, strategy.expand))
        path = folder / "answers" / f"{slug(row['strategy'])}.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        first = min((record["seed"] for record in records if "seed" in record), default=None)
        records = [record for record in records if record.get("seed") == first]
        answers[place] = {record["id"]: record for record in records if "stats" in record}
    if len(ways) > 1:
        raise ConfigError(f"{folder}: its thresholds are of several rewards or sizes")
    shared = [
        key for key in next(iter(answers.values()), {}) if all(key in a for a in answers.values())
    ]
    return [
        Measured(
            place,
            np.array([bool(found[key]["right"]) for key in shared], np.bool_),
            np.array([_decoded(found[key]["stats"]) for key in shared], np.int64),
        )
        for place, found in sorted(answers.items())
    ]


def _decoded(stats: object) -> int:
    assert isinstance(stats, dict)
    return int(stats["decode_tokens"] + stats["forced_tokens"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    parser.add_argument("--head", type=Path, help="the head whose card is to name the choice")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    measured = read_run(args.run)
    chosen = choose_doubt(measured)
    rows = [
        {
            "doubt": each.doubt,
            "right": float(each.right.mean()),
            "tokens": float(each.tokens.mean()),
            "chosen": each is chosen,
        }
        for each in measured
    ]
    if args.json:
        print(json.dumps({"problems": len(chosen.right), "thresholds": rows}))
    else:
        print(f"{len(chosen.right)} problems")
        for row in rows:
            mark = "  <- chosen" if row["chosen"] else ""
            print(f"{row['doubt']:5.2f} {row['right']:7.1%} {row['tokens']:8.1f} tokens{mark}")
    if args.head is not None:
        head = load_head(args.head)
        card = replace(head.card, doubt=chosen.doubt)
        save_head(args.head, Head(card, head.weights, head.source))


if __name__ == "__main__":
    try:
        main()
    except (ToolprmError, OSError) as error:
        sys.exit(f"Error: {error}")
