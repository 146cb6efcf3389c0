"""The command line `genkit`. Together with `genkit.kit.program` the only code that prints or exits.

    models      train, generate, info, explain, data check
    plugins     plugins list, show, doctor, disable, enable, new, check
    progress    the progress of a training in the terminal

Results go to standard output; progress, notes and errors to standard error. Exit codes: 0 success, 2 an error that the
user can correct, 1 any other error, 130 after Ctrl-C, 143 after SIGTERM. Each command imports what it needs when it
runs: `--help` and `plugins list` never import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from genkit.cli import models, plugins
from genkit.kit.program import Command, group, run

__all__ = ["app", "main"]

app = group("Train and sample adversarial generators of any medium.")
for command in (models.train, models.generate, models.info, models.explain):
    app.command(cls=Command)(command)
app.add_typer(plugins.app, name="plugins")
app.add_typer(models.data_app, name="data")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        arguments: the words after `genkit`; None: those of this process.
    """
    run(app, "genkit", arguments)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from genkit.discovery.registry import core_version

        print(f"genkit-gan {core_version()}")
        raise typer.Exit
