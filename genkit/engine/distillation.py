"""Distillation: a run whose generator, of other options, learns from the samples of a finished model.

The run itself is one of `genkit.engine.training`; here its settings are taken over from the teacher. Knows names of
models and settings; no game.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genkit import config as configuration
from genkit.engine.clock import Progress
from genkit.engine.fine_tuning import settings_of
from genkit.engine.training import train
from genkit.plugin import Modality
from genkit.sampling import card
from genkit.sampling.model import Model
from genkit.sampling.model_folder import read_model_config
from genkit.sampling.model_names import find_model
from genkit.sampling.opening import manifest_for

FOLLOWING_ITEMS = 60_000
"""A student of continuous samples follows its teacher alone for so many items at first, at most for half of the run: a
round without critics costs a fraction of one with them."""


def distill(
    teacher: str | Path,
    data: Any = None,
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
    modality: Modality | None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Model:
    """Train a student: a model of other options, a smaller one say, that learns from the samples of a finished model.

    The student draws from the same noise as its teacher, and learns to draw the same: a seed and an index give nearly
    the same sample in both. Continuous samples: at first the student follows the teacher's values alone; then the
    values and the critics' features of both are compared, while the critics compare the student with real data as ever.
    Discrete samples: the student's distributions follow the teacher's, at every step of the data; critics take no part
    unless `recipe.stages` has a game.

    The teacher's modality, preset, options and recipe are the student's where no others are given. `genkit.train` with
    `resume` continues the run.

    Args:
        teacher: the model, as for `genkit.load`.
        data: as for `genkit.train`; of the kind that the teacher was trained on.
        out: the run folder; None: `runs/<modality>-student`.
        items, minutes, batch_size, seed, device, threads: as for `genkit.train`.
        options: of the student, where they differ from the teacher's. Those that decide about the noise must not.
        recipe: as for `genkit.train`; `recipe.terms` has the weights of the terms `teacher` and `teacher_features`.
        run, settings, overwrite, progress: as for `genkit.train`.
        modality: the manifest, for a teacher whose modality is not installed.

    Returns:
        The student with averaged weights, as in `<out>/model`.

    Raises:
        UserError: for mistakes that the user can correct; most are found before training starts.
        Interrupted, TrainingError: as `genkit.train` does.
    """
    short = {"items": items, "minutes": minutes, "seed": seed, "device": device, "threads": threads}
    arguments = {
        "options": dict(options or {}),
        "recipe": {**(recipe or {}), **({} if batch_size is None else {"batch_size": batch_size})},
        "run": {**(run or {}), **{key: value for key, value in short.items() if value is not None}},
    }
    manifest, preset, layers = student_settings(teacher, [*settings, arguments], modality)
    folder = Path("runs") / f"{manifest.id}-student" if out is None else out
    return train(
        manifest, data, preset, folder, settings=layers, overwrite=overwrite, progress=progress
    )


def student_settings(
    teacher: str | Path, layers: Sequence[Mapping[str, Any]], modality: Modality | None = None
) -> tuple[Modality, str | None, list[Mapping[str, Any]]]:
    """(the manifest, the preset, all layers of settings) of a run that learns from a teacher.

    Args:
        teacher: names the model.
        layers: the user's settings, which override the teacher's.
        modality: the manifest, for a teacher whose modality is not installed.

    Raises:
        ConfigError: if the teacher's recipe is none of this genkit.
        ModelError: if there is no such model, its plugin is not installed, or its settings name code.
    """
    folder = find_model(teacher)
    origin = read_model_config(folder)
    manifest = modality or manifest_for(origin, folder)
    preset, base = settings_of(teacher, manifest, layers)
    differences = card.of(origin).get("recipe")
    recipe: dict[str, Any] = {}
    if isinstance(differences, Mapping):
        recipe = configuration.recipe_for(differences, layers, teacher)
    # With the user's layers: what they override may name code, which is imported where it is named last.
    config = configuration.build(manifest, preset, None, [base, {"recipe": recipe}, *layers])
    stages = config.recipe.model_dump(mode="json")["stages"]
    pretraining = [stage for stage in stages if stage["kind"] == "pretrain"]
    if config.recipe.estimator.kind != "pathwise":
        # Discrete samples: the divergence from the teacher has an exact gradient, a critic's score has none.
        generator = pretraining[0]["generator"] if pretraining else None
        recipe = {**recipe, "stages": [{"kind": "pretrain", "generator": generator}]}
    elif not pretraining:
        items = FOLLOWING_ITEMS if config.run.items is None else config.run.items // 2
        following = {"kind": "pretrain", "items": max(min(items, FOLLOWING_ITEMS), 1)}
        recipe = {**recipe, "stages": [following, *stages]}
    own = {"recipe": recipe, "run": {"teacher": str(teacher)}}
    return manifest, preset, [base, own, *layers]
