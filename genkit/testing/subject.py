"""What conformance checks ask: one modality under one preset, its data, and games so small that they take seconds.

Costly work is done once and shared. Knows the engine through its rooms; no check, no test runner and no modality.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genkit import config as configuration
from genkit.config import RunConfig
from genkit.discovery import registry
from genkit.engine.data import open_data
from genkit.engine.game import Game
from genkit.engine.training import train
from genkit.errors import ConfigError, UserError, did_you_mean, first_line
from genkit.plugin import Modality, ModalityPlugin, Sample, capabilities_of
from genkit.recipe import Recipe, ScoreFunction
from genkit.sampling.drawing import noise_for
from genkit.sampling.model import Model
from genkit.sampling.samples import Samples
from genkit.system.runtime import Runtime
from genkit.system.seeding import global_seeds
from genkit.user_objects import resolve

ROWS = 8
"""Of a batch, or a few more where the recipe's groups ask for them."""
NAME = "importable name"


@dataclass(frozen=True)
class Played:
    """A small game after its last round.

    Args:
        game: as it is now.
        before: the players' weights at its start.
        received: (who was updated, whose parameter, its name) of every gradient that was gathered.
    """

    game: Game
    before: Mapping[str, Tensor]
    received: frozenset[tuple[str, str, str]]


