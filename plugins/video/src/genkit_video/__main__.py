"""Command line of the video plugin: `python -m genkit_video evaluate` compares a model's clips with real ones.

Results go to standard output, progress and errors to standard error. Exit codes are those of `genkit`.
What a command needs is imported when it runs, so that `--help` never imports torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from genkit.kit.program import (
    AsJson,
    Command,
    Device,
    Quiet,
    group,
    print_json,
    print_table,
    run,
    teller,
)

app = group("Evaluate models of clips.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit."""
    run(app, "genkit_video", arguments)


@app.command(cls=Command)
def evaluate(
    model: Annotated[Path, typer.Argument(help="A run folder or a model folder.")],
    data: Annotated[
        str, typer.Option(metavar="SRC", help="Real clips: a path, or builtin:moving.")
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Controls of the samples: seconds=4 ...")
    ] = None,
    samples: Annotated[
        int,
        typer.Option("-n", "--samples", help="Number of generated clips, and of real ones."),
    ] = 200,
    embedder: Annotated[
        str,
        typer.Option(
            help="Network of the Frechet distance: small (trained here), none, or your own module:function."
        ),
    ] = "small",
    i3d: Annotated[
        Path | None,
        typer.Option(help="A TorchScript file of I3D, for FVD, which needs -n 2048 or more."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples and of the real clips.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """How clips move, how far they are from real ones, and for builtin:moving how well they keep its rule of motion."""
    from genkit.kit.program import parse_overrides

    # So that `module:function` can be in a file of this folder; last, after all installed packages.
    sys.path.append(os.getcwd())
    controls = parse_overrides(settings or [])
    from genkit import load
    from genkit_video import judging

    report = judging.evaluate(
        load(model, device), data, samples, embedder, i3d, controls, seed, teller(quiet)
    )
    if as_json:
        print_json(report)
    else:
        _print_rows(report["rows"])
        if report["embedder"]:
            print(f"The Frechet distance is by {report['embedder']['name']}.")


def _print_rows(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a table with a column for each set of clips and a line for each number."""
    names = dict.fromkeys(name for row in rows.values() for name in row)
    print_table(
        ("", *(name.upper() for name in rows)),
        [(name, *(_format(row.get(name)) for row in rows.values())) for name in names],
    )


def _format(value: Any) -> str:
    """A number with four digits, "-" for None."""
    return "-" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    main()
