"""The exceptions that genkit raises on purpose.

    GenkitError                    exit code 1
    ├─ UserError                   exit code 2: something the user can correct; one sentence, no traceback
    │  ├─ ConfigError              a setting that does not exist, or a value that it cannot take
    │  ├─ DataError                data that cannot be read or trained on
    │  ├─ RunError                 a run folder that is in use, of another configuration, or not a run folder
    │  ├─ ModelError               a model folder that is missing, not genkit's, damaged or unsafe
    │  ├─ UnknownModality          no installed plugin provides the modality
    │  └─ RequestRefused           (in genkit.serving) a request that a server finds wrong
    ├─ PluginError                 a plugin that fails; names the plugin, its version and the call
    ├─ StorageError                a file or folder that cannot be written
    ├─ NativePartMissing           (in genkit.kit.compat) a function whose compiled library cannot be used here
    ├─ ServerError                 (in genkit.serving) a server that failed, or could not be reached
    ├─ TrainingError               training that cannot continue
    └─ Interrupted                 stopped by Ctrl-C (exit code 130) or another of STOPS; training has saved everything

A message says what was found, what is allowed and what to do. This module imports nothing else of genkit.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable

STOPS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
]
"""Signals that ask to save and stop: Ctrl-C, `kill`, a closed terminal, a job's time limit; Windows has two."""


class GenkitError(Exception):
    """Base of all errors that genkit raises on purpose."""

    exit_code = 1


class UserError(GenkitError):
    """Something the user can correct: a setting, a path, the data."""

    exit_code = 2


class ConfigError(UserError):
    """A setting that does not exist, or a value that it cannot take."""


class DataError(UserError):
    """Data that cannot be read or trained on."""


class RunError(UserError):
    """A run folder that is in use, holds a run of another configuration, or is not a run folder."""


class ModelError(UserError):
    """A model folder that is missing, not genkit's, damaged or unsafe."""


class UnknownModality(UserError):
    """A modality that no installed plugin provides."""


class PluginError(GenkitError):
    """A plugin that fails.

    Args:
        plugin: which plugin, as `distribution version (id)`.
        call: the method or step that failed.
        reason: what went wrong.
        command: a command that shows more, if there is one.

    Attributes:
        plugin, call, reason: as given.
    """

    def __init__(self, plugin: str, call: str, reason: str, command: str = "") -> None:
        super().__init__(
            f"plugin {plugin} failed at {call}: {reason}{f' (`{command}` tells more)' if command else ''}"
        )
        self.plugin, self.call, self.reason = plugin, call, reason


class StorageError(GenkitError):
    """A file or folder cannot be written (a full disk, missing permissions); existing files are unchanged."""


class TrainingError(GenkitError):
    """Training cannot continue (a loss that is not finite, say); the last complete checkpoint is kept."""


class Interrupted(GenkitError):
    """A command was stopped by a signal. Training has saved everything before it raises this.

    Args:
        message: what was saved and how to resume.
        exit_code: 128 + the number of the signal: 130 after Ctrl-C (SIGINT), 143 after SIGTERM.
    """

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


SYNONYMS = {"discriminators": "critics", "discriminator": "critic", "lr": "learning_rate"}
"""The field's usual word -> the one that genkit's settings use."""


def did_you_mean(word: str, allowed: Iterable[str], likeness: float = 0.5) -> str:
    """A hint for an unknown name, to append to a message.

    Args:
        word: what the user wrote.
        allowed: the names that exist.
        likeness: from which on a name is close, 0 to 1.

    Returns:
        ` Did you mean 'x'?` if a name is close, or is the name after `SYNONYMS` are replaced; else ` Allowed: a, b.`;
        empty if `allowed` is empty.
    """
    import difflib

    names = sorted(allowed)
    for synonym, name in SYNONYMS.items():
        if synonym in word and (match := word.replace(synonym, name)) in names:
            return f" Did you mean {match!r}?"
    matches = difflib.get_close_matches(word, names, n=1, cutoff=likeness)
    if matches:
        return f" Did you mean {matches[0]!r}?"
    return f" Allowed: {', '.join(names)}." if names else ""


def memory_fault(error: BaseException, call: str) -> GenkitError | None:
    """What to raise for an error that says that memory ran out, as Python, NumPy and torch do; None: for any other.

    Args:
        call: in which it was raised.
    """
    is_torchs = "can't allocate memory" in str(error) and isinstance(error, RuntimeError)
    if not (
        isinstance(error, MemoryError) or is_torchs or type(error).__name__ == "OutOfMemoryError"
    ):
        return None
    return GenkitError(
        f"memory ran out at {call} ({first_line(error)}): take a smaller recipe.batch_size, more parts of a batch "
        "(recipe.gradient_accumulation), or smaller networks"
    )


def first_line(error: BaseException) -> str:
    """`Type: message` with the first line of an exception's message, and the second if the first ends in a colon."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    message = " ".join(lines[:2] if lines[0].endswith(":") else lines[:1]) if lines else ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def reason(error: BaseException) -> str:
    """Why a file could not be read, in at most 120 characters, for `Skipped.reason`."""
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip().partition("\n")[0]
    is_clear = text and isinstance(
        error, GenkitError | OSError | ValueError | RuntimeError | SyntaxError | Warning
    )
    return (text if is_clear else f"damaged: {error!r}")[:120]
