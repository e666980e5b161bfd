"""Decode and prefill speed of the backends, against what the machine can do at all.

    python benchmarks/bench_backends.py --model model.gguf --backends llamacpp,torch --json out.json
    python benchmarks/bench_backends.py --shape 1.5b --device cuda

Every step decodes one token on each of R branches of one prompt, as the search does. `--shape`
makes a model of that size with random weights, for torch only, so nothing has to be fetched. A
step's limit is the time to read the weights once at the memory bandwidth measured here, or to
multiply them with R rows at the speed measured here, whichever is more.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toolprm_lite.backends.base import Backend, Batch, SequenceOp
from toolprm_lite.backends.torch.hf_models import choose_device, choose_dtype

SHAPES: dict[str, dict[str, int]] = {
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
             "num_attention_heads": 14, "num_key_value_heads": 2},
    "1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
             "num_attention_heads": 12, "num_key_value_heads": 2},
    "3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
           "num_attention_heads": 16, "num_key_value_heads": 2},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
           "num_attention_heads": 28, "num_key_value_heads": 4},
}  # fmt: skip
WORDS = 151936


class Words:
    """A tokenizer of numbered words, for models with random weights."""

    chat_template = None
    bos_token = bos_token_id = None
    eos_token, eos_token_id = "w0", 0

    class backend_tokenizer:  # noqa: N801
        normalizer = None

        @staticmethod
        def to_str() -> str:
            return json.dumps({"decoder": {"type": "Metaspace"}})

        @staticmethod
        def get_added_tokens_decoder() -> dict[int, Any]:
            return {}

    def get_vocab(self) -> dict[str, int]:
        return {f"w{token}": token for token in range(WORDS)}

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": []}


def random_model(shape: str, device: str, dtype: str) -> tuple[Any, int]:
    """A Qwen2 of this shape, and its bytes of weights that a step reads."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        **SHAPES[shape], vocab_size=WORDS, max_position_embeddings=32768, tie_word_embeddings=True
    )
    place = choose_device(device)
    kind = choose_dtype(dtype, place, config)
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        with place:
            model = Qwen2ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    return model, sum(p.numel() * p.element_size() for p in model.parameters())


def open_backend(name: str, args: argparse.Namespace) -> tuple[Backend, int, str]:
    """(backend, bytes of weights, dtype)."""
    if name == "llamacpp":
        from toolprm_lite.backends.llamacpp import LlamaCppBackend

        layers = -1 if args.device.startswith("cuda") else 0
        made = LlamaCppBackend(
            args.model, threads=args.threads, context=args.context, gpu_layers=layers
        )
        return made, Path(args.model).stat().st_size, "as stored"
    from toolprm_lite.backends.torch import TorchBackend

    if args.shape:
        model, size = random_model(args.shape, args.device, args.dtype)
        backend = TorchBackend(model, Words(), name=args.shape, context=args.context)
    else:
        backend = TorchBackend.load(
            args.model, device=args.device, dtype=args.dtype, context=args.context
        )
        model = backend._model.model
        size = sum(p.numel() * p.element_size() for p in model.parameters())
    return backend, size, str(next(model.parameters()).dtype).removeprefix("torch.")


