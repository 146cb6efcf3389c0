"""`python -m genkit_video`: what a model of clips is worth, from the command line.

Results go to standard output, what is being done and errors to standard error. Exit codes are those of `genkit`.
Imports what a command needs when it runs: `--help` never imports torch.
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

app = group("Tell what models of clips are worth, beside real clips.")


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
        int, typer.Option("-n", "--samples", help="How many are drawn, and how many real ones.")
    ] = 200,
    embedder: Annotated[
        str,
        typer.Option(
            help="Whose Frechet distance is told: small (trained here), none, or module:function."
        ),
    ] = "small",
    i3d: Annotated[
        Path | None, typer.Option(help="A TorchScript file of I3D, for FVD; -n 2048 then.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the samples, and of the real clips.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """How clips move, how far they are from real ones, and on builtin:moving whether they obey its rule."""
    from genkit.kit.program import parse_overrides

    sys.path.append(
        os.getcwd()
    )  # for `module:function` of a file that lies here; behind everything installed
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
    names = dict.fromkeys(name for row in rows.values() for name in row)
    print_table(
        ("", *(name.upper() for name in rows)),
        [(name, *(_short(row.get(name)) for row in rows.values())) for name in names],
    )


def _short(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    main()
