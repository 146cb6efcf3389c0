"""A training run: set up, played round by round, looked at, logged, saved, resumed. `_play` is the loop.

Looking, logging and saving do not touch the game: a run that was stopped at any moment goes on bit for bit as if it had
not been. Knows the names of what a run writes, but not how it is written; no modality, no terminal.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from genkit import config as configuration
from genkit.config import RunConfig
from genkit.discovery import registry
from genkit.engine.clock import PULSE, Clock, Progress, Stop, stop_signals
from genkit.engine.data import open_data
from genkit.engine.diagnosis import saturated
from genkit.engine.game import LOST_UPDATES, Game, diverged, under
from genkit.engine.plan import choose
from genkit.engine.run_folder import RunFolder
from genkit.errors import Interrupted, ModelError, RunError, first_line
from genkit.plugin import Modality
from genkit.recipe import PLANS, SECTIONS, differences
from genkit.sampling.model import Model, open_model
from genkit.sampling.model_folder import find_model, read_model, read_model_config
from genkit.system.files import make_folder, read_json, write_whole
from genkit.system.runtime import Runtime, is_main_process, open_trackers
from genkit.system.seeding import global_seeds
from genkit.system.tensors import load_state, read_tensors

RETRIES = 3
LOST = f"a player's gradient was not finite in {LOST_UPDATES} updates in a row"


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
    init: str | Path | None = None,
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
        init: a model or run folder to begin from: its weights, and its preset and options unless others are given.
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
    short["init"] = None if init is None else str(init)
    given = {
        "options": dict(options or {}),
        "recipe": {**(recipe or {}), **({} if batch_size is None else {"batch_size": batch_size})},
        "run": {**(run or {}), **{key: value for key, value in short.items() if value is not None}},
    }
    manifest = registry.describe(modality) if isinstance(modality, str) else modality
    report = progress if progress and is_main_process() else lambda _: None
    layers = [*settings, given]
    if init is not None and not resume:
        known = read_model_config(find_model(init))
        if known["modality"] != manifest.id:
            raise ModelError(f"{init} is a model of {known['modality']!r}, not of {manifest.id!r}")
        layers = [
            {"options": configuration.options_for(manifest, known["options"], layers, init)},
            *layers,
        ]
        preset = preset or (
            known.get("preset") if known.get("preset") in manifest.presets else None
        )
    if resume and overwrite:
        raise RunError("resume and overwrite exclude each other: go on with the run, or delete it")
    folder = RunFolder(
        out or Path("runs") / manifest.id,
        resume=resume,
        overwrite=overwrite,
        is_main_process=is_main_process(),
    )
    threads_before = torch.get_num_threads()
    try:
        saved = folder.config if resume else None
        if saved is None:
            chosen = configuration.build(manifest, preset, data, layers)
        else:
            chosen = _resumed(manifest, preset, data, layers, saved)
        with global_seeds("training", chosen.run.seed):
            game, notes = _set_up(chosen, folder, resume=saved is not None)
            with stop_signals() as stop:
                play(game, folder, report, stop, notes)
            game.runtime.barrier()  # the main process has written what the others are about to read
    finally:
        torch.set_num_threads(threads_before)
        folder.close()
    return open_model(folder.path, device=str(game.runtime.device), modality=manifest)


def play(
    game: Game,
    folder: RunFolder,
    report: Callable[[Progress], None],
    stop: Stop,
    notes: Sequence[str] = (),
) -> None:
    """Play rounds until the run is over; look, log and save on the way.

    Raises:
        Interrupted, TrainingError.
    """
    clock = Clock(game, report, _trackers(game, folder))
    for note in notes:
        clock.tell(note=note)
    try:
        _play(game, folder, clock, stop)
    finally:
        clock.finish()


def _play(game: Game, folder: RunFolder, clock: Clock, stop: Stop) -> None:
    to_the_start = game.snapshot() if folder.latest() is None else None
    due = clock.due(stop)
    while not due.over:
        game.play_round()
        if game.round % PULSE == 0 and game.is_lost():
            _go_back(game, folder, clock, to_the_start)

        # None of this touches the game.
        clock.tick()
        due = clock.due(stop)
        if due.look:
            _look(game, folder, clock)
        if due.log or due.stop:
            clock.log(folder)
        if due.save or due.stop:
            _save(game, folder, clock)
            to_the_start = None
        if due.stop:
            how = f"stopped at {game.items:,} items; everything is saved in {folder.path}. Go on with --resume"
            raise Interrupted(how, stop.exit_code)
    if game.is_lost():
        raise diverged(game.items, LOST)
    clock.log(folder)
    if clock.items_looked != game.items:
        _look(game, folder, clock)
    _save(game, folder, clock)


# Setting up ------------------------------------------------------------------------------------------------------


def _set_up(config: RunConfig, folder: RunFolder, resume: bool) -> tuple[Game, list[str]]:
    """A game, at its start or as a checkpoint left it, and what is to be said of it.

    Nothing in the folder is touched before data, device and networks have been found to work.
    """
    runtime = Runtime(
        config.run.device,
        config.run.threads,
        PLANS[0] if config.run.plan == "auto" else config.run.plan,
    )
    plugin, dataset, left_out = open_data(config)
    game = Game(config, plugin, dataset, runtime)
    checkpoint = folder.latest() if resume else None
    notes = [left_out] if left_out else []
    if checkpoint is None:
        if config.run.init is None:
            game.initialise()
        else:
            notes += _take_over(game, config.run.init)
    if config.run.plan == "auto":
        notes.append(choose(game))
    game.config = config = replace(
        config, run=config.run.model_copy(update={"threads": runtime.threads, "plan": runtime.plan})
    )
    if config.run.items is None:
        notes.append(
            "the run is given in minutes: schedules count items all the same, and it cannot be repeated exactly"
        )
    stages = config.recipe.stages
    if (
        config.run.items is not None
        and sum(stage.items or 0 for stage in stages[:-1]) >= config.run.items
    ):
        notes.append(
            f"the run ends before its last stage ({stages[-1].kind}) begins: give it more items"
        )
    runtime.barrier()  # nobody reads what the main process is about to write
    if checkpoint is not None:
        notes += _restore(game, folder, checkpoint)
    if runtime.is_main_process:
        if checkpoint is None:
            folder.begin(config.plain())
        else:
            folder.config = config.plain()
    runtime.barrier()
    return game, notes


def _resumed(
    modality: Modality,
    preset: str | None,
    data: Any,
    layers: Sequence[Mapping[str, Any]],
    saved: Mapping[str, Any],
) -> RunConfig:
    """The saved configuration with what may be changed when resuming.

    Raises:
        RunError: names every other difference.
    """
    old = {key: saved.get(key) or {} for key in SECTIONS}
    if saved.get("modality") != modality.id:
        raise RunError(
            f"the run was of modality {saved.get('modality')!r}, not {modality.id!r}: choose another --out"
        )
    if data is None and str(saved.get("data")).startswith("<"):
        raise RunError(
            f"the run's data were a Python object ({saved['data']}): pass them again as data="
        )
    data = saved.get("data") if data is None else data
    if isinstance(data, str | Path) and os.path.abspath(data) == os.path.abspath(
        str(saved.get("data"))
    ):
        data = saved.get("data")  # another way to write the same path
    before = configuration.build(modality, saved.get("preset"), saved.get("data"), [old])
    config = configuration.build(modality, preset or saved.get("preset"), data, [old, *layers])
    free = (
        "run.device",
        "run.threads",
        "run.plan",
        "run.track",
        "run.sample",
        "run.checkpoint",
        "run.keep",
        "run.items",
        "run.minutes",
        "run.strict",
    )
    changed = differences(before.plain(), config.plain())
    refused = {path: pair for path, pair in changed.items() if not path.startswith(free)}
    if refused:
        listed = "; ".join(f"{path}: {was!r} -> {now!r}" for path, (was, now) in refused.items())
        raise RunError(
            f"the run was started with another configuration ({listed}): leave that out, or choose another --out"
        )
    return config


def _take_over(game: Game, init: str) -> list[str]:
    """Begin with the weights of another model: its averaged generator, and the rest where its run is still there.

    Returns:
        What is to be said: critics of other networks than its own begin anew.

    Raises:
        ModelError: if it is damaged, of other networks, or lacks frozen weights that only a fresh run reads.
    """
    folder = find_model(init)
    _, tensors, _ = read_model(folder)
    load_state(game.networks.generator, tensors, folder / "model.safetensors")
    game.average.load(dict(game.networks.generator.named_parameters()))
    checkpoint, players, notes = RunFolder(folder.parent, is_main_process=False).latest(), {}, []
    if checkpoint is not None:
        file = checkpoint / "players.safetensors"
        players = read_tensors(file)
        for name, critic in game.critics.items():
            known, own = under(f"critics.{name}", players), critic.state_dict()
            if {key: value.shape for key, value in known.items()} == {
                key: value.shape for key, value in own.items()
            }:
                load_state(critic, known, file)
            else:
                notes.append(f"the critic {name!r} begins anew: that of {init} is another network")
    for name, module in game.networks.frozen.items():
        if known := under(f"frozen.{name}", players):
            load_state(module, known, file)
        elif "initialise" in game.capabilities and module.state_dict():
            raise ModelError(
                f"{init} has no weights of the frozen network {name!r}, which a fresh run reads from their source: "
                "begin with the run folder of a game that had it, or leave --init out"
            )
    return notes


def _trackers(game: Game, folder: RunFolder) -> list[Any]:
    """What the run reports to beside its own log."""
    if not game.runtime.is_main_process:
        return []
    leaves = differences({}, game.config.plain())
    settings = {
        path: value for path, (_, value) in leaves.items() if isinstance(value, str | int | float)
    }
    return open_trackers(game.config.run.track, folder.path, settings)


# Looking and saving: none of it touches the game ------------------------------------------------------------------


def _look(game: Game, folder: RunFolder, clock: Clock) -> None:
    """Draw samples of fixed identities: say what is wrong with them, and write a preview of them."""
    modality, run = game.config.modality, game.config.run
    clock.looked()
    if not game.runtime.is_main_process:
        return
    game.check_finite()
    with global_seeds("look"):
        sample = game.model().draw(
            range(run.samples), run.seed, controls=game.controls, conditions=game.look_conditions
        )
        clock.found, said = game.reference.findings(sample)
        for note in [*said, *saturated(clock.history)]:
            clock.tell(note=note)
        clock.history.clear()
        if "preview" not in game.capabilities or not modality.preview_formats:
            return
        with registry.asking(modality, "preview"):
            content = game.plugin.preview(sample, modality.preview_formats[0], game.controls)
    path = folder.path / "samples" / f"{game.items:012d}.{modality.preview_formats[0]}"
    make_folder(path.parent)
    write_whole(path, content, durable=False)
    clock.tell(note=f"samples: {path}")


def _save(game: Game, folder: RunFolder, clock: Clock) -> None:
    """Write a checkpoint and the model as it is now; never what is not finite."""
    game.check_finite()
    clock.tick()
    if game.runtime.is_main_process:
        latest = folder.latest()
        if latest is None or game.items != clock.items_saved:  # else nothing has happened since
            state, groups = game.state()
            state |= {
                "log_bytes": folder.log_size(),
                "machine": _about_machine(game),
                "data": _about_data(game),
            }
            folder.save_checkpoint(game.items, state, groups, game.config.run.keep_checkpoints)
        game.model().save(folder.path / "model")
    clock.saved()


def _go_back(
    game: Game, folder: RunFolder, clock: Clock, to_the_start: Callable[[], None] | None
) -> None:
    """Undo what led to a game that is lost, and go on with half the learning rates and other random numbers.

    Raises:
        TrainingError: after RETRIES times.
    """
    if game.retry >= RETRIES:
        raise diverged(game.items, LOST)
    retry, lost_at = game.retry + 1, game.items
    if to_the_start is not None:
        to_the_start()
        if game.runtime.is_main_process:
            folder.cut_log(0)
    else:
        checkpoint = folder.latest()
        assert checkpoint is not None
        _restore(game, folder, checkpoint)
    game.count_retry(retry)
    clock.gone_back()
    clock.tell(
        note=f"{LOST} at {lost_at:,} items: back to {game.items:,} items, with half the learning rates "
        f"(time {retry} of {RETRIES})"
    )


def _restore(game: Game, folder: RunFolder, checkpoint: Path) -> list[str]:
    """Go back to a checkpoint; what is to be said of it.

    Raises:
        ModelError: if it is damaged or of other networks.
    """
    state = read_json(checkpoint / "state.json")
    changed = differences(state.get("data", {}), _about_data(game))
    if changed:
        listed = "; ".join(f"{path}: {was!r} -> {now!r}" for path, (was, now) in changed.items())
        raise RunError(
            f"the data have changed since the run began ({listed}): bring them back, or start a new run"
        )
    groups = {name: read_tensors(checkpoint / f"{name}.safetensors") for name in game.state()[1]}
    try:
        game.restore(state, groups)
        if game.runtime.is_main_process:
            folder.cut_log(state["log_bytes"])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise ModelError(
            f"{checkpoint} does not fit the game of its configuration ({first_line(error)})"
        ) from error
    now = _about_machine(game)
    moved = [
        f"{key} {was} -> {now.get(key)}"
        for key, was in state["machine"].items()
        if was != now.get(key)
    ]
    notes = [f"resumed at {game.items:,} items"]
    if moved:
        notes.append(
            f"the machine or its software differs ({', '.join(moved)}): the run goes on, but not bit for bit"
        )
    if game.over():
        notes.append("the run is as long as was asked for: more --items go on with it")
    return notes


def _about_machine(game: Game) -> dict[str, Any]:
    """What the bits of a run depend on beyond its configuration and data."""
    plugin = registry.origin(game.config.modality)
    return {**game.runtime.fingerprint(), "genkit": registry.core_version(), "plugin": plugin}


def _about_data(game: Game) -> dict[str, Any]:
    """What a resumed run must find as it was."""
    facts = game.plugin.facts
    files = {name: hashlib.sha256(content).hexdigest() for name, content in facts.files.items()}
    return {
        "items": len(game.batches),
        "facts": json.loads(json.dumps(dict(facts.values))),
        "files": files,
    }
