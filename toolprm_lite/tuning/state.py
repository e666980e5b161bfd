"""A training's state in one file, from which it is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from toolprm_lite.errors import TrainingError
from toolprm_lite.files import replace_file


@dataclass(frozen=True, slots=True)
class Check:
    """The validation problems at one moment.

    `loss` is the mean over problems of a response's -log p, in nats; `exact` the share of responses
    of which every token is the likeliest after those before it. `by_source` maps a source to
    (loss, exact, problems).
    """

    step: int
    loss: float
    exact: float
    by_source: dict[str, tuple[float, float, int]]


@dataclass(frozen=True, slots=True)
class TuneState:
    """`step` steps are done. `weights` are those of now, `best` those of the best check, `moments`
    the optimizer's; all by name, float32 on the CPU."""

    step: int
    checks: list[Check]
    weights: Mapping[str, torch.Tensor]
    best: Mapping[str, torch.Tensor]
    moments: Mapping[str, torch.Tensor]


_PARTS = ("weights", "best", "moments")


def write_state(path: Path, state: TuneState) -> None:
    """Write it whole or not at all. Raises `OSError`."""
    tensors = {
        f"{part}/{name}": value.contiguous()
        for part in _PARTS
        for name, value in getattr(state, part).items()
    }
    about = {"step": state.step, "checks": [asdict(check) for check in state.checks]}
    replace_file(path, save(tensors, metadata={"about": json.dumps(about)}))


def read_state(path: Path) -> TuneState | None:
    """The state in a file, None where there is none. Raises `TrainingError`."""
    if not path.is_file():
        return None
    parts: dict[str, dict[str, torch.Tensor]] = {part: {} for part in _PARTS}
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
            for whole in file.keys():  # noqa: SIM118 (it is no dictionary)
                part, _, name = whole.partition("/")
                parts[part][name] = file.get_tensor(whole)
        checks = [
            Check(**{**check, "by_source": {k: tuple(v) for k, v in check["by_source"].items()}})
            for check in about["checks"]
        ]
        return TuneState(int(about["step"]), checks, **parts)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"{path}: not a whole state of a training ({error}); remove it to begin again"
        ) from error
