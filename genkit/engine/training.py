"""A training run: setup, rounds, evaluations, log, checkpoints, resuming. `_play` is the loop.

Evaluating, logging and saving do not change the game: a run that was stopped at any moment continues bit for bit as if
it had not been. Knows all modules of the engine, and where samples and the model go in the run folder; no modality, no
terminal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genkit import config as configuration
from genkit.config import RunConfig
from genkit.discovery import registry
from genkit.discovery.selection import strict
from genkit.engine.best import Best
from genkit.engine.clock import PULSE, Clock, Progress, Stop, stop_signals
from genkit.engine.compatibility import check_state
from genkit.engine.data import open_data
from genkit.engine.diagnosis import EARLY, diverged, saturated
from genkit.engine.fine_tuning import (
    begun_with,
    facts_of,
    open_teacher,
    take_critics,
    take_over,
)
from genkit.engine.game import LOST_UPDATES, Game
from genkit.engine.plan import choose
from genkit.engine.run_folder import RunFolder
from genkit.engine.teacher import Teacher
from genkit.engine.views import (
    about_data,
    about_machine,
    check_weights,
    model_of,
    preview_conditions,
)
from genkit.errors import (
    GenkitError,
    Interrupted,
    ModelError,
    RunError,
    UnknownModality,
    first_line,
)
from genkit.plugin import Modality
from genkit.recipe import PLANS, SECTIONS, differences
from genkit.sampling.model import Model
from genkit.sampling.opening import open_model
from genkit.sampling.samples import check_content, check_finite
from genkit.system.files import make_folder, read_json, write_whole
from genkit.system.runtime import Runtime, is_main_process, open_trackers, waiting
from genkit.system.seeding import global_seeds
from genkit.system.tensors import read_tensors

RETRIES = 3
"""How often a diverged game returns to an earlier state before the run fails."""
DIVERGENCE = f"a player's gradient was not finite in {LOST_UPDATES} updates in a row"


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
        preset: the name of a preset; None: the modality's first.
        out: the run folder; None: `runs/<modality>`.
        items, minutes, batch_size, seed, device, threads: shortcuts for the `run` and `recipe` settings of these names.
        init: the model to start from, as for `genkit.load`: its weights, and its preset and options unless others are
            given.
        options, recipe, run: settings that override the preset's, as nested mappings.
        settings: further mappings with the keys options, recipe and run; the arguments above override them.
        resume: continue the run in `out`, or start one if there is none.
        overwrite: replace the run in `out`.
        progress: called about once a second, and for every note.

    Returns:
        The model with averaged weights, as in `<out>/model`.

    Raises:
        UserError: for mistakes that the user can correct; most are found before training starts.
        Interrupted: after Ctrl-C or SIGTERM; everything is saved.
        TrainingError: if the game diverges; the last complete checkpoint is kept.
    """
    short = {"items": items, "minutes": minutes, "seed": seed, "device": device, "threads": threads}
    short["init"] = None if init is None else str(init)
    arguments = {
        "options": dict(options or {}),
        "recipe": {**(recipe or {}), **({} if batch_size is None else {"batch_size": batch_size})},
        "run": {**(run or {}), **{key: value for key, value in short.items() if value is not None}},
    }
    manifest = _manifest_for(modality, out) if resume else registry.manifest_of(modality)
    report = progress if progress and is_main_process() else lambda _: None
    layers = [*settings, arguments]
    if init is not None and not resume:
        preset, layers = begun_with(init, manifest, preset, layers)
    if resume and overwrite:
        raise RunError("resume and overwrite exclude each other: continue the run, or replace it")
    path = Path("runs") / manifest.id if out is None else out
    folder = RunFolder(path, resume, overwrite, is_main_process())
    threads_before = torch.get_num_threads()
    try:
        earlier = folder.config if resume else None
        if earlier is None:
            config = configuration.build(manifest, preset, data, layers)
        else:
            config = _resumed(manifest, preset, data, layers, earlier)
        with global_seeds("training", config.run.seed):
            try:
                game, notes, best = _set_up(config, folder, earlier is not None, report)
            except KeyboardInterrupt as error:
                raise Interrupted(
                    f"stopped before the run went on; nothing of {folder.path} was changed",
                    getattr(error, "exit_code", 130),
                ) from error
            with stop_signals() as stop:
                play(game, folder, report, stop, notes, best)
            game.runtime.barrier()  # the others read the model only after the main process has written it
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
    best: Best | None = None,
) -> None:
    """Play rounds until the run is over, with evaluations, log and checkpoints.

    Args:
        game: at its start, or restored from a checkpoint of the folder.
        folder: the run folder, with its configuration written.
        report: receives the progress reports.
        stop: set by a signal handler to save and stop.
        notes: reported at the start.
        best: evaluates the model at each preview, and keeps the best; None: it is not evaluated.

    Raises:
        Interrupted: if `stop` was set; everything is saved.
        TrainingError: if the game diverges.
    """
    clock = Clock(game, report, _trackers(game, folder))
    for note in notes:
        clock.notify(note=note)
    try:
        _play(game, folder, clock, stop, best)
    finally:
        clock.finish()


