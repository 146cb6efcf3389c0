"""A game that starts from another model: its settings, and the weights of its networks.

Knows model folders, runs and the game; no schedule and no data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genkit import config as configuration
from genkit.engine.game import Game
from genkit.engine.optimizers import under
from genkit.engine.run_folder import RunFolder
from genkit.errors import ModelError
from genkit.plugin import Facts, Modality
from genkit.sampling.model_folder import (
    CRITICS,
    WEIGHTS,
    read_assets,
    read_critics,
    read_model,
    read_model_config,
)
from genkit.sampling.model_names import find_model
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
    _, tensors, _ = read_model(folder)
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
    inner = "" if checkpoint is None else ".module"  # of a player, besides what it keeps of a run
    notes = []
    for name, critic in game.networks.critics.items():
        weights = under(f"{name}{inner}", critics)
        if weights and _shapes(weights) == _shapes(critic.state_dict()):
            load_state(critic, weights, file)
        else:
            reason = "its network differs from that in" if weights else "there are none in"
            notes.append(f"the critic {name!r} starts with fresh weights: {reason} {init}")
    for name, module in game.networks.frozen.items():
        if weights := under(f"frozen.{name}", players):
            load_state(module, weights, file)
        elif "initialise" in game.capabilities and module.state_dict():
            raise ModelError(
                f"{init} has no weights of the frozen network {name!r}, and a run with --init does not load them from "
                "their source: pass the run folder of a game that has this network, or leave --init out"
            )
    return notes


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
