"""What every command is made of, ours and those of plugins: its class, its group, its words, how it ends.

A plugin's own program, `python -m PACKAGE`, is a `group` of commands and a `main` that calls `run`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from genkit.discovery.selection import strict
from genkit.errors import GenkitError, Interrupted, PluginError
from genkit.plugin import Modality

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps ...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")]


class _QuickHelp:
    """A --help option that is False, not None, when it is not given: only for None does typer load pydantic's type
    adapters, which would cost every command as much time again as its own start."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.default = False
        return option


class Command(_QuickHelp, TyperCommand):
    """One command, of ours or of a plugin's own program."""


class Commands(_QuickHelp, TyperGroup):
    """Several; Ctrl-C ends them as it ends `genkit`."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("stopped") from None


def group(help: str) -> typer.Typer:
    """A set of commands."""
    app = typer.Typer(
        cls=Commands, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
        help=help,
    )  # fmt: skip
    app.callback()(lambda: None)  # else typer would make the only command of a group the program
    return app


def run(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit; what went wrong is told in the name of the program."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(words)
    except GenkitError as error:
        if {"-v", "--verbose"} & set(words) or (strict() and isinstance(error, PluginError)):
            import traceback

            traceback.print_exc()
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """`["temperature=0.8", "options.size=64"]` as nested mappings; values are read as YAML.

    Raises:
        ConfigError: for a word that is not `path=value`.
    """
    from genkit import config  # takes as long to import as all the rest of a program

    return config.parse_overrides(words)


def controls(modality: Modality, values: Mapping[str, Any]) -> Any:
    """The modality's controls with some values set; None where it has none.

    Raises:
        ConfigError: for a key or a value that it does not take.
    """
    from genkit import config

    return config.controls(modality, values)


def teller(quiet: bool) -> Callable[[str], None]:
    """Tells on standard error what is being done."""
    return lambda doing: None if quiet else print(doing, file=sys.stderr, flush=True)


def print_json(data: Any) -> None:
    """As JSON that any parser takes."""
    import json

    print(json.dumps(data, indent=1, allow_nan=False))


def print_lines(lines: Iterable[tuple[str, Any]]) -> None:
    """Keys beside values; what a terminal might obey is not shown."""
    for key, value in lines:
        line = f"{key + ':':<23} {value}"
        print("".join(character if character.isprintable() else "?" for character in line))


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns under their heads; the last one as wide as it likes."""
    table = [head, *rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(head) - 1)]
    for line in table:
        cells = [*(word.ljust(width) for word, width in zip(line, widths, strict=False)), line[-1]]
        print("  ".join(cells).rstrip())
