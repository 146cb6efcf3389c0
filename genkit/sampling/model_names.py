"""What names a model: a path, a modality's id, a name on the Hub. `find_model` is the one place that reads such names.

    runs/mine, runs/mine/model           a run folder, a model folder
    ID, ID:NAME, DISTRIBUTION:ID         a model that ships with a plugin
    USER/NAME, USER/NAME@REVISION        a model on the Hugging Face Hub; hub:USER/NAME where a path is in the way

Imports no torch: nothing but descriptions and sizes of files is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genkit.discovery import bundled, registry
from genkit.errors import ConfigError, GenkitError, ModelError, PluginError, did_you_mean
from genkit.sampling import card, hub
from genkit.sampling.model_folder import CONFIG, WEIGHTS, model_at, read_model_config
from genkit.system.files import user_path

RUNS = Path("runs")
"""Where the command line writes runs, and finds those that it lists."""


def find_model(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a model.

    A path that holds a model or a run comes first, then a model that ships with a plugin, then one on the Hub. The Hub
    is not asked for a name whose first part is a folder here.

    Args:
        name: of the model; see above.
        revision: of a model on the Hub: a branch, tag or commit.

    Raises:
        ConfigError: for the revision of a model that is not on the Hub.
        ModelError: if there is no such model; it says what there is.
        PluginError: if the plugin that the name means cannot be used, or its model is missing.
        UnknownModality: if the name is the id of a plugin of the project that is not installed.
    """
    text = os.fspath(name)
    is_hub = text.startswith(hub.PREFIX)
    folder = None if is_hub else model_at(text)
    place = hub.hub_name(text, revision)
    if folder is None and "/" not in text and (shipped := bundled.model_named(text)):
        folder = bundled.model_path(*shipped)
    if folder is not None:
        if revision is not None:
            raise ConfigError(f"revision = {revision!r}: {text} is no model on the Hub")
        return folder
    is_here = user_path(text).parent.is_dir() and revision is None
    if place is None or (is_here and not is_hub):
        raise _no_model(text)
    try:
        return hub.download(place)
    except ModelError as error:
        if is_hub:
            raise
        raise ModelError(f"there is no folder {text}, and {error}") from error


def _no_model(text: str) -> ModelError:
    """Why a name is that of no model, with the nearest one."""
    path = user_path(text)
    if path.exists():
        return ModelError(
            f"{text} is neither a model folder ({CONFIG}, {WEIGHTS}) nor a run folder"
        )
    names = [model.name for model in (*shipped_models(), *local_models())]
    hint = did_you_mean(text, names, 0.6).replace(" Allowed:", " There are:")
    if hub.hub_name(text):
        hint += f" (On the Hub? Then name it {hub.PREFIX}{text}.)"
    return ModelError(f"there is no model at {text}: it does not exist.{hint}")


# Lists -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KnownModel:
    """A model that can be opened on this machine without a network.

    Args:
        name: that `find_model` takes.
        place: bundled (it ships with a plugin), local (below `RUNS`), or hub (in the Hub's cache).
        modality: its id.
        bytes: size of its files.
        license: of its weights; empty: unknown.
        scores: in one line; empty: unknown.
        path: of its folder; empty if there is none.
        fault: why it cannot be opened; empty: no reason is known.
    """

    name: str
    place: str
    modality: str
    bytes: int = 0
    license: str = ""
    scores: str = ""
    path: str = ""
    fault: str = ""


def known_models() -> list[KnownModel]:
    """All models that ship with plugins, those of runs below the working folder, and those in the Hub's cache."""
    cached = (_described(str(name), "hub", folder) for name, folder in hub.cached())
    return [*shipped_models(), *local_models(), *cached]


def shipped_models() -> Iterator[KnownModel]:
    """The models that ship with the installed plugins."""
    for row in registry.found():
        try:
            manifest = registry.describe(row.id if row.status == "ok" else row.name)
        except GenkitError:
            continue  # `genkit plugins list` has the reason
        for place, model in enumerate(manifest.models):
            plugin = row.id if row.status == "ok" else row.name
            name = f"{plugin}:{model}" if place else plugin
            try:
                yield _described(name, "bundled", bundled.model_path(manifest, model))
            except (ModelError, PluginError) as error:
                yield KnownModel(name, "bundled", manifest.id, fault=str(error))


def local_models() -> Iterator[KnownModel]:
    """The models of the runs below the working folder."""
    for folder in sorted(RUNS.glob("*/model")):
        if (folder / CONFIG).is_file():
            yield _described(str(folder.parent), "local", folder)


def _described(name: str, place: str, folder: Path) -> KnownModel:
    """What is listed of a model."""
    try:
        config: Mapping[str, Any] = read_model_config(folder)
    except ModelError as error:
        return KnownModel(name, place, "", path=str(folder), fault=str(error))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    license, scores = card.license_of(config), card.scores_line(config)
    return KnownModel(name, place, config["modality"], size, license, scores, str(folder))
