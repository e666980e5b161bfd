"""Options that several commands share. Their defaults are those of `SearchConfig`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolprm_lite.formats import FORMATS
from toolprm_lite.reward.aggregate import AGGREGATES
from toolprm_lite.reward.margin import Margin
from toolprm_lite.search.config import CONSTRAIN, STRATEGIES, SearchConfig

if TYPE_CHECKING:
    from toolprm_lite.backends.settings import ModelSettings
    from toolprm_lite.search.searcher import Searcher

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

MOST_PROBLEMS = (1 << 31) - 1
MOST_SEED = (1 << 63) - 1

_DEFAULTS = SearchConfig()


def _setting(name: str, **attributes: Any) -> Decorator:
    """The option of one field of `SearchConfig`."""
    attributes.setdefault("show_default", True)
    option = "--" + name.replace("_", "-")
    return click.option(option, name, default=getattr(_DEFAULTS, name), **attributes)


def number_option(name: str, default: int, least: int, most: int, **attributes: Any) -> Decorator:
    """The option of an integer that is not a field of `SearchConfig`."""
    return click.option(
        name, type=click.IntRange(least, most), default=default, show_default=True, **attributes
    )


def sizes_option(name: str, default: str, **attributes: Any) -> Decorator:
    """The option of a list of sizes, as in 1,2,4."""
    return click.option(name, default=default, show_default=True, callback=_sizes, **attributes)


def _sizes(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in value.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1 or max(sizes) > 256 or len(set(sizes)) < len(sizes):
        raise click.BadParameter("give different sizes of at most 256, as in 1,2,4,8,16")
    return sizes


def _margin(context: click.Context, parameter: click.Parameter, value: str | None) -> Margin | None:
    return None if value is None else Margin.parse(value)


def all_of(options: list[Decorator]) -> Decorator:
    """One decorator that adds all these options, in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def output_folder(help: str) -> Decorator:
    """The option of the folder that a command writes."""
    return click.option(
        "--output",
        type=click.Path(path_type=Path, file_okay=False),
        required=True,
        metavar="DIR",
        help=help,
    )


def about_option(what: str) -> Decorator:
    """The option of a text for a card, of `what`."""
    return click.option(
        "--about",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE",
        help=f"A text for the {what}: what data this is, under which licences.",
    )


model_option = click.option(
    "--model",
    metavar="PATH",
    show_default="the embedded SmolLM2-135M",
    help="GGUF file, transformers folder or hub id of the model.",
)
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Where torch computes: cpu, cuda, cuda:1, mps; auto is a GPU where there is one.",
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="What torch computes in; auto is the fastest that fits.",
)
call_format_option = _setting(
    "call_format",
    type=click.Choice(["auto", *FORMATS]),
    help="How calls are written; auto is as the model's chat template teaches.",
)


def prompt_option(default: str) -> Decorator:
    """The option of the prompt style."""
    return click.option(
        "--prompt",
        default=default,
        show_default=True,
        metavar="STYLE",
        help="How tools are explained to a model whose template doesn't: schemas, signatures, "
        "signatures-short, or with worked examples, as in schemas+2.",
    )


model_options = all_of(
    [
        model_option,
        click.option(
            "--adapter",
            metavar="FILE|none",
            default="auto",
            show_default="the embedded model's own",
            help="Low-rank changes of the model's weights, as `toolprm-lite tune` writes them.",
        ),
        click.option(
            "--backend",
            type=click.Choice(["auto", "llamacpp", "torch"]),
            default="auto",
            show_default=True,
            help="What runs the model; auto is llamacpp for GGUF files.",
        ),
        click.option(
            "--gpu-layers",
            type=int,
            default=0,
            show_default=True,
            help="Blocks of the model to keep on a GPU; -1 is all (llamacpp).",
        ),
        device_option,
        dtype_option,
        click.option(
            "--threads", type=int, show_default="physical cores", help="Threads to compute with."
        ),
        click.option(
            "--context",
            type=int,
            show_default="the model's, at most 8192",
            help="KV cells for the prompt and all branches.",
        ),
        click.option("--verbose", is_flag=True, help="Let the backend's own log through."),
    ]
)

