"""From a name to a model: found, read, and built by the plugin that made it.

Knows names of models, their folders and plugins; draws nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genkit import config
from genkit.discovery import registry
from genkit.errors import (
    ConfigError,
    ModelError,
    PluginError,
    UnknownModality,
    did_you_mean,
    first_line,
)
from genkit.plugin import Facts, Modality
from genkit.sampling.drawing import DTYPES
from genkit.sampling.model import Model
from genkit.sampling.model_folder import WEIGHTS, read_model
from genkit.sampling.model_names import find_model
from genkit.sampling.samples import Samples
from genkit.system.files import file_hash
from genkit.system.runtime import pick_device
from genkit.system.seeding import global_seeds
from genkit.system.tensors import build
from genkit.user_objects import admit_network, not_placeholder


def generate(
    model: str | Path | Model,
    n: int = 16,
    seed: int = 0,
    start: int = 0,
    label: str | None = None,
    controls: Mapping[str, Any] | None = None,
    best_of: int = 1,
    device: str = "auto",
    choose: str = "best",
    dtype: str = DTYPES[0],
) -> Samples:
    """Open a model and draw samples from it; where you draw more than once, open it once with `load`.

    Args:
        model: as for `load`, or a model.
        n, seed, start, label, controls, best_of, choose: as for `Model.generate`.
        device, dtype: as for `load`; a model that is open keeps its own.

    Raises:
        UserError: as `load` and `Model.generate` do.
    """
    opened_model = model if isinstance(model, Model) else open_model(model, device, dtype=dtype)
    return opened_model.generate(n, seed, start, label, controls, None, best_of, choose)


def open_model(
    model: str | Path,
    device: str = "auto",
    modality: Modality | None = None,
    user_objects: Sequence[str] = (),
    revision: str | None = None,
    dtype: str = DTYPES[0],
) -> Model:
    """Open a model: of a folder or run, one that ships with a plugin, or one on the Hugging Face Hub.

    Nothing in the folder is executed: it names a plugin, which must be installed. If an option of the model names a
    user's own network class, that class is not imported: sampling needs no critic, and a generator's class must be
    listed in `user_objects`.

    Args:
        model: a run folder or model folder; else a modality's id for the model that ships with it, `id:name` for
            another one; else `user/name` or `user/name@revision` on the Hub (`hub:user/name` if there is such a path).
        device: auto, cpu, cuda, mps ...
        modality: the manifest, for a model whose modality is not installed.
        user_objects: `module:attribute` of each network class that may be imported to build the model.
        revision: of a model on the Hub: a branch, tag or commit.
        dtype: in which it computes when it draws: float32; or bfloat16, which is faster where the machine has it. Its
            samples are others then, by what rounding makes of them.

    Raises:
        ConfigError: for another dtype; if one of `user_objects` cannot be imported; for the revision of a model that is
            not on the Hub.
        ModelError: if there is no such model, it is damaged, or its plugin is not installed.
    """
    if dtype not in DTYPES:
        hint = did_you_mean(dtype, DTYPES)
        raise ConfigError(f"dtype = {dtype!r}: a model draws in {' or '.join(DTYPES)}.{hint}")
    for name in user_objects:
        admit_network("user_objects", name)
    folder = find_model(model, revision)
    info, tensors, assets = read_model(folder)
    digest = file_hash(folder / WEIGHTS)
    manifest = modality or manifest_for(info, folder)
    check_controls(manifest, info, folder)
    options_class = registry.named_class(manifest, "options")
    options = None
    try:
        if options_class is not None:
            options = config.validate(options_class, info["options"], "options")
    except ConfigError as error:
        raise ModelError(f"{folder / 'config.json'}: {error}") from error
    try:
        with global_seeds("open"):  # new networks draw their weights from the global generators
            plugin = registry.load(manifest)(options, Facts(info["facts"], assets))
            networks = build(
                lambda: {"": not_placeholder(plugin.generator(), folder)},
                tensors,
                folder / WEIGHTS,
            )
    except (ModelError, PluginError, ConfigError):
        raise
    except Exception as error:  # a plugin may raise anything for facts that it did not write
        reason = f"{registry.origin(manifest)} cannot build a network from it ({first_line(error)})"
        raise ModelError(f"{folder / 'config.json'}: {reason}") from error
    target_device = pick_device(device)
    generator = networks[""].to(target_device).eval().requires_grad_(False)
    return Model(manifest, plugin, generator, info, target_device, folder, digest, dtype=dtype)


def check_controls(modality: Modality, info: Mapping[str, Any], folder: Path) -> None:
    """Raise ModelError unless the defaults that a model has for its modality's controls can be."""
    try:
        config.controls(modality, {}, info.get("controls"))
    except ConfigError as error:
        raise ModelError(f"{folder / 'config.json'}: controls: {error}") from error


def manifest_for(info: Mapping[str, Any], folder: Path) -> Modality:
    """The manifest of the plugin that made a model.

    Raises:
        ModelError: if that plugin is not installed; it says what to install.
    """
    maker = info["plugin"]
    try:
        return registry.describe(f"{maker.get('distribution')}:{info['modality']}")
    except UnknownModality as error:
        maker_name = f"{maker.get('distribution')} {maker.get('version')} ({info['modality']})"
        others = [row.name for row in registry.found() if row.id == info["modality"]]
        hint = f" Did you mean {others[0]!r}?" if others else ""
        cure = f"pip install {maker.get('distribution')}.{hint}"
        if maker.get("distribution") == "local":
            cure = "register its modality with genkit.register, or pass it as modality="
        raise ModelError(
            f"{folder} was made with {maker_name}, which is not installed here: {cure}"
        ) from error
