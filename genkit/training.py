"""THE adversarial loop.

A run is: read the data's facts, build the players, and let them take turns as the recipe tells, until the items or
the minutes are used up; looking, logging and saving on the way without touching the game. `play` is the loop.

Everything random comes from (seed, stage, round, player, turn): a run that was stopped at any moment goes on bit for
bit as if it had not been. Knows no modality, no layout on disk and no terminal.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genkit import artifact, registry
from genkit import config as configuration
from genkit.artifact import RunFolder
from genkit.config import RunConfig
from genkit.data import Batches, global_seeds, parts, seed_everything
from genkit.errors import ConfigError, Interrupted, ModelError, PluginError, RunError, TrainingError, did_you_mean
from genkit.players import Average, CriticPlayer, GeneratorPlayer, batch_norms, recalibrated
from genkit.plugin import Modality, ModalityPlugin, Sample, capabilities_of, missing_capabilities
from genkit.recipe import Constraint, Player, Stage, value_at
from genkit.runtime import Runtime
from genkit.sampling import Model, draw_chunk, noise_for, open_model

LOG_SECONDS = 1.0
RECALIBRATION_ROWS = 1024


@dataclass(frozen=True)
class Progress:
    """What a run tells while it goes; passed to the `progress` callable about once a second.

    Args:
        items, total_items: real samples seen, and to be seen (None where minutes decide).
        seconds, seconds_left: of work, over all sessions; None where it cannot be known yet.
        items_per_second: since this session began.
        stage: pretrain, critics or game.
        statistics: `player.name` -> mean since the last report.
        note: something that happened (a sheet, a checkpoint, a warning); None for a plain report.
    """

    items: int
    total_items: int | None
    seconds: float
    seconds_left: float | None
    items_per_second: float
    stage: str
    statistics: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None


def train(
    modality: str | Modality,
    data: Any = None,
    preset: str | None = None,
    out: str | Path | None = None,
    *,
    items: int | None = None,
    minutes: float | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    settings: Sequence[Mapping[str, Any]] = (),
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Model:
    """Train a model.

    Args:
        modality: the id of an installed modality, or a manifest.
        data: a path, a `builtin:` name, a tensor, an array or a data set; None: the modality's default.
        preset: None: the modality's first.
        out: the run folder; None: `runs/<modality>`.
        items, minutes, batch_size, seed, device, threads: short for `run` and `recipe` settings of that name.
        options, recipe, run: settings over the preset's, as nested mappings.
        settings: further mappings with the keys options, recipe and run, below all of these.
        resume: go on with the run in `out`, or start if there is none.
        overwrite: delete the run in `out`.
        progress: called about once a second.

    Returns:
        The model with averaged weights, as in `<out>/model`.

    Raises:
        UserError: for what the user can mend, before training starts.
        Interrupted: after Ctrl-C or SIGTERM; everything is saved.
        TrainingError: if the game diverges; the last whole checkpoint is kept.
    """
    short = {"items": items, "minutes": minutes, "seed": seed, "device": device, "threads": threads}
    given = {
        "options": dict(options or {}),
        "recipe": {**(recipe or {}), **({} if batch_size is None else {"batch_size": batch_size})},
        "run": {**(run or {}), **{key: value for key, value in short.items() if value is not None}},
    }
    name = modality if isinstance(modality, str) else modality.id
    manifest = registry.describe(modality) if isinstance(modality, str) else modality
    report = progress or (lambda _: None)
    layers = [*settings, given]
    fresh = configuration.build(manifest, preset, data, layers)  # every naming error, before anything is touched
    folder = RunFolder(out or Path("runs") / name, resume=resume, overwrite=overwrite)
    try:
        saved = folder.config
        chosen = fresh if saved is None else _resumed(manifest, preset, data, layers, saved)
        with global_seeds("training", chosen.run.seed):
            game, note = _set_up(chosen, folder, saved)
            with _stop_signals() as stop:
                play(game, folder, report, stop, note)
    finally:
        folder.close()
    return open_model(folder.path, device=str(game.runtime.device), modality=manifest)


def play(
    game: Game, folder: RunFolder, report: Callable[[Progress], None], stop: _Stop, note: str | None = None
) -> None:
    """Let the players take turns until the run is over; look, log and save on the way.

    Raises:
        Interrupted, TrainingError.
    """
    run = game.config.run
    every = run.sample_items or math.ceil((run.items or 0) / 10)
    clock = _Clock(game, report)
    clock.tell(note=note)
    while not game.over():
        before = game.items
        play_round(game)

        # None of this touches the game.
        clock.tick()
        if every and game.items // every > before // every:
            game.look(folder, clock)
        if clock.log_is_due() or stop.asked:
            clock.log(folder)
        if clock.save_is_due(run.checkpoint_seconds) or stop.asked:
            game.save(folder, clock)
        if stop.asked:
            how = f"stopped at {game.items:,} items; everything is saved in {folder.path}. Go on with --resume"
            raise Interrupted(how, stop.exit_code)
    clock.log(folder)
    if run.items is None:
        game.look(folder, clock)
    game.save(folder, clock)


def play_round(game: Game) -> None:
    """One round of the game: every player whose turn it is takes it, critics first."""
    recipe, stage = game.config.recipe, game.begin_stage()
    real: Sample | None = None

    # Critics: all see the same fresh reals and fakes, each as often as its settings say.
    if stage.kind != "pretrain":
        due = {name: settings for name in game.critics if game.is_due(settings := recipe.critic_named(name))}
        for turn in range(max((settings.steps for settings in due.values()), default=0)):
            real = game.next_batch()
            fake = game.fakes(real, turn)
            for name, settings in due.items():
                if turn < settings.steps:
                    game.critic_turn(name, settings, real, fake, turn)

    # The generator: alone in pretraining, else against the critics as they now are.
    if stage.kind == "pretrain":
        real = game.next_batch()
    if stage.kind != "critics" and game.is_due(game.generator_settings):
        real = real if real is not None else game.last_batch()
        for turn in range(game.generator_settings.steps):
            game.generator_turn(stage.kind, real, turn)
        game.update_average()
    game.round += 1


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
        self.turns = dict.fromkeys(self.players, 0)
        self.seconds = 0.0
        self.tally: dict[str, tuple[Tensor, int]] = {}
        self.finite = torch.ones((), dtype=torch.bool, device=runtime.device)
        self._stage_begun = -1
        self._conditions: Tensor | None = None

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
        counts = _valid_steps(real, count), _valid_steps(fake, count)
        for part_real, part_fake in zip(parts(real, count), parts(fake, count), strict=True):
            loss, statistics = player(part_real, part_fake, penalties, self._term_weights(), self.networks, counts)
            (loss / count).backward()
            self._tally(name, statistics)
        self._end_turn(name, settings)

    def generator_turn(self, kind: str, real: Sample, turn: int) -> None:
        """One update of the generator."""
        self._begin_turn("generator", turn)
        train = getattr(self.generator.estimator, "critics_train", True)
        for critic in self.networks.critics.values():
            critic.train(train)  # a critic that scores for a policy gradient drops nothing out
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
            raise TrainingError(
                f"a loss was not finite before {self.items:,} items; the last whole checkpoint is kept. Lower the "
                "learning rates, add a penalty (recipe.penalties.r1.weight=1), or clip gradients, and --resume"
            )
        means = {name: float(total / count) for name, (total, count) in self.tally.items()}
        self.tally.clear()
        return means

    # Looking and saving ------------------------------------------------------------------------------------------

    def model(self) -> Model:
        """The generator with averaged weights and recalibrated statistics, to draw from; the game is not touched."""
        device = self.runtime.device

        def draw(module: nn.Module, number: int) -> Sample:
            rows = range(number * 64, (number + 1) * 64)
            return draw_chunk(module, rows, "recalibration", self._data_conditions(rows), self.controls, device)

        with global_seeds("model"):
            module = recalibrated(self.average.module(), draw, RECALIBRATION_ROWS // 64)
        return Model(self.config.modality, self.plugin, module, self._info(), device)

    def look(self, folder: RunFolder, clock: _Clock) -> None:
        """Write a sheet of samples of fixed identities."""
        modality, run = self.config.modality, self.config.run
        if "sheet" not in self.capabilities or not modality.sheets:
            return
        model = self.model()
        with global_seeds("look"):
            sample = model.draw(range(run.samples), run.seed, controls=self.controls, conditions=self._look_conditions)
            content = self.plugin.sheet(sample, modality.sheets[0], self.controls)
        path = folder.path / "samples" / f"{self.items:012d}.{modality.sheets[0]}"
        artifact.make_folder(path.parent)
        artifact.write_whole(path, content, durable=False)
        clock.tell(note=f"samples: {path}")

    def save(self, folder: RunFolder, clock: _Clock) -> None:
        """Write a checkpoint and the model as it is now."""
        self.statistics()  # never save what is not finite
        clock.tick()
        state: dict[str, Any] = {
            "items": self.items,
            "stage": self.stage,
            "stage_items": self.stage_items,
            "round": self.round,
            "turns": self.turns,
            "averaged_at": self.averaged_at,
            "seconds": self.seconds,
            "log_bytes": folder.log_size(),
            "machine": self.runtime.fingerprint(),
        }
        players = {
            f"{name}.{key}": value for name, player in self._modules() for key, value in player.state_dict().items()
        }
        moments = {
            f"{name}.{key}": value for name, optimizer in self.optimizers.items() for key, value in pack(optimizer)
        }
        groups = {"players": players, "averages": self.average.weights, "optimizers": moments}
        folder.save_checkpoint(self.items, state, groups, self.config.run.keep_checkpoints)
        self.model().save(folder.path / "model")
        clock.saved()

    def restore(self, checkpoint: Path) -> dict[str, Any]:
        """Go back to a checkpoint; returns its state.

        Raises:
            ModelError: if it is damaged or of other networks.
        """
        state: dict[str, Any] = artifact.read_json(checkpoint / "state.json")
        for name in ("items", "stage", "stage_items", "round", "averaged_at", "seconds"):
            setattr(self, name, state[name])
        self.turns = dict(state["turns"])
        players = artifact.read_tensors(checkpoint / "players.safetensors")
        for name, module in self._modules():
            mine = {key[len(name) + 1 :]: value for key, value in players.items() if key.startswith(f"{name}.")}
            artifact.load_state(module, mine, checkpoint / "players.safetensors")
        averages = artifact.read_tensors(checkpoint / "averages.safetensors")
        try:
            self.average.load(averages)
        except (KeyError, RuntimeError) as error:
            raise ModelError(f"{checkpoint / 'averages.safetensors'} does not fit the generator ({error})") from error
        self._make_optimizers()
        moments = artifact.read_tensors(checkpoint / "optimizers.safetensors")
        for name, optimizer in self.optimizers.items():
            mine = {key[len(name) + 1 :]: value for key, value in moments.items() if key.startswith(f"{name}.")}
            unpack(optimizer, mine)
        return state

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
            "items": self.items,
        }

    def _look_conditions(self, indices: Sequence[int]) -> Tensor | None:
        """The plugin's default conditions, else those of the data."""
        default = self.plugin.condition(None, indices) if "condition" in self.capabilities else None
        return self._data_conditions(indices) if default is None else default

    def _data_conditions(self, indices: Sequence[int]) -> Tensor | None:
        """Conditions of the data's first items, in turn; None for unconditional data."""
        if self.batches.first(1).condition is None:
            return None
        if self._conditions is None:
            self._conditions = self.batches.first(min(RECALIBRATION_ROWS, len(self.batches))).condition
        assert self._conditions is not None
        return self._conditions[[index % len(self._conditions) for index in indices]]


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


