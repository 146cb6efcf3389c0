"""The subject of conformance checks: one modality under one preset, its data, and games that take only seconds.

Costly work is done once and shared by all checks. Knows the engine and the sampler; no check, no test runner and no
modality.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genkit import config as configuration
from genkit.config import RunConfig
from genkit.discovery import registry
from genkit.engine.clock import Stop
from genkit.engine.data import open_data
from genkit.engine.game import Game
from genkit.engine.run_folder import RunFolder
from genkit.engine.training import play, train
from genkit.engine.views import preview_conditions
from genkit.errors import ConfigError, Interrupted, UserError, did_you_mean, first_line
from genkit.plugin import Modality, ModalityPlugin, Sample, capabilities_of
from genkit.recipe import Recipe, ScoreFunction
from genkit.sampling.drawing import noise_for
from genkit.sampling.model import Model
from genkit.sampling.samples import Samples
from genkit.system.runtime import Runtime
from genkit.system.seeding import global_seeds
from genkit.user_objects import resolve

ROWS = 8
"""Rows of a batch; a few more where the recipe's groups need them."""
NAME = "importable name"
"""The part of a subject whose manifest can be imported by name."""
MODELS = "models that ship"
"""The part of a subject with whose plugin models ship."""


@dataclass(frozen=True)
class Played:
    """A small game after its last round.

    Args:
        game: at its end.
        weights_before: the players' weights at its start.
        gradients: (the updated player, the parameter's owner, the parameter's name) of every gradient.
    """

    game: Game
    weights_before: Mapping[str, Tensor]
    gradients: frozenset[tuple[str, str, str]]


