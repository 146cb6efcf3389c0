"""A game: the players and their updates, how far it is, and its whole state. `play_round` is one round of it.

A round is read in four files: this one says who is updated when, `players` what each minimises, `estimators` how the
critics' scores reach the generator, `genkit.adversarial` the losses and penalties themselves.

Everything random in an update comes from (seed, stage, round, player, update), so a game that is restored goes on bit
for bit. All counters are changed here and nowhere else. Knows no files and no modality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from genkit import config as configuration
from genkit.config import RunConfig
from genkit.discovery import registry
from genkit.engine.averages import Average, recalibrated
from genkit.engine.compatibility import (
    check_critic,
    check_generator,
    check_networks,
    sees_other_rows,
)
from genkit.engine.data import Batches
from genkit.engine.diagnosis import REALS, Reference
from genkit.engine.optimizers import impose, make_optimizer, pack, unpack
from genkit.engine.players import CriticPlayer, GeneratorPlayer, GeneratorUpdate
from genkit.errors import ConfigError, PluginError, TrainingError
from genkit.plugin import ModalityPlugin, Sample, full_precision
from genkit.recipe import GumbelSoftmax, Player, Stage, value_at
from genkit.sampling.batching import join, parts
from genkit.sampling.drawing import CHUNK, draw_batch, noise_for
from genkit.sampling.model import Model
from genkit.system.runtime import Runtime
from genkit.system.seeding import global_seeds, seed_everything

RECALIBRATION_ROWS = 1024
LOST_UPDATES = 20
"""So many updates of a player in a row without a finite gradient, and the game is lost."""
COUNTERS = ("items", "stage", "stage_items", "round", "averaged_at", "seconds", "retry")
"""How far a game is: reals seen, in all and in this stage; the stage; its rounds; the items at which the average was
moved last; seconds of work; how often it went back."""


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

    def __init__(
        self, config: RunConfig, plugin: ModalityPlugin, dataset: Any, runtime: Runtime
    ) -> None:
        self.config, self.plugin, self.runtime = config, plugin, runtime
        recipe = config.recipe
        if recipe.batch_size % (runtime.processes * recipe.gradient_accumulation * recipe.group):
            raise ConfigError(
                f"recipe.batch_size = {recipe.batch_size} cannot be shared by {runtime.processes} processes in "
                f"{recipe.gradient_accumulation} parts (recipe.gradient_accumulation) of whole groups of {recipe.group} "
                "(recipe.estimator.group): choose a multiple of their product"
            )
        self.batches = Batches(dataset, config.run.seed)
        seed_everything("networks", config.run.seed)
        with registry.asking(config.modality, "networks"):
            self.networks = plugin.networks()
            self.lay_out()
            for module in self.networks.frozen.values():
                module.requires_grad_(False).eval()
        self.capabilities = check_networks(config, plugin, self.networks)
        self.generator = GeneratorPlayer(
            self.networks.generator, recipe, plugin, self.capabilities
        ).to(runtime.device)
        self.critics = {
            name: CriticPlayer(name, critic, recipe, plugin, self.capabilities)
            for name, critic in self.networks.critics.items()
        }
        self.players: dict[str, nn.Module] = {"generator": self.generator, **self.critics}
        self.trainable = {
            name: [parameter for parameter in player.parameters() if parameter.requires_grad]
            for name, player in self.players.items()
        }
        self.shared_buffers = {
            name: [buffer for buffer in player.buffers() if buffer.is_floating_point()]
            for name, player in self.players.items()
        }
        self.average = Average(self.networks.generator)
        self.controls = configuration.controls(config.modality, {})
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.items = self.stage = self.stage_items = self.round = self.averaged_at = self.retry = 0
        self.seconds = 0.0
        self.updates = dict.fromkeys(self.players, 0)
        self.tally: dict[str, tuple[Tensor, Tensor]] = {}
        self.skipped = {
            name: torch.zeros((), device=runtime.device) for name in self.players
        }  # updates in a row
        self._stage_of_optimizers = -1
        first = self.batches.take(0, min(8, len(self.batches))).to(runtime.device)
        noise = noise_for(self.networks.generator, "rows", range(len(first)), runtime.device)
        with registry.asking(config.modality, "the generator"), global_seeds("rows"):
            check_generator(self.networks.generator, noise, self.controls, first)
        for name, player in self.critics.items():
            with registry.asking(config.modality, f"the critic {name!r}"), global_seeds("rows"):
                check_critic(name, player.module, first)
                player.joint_pass = len(first) > 1 and not sees_other_rows(player.module, first)

    def lay_out(self) -> None:
        """Bring all networks into the runtime's plan; optimisers begin anew."""
        for module in (
            self.networks.generator,
            *self.networks.critics.values(),
            *self.networks.frozen.values(),
        ):
            self.runtime.lay_out(module)
        self._stage_of_optimizers = -1

    def initialise(self) -> None:
        """Bring in the modality's pretrained weights where it has some; the averaged weights begin with them.

        Raises:
            PluginError: if it fails, or puts other weights in the place of those that learn.
        """
        if "initialise" not in self.capabilities:
            return
        parameters = self._parameter_ids()
        seed_everything("initialise", self.config.run.seed)
        with registry.asking(self.config.modality, "initialise"):
            self.plugin.initialise(self.networks)
        if self._parameter_ids() != parameters:
            raise PluginError(
                registry.origin(self.config.modality),
                "initialise",
                "it replaces parameters: load into those that are there (load_state_dict)",
            )
        self.average.load(dict(self.networks.generator.named_parameters()))

    def _parameter_ids(self) -> list[int]:
        """Which objects the players' parameters are."""
        return [
            id(parameter) for player in self.players.values() for parameter in player.parameters()
        ]

    # How far -----------------------------------------------------------------------------------------------------

    def has_worked(self, seconds: float) -> None:
        """Take note of the seconds of work, over all sessions."""
        self.seconds = seconds

    def count_retry(self, retry: int) -> None:
        """After a return to an earlier state: half the learning rates for each, and other random numbers."""
        self.retry = retry

    def enter_last_stage(self) -> None:
        """Go on in the last stage, whatever the items (to measure its rounds)."""
        self.stage = len(self.config.recipe.stages) - 1

    def over(self) -> bool:
        """Whether the run's items or minutes are used up."""
        run = self.config.run
        return (
            self.seconds >= 60 * (run.minutes or 0)
            if run.items is None
            else self.items >= run.items
        )

    def is_due(self, settings: Player) -> bool:
        """Whether a player is updated in this round."""
        return (self.round + 1) % settings.interval == 0

    def begin_stage(self) -> Stage:
        """The stage that the game is in; a new one starts with fresh optimisers."""
        stages = self.config.recipe.stages
        limit = stages[self.stage].items
        if limit is not None and self.stage_items >= limit and self.stage + 1 < len(stages):
            self.stage, self.stage_items, self.round = self.stage + 1, 0, 0
        if self._stage_of_optimizers != self.stage:
            self._make_optimizers()
        return stages[self.stage]

    @property
    def generator_settings(self) -> Player:
        """The generator's, in this stage."""
        return self.config.recipe.stages[self.stage].generator or self.config.recipe.generator

    def _make_optimizers(self) -> None:
        recipe = self.config.recipe
        settings = {
            "generator": self.generator_settings,
            **{name: recipe.critic_named(name) for name in self.critics},
        }
        self.optimizers = {
            name: make_optimizer(settings[name], self.trainable[name]) for name in self.players
        }
        self._stage_of_optimizers = self.stage

    # Batches -----------------------------------------------------------------------------------------------------

    def next_batch(self) -> Sample:
        """This process's share of reals that no player has seen yet; all shares count as items."""
        size = self.config.recipe.batch_size
        batch = self._reals(self.items)
        self.items += size
        self.stage_items += size
        return batch

    def last_batch(self) -> Sample:
        """The reals that were taken last."""
        return self._reals(max(self.items - self.config.recipe.batch_size, 0))

    def _reals(self, position: int) -> Sample:
        rows = self.runtime.share_of(self.config.recipe.batch_size)
        return self.batches.take(position + rows.start, len(rows)).to(self.runtime.device)

    def fakes(self, real: Sample, number: int, with_graph: bool = False) -> Sample:
        """As many samples of the generator as it is, under the reals' conditions."""
        self._seed("fakes", number)
        self._only("generator")
        self.networks.generator.train()
        with torch.set_grad_enabled(with_graph), self.runtime.computing():
            noise = self._noise(
                self._key("fakes", number), self.runtime.share_of(self.config.recipe.batch_size)
            )
            sample: Sample = self.networks.generator(noise, real.condition, self.controls)
        return full_precision(sample)

    # Rounds and updates ------------------------------------------------------------------------------------------

    def play_round(self) -> None:
        """One round: every player that is due is updated, critics first."""
        recipe, stage = self.config.recipe, self.begin_stage()
        real: Sample | None = None
        fake: Sample | None = None
        generator_is_due = stage.kind != "critics" and self.is_due(self.generator_settings)
        reuses = generator_is_due and recipe.reuses_fakes

        # Critics: all see the same fresh reals and fakes, each as often as its settings say.
        if stage.kind != "pretrain":
            due = {
                name: settings
                for name in self.critics
                if self.is_due(settings := recipe.critic_named(name))
            }
            count = max((settings.steps for settings in due.values()), default=0)
            for number in range(count):
                real = self.next_batch()
                fake = self.fakes(real, number, with_graph=reuses and number == count - 1)
                for name, settings in due.items():
                    if number < settings.steps:
                        self.update_critic(name, settings, real, fake.detach(), number)

        # The generator: alone in pretraining, else against the critics as they now are.
        if stage.kind == "pretrain":
            real = self.next_batch()
        if generator_is_due:
            real = real if real is not None else self.last_batch()
            for number in range(self.generator_settings.steps):
                self.update_generator(
                    stage.kind, real, number, fake if reuses and number == 0 else None
                )
            self.update_average()
        self.round += 1

    def update_critic(
        self, name: str, settings: Player, real: Sample, fake: Sample, number: int
    ) -> None:
        """One update of a critic."""
        recipe, player = self.config.recipe, self.critics[name]
        self._begin_update(name, number)
        penalties = {
            kind: value_at(penalty.weight, self.items) * penalty.interval
            for kind, penalty in recipe.penalties.items()
            if self.updates[name] % penalty.interval == 0
        }
        count = recipe.gradient_accumulation
        counts = self._valid_steps(real, fake, player.loss.paired)
        for part_real, part_fake in zip(parts(real, count), parts(fake, count), strict=True):
            with self.runtime.computing(exactly=bool(penalties)):
                loss, statistics = player(
                    part_real, part_fake, penalties, self._term_weights(), self.networks, counts
                )
            (loss / count).backward()
            self._tally(name, statistics)
        self._end_update(name, settings)

    def update_generator(
        self, kind: str, real: Sample, number: int, fake: Sample | None = None
    ) -> None:
        """One update of the generator, on fakes that are there with their graph or on fresh ones."""
        self._begin_update("generator", number)
        for critic in self.networks.critics.values():
            critic.train(
                bool(self.generator.estimator.critics_train)
            )  # one that scores for a policy drops nothing out
        count = self.config.recipe.gradient_accumulation
        for place, part in enumerate(parts(real, count)):
            update = GeneratorUpdate(
                kind, part, self._noises(number, place, len(part)), self.networks, self.controls, self._term_weights(),
                self._temperature(), fake,
            )  # fmt: skip
            with self.runtime.computing():
                loss, statistics = self.generator(update)
            (loss / count).backward()
            self._tally("generator", statistics)
        self._end_update("generator", self.generator_settings)

    def update_average(self) -> None:
        """Move the averaged weights by the items since they were moved last."""
        recipe = self.config.recipe
        halflife = recipe.ema_halflife_items
        if recipe.ema_rampup is not None:
            halflife = min(halflife, recipe.ema_rampup * self.items)
        self.average.update(halflife, self.items - self.averaged_at)
        self.averaged_at = self.items

    def _begin_update(self, name: str, number: int) -> None:
        self._seed(name, number)
        self._only(name)
        self.players[name].train()
        self.optimizers[name].zero_grad(set_to_none=True)

    def _only(self, name: str) -> None:
        """Let one player's weights gather gradients."""
        for other, parameters in self.trainable.items():
            for parameter in parameters:
                parameter.requires_grad_(other == name)

    def _end_update(self, name: str, settings: Player) -> None:
        """Step, unless the gradient is not finite: then the update is skipped and counted, without asking the device."""
        optimizer = self.optimizers[name]
        for group in optimizer.param_groups:
            group["lr"] = value_at(settings.learning_rate, self.items) / 2**self.retry
        gradients = [
            parameter.grad for parameter in self.trainable[name] if parameter.grad is not None
        ]
        self.runtime.all_reduce_mean(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        finite = norm.isfinite()
        if settings.gradient_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.trainable[name], settings.gradient_clip, norm)
        if (
            isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW)
            and optimizer.defaults["fused"]
        ):
            optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
            optimizer.step()
        elif finite:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._tally(name, {"gradient_norm": norm, "skipped": (~finite).float()})
        self.skipped[name] = (self.skipped[name] + 1).where(~finite, 0.0)
        self.updates[name] += 1
        self.runtime.all_reduce_mean(
            self.shared_buffers[name]
        )  # before what looks at them, so that all processes agree
        if (
            settings.constraint is not None
            and self.updates[name] % settings.constraint.interval == 0
        ):
            impose(settings.constraint, self.players[name])

    def _term_weights(self) -> dict[str, float]:
        return {
            name: value_at(weight, self.items) for name, weight in self.config.recipe.terms.items()
        }

    def _temperature(self) -> float:
        """Of relaxed samples, now; 1 where the estimator has none."""
        estimator = self.config.recipe.estimator
        return (
            value_at(estimator.temperature, self.items)
            if isinstance(estimator, GumbelSoftmax)
            else 1.0
        )

    def _valid_steps(
        self, real: Sample, fake: Sample, paired: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Valid steps of whole batches per part of them, so that parts add up to the mean over all of them."""
        shares = self.config.recipe.gradient_accumulation * self.runtime.processes
        if paired and real.mask is not None and fake.mask is not None:
            both = self.runtime.all_reduce((real.mask & fake.mask).sum()) / shares
            return both, both
        masks = real.mask, fake.mask
        of_real, of_fake = (
            None if mask is None else self.runtime.all_reduce(mask.sum()) / shares for mask in masks
        )
        return of_real, of_fake

    def _noises(self, number: int, part: int, rows: int) -> Callable[[str, int], dict[str, Tensor]]:
        first = (
            self.runtime.rank * self.config.recipe.gradient_accumulation + part
        )  # of all parts in all processes

        def noises(purpose: str, count: int) -> dict[str, Tensor]:
            if purpose == "generator":  # rows of one batch, however it is cut
                return self._noise(
                    self._key("generator", number), range(first * rows, first * rows + count)
                )
            return self._noise(self._key(f"generator {first} {purpose}", number), range(count))

        return noises

    def _noise(self, key: str, indices: range) -> dict[str, Tensor]:
        return noise_for(self.networks.generator, key, indices, self.runtime.device)

    def _key(self, player: str, number: int) -> str:
        """Of all that is random in an update; after a rollback another one."""
        retry = f"/again {self.retry}" if self.retry else ""
        return f"{self.config.run.seed}/{self.stage}/{self.round}/{player}/{number}{retry}"

    def _seed(self, player: str, number: int) -> None:
        seed_everything(
            "turn",
            self._key(player, number) + (f"/{self.runtime.rank}" if self.runtime.rank else ""),
        )

    def _tally(self, player: str, statistics: Mapping[str, Tensor]) -> None:
        for name, value in statistics.items():
            finite = value.isfinite()
            total, count = self.tally.get(
                f"{player}.{name}", (torch.zeros_like(value), torch.zeros_like(value))
            )
            self.tally[f"{player}.{name}"] = total + value.where(finite, 0), count + finite

    def statistics(self) -> dict[str, float]:
        """Means of what was finite since the last call; `skipped` is the share of a player's updates that were not."""
        means = {name: total / count.clamp(min=1) for name, (total, count) in self.tally.items()}
        self.runtime.all_reduce_mean(list(means.values()))
        self.tally.clear()
        return {name: float(mean) for name, mean in means.items()}

    def is_lost(self) -> bool:
        """Whether a player's gradient has not been finite for many updates."""
        return bool(torch.stack([*self.skipped.values()]).max() >= LOST_UPDATES)

    def check_finite(self) -> None:
        """Raise TrainingError if a weight is not finite."""
        weights = [
            *self.average.weights.values(),
            *(weight for player in self.trainable.values() for weight in player),
        ]
        if not torch.stack([weight.detach().isfinite().all() for weight in weights]).all():
            raise diverged(self.items, "a weight was not finite")

    # What others need ------------------------------------------------------------------------------------------

    def model(self) -> Model:
        """The generator with averaged weights and recalibrated statistics, to draw from; the game is not touched."""
        device = self.runtime.device

        def draw(module: nn.Module, number: int) -> Sample:
            rows = range(number * CHUNK, (number + 1) * CHUNK)
            return draw_batch(
                module, rows, "recalibration", self._data_conditions(rows), self.controls, device
            )

        with global_seeds("model"):
            module = recalibrated(self.average.module(), draw, RECALIBRATION_ROWS // CHUNK)
        return Model(
            self.config.modality,
            self.plugin,
            module,
            self._info(),
            device,
            critics=self._learned_critics(),
        )

    def _learned_critics(self) -> dict[str, Tensor]:
        """The critics' weights, `<critic>.<name>`; {} before each of them was updated."""
        if not all(self.updates[name] for name in self.critics):
            return {}
        critics = self.networks.critics.items()
        return {
            key: value
            for name, critic in critics
            for key, value in critic.state_dict(prefix=f"{name}.").items()
        }

    def state(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """Everything that a game needs to go on: plain data, and tensors by group."""
        plain = {name: getattr(self, name) for name in COUNTERS} | {"updates": dict(self.updates)}
        players = {
            f"{name}.{key}": value
            for name, module in self._modules()
            for key, value in module.state_dict().items()
        }
        moments = {
            f"{name}.{key}": value
            for name, optimizer in self.optimizers.items()
            for key, value in pack(optimizer)
        }
        return plain, {"players": players, "averages": self.average.weights, "optimizers": moments}

    def restore(
        self, plain: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        """Go back to a state.

        Raises:
            KeyError, ValueError, RuntimeError: if it is of other networks.
        """
        for name in COUNTERS:
            setattr(self, name, plain.get(name, 0))
        for skipped in self.skipped.values():
            skipped.zero_()
        self.tally.clear()
        self.updates = {name: plain["updates"][name] for name in self.players}
        for name, module in self._modules():
            module.load_state_dict(under(name, tensors["players"]))
        self.average.load(tensors["averages"])
        self._make_optimizers()
        for name, optimizer in self.optimizers.items():
            unpack(optimizer, under(name, tensors["optimizers"]))

    def snapshot(self) -> Callable[[], None]:
        """A function that brings the game back to where it is now."""
        plain, tensors = self.state()
        kept = {
            group: {name: value.clone() for name, value in values.items()}
            for group, values in tensors.items()
        }
        return lambda: self.restore(plain, kept)

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
            "critics": {
                name: self.config.recipe.critic_named(name).weight for name in self.critics
            },
            "items": self.items,
        }

    def look_conditions(self, indices: Sequence[int]) -> Tensor | None:
        """The plugin's default conditions, else those of the data."""
        default = self.plugin.condition(None, indices) if "condition" in self.capabilities else None
        return self._data_conditions(indices) if default is None else default

    def _data_conditions(self, indices: Sequence[int]) -> Tensor | None:
        """The conditions of real items, one after the other; None for unconditional data."""
        return (
            None
            if self.conditions is None
            else self.conditions[[index % len(self.conditions) for index in indices]]
        )

    @cached_property
    def reference(self) -> Reference:
        """Real samples that generated ones are compared with."""
        count, size = min(REALS, len(self.batches)), 64
        batches = [
            self.batches.take(start, min(size, count - start)) for start in range(0, count, size)
        ]
        return Reference(join([Sample(batch.x) for batch in batches]))

    @cached_property
    def conditions(self) -> Tensor | None:
        """Conditions of real items, mixed as the data are: the first of the training order, not of the files'."""
        if self.batches.take(0, 1).condition is None:
            return None
        return self.batches.take(0, RECALIBRATION_ROWS).condition


# Around a game -------------------------------------------------------------------------------------------------------


def diverged(items: int, what: str) -> TrainingError:
    """What is said when a game cannot go on."""
    return TrainingError(
        f"{what} before {items:,} items; the last whole checkpoint is kept. "
        "Lower the learning rates, add a penalty (recipe.penalties.r1.weight=1) or clip gradients: start anew"
    )


def under(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one module, without its name."""
    return {
        key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}.")
    }
