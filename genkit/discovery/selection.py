"""Which of the installed plugins a user wants: an environment variable, else one small file.

    GENKIT_PLUGINS           the plugins that count, separated by commas; empty: none; unset: as the file says
    GENKIT_STRICT_PLUGINS    1: a plugin that is not well is an error, whatever was asked for
    plugins.json             what `genkit plugins disable` has put there

A plugin is named by its id, by its distribution, or in full as `distribution:id`. Knows names alone: no metadata, and
no plugin.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from genkit.errors import ConfigError, first_line
from genkit.system.files import make_folder, settings_folder, write_whole

ALLOWED = "GENKIT_PLUGINS"
STRICT = "GENKIT_STRICT_PLUGINS"


def canonical(distribution: str) -> str:
    """A distribution's one name, however it is spelled (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def matches(name: str, full: str) -> bool:
    """Whether a name means the plugin `full`, or several of which it is one."""
    home, _, id = full.partition(":")
    given, colon, given_id = name.partition(":")
    return (
        (canonical(given), given_id) == (home, id)
        if colon
        else name == id or canonical(name) == home
    )


def strict() -> bool:
    """Whether every plugin has to be well."""
    return os.environ.get(STRICT, "") not in ("", "0")


def allowed() -> tuple[str, ...] | None:
    """The names in the environment variable, which then decide alone; None where it is not set."""
    listed = os.environ.get(ALLOWED)
    return (
        None
        if listed is None
        else tuple(name.strip() for name in listed.split(",") if name.strip())
    )


def refused(full: Sequence[str]) -> dict[str, str]:
    """Of these plugins the ones that the user does not want, each with what brings it back."""
    listed = allowed()
    if listed is not None:
        why = f"it is disabled: {ALLOWED} does not name it"
        return {name: why for name in full if not any(matches(entry, name) for entry in listed)}
    disabled, _ = _read()
    return {
        name: f"it is disabled: genkit plugins enable {name}" for name in full if name in disabled
    }


def disable(full: Iterable[str]) -> None:
    """Leave plugins out from now on, for this user.

    Raises:
        ConfigError: if the file is damaged.
        StorageError: if it cannot be written.
    """
    _write(_readable() | set(full))


def enable(name: str) -> list[str]:
    """Take back what was disabled under a name, installed or not, and say what that was.

    Raises:
        ConfigError, StorageError: as `disable`.
    """
    disabled = _readable()
    back = {full for full in disabled if matches(name, full)}
    if back:
        _write(disabled - back)
    return sorted(back)


def complaints(full: Sequence[str]) -> list[str]:
    """What of the user's choice has no effect on these plugins, in a sentence each."""
    idle = [entry for entry in allowed() or () if not any(matches(entry, name) for name in full)]
    said = [f"{ALLOWED} names {entry!r}, which is no installed plugin" for entry in idle]
    _, damage = _read()
    return [*said, damage] if damage else said


def _path() -> Path:
    """The user's file."""
    return settings_folder() / "plugins.json"


def _read() -> tuple[frozenset[str], str]:
    """The full names in the file, and what is wrong with it."""
    path = _path()
    try:
        names = json.loads(path.read_bytes())["disabled"]
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise TypeError("`disabled` is not a list of names")
        return frozenset(names), ""
    except FileNotFoundError:
        return frozenset(), ""
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        return (
            frozenset(),
            f"{path} cannot be read and disables nothing ({first_line(error)}): delete it",
        )


def _readable() -> frozenset[str]:
    names, damage = _read()
    if damage:
        raise ConfigError(damage)
    return names


def _write(names: Iterable[str]) -> None:
    make_folder(_path().parent)
    write_whole(_path(), (json.dumps({"disabled": sorted(names)}, indent=2) + "\n").encode())
