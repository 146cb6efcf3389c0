"""The command `genkit export`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from genkit.cli.models import MODEL, UserObjects
from genkit.kit.program import AsJson, Quiet, parse_overrides, print_json, print_lines


def export(
    model: Annotated[str, typer.Argument(help=MODEL)],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="The modality's controls as NAME=VALUE. Numbers become inputs, with these values as defaults, where "
            "the generator can take them as such; all others are fixed."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(help="The ONNX file; draw.py, which draws from it, is written beside it."),
    ] = Path("model.onnx"),
    label: Annotated[
        str | None,
        typer.Option(
            "--label",
            "--condition",
            help="The default condition of a conditional model: a label, a prompt, a file.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Samples that genkit and ONNX Runtime draw, to be compared.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of these samples.")] = 0,
    tolerance: Annotated[
        float,
        typer.Option(help="Largest difference of a value; with a larger one nothing is written."),
    ] = 1e-3,
    opset: Annotated[int, typer.Option(help="Version of ONNX's operators.")] = 18,
    user_object: UserObjects = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a model as ONNX, with a reader that needs NumPy and ONNX Runtime alone. Compares samples of both."""
    from genkit.sampling.exporting import (
        READER,
        check_libraries,
        check_numbers,
        check_path,
        export_model,
    )
    from genkit.sampling.opening import open_model
    from genkit.system.runtime import waiting

    if user_object:
        sys.path.append(os.getcwd())  # its module may be a file of the working folder
    check_libraries()
    check_path(out)
    check_numbers(samples, opset, tolerance)
    controls = parse_overrides(settings or [])
    # While torch traces, what it prints itself is dropped: progress keeps the stream of now.
    tell = None if quiet else partial(print, file=sys.stderr, flush=True)
    with waiting(f"{model} is exported, and {samples:,} samples are compared", tell):
        opened_model = open_model(model, "cpu", user_objects=user_object or ())
        exported_model = export_model(
            opened_model, controls, label, samples, seed, opset, tolerance
        )
    report = exported_model.to_json()
    about, parity = report["about"], exported_model.parity
    if as_json:
        print_json({"path": str(out), **report})
    else:
        times = f"genkit {parity.genkit_seconds:.2f}, the reader {parity.reader_seconds:.2f}"
        lines = {
            "inputs": ", ".join(about["inputs"]),
            "outputs": ", ".join(about["outputs"]),
            "controls": _listed(about["controls"]),
            "fixed controls": _listed(about["fixed"]),
            "parity": parity,
            "seconds": times,
        }
        print_lines((name, text) for name, text in lines.items() if text)
    exported_model.save(out)
    if not as_json:
        print_lines(
            [("written", f"{out} ({report['bytes'] / 2**20:.1f} MiB), {out.with_name(READER)}")]
        )


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} = {'none' if value is None else value}" for name, value in values.items()
    )