def _valid_steps(sample: Sample, count: int) -> Tensor | None:
    """Valid steps of a whole batch per part of it, so that parts add up to the mean over all of them."""
    return None if sample.mask is None else sample.mask.sum() / count


# Setting up ------------------------------------------------------------------------------------------------------


def _set_up(config: RunConfig, folder: RunFolder, saved: Mapping[str, Any] | None) -> tuple[Game, str | None]:
    """A game, at its start or as a checkpoint left it, and what is to be said of it."""
    runtime = Runtime(config.run.device, config.run.threads)
    settled = config.run.model_copy(update={"threads": runtime.threads})
    config = RunConfig(config.modality, config.preset, config.data, config.options, config.recipe, settled)
    cls = registry.load(config.modality)
    facts = cls.inspect(config.data, config.options)
    plugin = cls(config.options, facts)
    game = Game(config, plugin, plugin.dataset(config.data), runtime)
    notes = []
    if config.run.items is None:
        notes.append(
            "the run is given in minutes: schedules count items all the same, and it cannot be repeated exactly"
        )
    checkpoint = folder.latest() if saved is not None else None
    if checkpoint is not None:
        state = game.restore(checkpoint)
        folder.cut_log(state["log_bytes"])
        machine = runtime.fingerprint()
        changed = [
            f"{key} {was} -> {machine.get(key)}" for key, was in state["machine"].items() if was != machine.get(key)
        ]
        notes.append(f"resumed at {game.items:,} items")
        if changed:
            notes.append(f"the machine differs ({', '.join(changed)}): the run goes on, but not bit for bit")
    else:
        folder.cut_log(0)
    folder.config = config.plain()
    return game, "; ".join(notes) or None


