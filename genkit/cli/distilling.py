"""The command `genkit distill`: a student that learns from a finished model."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from genkit.cli.models import (
    MODEL,
    BatchSize,
    Items,
    Minutes,
    Overwrite,
    PrintConfig,
    Quiet,
    RunDevice,
    RunSeed,
    Threads,
    Verbose,
    layers_of,
    print_yaml,
)
from genkit.cli.progress import reporter


def distill(
    teacher: Annotated[str, typer.Argument(help=f"The model to learn from. {MODEL}")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings of the student as PATH=VALUE, where they differ from the teacher's: options.features=16 "
            "recipe.terms.teacher=2 ... --print-config lists all."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Training data like the teacher's: a path, or builtin:NAME [default: the modality's]."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The run folder [default: runs/MODALITY-student]."),
    ] = None,
    items: Items = None,
    minutes: Minutes = None,
    batch_size: BatchSize = None,
    seed: RunSeed = None,
    device: RunDevice = None,
    threads: Threads = None,
    plan: Annotated[
        str | None, typer.Option(help="Precision and memory format, as for `genkit train`.")
    ] = None,
    overwrite: Overwrite = False,
    print_config: PrintConfig = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a student, a smaller model say, by the samples of a finished one. It is written to OUT/model.

    `genkit train MODALITY --out OUT --resume` continues the run.
    """
    from genkit import config as configuration

    sys.path.append(os.getcwd())  # `module:attribute` may name a file of the working folder
    del verbose  # `genkit.kit.program.run` reads it from the arguments
    run = {"items": items, "minutes": minutes, "seed": seed, "device": device, "threads": threads}
    layers = layers_of(settings, batch_size, {**run, "plan": plan})
    from genkit.engine.distillation import student_settings
    from genkit.engine.training import train
    from genkit.system.runtime import is_main_process

    manifest, preset, all_layers = student_settings(teacher, layers)
    if print_config:
        print_yaml(configuration.build(manifest, preset, data, all_layers))
        return
    folder = Path("runs") / f"{manifest.id}-student" if out is None else Path(out)
    with reporter(quiet) as progress:
        train(
            manifest,
            data,
            preset,
            folder,
            settings=all_layers,
            overwrite=overwrite,
            progress=progress,
        )
    if is_main_process():
        print(folder / "model")
