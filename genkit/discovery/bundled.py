"""Models that ship with plugins: which one a name means, where its folder lies, and whether it is in order.

`genkit generate ID` draws from such a model. A manifest names it by `package:folder`. Imports no torch, and reads of a
model only whose it is and whether its weights are whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from genkit.discovery import registry
from genkit.discovery.selection import matches
from genkit.errors import GenkitError, ModelError, PluginError, did_you_mean, first_line
from genkit.plugin import Modality
from genkit.system.files import read_json


def model_named(name: str) -> tuple[Modality, str] | None:
    """The modality and the name of its model that a user means; None if no installed plugin has such a name.

    Args:
        name: `id`, `id:model`, `distribution:id` or `distribution:id:model`.

    Returns:
        The manifest, and the name of the model, the first of the manifest where the user gave none; empty if the plugin
        ships no model.

    Raises:
        PluginError: if the plugin cannot be used.
        UnknownModality: if it is one of the project's own that is not installed; it says what to install.
    """
    words, rows = name.split(":"), registry.found()
    for count in (2, 1):
        plugin, model = ":".join(words[:count]), ":".join(words[count:])
        if any(matches(plugin, row.name) if ":" in plugin else row.id == plugin for row in rows):
            manifest = registry.describe(plugin)
            return manifest, model or next(iter(manifest.models), "")
    if words[0] in registry.project_distributions():
        registry.provider(words[0])
    return None


def model_path(manifest: Modality, model: str) -> Path:
    """The folder of a model that ships with a plugin.

    Args:
        manifest: of the plugin.
        model: the name of the model.

    Raises:
        ModelError: if the plugin ships no model of this name.
        PluginError: if the folder is missing or is not that of a model of this plugin, or if its package cannot be
            imported.
    """
    if model not in manifest.models:
        if not manifest.models:
            cure = f"train one with `genkit train {manifest.id}`, and name its folder"
            raise ModelError(f"{registry.origin(manifest)} ships no model: {cure}")
        hint = did_you_mean(model, manifest.models)
        raise ModelError(f"{manifest.id} has no model {model!r} that ships with it.{hint}")
    package, _, folder = manifest.models[model].partition(":")
    with registry.asking(manifest, f"its model {model!r}") as fault:
        place = resources.files(package).joinpath(folder)
        if not isinstance(place, Path):
            raise fault(f"{package} is inside an archive: install it as files, with pip")
        if not place.is_dir():
            raise fault(f"{place} is missing: reinstall {registry.home_of(manifest).distribution}")
    return place


def faults(manifest: Modality) -> Iterator[str]:
    """What is wrong with the models that ship with a plugin, a sentence each."""
    for model in manifest.models:
        try:
            _check(manifest, model_path(manifest, model))
        except PluginError as error:
            yield f"{error.call}: {error.reason}"
        except GenkitError as error:
            yield f"its model {model!r}: {error}"


def _check(manifest: Modality, folder: Path) -> None:
    """Raise ModelError unless a folder holds whole weights, and the description of a model of this plugin."""
    from safetensors import SafetensorError, safe_open

    config, home = read_json(folder / "config.json"), registry.home_of(manifest).distribution
    plugin = config.get("plugin") if isinstance(config, dict) else None
    if not isinstance(plugin, dict) or config.get("modality") != manifest.id:
        raise ModelError(f"{folder / 'config.json'} does not describe a model of {manifest.id!r}")
    if home not in ("local", plugin.get("distribution")):
        maker = plugin.get("distribution")
        raise ModelError(f"{folder} was made with {maker}, not with {home}: make it again")
    weights = folder / "model.safetensors"
    try:
        with safe_open(weights, "numpy"):
            pass
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{weights} is no whole safetensors file ({first_line(error)})") from error