def _resumed(
    modality: Modality, preset: str | None, data: Any, layers: Sequence[Mapping[str, Any]], saved: Mapping[str, Any]
) -> RunConfig:
    """The saved configuration with what may be changed when resuming.

    Raises:
        RunError: names every other difference.
    """
    old = {key: saved.get(key) or {} for key in configuration.SECTIONS}
    if saved.get("modality") != modality.id:
        raise RunError(f"the run was of modality {saved.get('modality')!r}, not {modality.id!r}: choose another --out")
    config = configuration.build(
        modality, preset or saved.get("preset"), saved.get("data") if data is None else data, [old, *layers]
    )
    free = (
        "run.device",
        "run.threads",
        "run.sample",
        "run.checkpoint",
        "run.keep",
        "run.items",
        "run.minutes",
        "plugin",
    )
    changed = configuration.differences(dict(saved), config.plain())
    refused = {path: pair for path, pair in changed.items() if not path.startswith(free)}
    if refused:
        listed = "; ".join(f"{path}: {was!r} -> {now!r}" for path, (was, now) in refused.items())
        raise RunError(
            f"the run was started with another configuration ({listed}): leave that out, or choose another --out"
        )
    return config


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
    for name in recipe.critics:
        if name not in networks.critics:
            raise ConfigError(f"recipe.critics.{name}: no such critic.{did_you_mean(name, networks.critics)}")
    for name, critic in networks.critics.items():
        if recipe.penalties and batch_norms(critic):
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


