"""`python -m genkit_audio`: what a model of sounds is worth, from the command line.

Results go to standard output, what is being done and errors to standard error. Exit codes are those of `genkit`.
Imports what a command needs when it runs: `--help` never imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

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

app = group("Tell what models of sounds are worth.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit."""
    run(app, "genkit_audio", arguments)


@app.command(cls=Command)
def evaluate(
    model: Annotated[Path, typer.Argument(help="A run folder or a model folder.")],
    data: Annotated[str, typer.Option(metavar="SRC", help="Sounds: a path, or builtin:drums.")],
    settings: Annotated[list[str] | None, typer.Argument(help="Controls of the samples.")] = None,
    samples: Annotated[
        int, typer.Option("-n", "--samples", help="How many of each row at most.")
    ] = 200,
    embedder: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FUNCTION", help="Your own: (x [N, n], rate) -> [N, D]."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """One model: distances to real sounds, silence, clipping, copies; beside real sounds and noise."""
    from genkit.kit.program import parse_overrides

    controls = parse_overrides(settings or [])
    from genkit import load
    from genkit_audio import judging

    report = judging.evaluate(
        load(model, device), data, samples, embedder, controls, seed, teller(quiet)
    )
    if as_json:
        print_json(report)
        return
    rows = report["rows"]
    head = ["", *rows["model"]]
    print_table(
        head, [[name, *(f"{value:.4f}" for value in row.values())] for name, row in rows.items()]
    )


if __name__ == "__main__":
    main()
