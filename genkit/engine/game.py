"""A game: the players and their updates, all counters, and the whole state. `play_round` plays one round.

Four files describe a round: this one says which player is updated when, `players` what each of them minimises,
`estimators` how the critics' scores reach the generator, and `genkit.adversarial` has the losses and penalties.

Everything random in an update follows from (seed, stage, round, player, update), so a restored game continues bit for
bit. The counters are changed here and nowhere else. Knows players, optimisers, data and runtime; no files and no
modality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from genkit import config as configuration
from genkit.config import RunConfig
from genkit.discovery import registry
from genkit.engine import compatibility
from genkit.engine.averages import Average
from genkit.engine.data import Batches
from genkit.engine.early_stopping import BestCritics
from genkit.engine.optimizers import impose, make_optimizer, pack, step, under, unpack
from genkit.engine.players import CriticPlayer, GeneratorPlayer, GeneratorUpdate, valid_steps
from genkit.engine.tally import Tally
from genkit.engine.teacher import Teacher
from genkit.errors import PluginError
from genkit.plugin import ModalityPlugin, Sample, full_precision
from genkit.recipe import Critic, EarlyStopping, GumbelSoftmax, Player, Scheduled, Stage, value_at
from genkit.sampling.batching import parts
from genkit.sampling.drawing import noise_for
from genkit.system.runtime import Runtime
from genkit.system.seeding import global_seeds, seed_everything

RECALIBRATION_ROWS = 1024
"""Samples over which the BatchNorm statistics of averaged weights are measured."""
LOST_UPDATES = 20
"""A game is lost after this many updates of one player in a row without a finite gradient."""
COUNTERS = ("items", "stage", "stage_items", "round", "averaged_at", "seconds", "retry")
"""The counters of a game: real samples seen; the number of the stage; real samples seen in it; its rounds; the items
at which the average was last updated; seconds of work; returns to an earlier state after a divergence."""


class Game:
    """The players with their weights and optimisers, and the counters of the game.

    Args:
        config: of the run.
        plugin: of the modality, built from options and facts.
        dataset: of real samples.
        runtime: device, processes and plan to compute with.
        teacher: from which the generator learns too; None: from none.

    Raises:
        ConfigError, PluginError, DataError: if recipe, networks, data and teacher do not fit together.
    """

    def __init__(
        self, config: RunConfig, plugin: ModalityPlugin, dataset: Any, runtime: Runtime,
        teacher: Teacher | None = None,
    ) -> None:  # fmt: skip
        self.config, self.plugin, self.runtime, self.teacher = config, plugin, runtime, teacher
        recipe = config.recipe
        compatibility.check_processes(recipe, runtime.processes)
        self.batches = Batches(dataset, config.run.seed, config.modality)
        compatibility.check_held_out(recipe, self.batches.count_of)
        seed_everything("networks", config.run.seed)
        with registry.asking(config.modality, "networks") as fault:
            self.networks = plugin.networks()
            if reason := compatibility.structure_fault(self.networks):
                raise fault(reason)
            self.lay_out()
            for module in self.networks.frozen.values():
                module.requires_grad_(False).eval()
        self.capabilities = compatibility.check_networks(config, plugin, self.networks)
        self.generator = GeneratorPlayer(
            self.networks.generator, recipe, plugin, self.capabilities
        ).to(runtime.device)
        self.critics = {
            name: CriticPlayer(name, critic, recipe, plugin, self.capabilities).to(runtime.device)
            for name, critic in self.networks.critics.items()
        }
        self.views = {name: critic.view for name, critic in self.critics.items()}
        self.players: dict[str, nn.Module] = {"generator": self.generator, **self.critics}
        self.trainable = {
            name: [parameter for parameter in player.parameters() if parameter.requires_grad]
            for name, player in self.players.items()
        }
        self.shared_buffers = {  # what stays as it was read from elsewhere is in no state
            name: [
                value
                for value in player.state_dict(keep_vars=True).values()
                if not isinstance(value, nn.Parameter) and value.is_floating_point()
            ]
            for name, player in self.players.items()
        }
        self.own_networks = {
            name: configuration.own_network(config.options, player.module)
            for name, player in self.players.items()
        }
        self.average = Average(self.networks.generator)
        weights = {name: recipe.critic_named(name).weight for name in self.critics}
        self.best_critics = BestCritics(self.networks.critics, weights)
        self.controls = configuration.controls(config.modality, {})
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.items = self.stage = self.stage_items = self.round = self.averaged_at = self.retry = 0
        self.seconds = 0.0
        self.updates = dict.fromkeys(self.players, 0)
        self.tally = Tally(runtime.device)
        # By player: how many of its latest updates in a row were skipped; on the device.
        self.skipped = {name: torch.zeros((), device=runtime.device) for name in self.players}
        self._stage_of_optimizers = -1
        first = self.batches.take(0, min(8, len(self.batches))).to(runtime.device)
        with registry.asking(config.modality, "an item") as fault:
            compatibility.check_sample(first, fault)
        with self.asking("generator") as fault, global_seeds("rows"):
            noise = noise_for(self.networks.generator, "rows", range(len(first)), runtime.device)
            student = self.networks.generator
            fake = compatibility.check_generator(
                student, noise, self.controls, first, recipe, fault
            )
            if teacher is not None:
                compatibility.check_teacher(teacher, student, plugin, noise, self.controls, first)
        for name, player in self.critics.items():
            with self.asking(name) as fault, global_seeds("rows"):
                compatibility.check_critic(name, player.module, first, fake, recipe, fault)
                depends = compatibility.sees_other_rows(player.module, first)
                player.joint_pass = len(first) > 1 and not depends

    def asking(self, player: str, step: str = "") -> AbstractContextManager[compatibility.Fault]:
        """A context for calls of a player's code: an error in it is told as the plugin's, or of a user's own class."""
        name = "the generator" if player == "generator" else f"the critic {player!r}"
        return registry.asking(self.config.modality, f"{step}{name}", self.own_networks[player])

    def lay_out(self) -> None:
        """Move all networks to the runtime's device and memory format; the next round makes fresh optimisers."""
        networks = self.networks
        others = () if self.teacher is None else (self.teacher.generator,)
        for module in (
            networks.generator, *networks.critics.values(), *networks.frozen.values(), *others
        ):  # fmt: skip
            self.runtime.lay_out(module)
        self._stage_of_optimizers = -1

    def initialise(self) -> None:
        """Load the modality's pretrained weights, if it has the capability `initialise`; the average starts with them.

        Raises:
            PluginError: if `initialise` fails, or replaces parameters instead of loading into them.
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
                "it replaces parameters: load weights into the existing ones (load_state_dict)",
            )
        self.average.load(dict(self.networks.generator.named_parameters()))

    def _parameter_ids(self) -> list[int]:
        """The identities of the players' parameter objects."""
        return [id(weight) for player in self.players.values() for weight in player.parameters()]

    # Counters ----------------------------------------------------------------------------------------------------

    def has_worked(self, seconds: float) -> None:
        """Set the seconds of work, over all sessions of the run."""
        self.seconds = seconds

    def count_retry(self, retry: int) -> None:
        """Set how often the game returned to an earlier state.

        Each return halves the learning rates, and changes the random numbers.
        """
        self.retry = retry

    def enter_last_stage(self) -> None:
        """Jump to the last stage, whatever the items (to measure its rounds)."""
        self.stage = len(self.config.recipe.stages) - 1

    @property
    def share_of_run(self) -> float:
        """The share of the run's items or minutes that is used up, in [0, 1]."""
        run = self.config.run
        share = self.items / run.items if run.items else self.seconds / (60 * (run.minutes or 1))
        return min(share, 1.0)

    def _value(self, number: Scheduled) -> float:
        """A scheduled number now."""
        return value_at(number, self.items, self.share_of_run)

    def over(self) -> bool:
        """Whether the run's items or minutes are used up, or its last stage has stopped early."""
        stages = self.config.recipe.stages
        stops = self.best_critics.stop(stages[self.stage].early_stopping)
        return self.share_of_run >= 1 or (stops and self.stage + 1 == len(stages))

    def is_due(self, settings: Player) -> bool:
        """Whether a player with these settings is updated in this round."""
        return (self.round + 1) % settings.interval == 0

    def begin_stage(self) -> Stage:
        """The stage of the next round: the next one, with fresh optimisers, once this one is over."""
        stages = self.config.recipe.stages
        stage, is_last = stages[self.stage], self.stage + 1 == len(stages)
        stops = self.best_critics.stop(stage.early_stopping)
        if not is_last and (stops or self.stage_items >= (stage.items or float("inf"))):
            if stage.trains_critics:
                self.generator.keep_opponent()
            self.stage, self.stage_items, self.round = self.stage + 1, 0, 0
        if not self.stage_items:
            self.best_critics.begin_stage(stages[self.stage].trains_critics)
        if not self.items:
            self.generator.keep_opponent()
        if self._stage_of_optimizers != self.stage:
            self._make_optimizers()
        return stages[self.stage]

    @property
    def generator_settings(self) -> Player:
        """The generator's settings in this stage."""
        return self.config.recipe.stages[self.stage].generator or self.config.recipe.generator

    def _make_optimizers(self) -> None:
        recipe = self.config.recipe
        settings: dict[str, Player] = {name: recipe.critic_named(name) for name in self.critics}
        settings["generator"] = self.generator_settings
        self.optimizers = {
            name: make_optimizer(settings[name], self.trainable[name]) for name in self.players
        }
        self._stage_of_optimizers = self.stage

    # Batches -----------------------------------------------------------------------------------------------------

    def next_batch(self) -> Sample:
        """This process's share of the next batch of reals; the counters advance by the whole batch."""
        size = self.config.recipe.batch_size
        batch = self._reals(self.items)
        self.items += size
        self.stage_items += size
        return batch

    def last_batch(self) -> Sample:
        """This process's share of the batch of reals that was taken last."""
        return self._reals(max(self.items - self.config.recipe.batch_size, 0))

    def _reals(self, position: int) -> Sample:
        rows = self.runtime.share_of(self.config.recipe.batch_size)
        part = self.config.recipe.stages[self.stage].part
        return self.batches.take(position + rows.start, len(rows), part).to(self.runtime.device)

    @cached_property
    def data_conditions(self) -> Tensor | None:
        """[N, ...]: conditions of the first RECALIBRATION_ROWS reals, in shuffled training order; None: none exist."""
        if self.batches.take(0, 1).condition is None:
            return None
        return self.batches.take(0, RECALIBRATION_ROWS).condition

    def fakes(self, real: Sample, rows: range, key: str, with_graph: bool = False) -> Sample:
        """Samples of the current generator in training mode, one for each real and under its condition.

        Args:
            real: the batch whose conditions the fakes take.
            rows: of the noise.
            key: the name of its random stream.
            with_graph: keep the graph for a gradient to the generator.
        """
        self._seed(key)
        self._only("generator")
        self.networks.generator.train()
        with torch.set_grad_enabled(with_graph), self.runtime.computing(), self.asking("generator"):
            noise = self._noise(key, rows)
            return full_precision(self.networks.generator(noise, real.condition, self.controls))

    # Rounds and updates ------------------------------------------------------------------------------------------

    def play_round(self) -> None:
        """One round: update every player that is due, critics first."""
        recipe, stage = self.config.recipe, self.begin_stage()
        real: Sample | None = None
        fake: Sample | None = None
        fake_key = ""
        generator_is_due = stage.kind != "critics" and self.is_due(self.generator_settings)
        reuses = generator_is_due and recipe.reuses_fakes

        # Critics: all are trained on the same fresh reals and fakes, each for the steps of its own settings.
        if stage.trains_critics:
            due = {
                name: settings
                for name in self.critics
                if self.is_due(settings := recipe.critic_named(name))
            }
            count = max((settings.steps for settings in due.values()), default=0)
            items_before, rows = self.stage_items, self.runtime.share_of(recipe.batch_size)
            for number in range(count):
                real = self.next_batch()
                fake_key = self._key("fakes", number)
                fake = self.fakes(real, rows, fake_key, reuses and number == count - 1)
                for name, settings in due.items():
                    if number < settings.steps:
                        self.update_critic(name, settings, real, fake.detach(), number)
            stopping = stage.early_stopping
            if stopping is not None and stopping.is_due(items_before, self.stage_items):
                self.measure_gain(stopping)

        # The generator: alone in pretraining, else against the critics as they are now.
        if stage.kind in ("pretrain", "generator"):
            real = self.next_batch()
        if generator_is_due:
            real = real if real is not None else self.last_batch()
            for number in range(self.generator_settings.steps):
                reused = fake if reuses and number == 0 else None
                self.update_generator(stage.kind, real, number, reused, fake_key)
            self.update_average()
        self.round += 1

    def update_critic(
        self, name: str, settings: Critic, real: Sample, fake: Sample, number: int
    ) -> None:
        """One update of a critic.

        Args:
            name, settings: of the critic.
            real, fake: batches of equal size; the fakes are detached.
            number: of the update in this round.
        """
        recipe, player = self.config.recipe, self.critics[name]
        self._begin_update(name, number)
        fake = player.pool.exchange(fake)
        penalties = {
            kind: self._value(penalty.weight) * penalty.interval
            for kind, penalty in recipe.penalties.items()
            if self.updates[name] % penalty.interval == 0
        }
        count = recipe.gradient_accumulation
        reduce, shares = self.runtime.all_reduce, count * self.runtime.processes
        counts = valid_steps(real, fake, player.loss.paired, reduce, shares)
        for part_real, part_fake in zip(parts(real, count), parts(fake, count), strict=True):
            with self.asking(name, "an update of "):
                with self.runtime.computing(exactly=bool(penalties)):
                    loss, statistics = player(
                        part_real, part_fake, penalties, self._term_weights(), self.networks, counts,
                        settings.attack_in(self.updates[name]),
                    )  # fmt: skip
                (loss / count).backward()
            self.tally.add(name, statistics)
        self._end_update(name, settings)
        player.view.follow()

    def measure_gain(self, settings: EarlyStopping) -> None:
        """Let the critics score items that they do not learn, and fakes, always the same; the best ones are kept."""
        size, key = self.config.recipe.batch_size, f"{self.config.run.seed}/{self.stage}/gain"
        count = min(settings.count, self.batches.count_of(settings.part))

        def pair(start: int) -> tuple[Sample, Sample]:
            real = self.batches.take(start, min(size, count), settings.part).to(self.runtime.device)
            return real, self.fakes(real, range(len(real)), f"{key}/{start}")

        with registry.asking(self.config.modality, "its critics"), self.runtime.computing():
            pairs = map(pair, range(0, max(count - size, 0) + 1, size))  # whole batches
            scores = self.best_critics.score(pairs)
        # Processes decide alike, though dropout, say, makes their fakes differ.
        figures = self.best_critics.follow(*self.runtime.broadcast(scores), settings, key)
        self.tally.add("critics", figures)

    def update_generator(
        self, kind: str, real: Sample, number: int, fake: Sample | None = None, fake_key: str = ""
    ) -> None:
        """One update of the generator.

        Args:
            kind: of the stage.
            real: the batch that the critics saw last.
            number: of the update in this round.
            fake: existing fakes with their graph, to be reused; None: draw new ones.
            fake_key: the name of the random stream that existing fakes were drawn from.
        """
        self._begin_update("generator", number)
        key = self._key("generator", number) if fake is None else fake_key
        # Critics that give rewards run in eval mode, without dropout.
        for critic in self.networks.critics.values():
            critic.train(bool(self.generator.estimator.critics_train))
        count = self.config.recipe.gradient_accumulation
        for place, part in enumerate(parts(real, count)):
            update = GeneratorUpdate(
                kind, part, self._noises(number, place, len(part), key), self.networks, self.controls,
                self._term_weights(), self._temperature(), self.best_critics.calibration.scale, fake, self.views,
                self.teacher,
            )  # fmt: skip
            with self.asking("generator", "an update of "):
                with self.runtime.computing():
                    loss, statistics = self.generator(update)
                (loss / count).backward()
            self.tally.add("generator", statistics)
        self._end_update("generator", self.generator_settings)
        self.generator.follow()

    def update_average(self) -> None:
        """Update the averaged weights for the items since their last update."""
        recipe = self.config.recipe
        halflife = recipe.ema_halflife_items
        if recipe.ema_rampup is not None:
            halflife = min(halflife, recipe.ema_rampup * self.items)
        self.average.update(halflife, self.items - self.averaged_at)
        self.averaged_at = self.items

    def _begin_update(self, name: str, number: int) -> None:
        """Seed the update and prepare the player: training mode, no gradients yet, and gradients for it alone."""
        self._seed(self._key(name, number))
        self._only(name)
        self.players[name].train()
        self.optimizers[name].zero_grad(set_to_none=True)

    def _only(self, name: str) -> None:
        """Let the trainable weights of this player require gradients, and those of no other."""
        for other, parameters in self.trainable.items():
            for parameter in parameters:
                parameter.requires_grad_(other == name)

    def _end_update(self, name: str, settings: Player) -> None:
        """Take the optimiser's step and impose constraints; a step without a finite gradient is skipped and counted."""
        gradients = [weight.grad for weight in self.trainable[name] if weight.grad is not None]
        self.runtime.all_reduce_mean(gradients)
        rate = self._value(settings.learning_rate) / 2**self.retry
        norm, finite = step(self.optimizers[name], gradients, rate, settings.gradient_clip)
        self.tally.add(name, {"gradient_norm": norm, "skipped": (~finite).float()})
        self.skipped[name] = (self.skipped[name] + 1).where(~finite, 0.0)
        self.updates[name] += 1
        # Before a constraint reads BatchNorm statistics, so that they are equal in all processes.
        self.runtime.all_reduce_mean(self.shared_buffers[name])
        constraint = settings.constraint
        if constraint is not None and self.updates[name] % constraint.interval == 0:
            impose(constraint, self.players[name])

    def _term_weights(self) -> dict[str, float]:
        """The current weights of the modality's own terms."""
        return {name: self._value(weight) for name, weight in self.config.recipe.terms.items()}

    def _temperature(self) -> float:
        """The current temperature of relaxed samples; 1 for estimators without one."""
        kind = self.config.recipe.estimator
        return self._value(kind.temperature) if isinstance(kind, GumbelSoftmax) else 1.0

    def _noises(
        self, number: int, part: int, rows: int, key: str
    ) -> Callable[[str, int], dict[str, Tensor]]:
        """The noise of a part of `rows` rows of a generator's update; see `genkit.engine.estimators.Noises`.

        Args:
            key: the name of the random stream of its fakes.
        """
        # The number of this part among all parts of all processes.
        place = self.runtime.rank * self.config.recipe.gradient_accumulation + part

        def noises(purpose: str, count: int) -> dict[str, Tensor]:
            if purpose == "generator":  # the same for the whole batch, however it is divided
                indices = range(place * rows, place * rows + count)
                return self._noise(key, indices)
            return self._noise(self._key(f"generator {place} {purpose}", number), range(count))

        return noises

    def _noise(self, key: str, indices: range) -> dict[str, Tensor]:
        return noise_for(self.networks.generator, key, indices, self.runtime.device)

    def _key(self, player: str, number: int) -> str:
        """The name of the random stream of an update; it changes after a return to an earlier state."""
        retry = f"/again {self.retry}" if self.retry else ""
        return f"{self.config.run.seed}/{self.stage}/{self.round}/{player}/{number}{retry}"

    def _seed(self, key: str) -> None:
        """Seed the global generators by the name of a random stream, differently in each process."""
        rank = f"/{self.runtime.rank}" if self.runtime.rank else ""
        seed_everything("turn", key + rank)

    def statistics(self) -> dict[str, float]:
        """`player.name` -> mean of the finite values since the last call; `skipped` is the share of skipped updates."""
        return self.tally.means(self.runtime.all_reduce_mean)

    def is_lost(self) -> bool:
        """Whether some player's last LOST_UPDATES updates were all skipped."""
        return bool(torch.stack([*self.skipped.values()]).max() >= LOST_UPDATES)

    # The whole state ---------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """(the counters as plain data; the tensors by group and name): all that a game needs to continue."""
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
        groups = {"players": players, "averages": self.average.weights, "optimizers": moments}
        if self.config.run.init or any(stage.early_stopping for stage in self.config.recipe.stages):
            groups["best_critics"] = self.best_critics.state()
        return plain, groups

    def restore(
        self, plain: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        """Restore a state that `state` returned.

        Raises:
            KeyError, ValueError, RuntimeError: if it belongs to other networks.
        """
        for name in COUNTERS:
            setattr(self, name, plain.get(name, 0))
        for skipped in self.skipped.values():
            skipped.zero_()
        self.tally.sums.clear()
        self.updates = {name: plain["updates"][name] for name in self.players}
        for name, module in self._modules():
            module.load_state_dict(under(name, tensors["players"]))
        self.average.load(tensors["averages"])
        if "best_critics" in tensors:
            self.best_critics.restore(tensors["best_critics"])
        self._make_optimizers()
        for name, optimizer in self.optimizers.items():
            unpack(optimizer, under(name, tensors["optimizers"]))

    def snapshot(self) -> Callable[[], None]:
        """A function that restores the current state."""
        plain, tensors = self.state()
        copies = {
            group: {name: value.clone() for name, value in values.items()}
            for group, values in tensors.items()
        }
        return lambda: self.restore(plain, copies)

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        """(name in checkpoints, module) of every player and frozen network."""
        yield "generator", self.generator
        yield from ((f"critics.{name}", critic) for name, critic in self.critics.items())
        yield from ((f"frozen.{name}", module) for name, module in self.networks.frozen.items())