# Time and signals ------------------------------------------------------------------------------------------------


class _Clock:
    """When to report, log and save; how long the run has worked."""

    def __init__(self, game: Game, report: Callable[[Progress], None]) -> None:
        self.game, self.report = game, report
        self.began = self.logged = self.saved_at = time.monotonic()
        self.items_before, self.seconds_before = game.items, game.seconds

    def worked(self) -> float:
        """Seconds of work over all sessions."""
        return self.seconds_before + time.monotonic() - self.began

    def tick(self) -> None:
        self.game.seconds = self.worked()

    def log_is_due(self) -> bool:
        return time.monotonic() - self.logged >= LOG_SECONDS

    def save_is_due(self, seconds: float) -> bool:
        return time.monotonic() - self.saved_at >= seconds

    def saved(self) -> None:
        self.saved_at = time.monotonic()

    def log(self, folder: RunFolder) -> None:
        self.logged = time.monotonic()
        statistics = self.game.statistics()
        stage = self._stage()
        row = {"items": self.game.items, "seconds": round(self.worked(), 3), "stage": stage, **statistics}
        folder.log(row)
        self.tell(statistics)

    def tell(self, statistics: Mapping[str, float] | None = None, note: str | None = None) -> None:
        run, items = self.game.config.run, self.game.items
        rate = (items - self.items_before) / max(time.monotonic() - self.began, 1e-9)
        if run.items is None:
            left: float | None = max(60 * (run.minutes or 0) - self.worked(), 0.0)
        else:
            left = (run.items - items) / rate if rate > 0 else None
        self.report(Progress(items, run.items, self.worked(), left, rate, self._stage(), statistics or {}, note))

    def _stage(self) -> str:
        return self.game.config.recipe.stages[self.game.stage].kind


@dataclass
class _Stop:
    asked: bool = False
    exit_code: int = 0


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Ctrl-C and SIGTERM ask the loop to save and stop; a second Ctrl-C stops at once. Main thread only."""
    stop = _Stop()

    def ask(number: int, frame: object) -> None:
        if stop.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.asked, stop.exit_code = True, 128 + number

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
