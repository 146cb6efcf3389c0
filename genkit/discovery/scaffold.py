"""The package that an author of a modality begins with: the templates of `genkit/templates`, filled in.

Knows names and files; of a modality only what the registry says of its id. What the templates contain it must not know.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from genkit.discovery import registry
from genkit.errors import ConfigError, StorageError

TEMPLATES = "genkit", "discovery", "templates", "modality"
ENDING = ".txt"
"""Of every template, so that no tool takes one for the file that it becomes."""


def new_plugin(id: str, folder: str | Path | None = None) -> Path:
    """Write the complete package of a new modality, whole or not at all, and give its folder.

    Args:
        id: what users will type. Its distribution is called `ID-gan` and imported as `ID_gan`, so that neither
            meets one that is called like the medium itself.
        folder: where to; None: a folder named like the distribution, here.

    Raises:
        ConfigError: if the id is impossible or taken, or there is something in the folder.
        StorageError: if it cannot be written.
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
            whole = Path(unfinished)
            for path, content in contents.items():
                (whole / path).parent.mkdir(parents=True, exist_ok=True)
                (whole / path).write_text(content, encoding="utf-8")
            target.mkdir(exist_ok=True)
            # Renamed within one disk, into a folder that may be where the user stands.
            for entry in sorted(whole.iterdir()):
                os.rename(entry, target / entry.name)
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {error.strerror or error}. Nothing of it was written"
        ) from error
    return target


def package_files(id: str) -> dict[str, str]:
    """The files of a new modality's package: path within its folder -> content.

    Raises:
        ConfigError: if the id is impossible or taken.
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
    """What a new modality's distribution, and the folder of its package, are called."""
    return f"{id.replace('_', '-')}-gan"


def package_of(id: str) -> str:
    """What it is imported as."""
    return f"{id}_gan"


def _check_id(id: str) -> None:
    if not registry.is_id(id):
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


def _templates(folder: Traversable, within: str = "") -> list[tuple[str, str]]:
    """(path, text) of every template in a folder and those below it."""
    found = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            found += _templates(entry, f"{within}{entry.name}/")
        elif entry.name.endswith(ENDING):
            found.append((within + entry.name, entry.read_text(encoding="utf-8")))
    return found
