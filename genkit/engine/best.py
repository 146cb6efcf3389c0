"""The best model of a run so far: the one whose samples lie nearest to real items.

Knows a game's model and evaluation; does not change the game.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from genkit.discovery import registry
from genkit.engine.game import Game
from genkit.engine.views import model_of
from genkit.errors import ModelError
from genkit.evaluation.comparing import Comparison, Request
from genkit.evaluation.real import real_items, source_name
from genkit.sampling.model import Model
from genkit.sampling.model_folder import read_model_config

BEST = "best"
"""The model folder of a run's best model, within the run folder."""

KEY = "evaluation"
"""Of the distance in the best model's config.json."""


class Best:
    """Evaluates the model of a game by its first distance to real items of its data, and keeps the best in a folder.

    Args:
        game: with `run.evaluate` set; its model gives the plugin, and the first samples.
        folder: of the run.
        is_resumed: whether the best model so far is in it, if there is one.

    Raises:
        ConfigError: if samples of the modality have no features to compare by.
        DataError: if too few items can be used.
    """

    def __init__(self, game: Game, folder: Path, is_resumed: bool) -> None:
        config = game.config
        assert config.run.evaluate is not None
        model = model_of(game)
        with registry.asking(config.modality, "open"):
            source = model.plugin.open(config.data, config.options)
        name = source_name(config.data)
        real = real_items(model, source, name, game.controls, config.run.evaluate, config.run.seed)
        request = Request(config.data, config.run.evaluate, seed=config.run.seed)
        self.comparison = Comparison(request, real, model, game.controls)
        self.comparison.distance(
            real.other
        )  # what cannot be compared is found before the run begins
        self.path = folder / BEST
        self.value = self._earlier_value() if is_resumed else math.inf

    def _earlier_value(self) -> float:
        """The distance of the best model of a run that goes on; infinity, if there is none."""
        try:
            return float(read_model_config(self.path)[KEY]["value"])
        except (ModelError, KeyError, TypeError, ValueError):
            return math.inf

    def look(self, model: Model, items: int) -> tuple[dict[str, float], str]:
        """Evaluate a model, and keep it if it is the best so far.

        Args:
            model: of the game.
            items: real samples that the run has seen.

        Returns:
            The distance by its name, and a note if it was kept; else an empty one.
        """
        comparison = self.comparison
        sample = comparison.draw("the model", model, comparison.controls)
        name, value = comparison.distance(sample)
        if value >= self.value:
            return {name: value}, ""
        protocol = comparison.protocol(comparison.extractors[0])
        about = {"distance": name, "value": value, "items": items, "protocol": protocol}
        replace(model, info={**model.info, KEY: about}).save(self.path)
        self.value = value
        return {name: value}, f"the best model so far, {name} {value:.4g}: {self.path}"