def machine_limits(device: torch.device, dtype: str) -> tuple[float, float]:
    """(bytes a second that can be read, multiply-adds a second), both measured."""
    kind = getattr(torch, dtype, torch.float32)
    bytes_ = (1 << 28) if device.type == "cpu" else (1 << 31)
    source = torch.ones(bytes_ // 4, device=device)
    left = torch.ones(1024, 2048, device=device, dtype=kind)
    right = torch.ones(2048, 2048, device=device, dtype=kind)

    def best(work: Any) -> float:
        seconds = []
        for _ in range(7):
            wait(device)
            started = time.perf_counter()
            work()
            wait(device)
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    return bytes_ / best(source.sum), 1024 * 2048 * 2048 / best(lambda: left @ right)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ints(values: Any) -> Any:
    return np.asarray(values, np.int32)


def measure_steps(
    backend: Backend, rows: int, prompt: list[int], steps: int, warmup: int, k: int
) -> dict[str, float]:
    """Seconds of a step of `rows` tokens: wall clock, and inside the model."""
    random = np.random.default_rng(rows)
    backend.prefill(prompt, None, k)
    wall, inside = [], []
    sequences = ints(np.arange(1, rows + 1))
    for step in range(warmup + steps):
        ops = [(SequenceOp.FORK, 0, s) for s in sequences.tolist()] if step == 0 else []
        tokens = random.integers(10, backend.info.vocab_size - 300, rows)
        batch = Batch(
            ints(ops).reshape(-1, 3), ints(tokens), ints(np.full(rows, len(prompt) + step)),
            sequences, ints(np.arange(rows)), ints(np.arange(rows)),
        )  # fmt: skip
        started = time.perf_counter()
        output = backend.decode(batch, None, k)
        if step >= warmup:
            wall.append(time.perf_counter() - started)
            inside.append(output.model_seconds)
    middle = statistics.median(wall)
    return {
        "step_ms": 1e3 * middle,
        "step_p95_ms": 1e3 * float(np.quantile(wall, 0.95)),
        "tokens_per_s": rows / middle,
        "outside_model": 1 - sum(inside) / sum(wall),
    }


def measure_prefill(backend: Backend, prompt: list[int], repeats: int) -> dict[str, float]:
    seconds = []
    for _ in range(repeats + 1):
        backend.clear()
        started = time.perf_counter()
        backend.prefill(prompt, None, 1)
        seconds.append(time.perf_counter() - started)
    middle = statistics.median(seconds[1:])
    return {"ms": 1e3 * middle, "tokens_per_s": len(prompt) / middle}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a GGUF file (both backends) or a transformers folder")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this size, torch only")
    parser.add_argument("--backends", default="llamacpp,torch")
    parser.add_argument("--rows", default="1,4,16,32,64")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--top-k", type=int, default=64)
    parser.add_argument("--tap", type=int, default=12, help="the layer whose states are read")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if bool(args.model) == bool(args.shape):
        parser.error("give --model or --shape")
    if args.threads:
        torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    results = []
    for name in ["torch"] if args.shape else args.backends.split(","):
        backend, size, dtype = open_backend(name, args)
        bandwidth, products = machine_limits(device, dtype)
        backend.tap((min(args.tap, backend.info.layers),))
        prompt = np.random.default_rng(0).integers(10, 5000, args.prompt).tolist()
        prefill = measure_prefill(backend, prompt, 3)
        weights = size / {"float32": 4, "bfloat16": 2, "float16": 2}.get(dtype, 0.6)
        print(
            f"{name} {args.model or args.shape} {dtype} on {place}: {size / 1e6:.0f} MB, "
            f"{bandwidth / 1e9:.1f} GB/s, {products / 1e9:.0f} G multiply-adds/s; prefill of "
            f"{args.prompt}: {prefill['tokens_per_s']:.0f} tokens/s"
        )
        print("rows  tokens/s  step ms    p95  outside  of the limit")
        for rows in map(int, args.rows.split(",")):
            found = measure_steps(backend, rows, prompt, args.steps, args.warmup, args.top_k)
            limit = 1e3 * max(size / bandwidth, rows * weights / products)
            found |= {"rows": rows, "limit_ms": limit, "of_limit": limit / found["step_ms"]}
            print(
                f"{rows:4}  {found['tokens_per_s']:8.1f}  {found['step_ms']:7.2f}  "
                f"{found['step_p95_ms']:5.1f}  {found['outside_model']:6.1%}  "
                f"{found['of_limit']:11.0%}"
            )
            results.append({"backend": name, "dtype": dtype, "prefill": prefill, **found})
        backend.close()
    if args.json:
        about = {"device": place, "prompt": args.prompt, "model": args.model or args.shape}
        args.json.write_text(json.dumps({**about, "results": results}, indent=1))


if __name__ == "__main__":
    main()
