"""`python -m genkit_audio`: what a model of sounds is worth, from the command line.

Results go to standard output, what is being done and errors to standard error. Exit codes are those of `genkit`.
Imports what a command needs when it runs: `--help` never imports torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from genkit.cli import Command, group
from genkit.errors import GenkitError

app = group("Tell what models of sounds are worth.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit."""
    try:
        app(None if arguments is None else list(arguments), prog_name="python -m genkit_audio")
    except GenkitError as error:
        print(f"genkit_audio: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@app.callback()
def _root() -> None:  # a program of one command would not take its name
    pass


@app.command(cls=Command)
def evaluate(
    model: Annotated[Path, typer.Argument(help="A run folder or a model folder.")],
    data: Annotated[str, typer.Option(metavar="SRC", help="Sounds: a path, or builtin:drums.")],
    settings: Annotated[list[str] | None, typer.Argument(help="Controls of the samples.")] = None,
    samples: Annotated[int, typer.Option("-n", "--samples", help="How many of each row at most.")] = 200,
    embedder: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="Your own: (x [N, n], rate) -> [N, D].")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")] = False,
) -> None:
    """One model: distances to real sounds, silence, clipping, copies; beside real sounds and noise."""
    from genkit.config import parse_overrides

    controls = parse_overrides(settings or [])
    from genkit import load
    from genkit_audio.judging import evaluate as run

    def tell(doing: str) -> None:
        if not quiet:
            print(doing, file=sys.stderr, flush=True)

    report = run(load(model, device), data, samples, embedder, controls, seed, tell)
    if as_json:
        import json

        print(json.dumps(report, indent=1, allow_nan=False))
        return
    from genkit.cli.words import print_table

    rows = report["rows"]
    head = ["", *rows["model"]]
    print_table(head, [[name, *(f"{value:.4f}" for value in row.values())] for name, row in rows.items()])


if __name__ == "__main__":
    main()
