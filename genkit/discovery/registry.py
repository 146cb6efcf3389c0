"""Entry points: plugins found without importing them, described without torch, loaded one at a time.

    Found       strings out of package metadata            `plugins list`, error hints
    Described   the manifest, a torch-free import          `plugins show`, configuration
    Loaded      the plugin's class, which imports torch    training, sampling

A faulty plugin is a row with a reason. Conflicts name both distributions and are never settled by install order.
Wherever an id is taken, so is `distribution:id`, which also names a plugin that another one keeps from its id.
Knows no modality: which distributions are the project's own it reads from the extras of its own metadata.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, cast

from genkit.discovery import selection
from genkit.discovery.selection import canonical, matches
from genkit.errors import GenkitError, PluginError, UnknownModality, did_you_mean, first_line
from genkit.plugin import API, Modality, ModalityPlugin
from genkit.user_objects import resolve

CORE = "genkit-gan"
PROBE_SECONDS = 20
_GROUP = re.compile(r"genkit\.modality\.v(\d+)")
_ID = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True)
class Found:
    """One plugin as package metadata tell of it; nothing of it was imported.

    Args:
        id: the name of the entry point, which users type.
        target: `module:attribute` of the manifest.
        distribution, version: the package that brings it; `local` for one registered in this process.
        path: where that package's metadata lie.
        status: ok, disabled (the user does not want it), conflict (another distribution claims the id), incompatible
            (another version of the contract), or broken (it cannot be imported or described).
        reason: why it is not ok.
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
        """In full: `distribution:id`."""
        return f"{canonical(self.distribution)}:{self.id}"

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} ({self.id})"


_registered: dict[str, Modality] = {}


def register(modality: Modality, replace: bool = False) -> Modality:
    """Make a modality known in this process, as if it were installed.

    Raises:
        PluginError: if the id is taken and `replace` is False.
    """
    taken = modality.id in _registered and _registered[modality.id] != modality
    installed = (
        any(row.id == modality.id and row.status != "disabled" for row in _scan())
        and home_of(modality).distribution == "local"
    )
    if (taken or installed) and not replace:
        raise PluginError(
            f"local ({modality.id})",
            "register",
            "the id is taken already; pass replace=True to take it over",
        )
    _registered[modality.id] = modality
    return modality


def unregister(id: str) -> None:
    """Forget a modality that was registered in this process; an unknown id is no error."""
    _registered.pop(id, None)


def found(strict: bool | None = None) -> list[Found]:
    """All plugins that are installed or registered, sorted by id and distribution. Imports none of them.

    Args:
        strict: whether one that is neither ok nor disabled is an error. None: as GENKIT_STRICT_PLUGINS says.

    Raises:
        PluginError: in that case.
    """
    rows = [*_scan(), *(_local(modality) for modality in _registered.values())]
    rows = sorted(_settle(rows), key=lambda row: (row.id, row.distribution))
    return _all_well(rows) if strict or (strict is None and selection.strict()) else rows


def probed() -> list[Found]:
    """The same after a try to describe each installed plugin, each in a process of its own with a time limit.

    A plugin that raises, exits, hangs or crashes at import becomes a broken row, and nothing worse. Raises as `found`.
    """
    from genkit.discovery.probing import ask

    rows = found()
    well = [row for row in rows if row.status == "ok" and row.distribution != "local"]
    answers = ask(
        {row: ("genkit.discovery.registry", "judged", row.id, row.target) for row in well},
        PROBE_SECONDS,
    )
    for row, (judgement, fault) in answers.items():
        changes = judgement or {"status": "broken", "reason": f"its import {fault}"}
        rows[rows.index(row)] = replace(row, **changes)
    return _all_well(rows) if selection.strict() else rows


def judged(id: str, target: str) -> dict[str, str]:
    """The status of a plugin that is imported for it, and the reason."""
    try:
        _manifest(Found(id, target, "", "", ""))
    except PluginError as error:
        return {
            "status": "broken",
            "reason": error.reason
            if error.call == "description"
            else f"{error.call}: {error.reason}",
        }
    return {"status": "ok", "reason": ""}


def disable(name: str) -> list[str]:
    """Leave plugins out from now on, for this user, and say in full which.

    Args:
        name: an id, a distribution, or `distribution:id`.

    Raises:
        UnknownModality: if no installed plugin is called so.
        ConfigError, StorageError: if the choice cannot be kept.
    """
    names = [row.name for row in named(name)]
    selection.disable(names)
    return names


