"""Which installed plugins the user has enabled: an environment variable decides, else a file.

    GENKIT_PLUGINS           the enabled plugins, separated by commas; empty: none; unset: the file decides
    GENKIT_STRICT_PLUGINS    1: any plugin that is neither ok nor disabled is an error
    plugins.json             the plugins that `genkit plugins disable` has disabled

A plugin is named by its id, by its distribution, or in full as `distribution:id`. This module compares names only; it
reads no metadata and imports no plugin.
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
"""Environment variable: the enabled plugins."""

STRICT = "GENKIT_STRICT_PLUGINS"
"""Environment variable: whether an unusable plugin is an error."""


def canonical(distribution: str) -> str:
    """The normalised name of a distribution (PEP 503): `Genkit_Gan.Image` -> `genkit-gan-image`."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def matches(name: str, full: str) -> bool:
    """Whether a user's name for plugins includes the plugin `full`.

    Args:
        name: an id, a distribution, or `distribution:id`.
        full: `distribution:id` of one plugin, normalised.
    """
    home, _, id = full.partition(":")
    name_home, colon, name_id = name.partition(":")
    return (
        (canonical(name_home), name_id) == (home, id)
        if colon
        else name == id or canonical(name) == home
    )


def strict() -> bool:
    """Whether GENKIT_STRICT_PLUGINS is set, so that any unusable plugin is an error."""
    return os.environ.get(STRICT, "") not in ("", "0")


def allowed() -> tuple[str, ...] | None:
    """The names in GENKIT_PLUGINS; None if it is not set, so that the file decides."""
    variable = os.environ.get(ALLOWED)
    return (
        None
        if variable is None
        else tuple(name.strip() for name in variable.split(",") if name.strip())
    )


def disabled_reasons(full: Sequence[str]) -> dict[str, str]:
    """The disabled ones of some plugins, each with a sentence that says why, or how to enable it.

    Args:
        full: `distribution:id` of each plugin.
    """
    names = allowed()
    if names is not None:
        reason = f"it is disabled: {ALLOWED} does not name it"
        return {name: reason for name in full if not any(matches(entry, name) for entry in names)}
    disabled, _ = _read()
    return {
        name: f"it is disabled: genkit plugins enable {name}" for name in full if name in disabled
    }


def disable(full: Iterable[str]) -> None:
    """Disable plugins for this user.

    Args:
        full: `distribution:id` of each plugin.

    Raises:
        ConfigError: if the user's file is damaged.
        StorageError: if it cannot be written.
    """
    _write(_readable() | set(full))


def enable(name: str) -> list[str]:
    """Enable the disabled plugins that a name means, installed or not.

    Args:
        name: an id, a distribution, or `distribution:id`.

    Returns:
        `distribution:id` of each plugin that was disabled, sorted.

    Raises:
        ConfigError: if the user's file is damaged.
        StorageError: if it cannot be written.
    """
    disabled = _readable()
    names = {full for full in disabled if matches(name, full)}
    if names:
        _write(disabled - names)
    return sorted(names)


def complaints(full: Sequence[str]) -> list[str]:
    """Entries of the user's selection that have no effect on the installed plugins, a sentence each.

    Args:
        full: `distribution:id` of each installed plugin.
    """
    entries = [entry for entry in allowed() or () if not any(matches(entry, name) for name in full)]
    lines = [f"{ALLOWED} names {entry!r}, which is no installed plugin" for entry in entries]
    _, damage = _read()
    return [*lines, damage] if damage else lines


def _path() -> Path:
    """The user's file of disabled plugins."""
    return settings_folder() / "plugins.json"


def _read() -> tuple[frozenset[str], str]:
    """The disabled plugins in the user's file, and what is wrong with the file; empty if nothing is."""
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
    """The disabled plugins in the user's file.

    Raises:
        ConfigError: if the file is damaged.
    """
    names, damage = _read()
    if damage:
        raise ConfigError(damage)
    return names


def _write(names: Iterable[str]) -> None:
    make_folder(_path().parent)
    write_whole(_path(), (json.dumps({"disabled": sorted(names)}, indent=2) + "\n").encode())