class Subject:
    """One modality under one preset, ready to be asked.

    Args:
        modality: an id, `module:attribute`, or a manifest.
        folder: to write in; everything that a check writes lies below it.
        preset: None: the first.
        data: as for `genkit.train`; None: the modality's default.
        options, recipe: over those of the preset, so that its networks are small.

    Raises:
        UserError: if there is no such modality, preset or data, or a setting that it does not take.
    """

    def __init__(
        self,
        modality: str | Modality,
        folder: Path,
        preset: str | None = None,
        data: Any = None,
        options: Mapping[str, Any] | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        self.modality, self.target = _found(modality)
        self.folder, self.data = folder, data
        self.preset = preset or next(iter(self.modality.presets), "")
        if preset is not None and preset not in self.modality.presets:
            hint = did_you_mean(preset, self.modality.presets)
            raise ConfigError(f"{self.modality.id} has no preset {preset!r}.{hint}")
        self.given = {"options": options or {}, "recipe": recipe or {}}
        self.written: set[str] = set()
        if (
            options or recipe or data is not None
        ):  # what was given is judged here, what the plugin brings by the checks
            try:
                _ = self.config
            except UserError:
                raise
            except Exception:
                return

    @cached_property
    def layers(self) -> list[dict[str, Any]]:
        """The settings that make the preset's game small, below what was given."""
        recipe = configuration.build(self.modality, self.preset, self.data, [self.given]).recipe
        size = recipe.group * -(-ROWS // recipe.group)
        items = size * (2 * len(recipe.stages) + 4)
        run: dict[str, Any] = {
            "items": items,
            "sample_items": size,
            "samples": 4,
            "checkpoint_seconds": 3600,
        }
        run |= {
            "plan": "fp32",
            "threads": 1,
            "device": "cpu",
            "init": None,
            "track": None,
            "strict": False,
        }
        return [{"recipe": _small(recipe, size), "run": run}, self.given]

    @cached_property
    def config(self) -> RunConfig:
        """Of the small run; its data are open."""
        config = configuration.build(self.modality, self.preset, self.data, self.layers)
        with self.watching():
            return replace(
                config, data=registry.load(self.modality).open(config.data, config.options)
            )

    def open(self, config: RunConfig | None = None) -> tuple[ModalityPlugin, Any]:
        """The plugin with the facts of the data, and the data set; new ones each time."""
        return open_data(config or self.config)[:2]

    def game(self, config: RunConfig | None = None) -> Game:
        """A small game at its start."""
        game = Game(config or self.config, *self.open(config), Runtime("cpu", 1, "fp32"))
        game.initialise()
        return game

    @cached_property
    def played(self) -> Played:
        """A small game that was played to its end."""
        game, received = self.game(), set[tuple[str, str, str]]()
        before = {name: value.clone() for name, value in game.state()[1]["players"].items()}
        updated = ["nobody"]
        handles: list[Any] = []

        def enter(name: str) -> Callable[..., None]:
            return lambda *_: updated.__setitem__(0, name)

        def gather(owner: str, name: str) -> Callable[[Tensor], None]:
            return lambda _: received.add((updated[0], owner, name))

        for owner, player in game.players.items():
            handles.append(player.register_forward_pre_hook(enter(owner)))
            for name, parameter in player.named_parameters():
                if parameter.requires_grad:
                    hear: Any = parameter.register_post_accumulate_grad_hook
                    handles.append(hear(gather(owner, name)))
        while not game.over():
            game.play_round()
        for handle in handles:
            handle.remove()
        return Played(game, before, frozenset(received))

    @cached_property
    def capabilities(self) -> frozenset[str]:
        """The optional capabilities of plugin and generator."""
        plugin, _ = self.open()
        return capabilities_of(plugin, plugin.networks().generator)

    @cached_property
    def parts(self) -> frozenset[str]:
        """What there is to check beside what every modality has."""
        settings = {
            part for part in ("options", "controls") if getattr(self.modality, part) is not None
        }
        return self.capabilities | settings | ({NAME} if self.target else set[str]())

    def train(self, name: str, **arguments: Any) -> Model:
        """A small run in a folder of that name."""
        return train(
            self.modality,
            self.config.data,
            self.preset,
            self.folder / name,
            settings=self.layers,
            **arguments,
        )

    @cached_property
    def model(self) -> Model:
        """Of the small run `seen`, which looks at itself in every round."""
        with self.watching():
            return self.train("seen")

    @cached_property
    def unseen(self) -> Path:
        """The same run without looks."""
        assert self.config.run.items is not None
        self.train("unseen", run={"sample_items": 2 * self.config.run.items})
        return self.folder / "unseen"

    @cached_property
    def real_batch(self) -> Sample:
        """The first real samples."""
        return self.played.game.batches.take(0, self.config.recipe.batch_size)

    @cached_property
    def generator(self) -> nn.Module:
        """Trained for a moment; in eval mode, and may learn."""
        return self.played.game.networks.generator.eval().requires_grad_(True)

    @cached_property
    def critics(self) -> dict[str, nn.Module]:
        """The same."""
        return {name: critic.eval() for name, critic in self.played.game.networks.critics.items()}

    def noise(self, seed: int = 0) -> dict[str, Tensor]:
        """Of a batch."""
        return noise_for(
            self.generator, seed, range(self.config.recipe.batch_size), torch.device("cpu")
        )

    def fake(self, seed: int = 0) -> Sample:
        """A batch of the generator's, under the conditions of the real one; without gradients."""
        with torch.no_grad():
            sample: Sample = self.generator(
                self.noise(seed), self.real_batch.condition, self.controls
            )
        return sample

    def drawn(self, indices: Sequence[int], seed: int = 0, model: Model | None = None) -> Samples:
        """Samples of the small run's model, or another; under conditions of the data where there is no default."""
        model, conditions = model or self.model, self.played.game.look_conditions
        sample = model.draw(indices, seed, controls=self.controls, conditions=conditions)
        return Samples(sample, seed, tuple(indices), None, model, self.controls)

    @property
    def controls(self) -> Any:
        """The modality's controls as they are by default."""
        return configuration.controls(self.modality, {})

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note every file that this process opens for writing."""
        _hook()
        _watchers.append(self.written)
        try:
            yield
        finally:
            _watchers.pop()


@contextmanager
def quiet_machine(name: str) -> Iterator[None]:
    """One thread and seeded global generators, both given back as they were."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with global_seeds("conformance", name):
            yield
    finally:
        torch.set_num_threads(threads)


def _found(modality: str | Modality) -> tuple[Modality, str | None]:
    """(the manifest, `module:attribute` of it where it has such a name)."""
    if isinstance(modality, Modality):
        return modality, None
    if ":" not in modality or modality in {row.name for row in registry.found()}:
        row = registry.provider(modality)
        return registry.describe(modality), None if row.distribution == "local" else row.target
    try:
        manifest = resolve(modality)
    except (Exception, SystemExit) as error:  # whatever the author's module raises at import
        raise ConfigError(f"{modality}: cannot be imported ({first_line(error)})") from error
    if not isinstance(manifest, Modality):
        raise ConfigError(
            f"{modality} is a {type(manifest).__name__}; a genkit.plugin.Modality was expected"
        )
    return manifest, modality


def _small(recipe: Recipe, size: int) -> dict[str, Any]:
    """Settings over a recipe with which each of its parts acts within a few small batches."""

    def quick(steps: int) -> dict[str, Any]:
        return {"steps": min(steps, 2), "interval": 1}

    stages = {
        str(number): ({} if stage.items is None else {"items": 2 * size})
        | ({} if stage.generator is None else {"generator": quick(stage.generator.steps)})
        for number, stage in enumerate(recipe.stages)
    }
    return {
        "batch_size": size,
        "gradient_accumulation": 1,
        "generator": quick(recipe.generator.steps),
        "critic": quick(recipe.critic.steps),
        "critics": {name: quick(critic.steps) for name, critic in recipe.critics.items()},
        "penalties": {name: {"interval": 1} for name in recipe.penalties},
        "estimator": {"rollouts": 2} if isinstance(recipe.estimator, ScoreFunction) else {},
        "stages": stages,
    }


# Files that are opened for writing ---------------------------------------------------------------------------------

_watchers: list[set[str]] = []
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@cache
def _hook() -> None:
    """Hear of files for as long as the process lives: an audit hook cannot be taken back."""
    sys.addaudithook(_heard)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watchers or event not in ("open", "os.mkdir"):
        return
    path, writes = arguments[0], event == "os.mkdir" or bool((arguments[2] or 0) & _WRITES)
    if writes and isinstance(path, str | bytes | os.PathLike):
        _watchers[-1].add(os.path.abspath(os.fsdecode(path)))
