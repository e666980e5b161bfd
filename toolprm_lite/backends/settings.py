"""Which model is opened, and how, as one value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from toolprm_lite.backends.open import BackendName
from toolprm_lite.models import weights_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The arguments of `Searcher.from_model` that the command line has; see there."""

    model: str | None = None
    adapter: str | None = "auto"
    backend: BackendName = "auto"
    gpu_layers: int = 0
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    context: int | None = None
    verbose: bool = False

    def options(self) -> dict[str, Any]:
        """All but the model itself, by name."""
        options = asdict(self)
        del options["model"]
        return options

    def identity(self) -> dict[str, Any]:
        """What tells the weights and the precision from others, for the settings of a run. Raises
        `ModelError` where the model is not there."""
        return {
            **weights_of(self.model, self.adapter), "backend": self.backend, "dtype": self.dtype,
        }  # fmt: skip
