"""A game: the players, what they have learned, how far it is. They take turns here; `training` says when.

Everything random in a turn comes from (seed, stage, round, player, turn), so a game that is restored goes on bit for
bit. Knows no files and no modality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from genkit import config as configuration
from genkit import registry
from genkit.config import RunConfig
from genkit.data import Batches, global_seeds, parts, seed_everything
from genkit.errors import ConfigError, PluginError, TrainingError, did_you_mean
from genkit.players import Average, CriticPlayer, GeneratorPlayer, couples_samples, recalibrated
from genkit.plugin import ModalityPlugin, Sample, capabilities_of, missing_capabilities
from genkit.recipe import Constraint, Player, Stage, value_at
from genkit.runtime import Runtime
from genkit.sampling import CHUNK, Model, draw_chunk, noise_for

RECALIBRATION_ROWS = 1024
_COUNTERS = ("items", "stage", "stage_items", "round", "averaged_at", "seconds")


class Game:
    """The players, what they have learned, and how far the game is.

    Args:
        config: of the run.
        plugin: of the modality, built from options and facts.
        dataset: of real samples.
        runtime: the machine.

    Raises:
        ConfigError, PluginError, DataError: where recipe, networks and data do not fit together.
    """

    def __init__(self, config: RunConfig, plugin: ModalityPlugin, dataset: Any, runtime: Runtime) -> None:
        self.config, self.plugin, self.runtime = config, plugin, runtime
        self.batches = Batches(dataset, config.run.seed)
        seed_everything("networks", config.run.seed)
        with registry.asking(config.modality, "networks"):
            self.networks = _to(plugin.networks(), runtime.device)
        self.capabilities = _checked(config, plugin, self.networks)
        arguments = config.recipe, plugin, self.capabilities
        self.generator = GeneratorPlayer(self.networks.generator, *arguments).to(runtime.device)
        self.critics = {name: CriticPlayer(name, critic, *arguments) for name, critic in self.networks.critics.items()}
        self.players: dict[str, nn.Module] = {"generator": self.generator, **self.critics}
        self.trainable = {
            name: [parameter for parameter in player.parameters() if parameter.requires_grad]
            for name, player in self.players.items()
        }
        self.average = Average(self.networks.generator)
        self.controls = configuration.controls(config.modality, {})
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.items = self.stage = self.stage_items = self.round = self.averaged_at = 0
        self.seconds = 0.0
        self.turns = dict.fromkeys(self.players, 0)
        self.tally: dict[str, tuple[Tensor, int]] = {}
        self.finite = torch.ones((), dtype=torch.bool, device=runtime.device)
        self._stage_begun = -1

    # How far -----------------------------------------------------------------------------------------------------

    def over(self) -> bool:
        """Whether the run's items or minutes are used up."""
        run = self.config.run
        if run.items is not None:
            return self.items >= run.items
        return self.seconds >= 60 * (run.minutes or 0)

    def is_due(self, settings: Player) -> bool:
        """Whether a player takes its turn in this round."""
        return (self.round + 1) % settings.interval == 0

    def begin_stage(self) -> Stage:
        """The stage that the game is in; a new one starts with fresh optimisers."""
        stages = self.config.recipe.stages
        limit = stages[self.stage].items
        if limit is not None and self.stage_items >= limit and self.stage + 1 < len(stages):
            self.stage, self.stage_items, self.round = self.stage + 1, 0, 0
        if self._stage_begun != self.stage:
            self._make_optimizers()
        return stages[self.stage]

    @property
    def generator_settings(self) -> Player:
        """The generator's, in this stage."""
        return self.config.recipe.stages[self.stage].generator or self.config.recipe.generator

    def _make_optimizers(self) -> None:
        recipe = self.config.recipe
        settings = {"generator": self.generator_settings, **{name: recipe.critic_named(name) for name in self.critics}}
        self.optimizers = {name: make_optimizer(settings[name], self.trainable[name]) for name in self.players}
        self._stage_begun = self.stage

    # Batches -----------------------------------------------------------------------------------------------------

    def next_batch(self) -> Sample:
        """Reals that no player has seen yet; they count as items."""
        batch = self.batches.take(self.items, self.config.recipe.batch_size).to(self.runtime.device)
        self.items += len(batch)
        self.stage_items += len(batch)
        return batch

    def last_batch(self) -> Sample:
        """The reals that were taken last."""
        size = self.config.recipe.batch_size
        return self.batches.take(max(self.items - size, 0), size).to(self.runtime.device)

    def fakes(self, real: Sample, turn: int) -> Sample:
        """As many samples of the generator as it is, under the reals' conditions."""
        self._seed("fakes", turn)
        self.networks.generator.train()
        with torch.no_grad():
            noise = noise_for(self.networks.generator, self._key("fakes", turn), range(len(real)), self.runtime.device)
            sample: Sample = self.networks.generator(noise, real.condition, self.controls)
        return sample

    # Turns -------------------------------------------------------------------------------------------------------

    def critic_turn(self, name: str, settings: Player, real: Sample, fake: Sample, turn: int) -> None:
        """One update of a critic."""
        recipe, player = self.config.recipe, self.critics[name]
        self._begin_turn(name, turn)
        penalties = {
            kind: value_at(penalty.weight, self.items) * penalty.interval
            for kind, penalty in recipe.penalties.items()
            if self.turns[name] % penalty.interval == 0
        }
        count = recipe.accumulate
        counts = _valid_steps(real, fake, player.loss.paired, count)
        for part_real, part_fake in zip(parts(real, count), parts(fake, count), strict=True):
            loss, statistics = player(part_real, part_fake, penalties, self._term_weights(), self.networks, counts)
            (loss / count).backward()
            self._tally(name, statistics)
        self._end_turn(name, settings)

    def generator_turn(self, kind: str, real: Sample, turn: int) -> None:
        """One update of the generator."""
        self._begin_turn("generator", turn)
        for critic in self.networks.critics.values():
            critic.train(
                self.generator.estimator.critics_train
            )  # a critic that scores for a policy gradient drops nothing out
        count = self.config.recipe.accumulate
        for number, part in enumerate(parts(real, count)):
            noises = self._noises(turn, number, len(part))
            loss, statistics = self.generator(kind, part, noises, self.controls, self._term_weights(), self.networks)
            (loss / count).backward()
            self._tally("generator", statistics)
        self._end_turn("generator", self.generator_settings)

    def update_average(self) -> None:
        """Move the averaged weights by the items since they were moved last."""
        recipe = self.config.recipe
        halflife = recipe.ema_halflife_items
        if recipe.ema_rampup is not None:
            halflife = min(halflife, recipe.ema_rampup * self.items)
        self.average.update(halflife, self.items - self.averaged_at)
        self.averaged_at = self.items

    def _begin_turn(self, name: str, turn: int) -> None:
        self._seed(name, turn)
        for other, parameters in self.trainable.items():
            for parameter in parameters:
                parameter.requires_grad_(other == name)
        self.players[name].train()
        self.optimizers[name].zero_grad(set_to_none=True)

    def _end_turn(self, name: str, settings: Player) -> None:
        optimizer = self.optimizers[name]
        for group in optimizer.param_groups:
            group["lr"] = value_at(settings.learning_rate, self.items)
        if settings.gradient_clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.trainable[name], settings.gradient_clip)
            self._tally(name, {"gradient_norm": norm.detach()})
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.turns[name] += 1
        if settings.constraint is not None and self.turns[name] % settings.constraint.interval == 0:
            impose(settings.constraint, self.trainable[name])

    def _term_weights(self) -> dict[str, float]:
        return {name: value_at(weight, self.items) for name, weight in self.config.recipe.terms.items()}

    def _noises(self, turn: int, part: int, rows: int) -> Callable[[str, int], dict[str, Tensor]]:
        def noises(purpose: str, count: int) -> dict[str, Tensor]:
            if purpose == "generator":  # rows of one batch, however it is cut
                return self._noise(self._key("generator", turn), range(part * rows, part * rows + count))
            return self._noise(self._key(f"generator {part} {purpose}", turn), range(count))

        return noises

    def _noise(self, key: str, indices: range) -> dict[str, Tensor]:
        return noise_for(self.networks.generator, key, indices, self.runtime.device)

    def _key(self, who: str, turn: int) -> str:
        return f"{self.config.run.seed}/{self.stage}/{self.round}/{who}/{turn}"

    def _seed(self, who: str, turn: int) -> None:
        seed_everything("turn", self._key(who, turn))

    def _tally(self, player: str, statistics: Mapping[str, Tensor]) -> None:
        for name, value in statistics.items():
            total, count = self.tally.get(f"{player}.{name}", (torch.zeros_like(value), 0))
            self.tally[f"{player}.{name}"] = total + value, count + 1
        self.finite &= statistics["loss"].isfinite() if "loss" in statistics else self.finite

    def statistics(self) -> dict[str, float]:
        """Means since the last call.

        Raises:
            TrainingError: if a loss was not finite.
        """
        if not self.finite:
            self.check_finite()
        means = {name: float(total / count) for name, (total, count) in self.tally.items()}
        self.tally.clear()
        return means

    def check_finite(self) -> None:
        """Raise TrainingError if a loss was not finite, or a weight is not."""
        weights = [*self.average.weights.values(), *(weight for player in self.trainable.values() for weight in player)]
        if not (self.finite & torch.stack([weight.detach().isfinite().all() for weight in weights]).all()):
            raise TrainingError(
                f"a loss or a weight was not finite before {self.items:,} items; the last whole checkpoint is kept. "
                "Lower the learning rates, add a penalty (recipe.penalties.r1.weight=1) or clip gradients: start anew"
            )

    # What others need ------------------------------------------------------------------------------------------

    def model(self) -> Model:
        """The generator with averaged weights and recalibrated statistics, to draw from; the game is not touched."""
        device = self.runtime.device

        def draw(module: nn.Module, number: int) -> Sample:
            rows = range(number * CHUNK, (number + 1) * CHUNK)
            return draw_chunk(module, rows, "recalibration", self._data_conditions(rows), self.controls, device)

        with global_seeds("model"):
            module = recalibrated(self.average.module(), draw, RECALIBRATION_ROWS // CHUNK)
        return Model(self.config.modality, self.plugin, module, self._info(), device)

    def state(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """Everything that a game needs to go on: plain data, and tensors by group."""
        plain = {name: getattr(self, name) for name in _COUNTERS} | {"turns": dict(self.turns)}
        players = {
            f"{name}.{key}": value for name, module in self._modules() for key, value in module.state_dict().items()
        }
        moments = {
            f"{name}.{key}": value for name, optimizer in self.optimizers.items() for key, value in pack(optimizer)
        }
        return plain, {"players": players, "averages": self.average.weights, "optimizers": moments}

    def restore(self, plain: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go back to a state.

        Raises:
            KeyError, ValueError, RuntimeError: if it is of other networks.
        """
        for name in _COUNTERS:
            setattr(self, name, plain[name])
        self.turns = {name: plain["turns"][name] for name in self.players}
        for name, module in self._modules():
            module.load_state_dict(_under(name, tensors["players"]))
        self.average.load(tensors["averages"])
        self._make_optimizers()
        for name, optimizer in self.optimizers.items():
            unpack(optimizer, _under(name, tensors["optimizers"]))

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        yield "generator", self.generator
        yield from ((f"critics.{name}", critic) for name, critic in self.critics.items())
        yield from ((f"frozen.{name}", module) for name, module in self.networks.frozen.items())

    def _info(self) -> dict[str, Any]:
        modality, plain = self.config.modality, self.config.plain()
        home = registry.home_of(modality)
        return {
            "genkit": registry.core_version(),
            "modality": modality.id,
            "title": modality.title,
            "plugin": {"distribution": home.distribution, "version": home.version},
            "preset": self.config.preset,
            "options": plain["options"],
            "facts": dict(self.plugin.facts.values),
            "conditional": self.conditions is not None,
            "items": self.items,
        }

    def look_conditions(self, indices: Sequence[int]) -> Tensor | None:
        """The plugin's default conditions, else those of the data."""
        default = self.plugin.condition(None, indices) if "condition" in self.capabilities else None
        return self._data_conditions(indices) if default is None else default

    def _data_conditions(self, indices: Sequence[int]) -> Tensor | None:
        """The conditions of real items, in turn; None for unconditional data."""
        return None if self.conditions is None else self.conditions[[index % len(self.conditions) for index in indices]]

    @cached_property
    def conditions(self) -> Tensor | None:
        """Conditions of real items, mixed as the data are: the first of the training order, not of the files'."""
        if self.batches.take(0, 1).condition is None:
            return None
        return self.batches.take(0, RECALIBRATION_ROWS).condition


# Parts of a turn -------------------------------------------------------------------------------------------------


def make_optimizer(settings: Player, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that a player's settings name."""
    rate, decay = value_at(settings.learning_rate, 0), settings.weight_decay
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, settings.momentum, weight_decay=decay, fused=fused)
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            parameters, rate, settings.smoothing, settings.epsilon, weight_decay=decay, momentum=settings.momentum
        )
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, rate, settings.betas, settings.epsilon, weight_decay=decay, fused=fused)


@torch.no_grad()
def impose(constraint: Constraint, parameters: Sequence[nn.Parameter]) -> None:
    """Bring weights back under a bound. Source: see `genkit.recipe.Constraint`."""
    for parameter in parameters:
        if constraint.kind == "weight_clip":
            parameter.clamp_(-constraint.bound, constraint.bound)
        elif parameter.ndim >= 2:
            left, values, right = torch.linalg.svd(parameter.flatten(1), full_matrices=False)
            clipped = (left * values.clamp(max=constraint.bound)) @ right
            parameter.copy_(clipped.view_as(parameter))


def pack(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """An optimiser's state as named tensors: `<parameter number>.<name>`."""
    for number, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if value is not None:
                yield f"{number}.{key}", torch.as_tensor(value)


def unpack(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load an optimiser's state from named tensors; its settings stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _valid_steps(real: Sample, fake: Sample, paired: bool, count: int) -> tuple[Tensor | None, Tensor | None]:
    """Valid steps of whole batches per part of them, so that parts add up to the mean over all of them."""
    if paired and real.mask is not None and fake.mask is not None:
        both = (real.mask & fake.mask).sum() / count
        return both, both
    of_real, of_fake = (None if sample.mask is None else sample.mask.sum() / count for sample in (real, fake))
    return of_real, of_fake


def _under(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one module, without its name."""
    return {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}.")}


def _checked(config: RunConfig, plugin: ModalityPlugin, networks: Any) -> frozenset[str]:
    """The capabilities that there are, after checks of everything that only the networks can tell."""
    recipe, who = config.recipe, registry.origin(config.modality)
    real = capabilities_of(plugin, networks.generator)
    announced = config.modality.presets[config.preset].capabilities
    lacking = missing_capabilities(announced, real)
    if lacking:
        raise PluginError(
            who, "networks", f"preset {config.preset!r} announces {', '.join(lacking)}, which it does not have"
        )
    for capability, asker in configuration.required_capabilities(recipe).items():
        if capability not in real:
            raise ConfigError(f"{asker} needs the capability {capability!r}, which {who} lacks")
    if not isinstance(getattr(networks.generator, "noise", None), Mapping):
        raise PluginError(who, "networks", "its generator has no `noise` mapping (part -> genkit.plugin.Noise)")
    if not networks.critics and any(stage.kind != "pretrain" for stage in recipe.stages):
        raise PluginError(who, "networks", "it has no critics, and a game needs at least one")
    for name in recipe.critics:
        if name not in networks.critics:
            raise ConfigError(f"recipe.critics.{name}: no such critic.{did_you_mean(name, networks.critics)}")
    for name, module in {"generator": networks.generator, **networks.critics}.items():
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise PluginError(who, "networks", f"{name!r} has no parameters that could learn")
    for name, critic in networks.critics.items():
        if recipe.penalties and couples_samples(critic):
            raise ConfigError(
                f"recipe.penalties ({', '.join(recipe.penalties)}) need a critic without batch statistics, but the "
                f"critic {name!r} has BatchNorm: a penalty is per sample. Choose another normalisation, or no penalty"
            )
    return real if announced is None else frozenset(announced)


def _to(networks: Any, device: torch.device) -> Any:
    for module in (networks.generator, *networks.critics.values(), *networks.frozen.values()):
        module.to(device)
    for module in networks.frozen.values():
        module.requires_grad_(False).eval()
    return networks