def _play(game: Game, folder: RunFolder, clock: Clock, stop: Stop, best: Best | None) -> None:
    restore_start = game.snapshot() if folder.latest() is None else None
    due, model = clock.due(stop), None
    while not due.over:
        model = None  # of a look since the last round
        game.play_round()
        while game.best_critics.notes:
            clock.notify(note=game.best_critics.notes.pop(0))
        if game.round % PULSE == 0 and game.is_lost():
            _go_back(game, folder, clock, restore_start)

        # Nothing below changes the players.
        clock.tick()
        due = clock.due(stop)
        if due.evaluate:
            model = _evaluate(game, folder, clock, best)
            for note in game.batches.news():
                clock.notify(note=note)
        if due.log or due.stop:
            clock.log(folder)
        if due.save or due.stop:
            _save(game, folder, clock, model)
            restore_start = None
        if due.stop:
            message = f"stopped at {game.items:,} items; everything is saved in {folder.path}. Continue with --resume"
            raise Interrupted(message, stop.exit_code)
    if game.is_lost():
        raise diverged(game.items, DIVERGENCE)
    clock.log(folder)
    if clock.items_evaluated != game.items:
        model = _evaluate(game, folder, clock, best)
    _save(game, folder, clock, model)


# Setting up ------------------------------------------------------------------------------------------------------


def _set_up(
    config: RunConfig, folder: RunFolder, resume: bool, report: Callable[[Progress], None]
) -> tuple[Game, list[str], Best | None]:
    """(a game at its start, or restored from the latest checkpoint; notes for the user; what evaluates its model).

    The folder is changed only after data, device and networks are known to work.
    """
    runtime = Runtime(
        config.run.device,
        config.run.threads,
        PLANS[0] if config.run.plan == "auto" else config.run.plan,
    )

    def tell(note: str) -> None:
        report(Progress(0, config.run.items, 0.0, None, 0.0, "setup", note=note))

    checkpoint = folder.latest() if resume else None
    origin = None
    if config.run.init is not None:
        origin = facts_of(config.run.init if checkpoint is None else folder.path)
    model, teacher = open_teacher(config, folder.path, resume), None
    if model is not None:
        origin = model.plugin.facts
        labels = tuple(origin.values.get("labels") or ())
        teacher = Teacher(model.generator, str(config.run.teacher), model.info["options"], labels)
    plugin, dataset, notes = open_data(config, tell, origin)
    game = Game(config, plugin, dataset, runtime, teacher)
    if checkpoint is None:
        if config.run.init is None:
            game.initialise()
        else:
            notes += take_over(game, config.run.init)
        if model is not None:
            notes += take_critics(game, model)
    best = None
    if config.run.evaluate is not None and runtime.is_main_process:
        with waiting("reading real items to evaluate by", tell), global_seeds("look"):
            best = Best(game, folder.path, resume)
    if config.run.plan == "auto":
        with waiting("measuring which plan is the fastest here", tell):
            notes += choose(game)
    record = {"threads": runtime.threads, "plan": runtime.plan}
    record |= {} if model is None else {"teacher_sha256": model.sha256}
    game.config = config = replace(config, run=config.run.model_copy(update=record))
    if config.run.items is None:
        notes.append("the length of the run is given in minutes: it cannot be repeated exactly")
    stages = config.recipe.stages
    items_before_last_stage = sum(stage.items or 0 for stage in stages[:-1])
    if config.run.items is not None and items_before_last_stage >= config.run.items:
        notes.append(
            f"the run ends before its last stage ({stages[-1].kind}) begins: set run.items above "
            f"{items_before_last_stage:,}"
        )
    runtime.barrier()  # all processes have read the folder before the main process writes to it
    if checkpoint is not None:
        notes += _restore(game, folder, checkpoint)
    if runtime.is_main_process:
        if checkpoint is None:
            folder.begin(_located(config.plain()), None if model is None else model.path)
        else:
            folder.config = _located(config.plain())
    runtime.barrier()
    return game, notes, best


