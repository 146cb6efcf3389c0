"""What can be seen of a game without changing it: its model, conditions for previews, its machine and data.

Knows the game and the sampler; no files and no terminal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genkit import config as configuration
from genkit.discovery import registry
from genkit.engine.averages import recalibrated
from genkit.engine.diagnosis import REALS, Reference, diverged
from genkit.engine.game import RECALIBRATION_ROWS, Game
from genkit.plugin import Sample
from genkit.recipe import Recipe
from genkit.sampling.batching import join
from genkit.sampling.conditions import condition_of
from genkit.sampling.drawing import CHUNK, Place, draw_batch
from genkit.sampling.model import Model
from genkit.sampling.reranking import UNFITTED
from genkit.system.files import without_place
from genkit.system.seeding import global_seeds


def model_of(game: Game) -> Model:
    """The game's model: the generator with averaged weights and BatchNorm statistics measured for them."""
    device, conditions = game.runtime.device, game.data_conditions

    def draw(module: nn.Module, number: int) -> Sample:
        rows = range(number * CHUNK, (number + 1) * CHUNK)
        condition = _repeated(conditions, rows)
        return draw_batch(module, rows, "recalibration", condition, game.controls, Place(device))

    with game.asking("generator"), global_seeds("model"):
        module = recalibrated(game.average.module(), draw, RECALIBRATION_ROWS // CHUNK)
    info = _info(game, conditional=conditions is not None)
    return Model(
        game.config.modality, game.plugin, module, info, device, critics=critic_weights(game)
    )


def check_weights(game: Game) -> None:
    """Check that all trainable and averaged weights are finite.

    Raises:
        TrainingError: if a weight is not finite.
    """
    weights = [
        *game.average.weights.values(),
        *(weight for player in game.trainable.values() for weight in player),
    ]
    if not torch.stack([weight.detach().isfinite().all() for weight in weights]).all():
        raise diverged(game.items, "a weight was not finite")


def critic_weights(game: Game) -> dict[str, Tensor]:
    """The critics' weights, `<critic>.<name>`, the best if any were kept; {} until every critic has been updated."""
    if not all(game.updates[name] for name in game.critics):
        return {}
    return game.best_critics.weights()


def reference_of(game: Game) -> Reference:
    """Real samples of the game's data, that generated ones are compared with."""
    count, size = min(REALS, len(game.batches)), 64
    starts = range(0, count, size)
    batches = [game.batches.take(start, min(size, count - start)) for start in starts]
    return Reference(join([Sample(batch.x) for batch in batches]))


def preview_conditions(game: Game, indices: Sequence[int]) -> Tensor | None:
    """[B, ...]: the plugin's default conditions of these sample indices, else conditions of reals; None: neither."""
    default = None
    if "condition" in game.capabilities:
        default = condition_of(game.config.modality, game.plugin, None, indices)
    return _repeated(game.data_conditions, indices) if default is None else default


def _repeated(conditions: Tensor | None, indices: Sequence[int]) -> Tensor | None:
    """[B, ...]: condition `index % N` for each index; None for no conditions."""
    if conditions is None:
        return None
    return conditions[[index % len(conditions) for index in indices]]


def _info(game: Game, conditional: bool) -> dict[str, Any]:
    """The description of the model that its folder keeps in config.json."""
    config = game.config
    home = registry.home_of(config.modality)
    calibration = game.best_critics.calibration
    is_current = config.recipe.stages[game.stage].kind == "critics"  # others change the generator
    is_fitted = is_current and calibration != UNFITTED
    return {
        "genkit": registry.core_version(),
        "modality": config.modality.id,
        "title": config.modality.title,
        "plugin": {"distribution": home.distribution, "version": home.version},
        "preset": config.preset,
        "options": config.plain()["options"],
        "facts": dict(game.plugin.facts.values),
        "conditional": conditional,
        "critics": {name: config.recipe.critic_named(name).weight for name in game.critics},
        **({"calibration": calibration._asdict()} if is_fitted else {}),
        "items": game.items,
        "card": _card(game),
    }


def about_machine(game: Game) -> dict[str, Any]:
    """What the bits of a run's results depend on, beyond its configuration and data."""
    plugin = registry.origin(game.config.modality)
    return {**game.runtime.fingerprint(), "genkit": registry.core_version(), "plugin": plugin}


def about_data(game: Game) -> dict[str, Any]:
    """The data as a resumed run must find them, wherever they lie: number of items, means of some, facts."""
    facts = game.plugin.facts
    files = {name: hashlib.sha256(content).hexdigest() for name, content in facts.files.items()}
    return {
        "items": len(game.batches),
        "spread_means": game.batches.means,
        "facts": json.loads(json.dumps(dict(facts.values))),
        "files": files,
    }


def _card(game: Game) -> dict[str, Any]:
    """What the run knows of its model, for the model's card; a path is told by its last part alone."""
    config, runtime = game.config, game.runtime
    default = Recipe().model_dump(mode="json")
    entries = {
        "data": without_place(config.data_name),
        "seed": config.run.seed,
        "init": without_place(config.run.init),
        "teacher": without_place(config.run.teacher),
        "teacher_sha256": config.run.teacher_sha256,
        "recipe": dict(configuration.changes(default, config.recipe.model_dump(mode="json"))),
        "seconds": round(game.seconds, 3),
        "device": runtime.device.type,
        "plan": runtime.plan,
        "threads": runtime.threads,
        "torch": torch.__version__,
        "command": configuration.command(config),
    }
    return {key: value for key, value in entries.items() if value is not None}
