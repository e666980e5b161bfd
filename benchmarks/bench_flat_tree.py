"""The flat tree against the usual way: one cache, expanded to a batch of all branches.

    python benchmarks/bench_flat_tree.py --shape 0.5b --prompts 500,4000 --json out.json

Both decode the same rounds: a prompt, then N * M branches of a few tokens each, of which N are kept
and expanded again. The usual way prefills once, repeats the cache for every branch
(`DynamicCache.batch_repeat_interleave`), and picks the survivors out of it. Each way runs in a
process of its own, for its peak of memory; the times are of one run, one after the other.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_backends import SHAPES, Words, ints, random_model, wait

from toolprm_lite.backends.base import Batch, SequenceOp


def flat(model: Any, prompt: list[int], args: argparse.Namespace) -> list[float]:
    from toolprm_lite.backends.torch import TorchBackend

    branches = args.beams * args.expand
    room = len(prompt) + branches * args.tokens + args.beams * args.rounds * args.tokens + 64
    backend = TorchBackend(model, Words(), context=room, max_sequences=branches + args.beams)
    random = np.random.default_rng(1)
    seconds = []
    for _ in range(1 + args.repeats):
        backend.prefill(prompt, None, 64)
        started = time.perf_counter()
        kept, length = [0], len(prompt)
        free = set(range(1, branches + args.beams + 1))
        for _ in range(args.rounds):
            new, ops = [], []
            for place in range(branches):
                branch = free.pop()
                ops.append((SequenceOp.FORK, kept[place * len(kept) // branches], branch))
                new.append(branch)
            for old in kept:
                if old:
                    ops.append((SequenceOp.DROP, old, 0))
                    free.add(old)
            for place in range(args.tokens):
                rows = np.arange(branches)
                batch = Batch(
                    ints(ops).reshape(-1, 3), ints(random.integers(10, 5000, branches)),
                    ints(np.full(branches, length + place)), ints(new), ints(rows), ints(rows[:0]),
                )  # fmt: skip
                backend.decode(batch, None, 64)
                ops = []
            length += args.tokens
            kept = [int(branch) for branch in random.choice(new, args.beams, replace=False)]
            dropped = [branch for branch in new if branch not in kept]
            drops = ints([(SequenceOp.DROP, branch, 0) for branch in dropped])
            nothing = ints([])
            backend.decode(Batch(drops, *[nothing] * 5), None, 64)
            free |= set(dropped)
        wait(backend._model.device)
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def expanded(model: Any, prompt: list[int], args: argparse.Namespace) -> list[float]:
    from transformers import DynamicCache

    device = next(model.parameters()).device
    branches = args.beams * args.expand
    random = np.random.default_rng(1)
    seconds = []
    with torch.inference_mode():
        for _ in range(1 + args.repeats):
            cache = DynamicCache(config=model.config)
            ids = torch.tensor([prompt], device=device)
            model(ids, past_key_values=cache, logits_to_keep=1)
            wait(device)
            started = time.perf_counter()
            cache.batch_repeat_interleave(branches)
            for turn in range(args.rounds):
                if turn:
                    cache.batch_repeat_interleave(args.expand)
                for _ in range(args.tokens):
                    tokens = torch.from_numpy(random.integers(10, 5000, (branches, 1)))
                    output = model(tokens.to(device), past_key_values=cache, logits_to_keep=1)
                    output.logits[:, -1].float().log_softmax(-1).topk(64)
                kept = torch.from_numpy(random.choice(branches, args.beams, replace=False))
                cache.batch_select_indices(kept.to(device))
            wait(device)
            seconds.append(time.perf_counter() - started)
    return seconds[1:]


def one_way(args: argparse.Namespace) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    model, _ = random_model(args.shape, args.device, args.dtype)
    device = next(model.parameters()).device
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    prompt = np.random.default_rng(0).integers(10, 5000, int(args.prompts)).tolist()
    seconds = {"flat": flat, "expanded": expanded}[args.way](model, prompt, args)
    if device.type == "cuda":
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        memory = (torch.cuda.max_memory_allocated() - weights) / 1e6
    else:
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    print(json.dumps({"seconds": statistics.median(seconds), "all": seconds, "extra_mb": memory}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--prompts", default="500,4000")
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--expand", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=4, help="of a branch in a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=["flat", "expanded"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        one_way(args)
        return
    results = []
    print("prompt  way       median s   spread s  memory MB")
    for prompt in args.prompts.split(","):
        pair: dict[str, Any] = {}
        for way in ("flat", "expanded"):
            command = [sys.executable, __file__, "--way", way, "--prompts", prompt]
            for name in ("shape", "beams", "expand", "tokens", "rounds", "repeats", "device",
                         "dtype", "threads"):  # fmt: skip
                value = getattr(args, name)
                if value is not None:
                    command += [f"--{name}", str(value)]
            made = subprocess.run(command, check=True, capture_output=True, text=True)
            pair[way] = found = json.loads(made.stdout.splitlines()[-1])
            spread = max(found["all"]) - min(found["all"])
            print(
                f"{prompt:>6}  {way:8}  {found['seconds']:8.2f}  {spread:9.2f}  "
                f"{found['extra_mb']:9.0f}",
                flush=True,
            )
        pair["time_ratio"] = pair["expanded"]["seconds"] / pair["flat"]["seconds"]
        pair["memory_ratio"] = pair["expanded"]["extra_mb"] / max(1.0, pair["flat"]["extra_mb"])
        print(
            f"{prompt:>6}  the usual way takes {pair['time_ratio']:.2f} x the time and "
            f"{pair['memory_ratio']:.1f} x the memory"
        )
        results.append({"prompt": int(prompt), **pair})
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
