"""Entry points: plugins found without importing them, described without torch, loaded one at a time.

    Found       strings out of package metadata            `plugins list`, error hints
    Described   the manifest, a torch-free import          `plugins show`, configuration
    Loaded      the plugin's class, which imports torch    training, sampling

A faulty plugin is a row with a reason. Conflicts name both distributions and are never settled by install order.
Knows no modality: which distributions are the project's own it reads from the extras of its own metadata.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from genkit.errors import GenkitError, PluginError, UnknownModality, did_you_mean, first_line
from genkit.own import resolve
from genkit.plugin import API, Modality, ModalityPlugin

if TYPE_CHECKING:
    import subprocess

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
        status: ok, conflict (another distribution claims the id), incompatible (another major of the contract),
            or broken (it cannot be imported or described).
        reason: why it is not ok.
    """

    id: str
    target: str
    distribution: str
    version: str
    path: str
    status: str = "ok"
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} ({self.id})"


_registered: dict[str, Modality] = {}


def register(modality: Modality, replace: bool = False) -> Modality:
    """Make a modality known in this process, as if it were installed.

    Raises:
        PluginError: if the id is taken and `replace` is False.
    """
    taken = modality.id in _registered and _registered[modality.id] != modality
    installed = any(row.id == modality.id for row in _scan()) and home_of(modality).distribution == "local"
    if (taken or installed) and not replace:
        raise PluginError(
            f"local ({modality.id})", "register", "the id is taken already; pass replace=True to take it over"
        )
    _registered[modality.id] = modality
    return modality


def unregister(id: str) -> None:
    """Forget a modality that was registered in this process; an unknown id is no error."""
    _registered.pop(id, None)


def found() -> list[Found]:
    """All plugins that are installed or registered, sorted by id and distribution. Imports none of them."""
    rows = [*_scan(), *(_local(modality) for modality in _registered.values())]
    return sorted(_settle(rows), key=lambda row: (row.id, row.distribution))


def probed() -> list[Found]:
    """The same after a try to describe each installed plugin, each in a process of its own with a time limit.

    A plugin that raises, exits, prints, hangs or crashes at import becomes a broken row, and nothing worse.
    """
    rows = found()
    todo = {row: _start_probe(row) for row in rows if row.status == "ok" and row.distribution != "local"}
    deadline = time.monotonic() + PROBE_SECONDS
    reasons = {row: _end_probe(process, deadline) for row, process in todo.items()}
    return [replace(row, status="broken", reason=reason) if (reason := reasons.get(row)) else row for row in rows]


def _start_probe(row: Found) -> subprocess.Popen[bytes]:
    import subprocess

    # -P: a file of the user's that is named like a module of the standard library must not be what is imported.
    command = [sys.executable, "-P", "-c", "from genkit.registry import _probe; _probe()", row.id, row.target]
    null = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=null, stdout=subprocess.PIPE, stderr=null)


def _end_probe(process: subprocess.Popen[bytes], deadline: float) -> str:
    """Why a plugin cannot be described, or nothing."""
    import subprocess

    try:
        output, _ = process.communicate(timeout=max(deadline - time.monotonic(), 0.5))
        end = f"it ended the process at import (exit code {process.returncode})"
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.wait()
        output, end = error.stdout or b"", f"its import did not end within {PROBE_SECONDS} s"
    finally:
        if process.stdout is not None:
            process.stdout.close()
    lines = output.decode(errors="replace").splitlines()
    answers: list[str] = [json.loads(line.removeprefix(_MARK)) for line in lines if line.startswith(_MARK)]
    return answers[-1] if answers else end