# What every search depends on, whatever its strategy.
_DRAWS: list[Decorator] = [
    _setting("temperature", help="Of the draws; 0 draws the most likely token only."),
    _setting("top_k", help="Tokens that a draw may choose among."),
    _setting("top_p", help="Least probability, together, of the tokens to choose among."),
    _setting("seed", help="Of the draws; equal seeds give equal draws."),
    _setting(
        "way_floor", help="Least probability of a way on that is a candidate without being drawn."
    ),
    _setting("max_tokens", help="Longest response."),
    _setting("max_step_tokens", help="Longest step; a longer one is dropped."),
    _setting("max_text_tokens", help="Longest text outside calls; at the limit it declines."),
]
_FORM: list[Decorator] = [
    _setting(
        "constrain",
        type=click.Choice(CONSTRAIN),
        help="Allow only tokens that fit the tools' schemas; auto is on.",
    ),
    call_format_option,
    prompt_option(_DEFAULTS.prompt),
]

_RANK: list[Decorator] = [
    _setting(
        "decline_odds",
        type=float,
        metavar="X",
        show_default="the head's own",
        help="Factor on the odds a head gives to no call being right; below 1 calls more often.",
    ),
    _setting(
        "policy_gap",
        type=float,
        metavar="X",
        show_default="the head's own, else 0",
        help="How much it counts against a response that its tokens are less likely than the most "
        "likely ones.",
    ),
    _setting(
        "margin",
        metavar="X|KIND=X,...",
        callback=_margin,
        show_default="the head's own, else 0",
        help="How much better than the greedy answer another one must score, in nats; inf keeps "
        "the greedy one. Kinds: declines, omits, adds_call, name, value.",
    ),
]

draw_options = all_of([*_DRAWS, *_FORM, *_RANK])

size_options = all_of(
    [
        _setting("beams", metavar="N", help="Beams retained after each step."),
        _setting("expand", metavar="M", help="Draws for each beam and step."),
        _setting(
            "doubt",
            type=float,
            metavar="T",
            show_default="the head's own, else 0.5",
            help="Strategy doubt: widen the search where a step costs over 1 - T of the score.",
        ),
    ]
)

search_options = all_of(
    [
        _setting("strategy", type=click.Choice(STRATEGIES), help="How to search."),
        size_options,
        _setting("samples", metavar="K", help="Whole responses that best-of-n draws."),
        *_DRAWS,
        _setting(
            "tool_choice",
            metavar="auto|required|none|NAME",
            help="Whether to call: the model decides, at least once, never, or this one tool.",
        ),
        click.option("--no-parallel", is_flag=True, help="At most one call in a response."),
        _setting("max_calls", help="Most calls in a response."),
        click.option(
            "--reward",
            metavar="auto|policy|FILE",
            default="auto",
            show_default=True,
            help="What judges steps: the head that ships for the model, the model's own "
            "probability, or a head's file.",
        ),
        *_FORM,
        *_RANK,
        _setting(
            "aggregate",
            type=click.Choice(AGGREGATES),
            show_default="the reward's own",
            help="How a beam's rewards become its score.",
        ),
        _setting(
            "deadline_ms",
            type=float,
            show_default="none",
            help="Milliseconds after which the best response so far is the answer; opening the "
            "model is not among them.",
        ),
        _setting(
            "max_decode_tokens",
            type=int,
            show_default="none",
            help="Sampled tokens that all branches together may decode.",
        ),
    ]
)


def given(settings: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a class of settings that are among a command's parameters."""
    return {field.name: values[field.name] for field in fields(settings) if field.name in values}


def search_config(values: Mapping[str, Any]) -> SearchConfig:
    """The settings among a command's parameters. Raises `ConfigError`."""
    return SearchConfig(
        **given(SearchConfig, values), parallel=not values.get("no_parallel", False)
    )


def model_settings(values: Mapping[str, Any]) -> ModelSettings:
    """The model among a command's parameters."""
    from toolprm_lite.backends.settings import ModelSettings

    return ModelSettings(**given(ModelSettings, values))


def open_searcher(values: Mapping[str, Any]) -> Searcher:
    """The model that a command's parameters name. Raises `ModelError`."""
    from toolprm_lite.models import find_model

    find_model(values["model"])  # a wrong path is reported before the slow imports
    from toolprm_lite.search.searcher import Searcher

    settings = model_settings(values)
    return Searcher.from_model(settings.model, **settings.options())