def named(name: str) -> list[Found]:
    """The rows of the installed plugins that a name means, whatever their status.

    Args:
        name: an id, a distribution, or `distribution:id`.

    Raises:
        UnknownModality: if there is none.
    """
    installed = [row for row in found(strict=False) if row.distribution != "local"]
    rows = [row for row in installed if matches(name, row.name)]
    if not rows:
        known = {word for row in installed for word in (row.id, row.distribution)}
        raise UnknownModality(f"no installed plugin is called {name!r}.{did_you_mean(name, known)}")
    return rows


def provider(name: str) -> Found:
    """The one plugin that provides a modality.

    Args:
        name: an id, or `distribution:id`, which a conflict about the id does not concern.

    Raises:
        UnknownModality: if there is none: the nearest name, and what to install if it is one of the project's own.
        PluginError: if it is not usable, with the reason.
    """
    full = ":" in name
    everything = found()
    rows = [row for row in everything if (matches(name, row.name) if full else row.id == name)]
    for row in rows:
        if row.status == "ok" or (full and row.status == "conflict"):
            return row
    if rows:
        row = min(rows, key=lambda row: row.status == "disabled")
        raise PluginError(str(row), "discovery", row.reason)
    own = project_distributions()
    home = {f"{home}:{id}": home for id, home in own.items()}.get(name) or own.get(name)
    if home:
        raise UnknownModality(f"modality {name!r} is not installed: pip install {home}")
    known = {row.name if full else row.id for row in everything} | (set() if full else set(own))
    hint = did_you_mean(name, known) or " No plugins are installed."
    raise UnknownModality(f"no installed plugin provides the modality {name!r}.{hint}")


def describe(name: str) -> Modality:
    """The manifest of a modality, checked.

    Args:
        name: an id, or `distribution:id`.

    Raises:
        UnknownModality, PluginError: as `provider`, and if the manifest cannot be imported or is none.
    """
    row = provider(name)
    return _registered[row.id] if row.distribution == "local" else _manifest(row)


def load(modality: Modality) -> type[ModalityPlugin]:
    """The plugin's class; this imports torch.

    Raises:
        PluginError: if it cannot be imported or is no `ModalityPlugin`.
    """
    plugin = named_class(modality, "plugin")
    if not (isinstance(plugin, type) and issubclass(plugin, ModalityPlugin)):
        raise PluginError(
            origin(modality), f"loading {modality.plugin}", "it is not a subclass of ModalityPlugin"
        )
    return plugin


def named_class(modality: Modality, part: str) -> Any:
    """What a manifest's `plugin`, `options` or `controls` names, None where it names nothing.

    Raises:
        PluginError: if the name does not resolve.
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
def asking(modality: Modality, call: str) -> Iterator[None]:
    """A plugin at work: what it raises, other than on purpose, becomes a PluginError that names it and the call."""
    try:
        yield
    except GenkitError:
        raise
    except Exception as error:
        raise PluginError(
            origin(modality), call, f"{first_line(error)} (-v shows where)"
        ) from error


def origin(modality: Modality) -> str:
    """`distribution version (id)` of a modality, for messages and saved models."""
    return str(home_of(modality))


def home_of(modality: Modality) -> Found:
    """The row of an installed modality, or a local one for a modality that is not installed."""
    for row in _scan():
        module, _, attribute = row.target.partition(":")
        value: Any = sys.modules.get(module)
        for name in attribute.split("."):
            value = getattr(value, name, None)
        if row.id == modality.id and value is modality:
            return row
    return _local(modality)


@cache
def project_distributions() -> dict[str, str]:
    """Modality id -> distribution, for the project's own plugins: the extras that the core's metadata declare."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires(CORE) or []
    except PackageNotFoundError:
        return {}
    pattern = re.compile(r"^(genkit-gan-([a-z0-9_]+))\b.*extra\s*==\s*[\"']\2[\"']")
    return {match[2]: match[1] for line in lines if (match := pattern.match(line))}