def provider(id: str) -> Found:
    """The one plugin that provides a modality.

    Raises:
        UnknownModality: if there is none: the nearest name, and what to install if it is one of the project's own.
        PluginError: if it is not usable, with the reason.
    """
    rows = [row for row in found() if row.id == id]
    usable = [row for row in rows if row.status == "ok"]
    if usable:
        return usable[0]
    if rows:
        raise PluginError(str(rows[0]), "discovery", rows[0].reason)
    home = own_distributions().get(id)
    if home:
        raise UnknownModality(f"modality {id!r} is not installed: pip install {home}")
    known = {row.id for row in found()}
    hint = did_you_mean(id, known | set(own_distributions())) or " No plugins are installed."
    raise UnknownModality(f"no installed plugin provides the modality {id!r}.{hint}")


def describe(id: str) -> Modality:
    """The manifest of a modality, checked.

    Raises:
        UnknownModality, PluginError: as `provider`, and if the manifest cannot be imported or is none.
    """
    row = provider(id)
    if row.distribution == "local":
        return _registered[id]
    try:
        manifest = resolve(row.target)
    except _FAULTS as error:
        raise PluginError(str(row), f"import of {row.target}", first_line(error)) from error
    wrong = check_manifest(id, manifest)
    if wrong:
        raise PluginError(str(row), "description", wrong)
    return cast(Modality, manifest)


def load(modality: Modality) -> type[ModalityPlugin]:
    """The plugin's class; this imports torch.

    Raises:
        PluginError: if it cannot be imported or is no `ModalityPlugin`.
    """
    plugin = named_class(modality, "plugin")
    if not (isinstance(plugin, type) and issubclass(plugin, ModalityPlugin)):
        raise PluginError(origin(modality), f"loading {modality.plugin}", "it is not a subclass of ModalityPlugin")
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
        raise PluginError(origin(modality), f"import of its {part} {target}", first_line(error)) from error


@contextlib.contextmanager
def asking(modality: Modality, call: str) -> Iterator[None]:
    """A plugin at work: what it raises, other than on purpose, becomes a PluginError that names it and the call."""
    try:
        yield
    except GenkitError:
        raise
    except Exception as error:
        raise PluginError(origin(modality), call, f"{first_line(error)} (-v shows where)") from error


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
def own_distributions() -> dict[str, str]:
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
        return f"its manifest calls itself {manifest.id!r}, its entry point {id!r}; they must be equal"
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
_MARK = "genkit-probe "


def _local(modality: Modality) -> Found:
    target = modality.plugin if isinstance(modality.plugin, str) else modality.plugin.__qualname__
    return Found(modality.id, target, "local", "0", "")


def _scan() -> Iterator[Found]:
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
        key = path if name == "unknown" else re.sub(r"[-_.]+", "-", name).lower()
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
        rivals = [other for other in rows if other.id == row.id and other is not row and other.status == "ok"]
        local = any(other.distribution == "local" for other in rivals)
        wins = (
            row.distribution == "local"
            or not rivals
            or (row.distribution == own_distributions().get(row.id) and not local)
        )
        if row.status == "ok" and not wins:
            others = ", ".join(f"{other.distribution} {other.version}" for other in rivals)
            row = replace(
                row, status="conflict", reason=f"the id {row.id!r} is also claimed by {others}: uninstall one"
            )
        elif row.status == "ok" and row.distribution != "local" and not _importable(row.target):
            module = row.target.partition(":")[0]
            row = replace(row, status="broken", reason=f"its module {module} is missing: reinstall {row.distribution}")
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


def _probe() -> None:
    """Describe the `id target` of the command line and print why it fails, or nothing (in a process of its own)."""
    stdout, (id, target) = sys.stdout, sys.argv[1:]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            reason = check_manifest(id, resolve(target))
    except _FAULTS as error:
        reason = f"import of {target}: {first_line(error)}"
    print("\n" + _MARK + json.dumps(reason), file=stdout, flush=True)


def rows_as_json(rows: Sequence[Found]) -> str:
    """Rows as a JSON document whose layout is versioned."""
    return json.dumps({"schema": 1, "api": f"{API[0]}.{API[1]}", "plugins": [asdict(row) for row in rows]}, indent=2)
