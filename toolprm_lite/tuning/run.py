"""A whole training in a folder: from files of problems to an adapter with its card, resumable."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from toolprm_lite.backends.adapters import AdapterCard
from toolprm_lite.backends.encoder import Encoder
from toolprm_lite.backends.memory import available_memory
from toolprm_lite.backends.torch.hf_models import architecture, load_model
from toolprm_lite.backends.torch.hf_tokens import HfTokens, chat_template
from toolprm_lite.errors import TrainingError
from toolprm_lite.formats import detect_format, get_format
from toolprm_lite.instruction import PromptStyle
from toolprm_lite.models import find_model
from toolprm_lite.store import as_json, changes, describe, read_settings, write_settings
from toolprm_lite.supervision.prepare import PrepareSettings, Usable, usable_problems
from toolprm_lite.tasks.plan import make_plan
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tuning.adapter_files import GGUF_FILE, with_digest, write_adapter
from toolprm_lite.tuning.encoding import ExampleEncoder
from toolprm_lite.tuning.lora import attach
from toolprm_lite.tuning.passes import pass_problems, split_ids, validation_problems
from toolprm_lite.tuning.settings import TuneSettings
from toolprm_lite.tuning.state import Check, TuneState, read_state, write_state
from toolprm_lite.tuning.trees import Tree, losses, make_trees, pack
from toolprm_lite.tuning.tune import Progress, Tuner, steps_of

KEEP_SECONDS = 300.0  # of work that an interrupt may lose
_STATE, _SETTINGS, _CARD = "state.safetensors", "settings.json", "card.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneSources:
    """What is trained, on what, where.

    `model`, `device` and `dtype` are as in `Searcher.from_model`; `threads` sets torch's own.
    `weights` identifies the model's (`models.weights_of`); `about` is a text for the card: what
    data this is, under which licences.
    """

    problems: tuple[Path, ...]
    prepare: PrepareSettings
    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    weights: Mapping[str, Any]
    about: str | None = None
    name: str = "adapter"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a training will take. `examples` and `tokens` are those of all passes, `trained` the
    adapter's weights; `seconds` from the time of one tree, `memory` in bytes."""

    examples: int
    tokens: int
    left_out: int
    sources: Mapping[str, int]
    trained: int
    seconds: float
    memory: int


@dataclass(frozen=True, slots=True)
class Watch:
    """Called while a training goes on."""

    usable: Callable[[Usable], None]
    plan: Callable[[Usable, Sequence[Problem]], None]
    estimate: Callable[[Estimate], None]
    resumed: Callable[[int], None]
    progress: Callable[[Progress | Check], None]


def tune(sources: TuneSources, settings: TuneSettings, folder: Path, watch: Watch) -> Path:
    """Train an adapter into `folder`, or continue there. Returns the GGUF file.

    The folder must be locked by the caller (`files.locked`). Raises `TrainingError`, `ModelError`,
    `ProblemError`, `OSError`.
    """
    usable = usable_problems(sources.problems, sources.prepare)
    watch.usable(usable)
    plan = make_plan(usable.problems, settings.plan)
    if not any(problem.split == "train" for problem in plan):
        raise TrainingError("no problem is left to train on; give more of them")
    watch.plan(usable, plan)
    _claim(folder, sources, settings, usable)

    if sources.threads is not None:
        torch.set_num_threads(sources.threads)
    torch.manual_seed(settings.plan.seed)
    model, tokenizer, model_name = load_model(
        find_model(sources.model), sources.device, sources.dtype
    )
    adapters = attach(model, settings.rank, settings.scale)
    encode = _encoder(model, tokenizer, model_name, settings)
    ids = split_ids(plan)
    validation, _ = _trees(encode, validation_problems(plan, settings), settings)
    steps: list[list[Tree]] = []
    left_out = 0
    for number in range(settings.passes):
        trees, dropped = _trees(
            encode, pass_problems(usable.problems, ids, number, settings), settings
        )
        steps += steps_of(trees, number, settings)
        left_out += dropped
    if not steps:
        raise TrainingError(
            f"all problems are longer than {settings.most_tokens} tokens; "
            "give a larger --most-tokens"
        )
    tuner = Tuner(model, adapters, steps, validation, settings)
    kept = read_state(folder / _STATE)
    if kept is not None:
        tuner.resume(kept)
        watch.resumed(kept.step)
    estimate = _estimate(model, adapters, steps, tuner.step, left_out)
    watch.estimate(estimate)
    final = _train(tuner, folder / _STATE, watch)
    card = _card(sources, settings, model, model_name, final, estimate)
    card = with_digest(card, final.best)
    config = model.config.get_text_config()
    write_adapter(folder, card, final.best, settings.rank, settings.scale, config)
    write_settings(folder / _CARD, as_json(asdict(card)), ensure_ascii=False)
    return folder / GGUF_FILE


