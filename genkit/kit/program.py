"""Command lines: genkit's own, and those of plugins, `python -m PACKAGE`. Imports no torch.

Use it for commands that only one modality needs, such as one that makes data:

    app = group("Collections of sounds.")

    @app.command(cls=Command)
    def gather(folder: str, quiet: Quiet = False) -> None:
        teller(quiet)(f"reading {folder}")
        print_lines([("folder", folder)])

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
from genkit.errors import STOPS, ConfigError, GenkitError, Interrupted, PluginError, StorageError
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

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        with _told_as_error():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: Any) -> Any:
        with _told_as_error():
            return super().invoke(ctx)


@contextlib.contextmanager
def _told_as_error() -> Iterator[None]:
    """A context in which Ctrl-C and the signals of `STOPS` become `Interrupted`, of which `run` tells the exit code."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted("stopped", getattr(error, "exit_code", 130)) from None


class _Results(io.FileIO):
    """Standard output. A full disk is an error that `run` tells; of a reader that leaves early, typer takes care."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StorageError(f"cannot write to standard output: {error.strerror}") from error


class _Notes(io.FileIO):
    """Standard error. What it cannot take is lost: no note is worth the work that it tells of."""

    def write(self, content: Any, /) -> int:
        with contextlib.suppress(OSError):
            super().write(content)
        return memoryview(content).nbytes


def _prepare_streams() -> None:
    """Let standard output and error take any text, and no fault of standard error stop a command.

    File names that are no text are printed as their bytes, other characters that the encoding lacks are escaped.
    """
    codecs.register_error("genkit", _encode_oddities)
    for number, name, kind in ((1, "stdout", _Results), (2, "stderr", _Notes)):
        if (
            getattr(sys, name) is None
        ):  # closed: its number is taken, lest a file of the command gets it
            null = os.open(os.devnull, os.O_WRONLY)
            while null < number:
                null = os.dup(null)
            setattr(sys, name, io.TextIOWrapper(io.FileIO(null, "w", closefd=False)))
        stream = getattr(sys, name)
        buffer = getattr(stream, "buffer", None)
        is_own = stream is getattr(sys, f"__{name}__")
        if is_own and type(getattr(buffer, "raw", buffer)) is io.FileIO:
            file: Any = kind(stream.fileno(), "w", closefd=False)
            file = io.BufferedWriter(file) if hasattr(buffer, "raw") else file
            line_buffering, write_through = stream.line_buffering, stream.write_through
            stream.flush()
            stream = io.TextIOWrapper(
                file, stream.encoding, stream.errors,
                line_buffering=line_buffering, write_through=write_through,
            )  # fmt: skip
            setattr(sys, name, stream)
        if getattr(stream, "errors", "") in ("strict", "surrogateescape"):
            stream.reconfigure(errors="genkit")


def _encode_oddities(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of `codecs`: one character as the byte that it stands for in a file name, or escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    code = ord(error.object[error.start])
    if 0xDC80 <= code <= 0xDCFF:  # what Python makes of a byte that is no text (PEP 383)
        return bytes([code - 0xDC00]), error.start + 1
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}", error.start + 1


def _check_folder() -> None:
    """Raise ConfigError if the working folder is gone: paths mean nothing there, and torch would end the process."""
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError(
            f"the working folder cannot be used ({error.strerror}): change into another one"
        ) from error


class _Terminated(KeyboardInterrupt):
    """A signal asked the process to end.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A context in which the signals of `STOPS` stop a command: files in work are finished or removed.

    A command may set handlers of its own meanwhile; a signal that is ignored already stays ignored.
    """

    def end(number: int, frame: object) -> None:
        raise _Terminated(number)

    is_main_thread = threading.current_thread() is threading.main_thread()
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    previous = {number: signal.getsignal(number) for number in STOPS if is_main_thread}
    for number, handler in previous.items():
        if handler in defaults:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in previous.items():
            if signal.getsignal(number) == end:
                signal.signal(number, handler)


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
    `exit_code` (2 for one that the user can correct, 1, or 130 after Ctrl-C); 1 if standard output is closed early or
    cannot be written, or for another error of the system. What standard error cannot take is lost, and stops nothing.

    Args:
        app: of `group`.
        name: of the program, for messages.
        arguments: the words behind the name; None: those of this process.

    Raises:
        SystemExit: always, with the exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _prepare_streams()
    code: Any = 0
    fault: Exception | None = None
    try:
        with _told_as_error(), _ended_by_signals():
            _check_folder()
            app(words)
    except SystemExit as end:
        code = end.code
    except (GenkitError, OSError) as error:
        code, fault = getattr(error, "exit_code", 1), error
    try:
        sys.stdout.flush()
    except (StorageError, BrokenPipeError) as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code, fault = 1, fault or error
    if fault is not None and not isinstance(fault, BrokenPipeError):  # of `| head`, say
        if {"-v", "--verbose"} & set(words) or (strict() and isinstance(fault, PluginError)):
            import traceback

            traceback.print_exception(fault)
        print(f"{name}: {fault}", file=sys.stderr)
    sys.exit(code)


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