def _manifest_for(modality: str | Modality, out: str | Path | None) -> Modality:
    """The manifest of a modality whose run is resumed; if its plugin is gone, the run says what to install."""
    try:
        return registry.manifest_of(modality)
    except UnknownModality as error:
        folder = RunFolder(
            Path("runs") / str(modality) if out is None else out, is_main_process=False
        )
        maker = str((folder.config or {}).get("plugin"))
        if maker.startswith("local ") or not maker.endswith(f"({modality})"):
            raise
        raise UnknownModality(
            f"{folder.path} was made with {maker}, which is not installed here: pip install {maker.split()[0]}"
        ) from error


def _located(plain: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose paths of data and teacher are absolute: the run can be resumed from any folder."""
    data, teacher = plain["data"], plain["run"]["teacher"]
    if data and os.path.exists(data):
        plain = {**plain, "data": os.path.abspath(data)}
    if teacher and os.path.exists(teacher):
        plain = {**plain, "run": {**plain["run"], "teacher": os.path.abspath(teacher)}}
    return plain


def _resumed(
    modality: Modality,
    preset: str | None,
    data: Any,
    layers: Sequence[Mapping[str, Any]],
    earlier: Mapping[str, Any],
) -> RunConfig:
    """The saved configuration of a run, with those changes that are allowed when resuming.

    Args:
        modality, preset, data, layers: as given for the resumed run.
        earlier: the content of the run's config.yaml.

    Raises:
        RunError: if anything else differs; it lists the differences.
    """
    old = {key: earlier.get(key) or {} for key in SECTIONS}
    if earlier.get("modality") != modality.id:
        raise RunError(
            f"the run in this folder has modality {earlier.get('modality')!r}, not {modality.id!r}: choose another "
            "--out"
        )
    if data is None and str(earlier.get("data")).startswith("<"):
        raise RunError(
            f"the data of the run were a Python object ({earlier['data']}), which is not saved: pass them again as "
            "data="
        )
    # Data may have moved: what counts is their content, which is compared when the checkpoint is read.
    data = earlier.get("data") if data is None else data
    old_config = configuration.build(modality, earlier.get("preset"), earlier.get("data"), [old])
    config = configuration.build(modality, preset or earlier.get("preset"), data, [old, *layers])
    changeable = (
        "data",
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
        "run.evaluate",
    )
    changes = differences(old_config.plain(), config.plain())
    refusals = {path: pair for path, pair in changes.items() if not path.startswith(changeable)}
    if refusals:
        raise RunError(
            f"the run was started with another configuration ({_as_text(refusals)}): leave these settings as they "
            "were, or choose another --out"
        )
    return config


def _as_text(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Differences as `path: old value -> new value; ...`."""
    return "; ".join(f"{path}: {old!r} -> {new!r}" for path, (old, new) in changes.items())


def _trackers(game: Game, folder: RunFolder) -> list[Any]:
    """The run's trackers, opened with its settings; none outside of the main process."""
    if not game.runtime.is_main_process:
        return []
    leaves = differences({}, game.config.plain())
    settings = {
        path: value for path, (_, value) in leaves.items() if isinstance(value, str | int | float)
    }
    return open_trackers(game.config.run.track, folder.path, settings)


# Evaluating, saving and restoring ---------------------------------------------------------------------------------


def _evaluate(game: Game, folder: RunFolder, clock: Clock, best: Best | None) -> Model | None:
    """Draw samples of fixed identities, report what the diagnosis finds in them, and write a preview of them.

    Args:
        best: evaluates the model too, and keeps the best; None: it is not evaluated.

    Returns:
        The model that drew them; None in all processes but the main one.
    """
    modality, run = game.config.modality, game.config.run
    clock.evaluated()
    if not game.runtime.is_main_process:
        return None
    check_weights(game)
    with global_seeds("look"):
        model = model_of(game)
        sample = model.draw(
            range(run.samples),
            run.seed,
            controls=game.controls,
            conditions=partial(preview_conditions, game),
        )
        check_finite(sample)
        clock.findings, notes = clock.reference.findings(sample, game.config.recipe)
        if game.updates["generator"] >= EARLY:
            for note in [*notes, *saturated(clock.history, game.config.recipe)]:
                clock.notify(note=note)
        clock.history.clear()
        if best is not None:
            distance, note = best.look(model, game.items)
            clock.findings = {**clock.findings, **distance}
            if note:
                clock.notify(note=note)
        if "preview" not in game.capabilities or not modality.preview_formats:
            return model
        try:
            with registry.asking(modality, "preview"):
                content = game.plugin.preview(sample, modality.preview_formats[0], game.controls)
            check_content(modality, "preview", content)
        except GenkitError as error:
            if strict():
                raise
            clock.notify(note=f"no preview at {game.items:,} items: {error}")
            return model
    path = folder.path / "samples" / f"{game.items:012d}.{modality.preview_formats[0]}"
    make_folder(path.parent)
    write_whole(path, content, durable=False)
    clock.notify(note=f"samples: {path}")
    return model


def _save(game: Game, folder: RunFolder, clock: Clock, model: Model | None) -> None:
    """Write a checkpoint and the current model.

    Args:
        model: the current one; None: it is made, which takes a forward pass for BatchNorm's statistics.

    Raises:
        TrainingError: if a weight is not finite; nothing is written then.
    """
    check_weights(game)
    clock.tick()
    if game.runtime.is_main_process:
        latest = folder.latest()
        if latest is None or game.items != clock.items_saved:  # else this checkpoint exists
            state, groups = game.state()
            state |= {
                "log_bytes": folder.log_size(),
                "machine": about_machine(game),
                "data": about_data(game),
            }
            folder.save_checkpoint(game.items, state, groups, game.config.run.keep_checkpoints)
        (model or model_of(game)).save(folder.path / "model")
    clock.saved()


def _go_back(
    game: Game, folder: RunFolder, clock: Clock, restore_start: Callable[[], None] | None
) -> None:
    """Restore a lost game to its last checkpoint or its start, with half the learning rates and other random numbers.

    Args:
        restore_start: restores the start of the run; None: there is a checkpoint.

    Raises:
        TrainingError: if this was done RETRIES times already.
    """
    if game.retry >= RETRIES:
        raise diverged(game.items, DIVERGENCE)
    retry, lost_at = game.retry + 1, game.items
    if restore_start is not None:
        restore_start()
        if game.runtime.is_main_process:
            folder.cut_log(0)
    else:
        checkpoint = folder.latest()
        assert checkpoint is not None
        _restore(game, folder, checkpoint)
    game.count_retry(retry)
    clock.gone_back()
    clock.notify(
        note=f"{DIVERGENCE} at {lost_at:,} items: the run goes back to {game.items:,} items, with half the learning "
        f"rates (attempt {retry} of {RETRIES})"
    )


def _restore(game: Game, folder: RunFolder, checkpoint: Path) -> list[str]:
    """Restore the game and the log from a checkpoint; returns notes for the user.

    Raises:
        RunError: if the data differ from those of the run.
        ModelError: if the checkpoint is damaged, or of other networks.
    """
    state = read_json(checkpoint / "state.json")
    check_state(state, game.state()[0], RETRIES, checkpoint / "state.json")
    old, data = dict(state.get("data", {})), about_data(game)
    means = old.pop("spread_means", data["spread_means"]), data.pop("spread_means")
    old.pop("means", None)  # of the first items: earlier versions compared them
    changes = differences(old, data)
    has_all = len(means[0]) == len(means[1])
    if not changes and not (has_all and np.allclose(*means, 0.01, 0.01, equal_nan=True)):
        changes = {"the means of some items": means}
    if changes:
        raise RunError(
            f"the data have changed since the run began ({_as_text(changes)}): restore the old data, or start a new run"
        )
    groups = {name: read_tensors(checkpoint / f"{name}.safetensors") for name in game.state()[1]}
    try:
        game.restore(state, groups)
        if game.runtime.is_main_process:
            folder.cut_log(state["log_bytes"])
    except (KeyError, IndexError, ValueError, RuntimeError, TypeError) as error:
        raise ModelError(
            f"{checkpoint} does not fit the networks of the run's configuration ({first_line(error)})"
        ) from error
    machine = about_machine(game)
    machine_changes = [
        f"{key} {old_value} -> {machine.get(key)}"
        for key, old_value in state["machine"].items()
        if old_value != machine.get(key)
    ]
    notes = [f"resumed at {game.items:,} items"]
    if machine_changes:
        notes.append(
            f"the machine or its software has changed ({', '.join(machine_changes)}): the run continues, but its "
            "results may differ in the last bits"
        )
    if game.share_of_run >= 1:
        notes.append("the run has reached its full length: train on with more --items or --minutes")
    elif game.over():
        notes.append(
            "the last stage has stopped early, since its critics gained no more: it is over"
        )
    return notes
