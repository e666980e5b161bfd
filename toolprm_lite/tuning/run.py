"""A whole training in a folder: from files of problems to an adapter with its card, resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from toolprm_lite.backends.adapters import AdapterCard
from toolprm_lite.backends.encoder import Encoder
from toolprm_lite.backends.torch.hf_models import architecture, load_model
from toolprm_lite.backends.torch.hf_tokens import HfTokens, chat_template
from toolprm_lite.errors import TrainingError
from toolprm_lite.files import digest_of
from toolprm_lite.formats import detect_format, get_format
from toolprm_lite.instruction import PromptStyle
from toolprm_lite.models import find_model
from toolprm_lite.store import Record, as_json, changes, describe, read_settings, write_settings
from toolprm_lite.supervision.prepare import (
    PrepareSettings,
    Usable,
    plan_problems,
    usable_problems,
)
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tuning.adapter_files import GGUF_FILE, with_digest, write_adapter
from toolprm_lite.tuning.encoding import ExampleEncoder, end_of_turn
from toolprm_lite.tuning.estimate import Estimate, estimate
from toolprm_lite.tuning.lora import attach
from toolprm_lite.tuning.passes import pass_problems, split_ids, validation_problems
from toolprm_lite.tuning.settings import TuneSettings
from toolprm_lite.tuning.state import Check, TuneState, read_state, write_state
from toolprm_lite.tuning.trees import Tree, make_trees
from toolprm_lite.tuning.tune import Progress, Tuner, steps_of

KEEP_SECONDS = 300.0  # of work that an interrupt may lose
_COMPUTED = "computed_in"  # the dtype that "auto" was: a resumed run takes the same
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
    plan = plan_problems(usable, sources.prepare, settings.plan)
    watch.plan(usable, plan)
    before = _claimed(folder, _recorded(sources, settings, usable))

    if sources.threads is not None:
        torch.set_num_threads(sources.threads)
    torch.manual_seed(settings.plan.seed)
    model, tokenizer, model_name = load_model(
        find_model(sources.model), sources.device, before.get(_COMPUTED, sources.dtype)
    )
    computed = str(next(model.parameters()).dtype).removeprefix("torch.")
    write_settings(folder / _SETTINGS, {**before, _COMPUTED: computed})
    adapters = attach(model, settings.rank, settings.scale)
    encode = _encoder(model, tokenizer, model_name, settings)
    ids = split_ids(plan, usable.problems)
    validation, left_out = _trees(encode, validation_problems(plan, settings), settings)
    steps: list[list[Tree]] = []
    if not ids["train"]:
        raise TrainingError(
            f"{', '.join(usable.files)}: no problem is left for training; give more problems"
        )
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
        try:
            tuner.resume(kept)
        except TrainingError as error:
            raise TrainingError(f"{folder / _STATE}: {error}; give another --output") from None
        watch.resumed(kept.step)
        del kept
    expected = estimate(model, adapters, steps, tuner.step, left_out)
    watch.estimate(expected)
    final = _train(tuner, folder / _STATE, watch)
    card = _card(sources, settings, model, model_name, encode.call_format, final, expected)
    card = with_digest(card, final.best)
    config = model.config.get_text_config()
    write_adapter(folder, card, final.best, settings.rank, settings.scale, config)
    write_settings(folder / _CARD, as_json(asdict(card)), ensure_ascii=False)
    return folder / GGUF_FILE


def _recorded(sources: TuneSources, settings: TuneSettings, usable: Usable) -> Record:
    """What the training depends on."""
    exclude = sources.prepare.exclude
    return as_json(
        {
            **sources.weights,
            "dtype": sources.dtype,
            "problems": {file: digest_of(Path(file)) for file in usable.files},
            "exclude": None if exclude is None else digest_of(exclude),
            "keep_unsupported": sources.prepare.keep_unsupported,
            **asdict(settings),
        }
    )


def _claimed(folder: Path, recorded: Record) -> Record:
    """The settings of the training in `folder`, where they are now written. Raises `TrainingError`
    where it holds another one."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        before = read_settings(folder / _SETTINGS)
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{folder / _SETTINGS}: {error}; give an empty folder for --output"
        ) from None
    if before is None:
        if (folder / _STATE).exists():
            raise TrainingError(
                f"{folder} holds a {_STATE} without {_SETTINGS}; give an empty folder for --output"
            )
        write_settings(folder / _SETTINGS, recorded)
        return recorded
    found = [change for change in changes(before, recorded) if change.name != _COMPUTED]
    if found:
        raise TrainingError(
            f"{folder} holds a training with other settings ({describe(found)}); give another "
            "--output, or the same settings"
        )
    return before


def _encoder(model: Any, tokenizer: Any, name: str, settings: TuneSettings) -> ExampleEncoder:
    tokens = HfTokens(tokenizer, model, model.get_output_embeddings().weight.shape[0])
    template = chat_template(tokenizer)
    end = end_of_turn(template, tokens.special_texts, tokens.ends)
    if end is None:
        end = tokenizer.eos_token_id
    if end is None:
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
        end=int(end),
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
    try:
        for _ in tuner.run(watch.progress):
            if time.monotonic() - kept >= KEEP_SECONDS:
                write_state(path, tuner.state())
                kept = time.monotonic()
    finally:
        if tuner.step and not tuner.updating:
            write_state(path, tuner.state())
    return tuner.state()


def _card(
    sources: TuneSources,
    settings: TuneSettings,
    model: Any,
    name: str,
    call_format: str,
    final: TuneState,
    expected: Estimate,
) -> AdapterCard:
    best = min(final.checks, key=lambda check: check.loss)
    return AdapterCard(
        name=sources.name,
        digest="",
        model=name,
        architecture=architecture(model.config.get_text_config()),
        prompt=settings.prompt,
        call_format=call_format,
        notes=as_json(
            {
                "about": sources.about or "",
                "data": {"examples": expected.examples, "sources": dict(expected.sources)},
                "settings": asdict(settings),
                "validation": {"before": asdict(final.checks[0]), "after": asdict(best)},
            }
        ),
    )
