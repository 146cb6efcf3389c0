"""Plugins through entry points: found without an import, described without torch, loaded one at a time.

    found       reads package metadata only                `plugins list`, hints in errors
    describe    imports the manifest, no torch             `plugins show`, configuration
    load        imports the plugin's class, and torch      training, sampling

An unusable plugin is a row with a status and a reason. A conflict about an id names both distributions and is never
settled by the order of installation. Where an id is accepted, so is `distribution:id`, which also names a plugin whose
id another one has. The project's own distributions are read from the extras in the core's metadata.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, cast

from genkit.discovery import selection, soundness
from genkit.discovery.selection import canonical, matches
from genkit.errors import (
    ConfigError,
    GenkitError,
    PluginError,
    UnknownModality,
    did_you_mean,
    first_line,
    memory_fault,
)
from genkit.plugin import API, Modality, ModalityPlugin
from genkit.user_objects import resolve

CORE = "genkit-gan"
"""The distribution of this package."""

PROBE_SECONDS = 20
"""Time limit for importing the manifests of all plugins."""

PRESET_SECONDS = 60
"""Time limit for checking the presets of all plugins; a plugin that needs longer is not judged by them."""

_GROUP = re.compile(r"genkit\.modality\.v(\d+)")


@dataclass(frozen=True)
class Found:
    """One plugin as described by package metadata, without importing it.

    Args:
        id: the name of the entry point, which users type.
        target: `module:attribute` of the manifest.
        distribution, version: the package that provides it; `local` if it was registered in this process.
        path: the folder of that package's metadata; empty for a local one.
        status: ok, disabled (by the user), conflict (another distribution has the same id), incompatible (written for
            another version of the contract), or broken (it cannot be imported or described).
        reason: why it is not ok; empty if it is.
    """

    id: str
    target: str
    distribution: str
    version: str
    path: str
    status: str = "ok"
    reason: str = ""

    @property
    def name(self) -> str:
        """The full name, `distribution:id`, with the distribution normalised."""
        return f"{canonical(self.distribution)}:{self.id}"

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} ({self.id})"


check_manifest = soundness.check_manifest
_registered: dict[str, Modality] = {}


def register(modality: Modality, replace: bool = False) -> Modality:
    """Register a modality in this process; then it can be used by its id, as if it were installed.

    Args:
        modality: the manifest.
        replace: whether it may take over an id that is in use.

    Returns:
        The manifest, unchanged.

    Raises:
        PluginError: if the id is in use and `replace` is False, or the manifest is invalid.
    """
    manifest_of(modality)
    is_registered = modality.id in _registered and _registered[modality.id] != modality
    is_installed = (
        any(row.id == modality.id and row.status != "disabled" for row in _scan())
        and home_of(modality).distribution == "local"
    )
    if (is_registered or is_installed) and not replace:
        raise PluginError(
            f"local ({modality.id})",
            "register",
            "the id is taken already; pass replace=True to take it over",
        )
    _registered[modality.id] = modality
    return modality


def unregister(id: str) -> None:
    """Remove a modality that was registered in this process; an unknown id is no error."""
    _registered.pop(id, None)


def found(strict: bool | None = None) -> list[Found]:
    """All plugins that are installed or registered, sorted by id and distribution. Imports none of them.

    Args:
        strict: whether a plugin that is neither ok nor disabled is an error. None: if GENKIT_STRICT_PLUGINS is set.

    Raises:
        PluginError: for the first such plugin, if `strict`.
    """
    rows = [*_scan(), *(_local(modality) for modality in _registered.values())]
    rows = sorted(_settle(rows), key=lambda row: (row.id, row.distribution))
    return _all_usable(rows) if strict or (strict is None and selection.strict()) else rows


def probed() -> list[Found]:
    """All plugins as `found` lists them, after importing each installed manifest in a child process with a time limit.

    A plugin that raises, exits, hangs or crashes when it is imported becomes a broken row; so does one with an invalid
    preset, or whose declared requirements are not installed.

    Raises:
        PluginError: if GENKIT_STRICT_PLUGINS is set, for the first plugin that is neither ok nor disabled.
    """
    from importlib.metadata import Distribution

    from genkit.discovery.probing import ask

    rows = found()
    questions = {
        row: (__name__, "manifest_status", row.id, row.target)
        for row in rows
        if row.status == "ok" and row.distribution != "local"
    }
    valid_rows = []
    for row, (status, fault) in ask(questions, PROBE_SECONDS).items():
        changes = status or {"status": "broken", "reason": f"its import {fault}"}
        rows[rows.index(row)] = replace(row, **changes)
        valid_rows += [row] if changes["status"] == "ok" else []
    for row, preset in _preset_faults(valid_rows).items():
        missing = soundness.missing_requirements(Distribution.at(row.path))
        reason = (
            f"it needs {'; '.join(missing)}: pip install {row.distribution}" if missing else preset
        )
        if reason:
            rows[rows.index(row)] = replace(row, status="broken", reason=reason)
    return _all_usable(rows) if selection.strict() else rows


def _preset_faults(rows: Sequence[Found]) -> dict[Found, str]:
    """What is wrong with the presets of plugins: asked in one child process, of each in its own if that fails."""
    from genkit.discovery.probing import ask

    def question(*targets: str) -> tuple[str, ...]:
        return soundness.__name__, "preset_faults_of", *targets

    if not rows:
        return {}
    faults = ask({"all": question(*(row.target for row in rows))}, PRESET_SECONDS)["all"].value
    if faults is not None:
        return dict(zip(rows, faults, strict=True))
    answers = ask({row: question(row.target) for row in rows}, PRESET_SECONDS)
    return {row: answer.value[0] if answer.value else "" for row, answer in answers.items()}


def manifest_status(id: str, target: str) -> dict[str, str]:
    """Import and check a manifest; called in a child process.

    Returns:
        `status`: ok or broken; `reason`: why it is broken, else empty.
    """
    try:
        _manifest(Found(id, target, "", "", ""))
    except PluginError as error:
        call = "" if error.call == "description" else f"{error.call}: "
        return {"status": "broken", "reason": f"{call}{error.reason}"}
    return {"status": "ok", "reason": ""}


def disable(name: str) -> list[str]:
    """Disable plugins for this user.

    Args:
        name: an id, a distribution, or `distribution:id`.

    Returns:
        `distribution:id` of each plugin that is now disabled.

    Raises:
        UnknownModality: if no installed plugin has this name.
        ConfigError: if the user's file of disabled plugins is damaged.
        StorageError: if it cannot be written.
    """
    names = [row.name for row in rows_named(name)]
    selection.disable(names)
    return names


def rows_named(name: str) -> list[Found]:
    """The installed plugins that a name means, whatever their status.

    Args:
        name: an id, a distribution, or `distribution:id`.

    Raises:
        UnknownModality: if no installed plugin has this name.
    """
    installed_rows = [row for row in found(strict=False) if row.distribution != "local"]
    rows = [row for row in installed_rows if matches(name, row.name)]
    if not rows:
        names = {word for row in installed_rows for word in (row.id, row.distribution)}
        raise UnknownModality(f"no installed plugin is called {name!r}.{did_you_mean(name, names)}")
    return rows


def provider(name: str) -> Found:
    """The one plugin that provides a modality.

    Args:
        name: an id, or `distribution:id`, which works for a plugin in conflict about its id too.

    Raises:
        UnknownModality: if there is none; names the nearest modality, or the distribution to install if it is one of
            the project's own.
        PluginError: if it cannot be used, with the reason.
    """
    is_full = ":" in name
    all_rows = found()
    rows = [row for row in all_rows if (matches(name, row.name) if is_full else row.id == name)]
    for row in rows:
        if row.status == "ok" or (is_full and row.status == "conflict"):
            return row
    if rows:
        row = min(rows, key=lambda row: row.status == "disabled")
        raise PluginError(str(row), "discovery", row.reason)
    homes = project_distributions()
    home = {f"{home}:{id}": home for id, home in homes.items()}.get(name) or homes.get(name)
    if home:
        raise UnknownModality(f"modality {name!r} is not installed: pip install {home}")
    names = sorted({row.name if is_full else row.id for row in all_rows})
    hint = did_you_mean(name, names if is_full else {*names, *homes}, 0.8 if is_full else 0.6)
    if "Did you mean" not in hint:  # what is not installed is no choice
        hint = f" Installed: {', '.join(names)}." if names else " No plugins are installed."
    raise UnknownModality(f"no installed plugin provides the modality {name!r}.{hint}")


def describe(name: str) -> Modality:
    """The manifest of a modality, checked.

    Args:
        name: an id, or `distribution:id`.

    Raises:
        UnknownModality: if no installed plugin provides it.
        PluginError: if the plugin cannot be used, or its manifest cannot be imported or is invalid.
    """
    row = provider(name)
    return _registered[row.id] if row.distribution == "local" else _manifest(row)


def load(modality: Modality) -> type[ModalityPlugin]:
    """The plugin class of a modality; imports torch.

    Raises:
        PluginError: if it cannot be imported or is not a subclass of `ModalityPlugin`.
    """
    plugin = named_class(modality, "plugin")
    if not (isinstance(plugin, type) and issubclass(plugin, ModalityPlugin)):
        raise PluginError(
            origin(modality), f"loading {modality.plugin}", "it is not a subclass of ModalityPlugin"
        )
    return plugin


def named_class(modality: Modality, part: str) -> Any:
    """The class that a manifest names, imported; None if it names none.

    Args:
        part: `plugin`, `options` or `controls`.

    Raises:
        PluginError: if the class cannot be imported.
    """
    target = getattr(modality, part)
    if not isinstance(target, str):
        return target
    try:
        return resolve(target)
    except _FAULTS as error:
        home = home_of(modality)
        raise PluginError(
            str(home), f"import of its {part} {target}", first_line(error), _cure(home)
        ) from error


@contextlib.contextmanager
def asking(
    modality: Modality, call: str, own: str = ""
) -> Iterator[Callable[[str], PluginError | ConfigError]]:
    """A context for a call of a plugin: an exception in it becomes a `PluginError`; a `GenkitError` passes unchanged.

    Args:
        modality: the plugin's manifest.
        call: the method or step, for the message.
        own: the setting that names a user's own code which is called: then it is a `ConfigError`. Empty: the plugin's.
    Yields: a function that makes this error of a reason, for an answer that breaks the contract.
    """

    def fault(reason: str) -> PluginError | ConfigError:
        return (
            ConfigError(f"{own}: {reason}") if own else PluginError(origin(modality), call, reason)
        )

    try:
        yield fault
    except GenkitError:
        raise
    except _FAULTS as error:
        memory = memory_fault(error, own or f"{call} of {origin(modality)}")
        raise memory or fault(f"{first_line(error)} (-v shows where)") from error


def origin(modality: Modality) -> str:
    """`distribution version (id)` of a modality, for messages and for saved runs and models."""
    return str(home_of(modality))


def home_of(modality: Modality) -> Found:
    """The row of the installed plugin whose manifest this is; a `local` row if it is not an installed one."""
    if id(modality) not in _HOMES:
        rows = (row for row in _scan() if row.id == modality.id and _loaded(row) is modality)
        _HOMES[id(modality)] = modality, next(rows, _local(modality))
    return _HOMES[id(modality)][1]


_HOMES: dict[int, tuple[Modality, Found]] = {}
"""What `home_of` found, by the manifest's identity: reading the metadata of all that is installed takes its time."""