@cache
def core_version() -> str:
    """The version of the installed core."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(CORE)
    except PackageNotFoundError:
        return "unknown"


def is_id(id: str) -> bool:
    """Whether a modality can be called so."""
    return _ID.fullmatch(id) is not None


def check_manifest(id: str, manifest: object) -> str:
    """What is wrong with a manifest, or an empty string."""
    if not isinstance(manifest, Modality):
        return f"its entry point names a {type(manifest).__name__}, not a genkit.plugin.Modality"
    if manifest.id != id:
        return (
            f"its manifest calls itself {manifest.id!r}, its entry point {id!r}; they must be equal"
        )
    if not is_id(id):
        return f"the id {id!r} is not lower-case letters, digits and underscores, at most 32"
    if not manifest.presets:
        return "its manifest has no presets"
    try:
        manifest.to_json()
    except (TypeError, ValueError, AttributeError) as error:
        return f"its manifest is not plain data ({error})"
    return ""


# Below: how the rows come about ----------------------------------------------------------------------------------

_FAULTS = (Exception, SystemExit)


def _manifest(row: Found) -> Modality:
    try:
        manifest = resolve(row.target)
    except _FAULTS as error:
        raise PluginError(
            str(row), f"import of {row.target}", first_line(error), _cure(row)
        ) from error
    wrong = check_manifest(row.id, manifest)
    if wrong:
        raise PluginError(str(row), "description", wrong, _cure(row))
    return cast(Modality, manifest)


def _cure(row: Found) -> str:
    return "" if row.distribution == "local" else f"genkit plugins doctor {row.id}"


def _all_well(rows: list[Found]) -> list[Found]:
    for row in rows:
        if row.status not in ("ok", "disabled"):
            raise PluginError(str(row), "discovery", f"{row.reason} ({selection.STRICT} is set)")
    return rows


def _local(modality: Modality) -> Found:
    target = modality.plugin if isinstance(modality.plugin, str) else modality.plugin.__qualname__
    return Found(modality.id, target, "local", "0", "")


def _scan() -> Iterator[Found]:
    """Rows of all installed distributions, those that the user does not want marked."""
    rows = list(_installed())
    refused = selection.refused([row.name for row in rows])
    for row in rows:
        yield (
            replace(row, status="disabled", reason=refused[row.name])
            if row.name in refused
            else row
        )


def _installed() -> Iterator[Found]:
    """Rows of all installed distributions; one with broken metadata is passed over, or a row if it is a plugin's."""
    from importlib.metadata import distributions

    seen: set[str] = set()
    for distribution in distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
        except Exception:  # any file system or decoding fault in a stranger's metadata
            continue
        if "genkit.modality.v" not in text:
            continue
        try:
            metadata = distribution.metadata
            name, version = metadata["Name"] or "unknown", metadata["Version"] or "unknown"
        except Exception:  # metadata that cannot be read leave the plugin nameless, not unlisted
            name, version = "unknown", "unknown"
        path = str(getattr(distribution, "_path", ""))
        key = path if name == "unknown" else canonical(name)
        if key in seen:  # a distribution counts once: the first on sys.path is what imports find
            continue
        seen.add(key)
        for major, id, target in _entries(text):
            row = Found(id, target, name, version, path)
            if major != API[0]:
                older = CORE if major > API[0] else name
                why = f"it needs plugin API v{major}, this genkit has v{API[0]}: upgrade {older}"
                row = replace(row, status="incompatible", reason=why)
            yield row


def _entries(text: str) -> Iterator[tuple[int, str, str]]:
    """(API major, name, target) of each line under a group of ours; lines that are no entry are passed over."""
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
    """Rows with conflicts marked. The project's own distribution keeps its id, so does what a process registered."""
    settled = []
    for row in rows:
        rivals = [
            other
            for other in rows
            if other.id == row.id and other is not row and other.status == "ok"
        ]
        local = any(other.distribution == "local" for other in rivals)
        wins = (
            row.distribution == "local"
            or not rivals
            or (row.distribution == project_distributions().get(row.id) and not local)
        )
        if row.status == "ok" and not wins:
            others = ", ".join(f"{other.distribution} {other.version}" for other in rivals)
            cure = f"name it {row.name}, or disable or uninstall one"
            row = replace(
                row,
                status="conflict",
                reason=f"the id {row.id!r} is also claimed by {others}: {cure}",
            )
        elif row.status == "ok" and row.distribution != "local" and not _importable(row.target):
            module = row.target.partition(":")[0]
            row = replace(
                row,
                status="broken",
                reason=f"its module {module} is missing: reinstall {row.distribution}",
            )
        settled.append(row)
    return settled


def _importable(target: str) -> bool:
    """Whether the top package of a target can be found; runs none of it."""
    import importlib.util

    package = target.partition(":")[0].partition(".")[0]
    try:
        return package in sys.modules or importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def rows_as_json(rows: Sequence[Found]) -> str:
    """Rows as a JSON document whose layout is versioned."""
    return json.dumps(
        {"schema": 1, "api": f"{API[0]}.{API[1]}", "plugins": [asdict(row) for row in rows]},
        indent=2,
    )
