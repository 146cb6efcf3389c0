"""A game that starts from another model, or learns from one: its settings, and the weights of its networks.

Knows model folders, runs and the game; no schedule and no data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genkit import config as configuration
from genkit.config import RunConfig
from genkit.engine.game import Game
from genkit.engine.optimizers import under
from genkit.engine.run_folder import TEACHER, RunFolder
from genkit.errors import ConfigError, ModelError
from genkit.plugin import Facts, Modality
from genkit.sampling.model import Model
from genkit.sampling.model_folder import (
    CONFIG,
    CRITICS,
    WEIGHTS,
    read_assets,
    read_critics,
    read_model,
    read_model_config,
)
from genkit.sampling.model_names import find_model
from genkit.sampling.opening import open_model
from genkit.sampling.reranking import calibration_of
from genkit.system.tensors import load_state, read_tensors


def settings_of(
    init: str | Path, manifest: Modality, layers: Sequence[Mapping[str, Any]]
) -> tuple[str | None, dict[str, Any]]:
    """(the preset, a layer of settings with the options) of the model that a run starts from.

    Args:
        init: names the model.
        manifest: of the modality that is trained.
        layers: the user's settings, which override the model's.

    Returns:
        None as the preset, if the modality has no such preset any more.

    Raises:
        ModelError: if there is no such model, it is of another modality, or an option of it names code.
    """
    origin = read_model_config(find_model(init))
    if origin["modality"] != manifest.id:
        raise ModelError(f"{init} is a model of {origin['modality']!r}, not of {manifest.id!r}")
    options = configuration.options_for(manifest, origin["options"], layers, init)
    preset = origin.get("preset")
    return preset if preset in manifest.presets else None, {"options": options}


def begun_with(
    init: str | Path, manifest: Modality, preset: str | None, layers: Sequence[Mapping[str, Any]]
) -> tuple[str | None, list[Mapping[str, Any]]]:
    """(the preset, all layers of settings) of a run that starts from a model; arguments and errors as `settings_of`'s.

    Args:
        preset: the user's; None: the model's.
    """
    own_preset, own_layer = settings_of(init, manifest, layers)
    return preset or own_preset, [own_layer, *layers]


def facts_of(model: str | Path) -> Facts:
    """The facts of the model that a run starts from; of the run's own, when it is resumed.

    Raises:
        ModelError: if there is no such model, or it is damaged.
    """
    folder = find_model(model)
    return Facts(read_model_config(folder)["facts"], read_assets(folder))


def take_over(game: Game, init: str) -> list[str]:
    """Start from the weights of another model: its averaged generator, and its critics where it has them.

    A run has its critics, and the frozen networks of its game, in its last checkpoint; a model folder may have critics.

    Returns:
        Notes about critics that keep their fresh weights.

    Raises:
        ModelError: if the model is damaged, has another generator, or lacks weights of a frozen network that the plugin
            would load from their own source.
    """
    folder = find_model(init)
    info, tensors, _ = read_model(folder)
    load_state(game.networks.generator, tensors, folder / WEIGHTS)
    game.average.load(dict(game.networks.generator.named_parameters()))
    checkpoint = RunFolder(folder.parent, is_main_process=False).latest()
    if checkpoint is None:
        file, players = folder / CRITICS, {}
        critics = read_critics(folder)
    else:
        file = checkpoint / "players.safetensors"
        players = read_tensors(file)
        critics = under("critics", players)
        best = checkpoint / "best_critics.safetensors"
        if best.exists():
            weights = game.best_critics.weights_in(read_tensors(best))
            critics |= {key.replace(".", ".module.", 1): value for key, value in weights.items()}
    inner = "" if checkpoint is None else ".module"  # of a player, besides what it keeps of a run
    notes = _load_critics(game, critics, file, init, inner)
    if critics and not notes:
        game.best_critics.calibration = calibration_of(info, folder)
    for name, module in game.networks.frozen.items():
        if weights := under(f"frozen.{name}", players):
            load_state(module, weights, file)
        elif "initialise" in game.capabilities and module.state_dict():
            raise ModelError(
                f"{init} has no weights of the frozen network {name!r}, and a run with --init does not load them from "
                "their source: pass the run folder of a game that has this network, or leave --init out"
            )
    return notes


def open_teacher(config: RunConfig, folder: Path, is_resumed: bool) -> Model | None:
    """The model that a run learns from: the run's own copy, else what `run.teacher` names. None: it learns from none.

    Args:
        config: of the run.
        folder: of the run.
        is_resumed: whether the folder has this run.

    Raises:
        ConfigError: if the run would replace the folder in which the model lies.
        ModelError: if there is no such model, or it is damaged, of another modality, or another than in `config`.
    """
    name, path = config.run.teacher, folder / TEACHER
    if name is None:
        return None
    if not (is_resumed and (path / CONFIG).is_file()):
        path = find_model(name)
        if path.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                f"the teacher {name} lies in the folder of the run, which would be replaced: choose another --out"
            )
    modality = read_model_config(path)["modality"]
    if modality != config.modality.id:
        raise ModelError(f"{name} is a model of {modality!r}, not of {config.modality.id!r}")
    model = open_model(path, "cpu", config.modality)
    if config.run.teacher_sha256 not in (None, model.sha256):
        raise ModelError(
            f"the teacher {path} has other weights than run.teacher_sha256 says: put the model back that the run began "
            "with, or start a new run"
        )
    return model


def take_critics(game: Game, teacher: Model) -> list[str]:
    """Let the critics of a game start with the weights of a teacher's, where its folder has them and shapes fit.

    Returns:
        Notes about critics that keep their fresh weights.
    """
    tensors = read_critics(teacher.path)
    return _load_critics(game, tensors, Path(teacher.path or "") / CRITICS, game.config.run.teacher)


def _load_critics(
    game: Game, tensors: Mapping[str, Tensor], file: Path, source: object, inner: str = ""
) -> list[str]:
    """Load the critics whose weights have the shapes of the game's; returns notes about the others.

    Args:
        tensors: `<critic><inner>.<name>`.
        file: of the tensors, for messages.
        source: what the user calls the model or run, for messages.
        inner: what stands between the names of a critic and of its weights.
    """
    notes = []
    for name, critic in game.networks.critics.items():
        weights = under(f"{name}{inner}", tensors)
        if weights and _shapes(weights) == _shapes(critic.state_dict()):
            load_state(critic, weights, file)
        else:
            reason = "its network differs from that in" if weights else "there are none in"
            notes.append(f"the critic {name!r} starts with fresh weights: {reason} {source}")
    return notes


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
