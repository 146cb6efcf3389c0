"""Writes the package of a new modality from the templates in `genkit/discovery/templates`.

It fills in names and knows nothing else of what the templates contain.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from genkit.discovery import registry, soundness
from genkit.errors import ConfigError, StorageError

TEMPLATES = "genkit", "discovery", "templates", "modality"
ENDING = ".txt"
"""Ending of every template's name, so that no tool takes a template for the file that is made of it."""


def new_plugin(id: str, folder: str | Path | None = None) -> Path:
    """Write the complete package of a new modality into a folder; if that fails, nothing is written.

    Args:
        id: the modality's id, which users type. The distribution is called `ID-gan` and imported as `ID_gan`, which
            does not clash with packages that are named like the medium itself.
        folder: the folder to write; None: `ID-gan` in the working folder.

    Returns:
        The folder.

    Raises:
        ConfigError: if the id is invalid or in use, or the folder is not empty.
        StorageError: if the folder cannot be written.
    """
    contents = package_files(id)
    target = Path(folder or distribution_of(id))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(
            f"{target} exists and is not empty: choose another folder with --out, or empty it"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".unfinished-", dir=target.resolve().parent
        ) as unfinished:
            draft = Path(unfinished)
            for path, content in contents.items():
                (draft / path).parent.mkdir(parents=True, exist_ok=True)
                (draft / path).write_text(content, encoding="utf-8")
            target.mkdir(exist_ok=True)
            # Moved within one file system. The target may be the working folder, so it cannot be replaced itself.
            for entry in sorted(draft.iterdir()):
                os.rename(entry, target / entry.name)
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {error.strerror or error}. Nothing of it was written"
        ) from error
    return target


def package_files(id: str) -> dict[str, str]:
    """The files of a new modality's package: path within its folder -> content.

    Raises:
        ConfigError: if the id is invalid or in use.
    """
    _check_id(id)
    version = registry.core_version()
    names = {
        "id": id,
        "package": package_of(id),
        "distribution": distribution_of(id),
        "class_name": "".join(map(str.capitalize, id.split("_"))) + "Plugin",
        "requirement": registry.CORE if version == "unknown" else f"{registry.CORE}>={version}",
    }
    return {
        path.removesuffix(ENDING).replace("package", names["package"]): Template(text).substitute(
            names
        )
        for path, text in _templates(files(TEMPLATES[0]).joinpath(*TEMPLATES[1:]))
    }


def distribution_of(id: str) -> str:
    """The name of a new modality's distribution, and the default name of its folder: `my_id` -> `my-id-gan`."""
    return f"{id.replace('_', '-')}-gan"


def package_of(id: str) -> str:
    """The name by which a new modality's package is imported: `my_id` -> `my_id_gan`."""
    return f"{id}_gan"


def _check_id(id: str) -> None:
    if not soundness.is_id(id):
        raise ConfigError(
            f"{id!r} cannot be the id of a modality: a lower-case letter, then lower-case letters, digits and "
            "underscores, at most 32 in all"
        )
    if id.startswith("genkit"):
        raise ConfigError(
            f"{id!r} begins with genkit, and such names are the project's own or, on PyPI, those of Google's SDK: "
            "choose another"
        )
    homes = {
        row.id: row.distribution for row in registry.found()
    } | registry.project_distributions()
    if id in homes:
        raise ConfigError(f"the id {id!r} is that of {homes[id]}: choose another")
    if importlib.util.find_spec(package_of(id)) is not None:
        raise ConfigError(
            f"a module {package_of(id)} is installed already: choose another id than {id!r}"
        )


def _templates(folder: Traversable, prefix: str = "") -> list[tuple[str, str]]:
    """(path, text) of every template in a folder and its subfolders; `prefix` is the path of the folder itself."""
    templates = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            templates += _templates(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(ENDING):
            templates.append((prefix + entry.name, entry.read_text(encoding="utf-8")))
    return templates