def _claim(folder: Path, sources: TuneSources, settings: TuneSettings, usable: Usable) -> None:
    """Write down what the training depends on; refuse a folder that holds another one."""
    recorded = as_json(
        {
            **sources.weights,
            "dtype": sources.dtype,
            "problems": {
                Path(file).name: sum(problem.file == file for problem in usable.problems)
                for file in usable.files
            },
            **asdict(settings),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        before = read_settings(folder / _SETTINGS)
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{folder / _SETTINGS}: {error}; give an empty folder for --output"
        ) from None
    found = [] if before is None else changes(before, recorded)
    if found:
        raise TrainingError(
            f"{folder} holds a training with other settings ({describe(found)}); give another "
            "--output, or the same settings"
        )
    write_settings(folder / _SETTINGS, recorded)


def _encoder(model: Any, tokenizer: Any, name: str, settings: TuneSettings) -> ExampleEncoder:
    tokens = HfTokens(tokenizer, model, model.get_output_embeddings().weight.shape[0])
    template = chat_template(tokenizer)
    if tokenizer.eos_token_id is None:
        raise TrainingError(f"{name}: its tokenizer has no end token; set eos_token")
    wanted = settings.call_format
    return ExampleEncoder(
        Encoder(tokens.bytes, tokens.tokenize, tokens.special_texts),
        tokens.special_texts,
        detect_format(template, name) if wanted == "auto" else get_format(wanted),
        PromptStyle.parse(settings.prompt),
        chat_template=template,
        bos_token=tokenizer.bos_token or "",
        eos_token=tokenizer.eos_token or "",
        end=int(tokenizer.eos_token_id),
    )


def _trees(
    encode: ExampleEncoder, problems: Sequence[Problem], settings: TuneSettings
) -> tuple[list[Tree], int]:
    """(trees in the order of the problems, how many problems were too long)."""
    examples = [encode(problem) for problem in problems]
    fitting = [e for e in examples if len(e.prompt) + len(e.response) <= settings.most_tokens]
    return list(make_trees(fitting, settings.most_tokens)), len(examples) - len(fitting)


def _train(tuner: Tuner, path: Path, watch: Watch) -> TuneState:
    """Train to the end; the state is kept at intervals, and where it is stopped."""
    kept = time.monotonic()
    state = tuner.state()
    try:
        for state in tuner.run(watch.progress):
            if time.monotonic() - kept >= KEEP_SECONDS:
                write_state(path, state)
                kept = time.monotonic()
    finally:
        if state.step:
            write_state(path, state)
    return state


def _estimate(
    model: Any,
    adapters: Mapping[str, Any],
    steps: Sequence[Sequence[Tree]],
    done: int,
    left_out: int,
) -> Estimate:
    """Time from one tree of the middle size, computed twice; memory from sizes."""
    trees = [tree for step in steps for tree in step]
    left = sum(tree.tokens for step in steps[done:] for tree in step)
    middle = sorted(trees, key=lambda tree: tree.tokens)[len(trees) // 2]
    seconds = 0.0
    for _ in range(2):  # the first warms up
        started = time.monotonic()
        torch.autograd.backward(losses(model, pack(middle))[0].sum())
        seconds = time.monotonic() - started
    for adapter in adapters.values():
        adapter.a.grad = adapter.b.grad = None
    trained = sum(adapter.a.numel() + adapter.b.numel() for adapter in adapters.values())
    memory = _memory(model, trained, max(trees, key=lambda tree: tree.tokens))
    available = available_memory()
    if next(model.parameters()).device.type == "cpu" and available is not None:
        activations = memory - _weights(model)  # the weights are there already
        if activations > available:
            raise TrainingError(
                f"training needs some {memory / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB of "
                "it are available beside the model's weights; give a smaller --most-tokens"
            )
    return Estimate(
        examples=sum(len(tree.examples) for tree in trees),
        tokens=sum(tree.tokens for tree in trees),
        left_out=left_out,
        sources=Counter(e.source for tree in trees for e in tree.examples),
        trained=trained,
        seconds=seconds / middle.tokens * left,
        memory=memory,
    )


def _weights(model: Any) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _memory(model: Any, trained: int, largest: Tree) -> int:
    """Weights, the adapter with its gradient and the optimizer's two moments and two copies, and
    what a pass over the largest tree keeps for its gradient."""
    config = model.config.get_text_config()
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    size = next(model.parameters()).element_size()
    kept = config.num_hidden_layers * (16 * config.hidden_size + 6 * inner)
    logits = 3 * 4 * largest.targets * config.vocab_size
    needed: int = _weights(model) + 6 * 4 * trained + size * largest.tokens * kept + logits
    return needed


def _card(
    sources: TuneSources,
    settings: TuneSettings,
    model: Any,
    name: str,
    final: TuneState,
    estimate: Estimate,
) -> AdapterCard:
    best = min(final.checks, key=lambda check: check.loss)
    return AdapterCard(
        name=sources.name,
        digest="",
        model=name,
        architecture=architecture(model.config.get_text_config()),
        prompt=settings.prompt,
        notes=as_json(
            {
                "about": sources.about or "",
                "data": {"examples": estimate.examples, "sources": dict(estimate.sources)},
                "settings": asdict(settings),
                "validation": {"before": asdict(final.checks[0]), "after": asdict(best)},
            }
        ),
    )
