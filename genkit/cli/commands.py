"""All commands of `genkit`, as one application."""

from __future__ import annotations

from typing import Annotated

import typer

from genkit.cli import (
    distilling,
    evaluation,
    export,
    generating,
    models,
    plugins,
    projecting,
    sharing,
)
from genkit.cli.serve import serve
from genkit.kit.program import Command, group

app = group("Train and sample adversarial generators of any medium.")
commands = (models.train, generating.generate, evaluation.evaluate, models.info, models.explain)
for command in (
    *commands,
    distilling.distill,
    projecting.project,
    export.export,
    serve,
    sharing.models,
    sharing.card,
    sharing.copy,
    sharing.push,
):
    app.command(cls=Command)(command)
app.add_typer(plugins.app, name="plugins")
app.add_typer(models.data_app, name="data")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from genkit.discovery.registry import core_version

        print(f"genkit-gan {core_version()}")
        raise typer.Exit