@cache
def project_distributions() -> dict[str, str]:
    """Modality id -> distribution of the project's own plugins, from the extras in the core's metadata."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires(CORE) or []
    except PackageNotFoundError:
        return {}
    pattern = re.compile(r"^(genkit-gan-([a-z0-9_]+))\b.*extra\s*==\s*[\"']\2[\"']")
    return {match[2]: match[1] for line in lines if (match := pattern.match(line))}


@cache
def core_version() -> str:
    """The version of the installed core; `unknown` if it has no metadata."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(CORE)
    except PackageNotFoundError:
        return "unknown"


def manifest_of(modality: object) -> Modality:
    """The manifest that a user means: of an id or `distribution:id`, or a manifest itself, checked.

    Raises:
        ConfigError: if it is neither.
        UnknownModality, PluginError: as `describe`; PluginError too if a manifest is invalid.
    """
    if isinstance(modality, str):
        return describe(modality)
    if not isinstance(modality, Modality):
        expectation = "the id of a modality, or a genkit.plugin.Modality, is needed"
        raise ConfigError(f"modality = a {type(modality).__name__}: {expectation}")
    if fault := soundness.form_fault(modality):
        raise PluginError(origin(modality), "description", fault)
    return modality


# Implementation --------------------------------------------------------------------------------------------------

