"""Command lines: genkit's own, and those of plugins, `python -m PACKAGE`. Imports no torch.

Use it for commands that only one modality needs, such as an evaluation:

    app = group("Evaluate models of sounds.")

    @app.command(cls=Command)
    def judge(model: str, device: Device = "auto", quiet: Quiet = False) -> None:
        teller(quiet)(f"reading {model}")
        print_lines([("model", model)])

    if __name__ == "__main__":
        run(app, "python -m genkit_sounds")

Options, errors, exit codes and `--help` are then those of `genkit`.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from genkit.discovery.selection import strict
from genkit.errors import GenkitError, Interrupted, PluginError
from genkit.plugin import Modality

__all__ = [
    "AsJson", "Command", "Commands", "Device", "Quiet", "controls", "group", "parse_overrides", "print_json",
    "print_lines", "print_table", "run", "teller",
]  # fmt: skip

Device = Annotated[str, typer.Option(help="auto (cuda, else mps, else cpu), cpu, cuda, cuda:1 ...")]
"""The type of a parameter that becomes the option --device; `genkit.load` takes its value."""

AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]
"""The type of a parameter that becomes the flag --json."""

Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors and results only.")]
"""The type of a parameter that becomes the flag --quiet, -q; see `teller`."""


class _QuickHelp:
    """Sets the default of --help to False instead of None.

    For None typer loads pydantic's type adapters, which doubles the time that a command takes to start.
    """

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.default = False
        return option


class Command(_QuickHelp, TyperCommand):
    """The class of a command: `@app.command(cls=Command)`."""


class Commands(_QuickHelp, TyperGroup):
    """The class of a group of commands, which `group` uses: after Ctrl-C `run` exits with 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted("stopped", getattr(error, "exit_code", 130)) from None


def _print_anything() -> None:
    """Let standard output and error take any text: file names that are no text as their bytes, the rest escaped."""
    codecs.register_error("genkit", _encode_oddities)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="genkit")


def _encode_oddities(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of `codecs`: one character as the byte that it stands for in a file name, or escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    code = ord(error.object[error.start])
    if 0xDC80 <= code <= 0xDCFF:  # what Python makes of a byte that is no text (PEP 383)
        return bytes([code - 0xDC00]), error.start + 1
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}", error.start + 1


class _Terminated(KeyboardInterrupt):
    """A signal other than Ctrl-C asked the process to end."""

    exit_code = 143


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A context in which SIGTERM and SIGHUP stop a command as Ctrl-C does: files in work are finished or removed.

    A command may set handlers of its own meanwhile; a signal that is ignored already stays ignored.
    """

    def end(number: int, frame: object) -> None:
        error = _Terminated()
        error.exit_code = 128 + number
        raise error

    numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    for number in numbers:
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            if number is not None and signal.getsignal(number) == end:
                signal.signal(number, signal.SIG_DFL)


def group(help: str) -> typer.Typer:
    """A typer application without commands; add them with `@app.command(cls=Command)`.

    Args:
        help: what the program does, in one line for --help.
    """
    app = typer.Typer(
        cls=Commands, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
        help=help,
    )  # fmt: skip
    app.callback()(lambda: None)  # else a single command of typer is not a subcommand
    return app


def run(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> None:
    """Run a command line. A `GenkitError` is printed to standard error as `name: message`, and the process exits.

    With -v or --verbose among the arguments its traceback is printed too. Exit codes: 0 success; the error's
    `exit_code` (2 for one that the user can correct, 1, or 130 after Ctrl-C); 1 if standard output is closed early.

    Args:
        app: of `group`.
        name: of the program, for messages.
        arguments: the words behind the name; None: those of this process.

    Raises:
        SystemExit: always, with the exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _print_anything()
    try:
        with _ended_by_signals():
            app(words)
    except GenkitError as error:
        if {"-v", "--verbose"} & set(words) or (strict() and isinstance(error, PluginError)):
            import traceback

            traceback.print_exc()
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `| head`, say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Parse settings of a command line: `["temperature=0.8", "options.size=64"]` -> nested dicts; values are YAML.

    Raises:
        ConfigError: for a word that is not `path=value`, or whose value is not YAML.
    """
    from genkit import config  # a slow import, which --help does not need

    return config.parse_overrides(words)


def controls(modality: Modality, values: Mapping[str, Any]) -> Any:
    """An instance of a modality's controls; None for a modality without controls.

    Args:
        modality: the manifest.
        values: values of controls by name; the others have their defaults.

    Raises:
        ConfigError: for an unknown control or an invalid value.
    """
    from genkit import config

    return config.controls(modality, values)


def teller(quiet: bool) -> Callable[[str], None]:
    """A function that prints a line of progress to standard error; it prints nothing if `quiet`."""
    return lambda line: None if quiet else print(line, file=sys.stderr, flush=True)


def print_json(data: Any) -> None:
    """Print data as strict JSON.

    Raises:
        ValueError: for a number that is not finite.
        TypeError: for anything that is not JSON data.
    """
    import json

    print(json.dumps(data, indent=1, allow_nan=False))


def print_lines(lines: Iterable[tuple[str, Any]]) -> None:
    """Print `key: value` lines with aligned values; unprintable characters (terminal commands, say) become `?`."""
    for key, value in lines:
        line = f"{key + ':':<23} {value}"
        print("".join(character if character.isprintable() else "?" for character in line))


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns.

    Args:
        head: titles of the columns.
        rows: cells of each row, as many as there are titles.
    """
    table = [head, *rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(head) - 1)]
    for line in table:
        cells = [*(word.ljust(width) for word, width in zip(line, widths, strict=False)), line[-1]]
        print("  ".join(cells).rstrip())
