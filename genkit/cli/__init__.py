"""Words to calls. The only room that prints or exits.

    words       what every command is made of, those of plugins too
    models      train, generate, info, data
    plugins     plugins
    progress    what a terminal sees of a training

Results go to standard output; progress, notes and errors to standard error. Exit codes: 0 done, 2 the user's mistake,
1 anything else, 130 after Ctrl-C, 143 after SIGTERM. Imports what a command needs when it runs: `--help` and
`plugins list` never import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from genkit.cli import models, plugins
from genkit.kit.program import Command, group, run

__all__ = ["app", "main"]

app = group("Train and sample adversarial generators of any medium.")
for command in (models.train, models.generate, models.info):
    app.command(cls=Command)(command)
app.add_typer(plugins.app, name="plugins")
app.add_typer(models.data_app, name="data")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit."""
    run(app, "genkit", arguments)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from genkit.discovery.registry import core_version

        print(f"genkit-gan {core_version()}")
        raise typer.Exit
