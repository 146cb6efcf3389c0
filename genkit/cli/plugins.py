"""The commands `genkit plugins ...`: installed plugins, and tools for authors of plugins."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Annotated

import typer

from genkit.errors import ConfigError, did_you_mean
from genkit.kit.program import Command, group, print_table

app = group("Installed plugins, and tools to write one.")


@app.command("list", cls=Command)
def plugins_list(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List all plugins, each with the reason if it cannot be used."""
    from genkit.discovery import selection
    from genkit.discovery.registry import probed, project_distributions, rows_as_json

    rows = probed()
    for complaint in selection.complaints([row.name for row in rows]):
        print(f"note: {complaint}", file=sys.stderr)
    if as_json:
        print(rows_as_json(rows))
    elif not rows:
        print(
            f"No plugins are installed: pip install {' '.join(project_distributions().values())}",
            file=sys.stderr,
        )
    else:
        print_table(
            ("ID", "DISTRIBUTION", "VERSION", "STATUS", "REASON"),
            ((row.id, row.distribution, row.version, row.status, row.reason) for row in rows),
        )


@app.command("doctor", cls=Command)
def plugins_doctor(
    name: Annotated[
        str | None, typer.Argument(help="A plugin: ID, DISTRIBUTION or DISTRIBUTION:ID.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Examine the installation and all plugins, or one plugin. Exit code 1 if there is a fault."""
    from genkit.discovery.doctor import examine

    findings = examine(name)
    if as_json:
        print(
            json.dumps(
                {"schema": 1, "findings": [asdict(finding) for finding in findings]}, indent=2
            )
        )
    else:
        print_table(("SUBJECT", "CHECK", "STATUS", "MESSAGE"), map(astuple, findings))
    if any(finding.status == "fault" for finding in findings):
        raise typer.Exit(1)


@app.command("disable", cls=Command)
def plugins_disable(
    name: Annotated[str, typer.Argument(help="ID, DISTRIBUTION or DISTRIBUTION:ID.")],
) -> None:
    """Disable a plugin for this user, until it is enabled again."""
    from genkit.discovery import registry

    _print_change("disabled", registry.disable(name))


@app.command("enable", cls=Command)
def plugins_enable(
    name: Annotated[str, typer.Argument(help="ID, DISTRIBUTION or DISTRIBUTION:ID.")],
) -> None:
    """Enable a disabled plugin."""
    from genkit.discovery import registry, selection

    names = selection.enable(name)
    if not names:
        registry.rows_named(name)  # raises if no plugin has this name
    _print_change("enabled", names)


def _print_change(word: str, names: Sequence[str]) -> None:
    from genkit.discovery.selection import ALLOWED, allowed

    print(f"{word}: {', '.join(names) or 'nothing, it was not disabled'}")
    if allowed() is not None:
        print(f"note: {ALLOWED} is set and decides alone until it is unset", file=sys.stderr)


@app.command("show", cls=Command)
def plugins_show(
    id: Annotated[str, typer.Argument(help="A modality: see `genkit plugins list`.")],
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a reference page in Markdown.")
    ] = False,
) -> None:
    """Show a modality's presets, options and controls."""
    from genkit.discovery import registry

    manifest = registry.describe(id)
    if as_markdown:
        from genkit.discovery.reference import markdown

        print(markdown(manifest), end="")
        return
    print(f"{manifest.title}: {registry.origin(manifest)}\n{manifest.summary}")
    previews = ", ".join(manifest.preview_formats)
    print(
        f"writes {', '.join(manifest.formats)}; {f'previews as {previews}' if previews else 'no previews'}"
    )
    print(f"default data: {manifest.data or 'none'}")
    print(f"models that ship with it: {', '.join(manifest.models) or 'none'}\n\npresets:")
    for name, preset in manifest.presets.items():
        print(f"  {name:<18}{preset.summary}")
    for part in ("options", "controls"):
        cls = registry.named_class(manifest, part)
        fields = {} if cls is None else cls.model_fields
        if fields:
            print(f"\n{part}:")
        for name, field in fields.items():
            meaning = " ".join((field.description or "").split())
            print(
                f"  {name:<18}{meaning} [default: {field.get_default(call_default_factory=True)}]"
            )


@app.command("new", cls=Command)
def plugins_new(
    id: Annotated[
        str,
        typer.Argument(metavar="NAME", help="The modality's id, which users type, such as waves."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The folder of the package [default: NAME-gan].")
    ] = None,
) -> None:
    """Write the package of a new modality. It is complete, installable and ready to train."""
    import shlex

    from genkit.discovery.scaffold import new_plugin

    folder = shlex.quote(str(new_plugin(id, out)))
    print(f"{folder} is a complete package. Next:\n")
    print(f"  cd {folder}")
    print("  pip install -e '.[test]'")
    print("  pytest")
    print(f"  genkit train {id} --out runs/{id}")


@app.command("check", cls=Command)
def plugins_check(
    modality: Annotated[str, typer.Argument(help="A modality, or module:attribute of a manifest.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings as PATH=VALUE that make it small and quick: options.size=16 recipe.loss=hinge ..."
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A preset [default: the first].")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Training data: a path, or builtin:NAME [default: the modality's]."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Print the traceback of each failed check.")
    ] = False,
) -> None:
    """Check that a modality keeps the contract. Trains it for a few seconds. Exit code 1 if it does not."""
    from genkit.config import parse_overrides
    from genkit.testing.conformance import check_modality

    sys.path.append(os.getcwd())  # `module:attribute` may name a file of the working folder
    overrides = parse_overrides(settings or [])
    for key in overrides:
        if key not in ("options", "recipe"):
            raise ConfigError(
                f"{key}: no such setting of a check.{did_you_mean(key, ('options', 'recipe'))}"
            )
    report = check_modality(modality, preset, data, **overrides)
    print(json.dumps(report.to_json(), indent=2) if as_json else report)
    for result in report.results if verbose else ():
        if result.status == "failed" and result.error is not None:
            print(
                f"\n{result.name}:",
                *traceback.format_exception(result.error),
                sep="\n",
                file=sys.stderr,
            )
    if not report.ok:
        raise typer.Exit(1)