_FAULTS = (Exception, SystemExit)


def _manifest(row: Found) -> Modality:
    try:
        manifest = resolve(row.target)
    except _FAULTS as error:
        call = f"import of {row.target}"
        raise PluginError(str(row), call, first_line(error), _cure(row)) from error
    fault = check_manifest(row.id, manifest)
    if fault:
        raise PluginError(str(row), "description", fault, _cure(row))
    return cast(Modality, manifest)


def _cure(row: Found) -> str:
    """The command that examines a plugin; empty for a local one."""
    return "" if row.distribution == "local" else f"genkit plugins doctor {row.id}"


def _all_usable(rows: list[Found]) -> list[Found]:
    for row in rows:
        if row.status not in ("ok", "disabled"):
            raise PluginError(str(row), "discovery", f"{row.reason} ({selection.STRICT} is set)")
    return rows


def _local(modality: Modality) -> Found:
    target = getattr(modality.plugin, "__qualname__", str(modality.plugin))
    return Found(modality.id, target, "local", "0", "")


def _loaded(row: Found) -> Any:
    """What the row's target names, if its module was imported."""
    module, _, attribute = row.target.partition(":")
    value: Any = sys.modules.get(module)
    for name in attribute.split("."):
        value = getattr(value, name, None)
    return value


