"""The model folder on disk: config.json, model.safetensors, critics.safetensors, assets/ and a model card.

Knows file names, tensors and plain data; builds no networks and knows no plugin. Torch is imported only where tensors
are read or written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkit.errors import ModelError
from genkit.sampling import card
from genkit.system.files import (
    file_hash,
    make_folder,
    plain_name,
    read_json,
    user_path,
    write_json,
    write_whole,
)

if TYPE_CHECKING:
    from torch import Tensor

    from genkit.system.tensors import Tensors

SCHEMA = 1
"""Version of the folder's layout."""

CONFIG, WEIGHTS = "config.json", "model.safetensors"
"""The files that every model has: its description, and the generator's weights."""

CRITICS = "critics.safetensors"
"""The file with the critics' weights, `<critic>.<name>`; a model may lack it."""

FILES = (CONFIG, WEIGHTS, CRITICS, "README.md", "assets/*")
"""All files of a model folder, as patterns."""


def save_model(
    path: Path,
    config: Mapping[str, Any],
    tensors: Tensors,
    assets: Mapping[str, bytes],
    metadata: Mapping[str, str],
    critics: Tensors | None = None,
    name: str = "PATH-OF-THIS-FOLDER",
    notes: str = "",
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
        name: by which the model will be opened, for its card.
        notes: what people have written themselves on the card.

    Raises:
        ModelError: if the folder holds something else than a model.
    """
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not _is_model(path))):
        raise ModelError(
            f"{path} is not empty and is no model folder of genkit's: choose another path"
        )
    from genkit.system.tensors import write_tensors

    for asset in assets:
        plain_name(asset)
    make_folder(path)
    write_tensors(path / WEIGHTS, tensors, metadata)
    if critics:
        write_tensors(path / CRITICS, critics, metadata)
    else:
        (path / CRITICS).unlink(missing_ok=True)
    make_folder(path / "assets" if assets else path)
    for stale in (path / "assets").iterdir() if (path / "assets").is_dir() else ():
        if stale.is_file() and stale.name not in assets:
            stale.unlink()
    for asset, content in assets.items():
        write_whole(path / "assets" / asset, content)
    write_json(path / CONFIG, {"schema": SCHEMA, **config})
    write_whole(path / "README.md", card.readme(config, name, notes).encode())


def extend_card(path: Path, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Add entries to the card of a model folder, in its config.json and its README.md; returns the new description.

    Args:
        path: of the folder.
        entries: as for `card.extended`.

    Raises:
        ConfigError: for an entry that a card does not have.
        ModelError: if the folder holds no model.
        StorageError: if the folder cannot be written.
    """
    digest = file_hash(path / WEIGHTS) if entries.get("scores") is not None else None
    config = card.extended(read_model_config(path), entries, digest)
    write_json(path / CONFIG, config)
    write_whole(path / "README.md", card.readme(config, notes=read_notes(path)).encode())
    return config


def read_notes(path: Path | None) -> str:
    """What people have written themselves on the card of a model folder; empty where there is nothing."""
    file = None if path is None else path / "README.md"
    if file is None or not file.is_file():
        return ""
    return card.notes_in(file.read_text(encoding="utf-8", errors="replace"))


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


def model_at(path: str | Path) -> Path | None:
    """The model folder at a path: the path itself, or `model/` within a run folder; None if there is neither.

    Raises:
        ModelError: for a run that has no model yet.
    """
    path = user_path(path)
    for folder in (path, path / "model"):
        if (folder / CONFIG).is_file():
            return folder
    if (path / "config.yaml").exists():
        raise ModelError(f"the run {path} has no model yet: continue training with --resume")
    return None


def read_model_config(path: Path) -> dict[str, Any]:
    """A model folder's configuration.

    Raises:
        ModelError: if it is missing, damaged, not genkit's, or of another layout.
    """
    config = read_json(path / CONFIG)
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
    optional_kinds = {"card": dict, "dtype": str, "controls": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(config.get(key), kind)]
    wrong += [
        key for key, kind in optional_kinds.items() if not isinstance(config.get(key, kind()), kind)
    ]
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
    from genkit.system.tensors import read_tensors

    config, assets = read_model_config(path), read_assets(path)
    return config, read_tensors(path / WEIGHTS), assets


def read_assets(path: Path) -> dict[str, bytes]:
    """The assets of a model folder by name; {} where it has none."""
    folder = path / "assets"
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return {
        entry.name: entry.read_bytes()
        for entry in entries
        if entry.is_file() and not entry.name.startswith(".")
    }


def has_critics(path: Path | None) -> bool:
    """Whether a model folder has critics; None: the model was not read from disk."""
    return path is not None and (path / CRITICS).exists()


def read_critics(path: Path | None) -> dict[str, Tensor]:
    """The critics' tensors of a model folder; {} where it has none.

    Raises:
        ModelError: if they are damaged.
    """
    from genkit.system.tensors import read_tensors

    return read_tensors(path / CRITICS) if path is not None and has_critics(path) else {}
