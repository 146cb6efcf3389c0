"""The command `genkit project`: given samples, found again in a model."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Annotated

import typer

from genkit.cli.models import MODEL, UserObjects
from genkit.cli.progress import with_counts
from genkit.errors import ConfigError
from genkit.kit.program import AsJson, Device, Quiet, print_json, print_table


def project(
    model: Annotated[str, typer.Argument(help=MODEL)],
    data: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Files or folders of what is to be found."),
    ],
    out: Annotated[
        str,
        typer.Option(
            help="A folder for the nearest samples, and noise.safetensors, which `genkit generate --noise` takes."
        ),
    ] = "projected/",
    label: Annotated[
        str | None,
        typer.Option(
            "--label", "--condition", help="The condition of all of them, for a conditional model."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of the search.")] = 500,
    starts: Annotated[int, typer.Option(help="Noises that the search starts from.")] = 16,
    features: Annotated[
        float,
        typer.Option(
            help="Weight of features, of networks and critics, in the distance; that of values is 1."
        ),
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the starts.")] = 0,
    user_object: UserObjects = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find given samples in a model: the nearest ones that it draws, and their noise."""
    from genkit.sampling.opening import open_model
    from genkit.sampling.samples import is_joint

    if user_object:
        sys.path.append(os.getcwd())  # its module may be a file of the working folder
    loaded_model = open_model(model, device, user_objects=user_object or ())
    if is_joint(loaded_model.modality, out):
        raise ConfigError(f"--out {out}: a folder is needed, such as projected/")
    search = partial(loaded_model.project, data, label, steps, starts, features, seed)
    projection = with_counts(search, "steps are done", quiet)
    folder = projection.save(out)
    columns = {"DISTANCE": projection.distances.tolist()}
    if projection.log_probs is not None:
        columns["LOG-PROBABILITY"] = projection.log_probs.tolist()
    if as_json:
        names = {"DISTANCE": "distances", "LOG-PROBABILITY": "log_probs"}
        figures = {names[name]: values for name, values in columns.items()}
        print_json({"schema": 1, "folder": str(folder), **figures})
        return
    rows = zip(*columns.values(), strict=True)
    print_table(
        ("SAMPLE", *columns),
        ((str(number), *(f"{value:.4f}" for value in row)) for number, row in enumerate(rows)),
    )
    print(folder)