def _scan() -> Iterator[Found]:
    """Rows of all installed plugins, with the status of those that the user has disabled."""
    rows = list(_installed())
    reasons = selection.disabled_reasons([row.name for row in rows])
    for row in rows:
        yield (
            replace(row, status="disabled", reason=reasons[row.name])
            if row.name in reasons
            else row
        )


def _installed() -> Iterator[Found]:
    """Rows of all installed plugins. A distribution whose entry points cannot be read is skipped.

    One whose name or version cannot be read gets the name `unknown`.
    """
    from importlib.metadata import distributions

    keys: set[str] = set()
    for distribution in distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
        except Exception:  # any fault of another distribution's files or their encoding
            continue
        if "genkit.modality.v" not in text:
            continue
        try:
            metadata = distribution.metadata
            name, version = metadata["Name"] or "unknown", metadata["Version"] or "unknown"
        except Exception:  # a plugin with unreadable metadata is listed all the same
            name, version = "unknown", "unknown"
        path = str(getattr(distribution, "_path", ""))
        key = path if name == "unknown" else canonical(name)
        if key in keys:  # of several copies, imports use the first on sys.path
            continue
        keys.add(key)
        for major, id, target in _entries(text):
            row = Found(id, target, name, version, path)
            if major != API[0]:
                older = CORE if major > API[0] else name
                reason = f"it needs plugin API v{major}, this genkit has v{API[0]}: upgrade {older}"
                row = replace(row, status="incompatible", reason=reason)
            yield row


def _entries(text: str) -> Iterator[tuple[int, str, str]]:
    """(API major, name, target) of each entry in the groups `genkit.modality.vN`; malformed lines are skipped.

    Args:
        text: the content of a distribution's `entry_points.txt`.
    """
    major: int | None = None
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            match = _GROUP.fullmatch(line.strip("[] "))
            major = int(match[1]) if match else None
        elif major is not None and line and not line.startswith(("#", ";")):
            name, equals, target = line.partition("=")
            if equals:
                yield major, name.strip(), target.split("[")[0].strip()


def _settle(rows: Sequence[Found]) -> list[Found]:
    """Rows with the status of those in conflict about an id, and of those whose module is missing.

    A modality that was registered in this process keeps its id, and so does the project's own distribution.
    """
    checked_rows = []
    for row in rows:
        rivals = [
            other
            for other in rows
            if other.id == row.id and other is not row and other.status == "ok"
        ]
        has_local_rival = any(other.distribution == "local" for other in rivals)
        keeps_id = (
            row.distribution == "local"
            or not rivals
            or (row.distribution == project_distributions().get(row.id) and not has_local_rival)
        )
        if row.status == "ok" and not keeps_id:
            others = ", ".join(f"{other.distribution} {other.version}" for other in rivals)
            cure = f"name it {row.name}, or disable or uninstall one"
            row = replace(
                row,
                status="conflict",
                reason=f"the id {row.id!r} is also claimed by {others}: {cure}",
            )
        elif (
            row.status == "ok"
            and row.distribution != "local"
            and not soundness.importable(row.target)
        ):
            module = row.target.partition(":")[0]
            row = replace(
                row,
                status="broken",
                reason=f"its module {module} is missing: reinstall {row.distribution}",
            )
        checked_rows.append(row)
    return checked_rows


def rows_as_json(rows: Sequence[Found]) -> str:
    """Rows as a JSON document with the version of its layout (`schema`)."""
    plugins = [asdict(row) for row in rows]
    return json.dumps({"schema": 1, "api": f"{API[0]}.{API[1]}", "plugins": plugins}, indent=2)