class Subject:
    """One modality under one preset, ready to be checked.

    Args:
        modality: an id, `module:attribute`, or a manifest.
        folder: everything that a check writes goes below it.
        preset: the name of a preset; None: the modality's first.
        data: as for `genkit.train`; None: the modality's default.
        options, recipe: settings that override the preset's; choose small networks.

    Raises:
        UserError: if there is no such modality, preset or data, or if a setting is not valid.
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
        self.modality, self.target = _resolved(modality)
        self.folder, self.data = folder, data
        self.preset = preset or next(iter(self.modality.presets), "")
        if preset is not None and preset not in self.modality.presets:
            hint = did_you_mean(preset, self.modality.presets)
            raise ConfigError(f"{self.modality.id} has no preset {preset!r}.{hint}")
        self.own_settings = {"options": options or {}, "recipe": recipe or {}}
        self.written: set[str] = set()
        # Mistakes in the caller's arguments are raised here; faults of the plugin are left to the checks.
        if options or recipe or data is not None:
            try:
                _ = self.config
            except UserError:
                raise
            except Exception:
                return

    @cached_property
    def layers(self) -> list[dict[str, Any]]:
        """The settings that make the preset's game small, then the caller's own."""
        recipe = configuration.build(
            self.modality, self.preset, self.data, [self.own_settings]
        ).recipe
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
        return [{"recipe": _small(recipe, size), "run": run}, self.own_settings]

    @cached_property
    def config(self) -> RunConfig:
        """The configuration of the small run, with its data opened."""
        config = configuration.build(self.modality, self.preset, self.data, self.layers)
        with self.watching():
            return replace(
                config, data=registry.load(self.modality).open(config.data, config.options)
            )

    def open(self, config: RunConfig | None = None) -> tuple[ModalityPlugin, Any]:
        """(the plugin with the facts of the data, the data set), new ones at each call."""
        return open_data(config or self.config)[:2]

    def game(self, config: RunConfig | None = None) -> Game:
        """A small game at its start."""
        game = Game(config or self.config, *self.open(config), Runtime("cpu", 1, "fp32"))
        game.initialise()
        return game

    @cached_property
    def played(self) -> Played:
        """A small game that was played to its end, with a record of all gradients."""
        game, gradients = self.game(), set[tuple[str, str, str]]()
        weights_before = {name: value.clone() for name, value in game.state()[1]["players"].items()}
        player_names = ["nobody"]
        handles: list[Any] = []

        def enter(name: str) -> Callable[..., None]:
            return lambda *_: player_names.__setitem__(0, name)

        def gather(owner: str, name: str) -> Callable[[Tensor], None]:
            return lambda _: gradients.add((player_names[0], owner, name))

        for owner, player in game.players.items():
            handles.append(player.register_forward_pre_hook(enter(owner)))
            for name, parameter in player.named_parameters():
                if parameter.requires_grad:
                    register: Any = parameter.register_post_accumulate_grad_hook
                    handles.append(register(gather(owner, name)))
        while not game.over():
            game.play_round()
        for handle in handles:
            handle.remove()
        return Played(game, weights_before, frozenset(gradients))

    @property
    def learners(self) -> list[str]:
        """The players that learn: all, or the generator alone where the recipe is of pretraining alone."""
        is_game = any(stage.kind != "pretrain" for stage in self.config.recipe.stages)
        return list(self.played.game.players) if is_game else ["generator"]

    @cached_property
    def capabilities(self) -> frozenset[str]:
        """The optional capabilities of plugin and generator."""
        plugin, _ = self.open()
        return capabilities_of(plugin, plugin.generator())

    @cached_property
    def parts(self) -> frozenset[str]:
        """The optional parts of the modality: capabilities, options, controls, an importable name, models that ship."""
        settings = ("options", "controls")
        names = [part for part in settings if getattr(self.modality, part) is not None]
        if self.target:
            names.append(NAME)
        if self.modality.models:
            names.append(MODELS)
        return self.capabilities | set(names)

    def train(self, name: str, **arguments: Any) -> Model:
        """The model of a small run in a folder of that name."""
        return train(
            self.modality,
            self.config.data,
            self.preset,
            self.folder / name,
            settings=self.layers,
            **arguments,
        )

    def interrupt(self, name: str) -> None:
        """A small run in a folder of that name that is stopped half-way, as by Ctrl-C, and saves everything."""
        folder = RunFolder(self.folder / name)
        try:
            with global_seeds("training", self.config.run.seed), suppress(Interrupted):
                game = self.game()
                folder.begin(game.config.plain())
                while game.share_of_run < 0.5:
                    game.play_round()
                play(game, folder, lambda _: None, Stop(is_asked=True))
        finally:
            folder.close()

    @cached_property
    def model(self) -> Model:
        """The model of the small run `seen`, which draws samples in every round."""
        with self.watching():
            return self.train("seen")

    @cached_property
    def unseen(self) -> Path:
        """The folder of the small run that draws no samples before its end."""
        assert self.config.run.items is not None
        self.train("unseen", run={"sample_items": 2 * self.config.run.items})
        return self.folder / "unseen"

    @cached_property
    def real_batch(self) -> Sample:
        """The first batch of real samples."""
        return self.played.game.batches.take(0, self.config.recipe.batch_size)

    @cached_property
    def generator(self) -> nn.Module:
        """The generator of the played game, in eval mode, with parameters that require grad."""
        return self.played.game.networks.generator.eval().requires_grad_(True)

    @cached_property
    def critics(self) -> dict[str, nn.Module]:
        """The critics of the played game, in eval mode."""
        return {name: critic.eval() for name, critic in self.played.game.networks.critics.items()}

    def noise(self, seed: int = 0) -> dict[str, Tensor]:
        """The generator's noise for a batch, by part."""
        return noise_for(
            self.generator, seed, range(self.config.recipe.batch_size), torch.device("cpu")
        )

    def fake(self, seed: int = 0) -> Sample:
        """A batch of generated samples under the conditions of the real batch, without gradients."""
        generator, noise = (
            self.generator,
            self.noise(seed),
        )  # the game is played first, with gradients
        condition = self.real_batch.condition
        with torch.no_grad():
            sample: Sample = generator(noise, condition, self.controls)
        return sample

    def draw(self, indices: Sequence[int], seed: int = 0, model: Model | None = None) -> Samples:
        """Samples of a model, by default the small run's, under default conditions, else those of the data."""
        model, conditions = model or self.model, partial(preview_conditions, self.played.game)
        sample = model.draw(indices, seed, controls=self.controls, conditions=conditions)
        return Samples(sample, seed, tuple(indices), None, model, self.controls)

    @property
    def controls(self) -> Any:
        """The modality's controls with their default values."""
        return configuration.controls(self.modality, {})

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record every file that this process opens for writing, and every folder that it makes, in `written`."""
        # The first optimizer of a process imports this module, which makes a folder of its own.
        importlib.import_module("torch._dynamo")
        _hook()
        _watchers.append(self.written)
        try:
            yield
        finally:
            _watchers.pop()


@contextmanager
def quiet_machine(name: str) -> Iterator[None]:
    """One thread and seeded global generators; both are restored afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with global_seeds("conformance", name):
            yield
    finally:
        torch.set_num_threads(threads)


def _resolved(modality: str | Modality) -> tuple[Modality, str | None]:
    """(the manifest, the `module:attribute` that it is imported from; None: it has no such name)."""
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
    """Settings that override a recipe so that each of its parts takes effect within a few small batches."""

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
    """Install the audit hook, once per process: audit hooks cannot be removed."""
    sys.addaudithook(_record)


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watchers or event not in ("open", "os.mkdir"):
        return
    path, writes = arguments[0], event == "os.mkdir" or bool((arguments[2] or 0) & _WRITES)
    if writes and isinstance(path, str | bytes | os.PathLike):
        _watchers[-1].add(os.path.abspath(os.fsdecode(path)))
