"""Everything that genkit raises on purpose.

    GenkitError                    exit code 1
    ├─ UserError                   exit code 2: something the user can mend; one sentence, no traceback
    │  ├─ ConfigError              an unknown or impossible setting
    │  ├─ DataError                data that cannot be trained on
    │  ├─ RunError                 a run folder that is taken, locked, changed or not a run
    │  ├─ ModelError               a model folder that is missing, foreign, damaged or unsafe
    │  └─ UnknownModality          no installed plugin provides it
    ├─ PluginError                 a plugin that fails; names the plugin, its version and the call
    ├─ StorageError                a disk that does not take what must be written
    ├─ NativePartMissing           (in genkit.kit.compat) what only a compiled library could do
    ├─ TrainingError               a game that cannot go on
    └─ Interrupted                 stopped by Ctrl-C (exit code 130) or SIGTERM (143), with everything saved

Knows nothing else of the house. A message says what was found, what was allowed and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable


class GenkitError(Exception):
    """Base of all errors that genkit raises on purpose."""

    exit_code = 1


class UserError(GenkitError):
    """Something the user can mend."""

    exit_code = 2


class ConfigError(UserError):
    """A setting that does not exist, or a value that it cannot take."""


class DataError(UserError):
    """Data that cannot be read or trained on."""


class RunError(UserError):
    """A run folder that is taken, locked, of another configuration, or not a run folder."""


class ModelError(UserError):
    """A model folder that is missing, foreign, damaged or unsafe."""


class UnknownModality(UserError):
    """A modality that no installed plugin provides."""


class PluginError(GenkitError):
    """A plugin that fails.

    Args:
        plugin: who failed, as `distribution version (id)`.
        call: what was asked of it.
        reason: what it answered.
        closer: the command that looks closer, where there is one.
    """

    def __init__(self, plugin: str, call: str, reason: str, closer: str = "") -> None:
        super().__init__(
            f"plugin {plugin} failed at {call}: {reason}{f' (`{closer}` tells more)' if closer else ''}"
        )
        self.plugin, self.call, self.reason = plugin, call, reason


class StorageError(GenkitError):
    """The disk does not take what must be written; what was there before is whole."""


class TrainingError(GenkitError):
    """A game that cannot go on; the last whole checkpoint is kept."""


class Interrupted(GenkitError):
    """Training was stopped from outside; everything is saved.

    Args:
        message: what was saved and how to go on.
        exit_code: 130 after Ctrl-C (SIGINT), 143 after SIGTERM.
    """

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


SYNONYMS = {"discriminators": "critics", "discriminator": "critic", "lr": "learning_rate"}
"""Words of other toolkits, and ours."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """A hint for a misspelt name: ` Did you mean 'x'?`, or the allowed names, or nothing where there are none."""
    import difflib

    names = sorted(allowed)
    for usual, ours in SYNONYMS.items():
        if usual in word and (match := word.replace(usual, ours)) in names:
            return f" Did you mean {match!r}?"
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Allowed: {', '.join(names)}." if names else ""


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says, with the next one where that ends in a colon."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    said = " ".join(lines[:2] if lines[0].endswith(":") else lines[:1]) if lines else ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
