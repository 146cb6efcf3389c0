"""The model folder on disk: config.json, model.safetensors, critics.safetensors, assets/ and a model card.

Knows file names, tensors and plain data; builds no networks and knows no plugin.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from genkit.errors import ModelError
from genkit.system.files import (
    make_folder,
    plain_name,
    read_json,
    user_path,
    write_json,
    write_whole,
)
from genkit.system.tensors import Tensors, read_tensors, write_tensors

SCHEMA = 1
"""Version of the folder's layout."""

CRITICS = "critics.safetensors"
"""The file with the critics' weights, `<critic>.<name>`; a model may lack it."""


def save_model(
    path: Path,
    config: Mapping[str, Any],
    tensors: Tensors,
    assets: Mapping[str, bytes],
    metadata: Mapping[str, str],
    critics: Tensors | None = None,
) -> None:
    """Write a model folder: config.json, model.safetensors, assets/, README.md; with critics, critics.safetensors too.

    Each file is replaced atomically; of an earlier model in the folder, its critics and stale assets are removed.

    Args:
        path: of the folder.
        config: the model's description as plain data.
        tensors: the generator's weights.
        assets: small files by name.
        metadata: of the safetensors files.
        critics: the critics' weights, `<critic>.<name>`.

    Raises:
        ModelError: if the folder holds something else than a model.
    """
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not _is_model(path))):
        raise ModelError(
            f"{path} is not empty and is no model folder of genkit's: choose another path"
        )
    for name in assets:
        plain_name(name)
    make_folder(path)
    write_tensors(path / "model.safetensors", tensors, metadata)
    if critics:
        write_tensors(path / CRITICS, critics, metadata)
    else:
        (path / CRITICS).unlink(missing_ok=True)
    make_folder(path / "assets" if assets else path)
    for stale in (path / "assets").iterdir() if (path / "assets").is_dir() else ():
        if stale.is_file() and stale.name not in assets:
            stale.unlink()
    for name, content in assets.items():
        write_whole(path / "assets" / name, content)
    write_json(path / "config.json", {"schema": SCHEMA, **config})
    write_whole(path / "README.md", _model_card(config).encode())


def _is_model(path: Path) -> bool:
    """Whether a folder holds a model, or an incomplete one that a killed process left behind."""
    names = {entry.name for entry in path.iterdir()}
    if "config.json" not in names:
        return "model.safetensors" in names or all(name.endswith(".tmp") for name in names)
    try:
        read_model_config(path)
    except ModelError:
        return False
    return True


def find_model(path: str | Path) -> Path:
    """The model folder at a path: the path itself, or `model/` within a run folder.

    Raises:
        ModelError: if there is none.
    """
    path = user_path(path)
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            return folder
    if not path.exists():
        raise ModelError(f"there is no model at {path}: it does not exist")
    if (path / "config.yaml").exists():
        raise ModelError(f"the run {path} has no model yet: continue training with --resume")
    raise ModelError(
        f"{path} is neither a model folder (config.json, model.safetensors) nor a run folder"
    )


def read_model_config(path: Path) -> dict[str, Any]:
    """A model folder's configuration.

    Raises:
        ModelError: if it is missing, damaged, not genkit's, or of another layout.
    """
    config = read_json(path / "config.json")
    if not isinstance(config, dict):
        raise ModelError(
            f"{path / 'config.json'} is not genkit's: it holds a {type(config).__name__}, not a mapping"
        )
    if isinstance(config.get("schema"), int) and config["schema"] != SCHEMA:
        raise ModelError(
            f"{path} has layout {config['schema']!r}, but this genkit reads layout {SCHEMA}: upgrade genkit"
        )
    kinds = {
        "schema": int,
        "modality": str,
        "plugin": dict,
        "options": dict,
        "facts": dict,
        "items": int,
    }
    wrong = [key for key, kind in kinds.items() if not isinstance(config.get(key), kind)]
    if wrong:
        raise ModelError(
            f"{path / 'config.json'} is not genkit's: {', '.join(wrong)} missing or of the wrong type"
        )
    return config


def read_model(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, bytes]]:
    """(the configuration, the generator's tensors, the assets by name) of a model folder.

    Raises:
        ModelError: if a part is missing, damaged, or of another layout.
    """
    config = read_model_config(path)
    folder = path / "assets"
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    assets = {
        entry.name: entry.read_bytes()
        for entry in entries
        if entry.is_file() and not entry.name.startswith(".")
    }
    return config, read_tensors(path / "model.safetensors"), assets


def read_critics(path: Path | None) -> dict[str, Tensor]:
    """The critics' tensors of a model folder; {} where it has none.

    Raises:
        ModelError: if they are damaged.
    """
    return read_tensors(path / CRITICS) if path is not None and (path / CRITICS).exists() else {}


def _model_card(config: Mapping[str, Any]) -> str:
    """The README.md of a model folder."""
    plugin = config["plugin"]
    return f"""---
library_name: genkit
tags: [gan, {config["modality"]}]
---

# {config.get("title", config["modality"])}

Made with genkit {config.get("genkit", "")} and {plugin.get("distribution")} {plugin.get("version")}
(preset `{config.get("preset")}`, {config.get("items", 0):,} items seen).

    genkit generate PATH-OF-THIS-FOLDER -n 16 --seed 0 --out samples/

The folder holds weights (safetensors) and settings (JSON), nothing executable.
"""
