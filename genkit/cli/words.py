"""What every command is made of: its class, groups of commands, how lines and tables are printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from genkit.errors import Interrupted


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
    return typer.Typer(
        cls=Commands, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
        help=help,
    )  # fmt: skip


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
