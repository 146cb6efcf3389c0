"""Command line of the audio plugin: `python -m genkit_audio evaluate` compares a model's sounds with real ones.

Results go to standard output, progress and errors to standard error. Exit codes are those of `genkit`.
What a command needs is imported when it runs, so that `--help` never imports torch.
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

app = group("Evaluate models of sounds.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit."""
    run(app, "genkit_audio", arguments)


@app.command(cls=Command)
def evaluate(
    model: Annotated[Path, typer.Argument(help="A run folder or a model folder.")],
    data: Annotated[
        str, typer.Option(metavar="SRC", help="Real sounds: a path, or builtin:drums.")
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Controls of the samples: seconds=1 ...")
    ] = None,
    samples: Annotated[
        int, typer.Option("-n", "--samples", help="Largest number of sounds in each row.")
    ] = 200,
    embedder: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION", help="Your own feature network: (x [N, n], rate) -> [N, D]."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples and of the noise row.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Distance to real sounds; shares of silence, clipping and copies; with real sounds and noise for comparison."""
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
    header = ["", *rows["model"]]
    print_table(
        header, [[name, *(f"{value:.4f}" for value in row.values())] for name, row in rows.items()]
    )


if __name__ == "__main__":
    main()
