"""The command `genkit distill`: a student that learns from a finished model."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from genkit.cli.models import MODEL
from genkit.cli.progress import reporter
from genkit.errors import ConfigError


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
    items: Annotated[
        int | None, typer.Option(help="Length of the run: real samples that the critics see.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Length of the run in minutes, instead of --items.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples in a batch.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto (cuda, else mps, else cpu), cpu, cuda, cuda:1 ...")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    plan: Annotated[
        str | None, typer.Option(help="Precision and memory format, as for `genkit train`.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run in --out first.")
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole configuration as YAML and stop.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Print errors and the result only.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Print the traceback of an error.")
    ] = False,
) -> None:
    """Train a student, a smaller model say, by the samples of a finished one. It is written to OUT/model.

    `genkit train MODALITY --out OUT --resume` continues the run.
    """
    from genkit import config as configuration

    sys.path.append(os.getcwd())  # `module:attribute` may name a file of the working folder
    del verbose  # `genkit.kit.program.run` reads it from the arguments
    if items is not None and minutes is not None:
        raise ConfigError(
            "--items and --minutes exclude each other: a run is as long as one of them says"
        )
    run = {"items": items, "minutes": minutes, "seed": seed, "device": device, "threads": threads}
    run |= {"plan": plan}
    layers: list[dict[str, Any]] = [configuration.parse_overrides(settings or [])]
    layers.append({"run": {key: value for key, value in run.items() if value is not None}})
    if batch_size is not None:
        layers.append({"recipe": {"batch_size": batch_size}})
    from genkit.engine.distillation import student_settings
    from genkit.engine.training import train
    from genkit.system.runtime import is_main_process

    manifest, preset, all_layers = student_settings(teacher, layers)
    if print_config:
        import yaml

        plain = configuration.build(manifest, preset, data, all_layers).plain()
        print(yaml.safe_dump(plain, sort_keys=False), end="")
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
