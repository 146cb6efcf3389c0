"""A closer look at the installation: who owns what, what each plugin asks for, and whether it does what it says.

Plugins run in processes of their own, with a time limit. Knows no modality, and no cure but to say it.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path
from typing import Any

from genkit.discovery import registry, selection
from genkit.discovery.probing import ask
from genkit.discovery.registry import CORE, Found
from genkit.errors import PluginError, first_line
from genkit.plugin import API, ENTRY_POINT_GROUP
from genkit.user_objects import resolve

LOAD_SECONDS = 60
HEAVY = ("torch", "tensorflow", "jax", "transformers", "scipy", "pandas", "numpy")
"""What a manifest need not import; torch it must not."""

Outcome = tuple[str, str]
"""ok, note or fault, and a sentence."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        subject: a plugin in full, or the core's distribution.
        check: what was looked at.
        status: ok; note: worth knowing; fault: something does not work, or will not.
        message: what was found, and what to do about it.
    """

    subject: str
    check: str
    status: str
    message: str


def examine(name: str | None = None) -> list[Finding]:
    """All that can be said of the installed plugins, or of those that a name means, and of the core.

    Raises:
        UnknownModality: if no installed plugin is called so.
    """
    rows = registry.found(strict=False) if name is None else registry.named(name)
    rows = [row for row in rows if row.distribution != "local"]
    findings = list(_core()) if name is None else []
    if name is None:
        unheard = selection.complaints([row.name for row in rows])
        findings += [Finding(CORE, "selection", "note", message) for message in unheard]
    behaviour = _behaviour([row for row in rows if row.status in ("ok", "conflict")])
    for row in rows:
        findings += [Finding(row.name, "discovery", *_discovered(row))]
        findings += _metadata(row.name, partial(Distribution.at, row.path))
        findings += behaviour.get(row, [])
    return findings


def _core() -> Iterator[Finding]:
    yield Finding(
        CORE, "interpreter", "ok", f"Python {platform.python_version()} at {sys.executable}"
    )
    place = f"{registry.core_version()} in {Path(__file__).parent}, plugin API {API[0]}.{API[1]}"
    yield Finding(CORE, "location", "ok", place)
    yield from _checked(CORE, "import name", _owners)
    yield from _metadata(CORE, lambda: distribution(CORE))


def _owners() -> Iterator[Outcome]:
    """Nothing that installs packages notices when two of them bring the same file (pypa/pip#4625)."""
    owners = set()
    for other in distributions():
        try:
            record = "\n" + (other.read_text("RECORD") or "").replace("\\", "/")
            if "\ngenkit/__init__.py," in record:
                owners.add(selection.canonical(other.metadata["Name"]))
        except Exception:  # any fault in a stranger's metadata
            continue
    for rival in sorted(owners - {CORE}):
        yield (
            "fault",
            f"{rival} brings a package `genkit` too: pip uninstall {rival}, then reinstall {CORE}",
        )
    if not owners - {CORE}:
        yield "ok", f"no other distribution brings a package `genkit` beside {CORE}"


def _discovered(row: Found) -> Outcome:
    if row.status == "ok":
        return "ok", f"{row.version} in {row.path}"
    return "note" if row.status == "disabled" else "fault", row.reason


# Metadata --------------------------------------------------------------------------------------------------------


def _metadata(subject: str, find: Callable[[], Distribution]) -> Iterator[Finding]:
    yield from _checked(
        subject, "requirements", lambda: _requirements(find(), of_plugin=subject != CORE)
    )
    yield from _checked(subject, "in place", lambda: _in_place(find()))
    yield from _checked(subject, "copies", lambda: _copies(find()))


def _checked(subject: str, check: str, look: Callable[[], Iterable[Outcome]]) -> list[Finding]:
    """What a look at metadata gives; metadata can be wrong in any way, and that is a finding too."""
    try:
        return [Finding(subject, check, *outcome) for outcome in look()]
    except Exception as error:
        return [
            Finding(
                subject,
                check,
                "fault",
                f"its metadata cannot be read ({first_line(error)}): reinstall it",
            )
        ]


def _requirements(home: Distribution, of_plugin: bool) -> Iterator[Outcome]:
    from packaging.requirements import Requirement

    names = {selection.canonical(Requirement(line).name) for line in home.requires or ()}
    complaints = [
        line
        for line in _pip_check()
        if selection.canonical(line.split()[0]) == selection.canonical(home.name)
    ]
    for line in complaints:
        yield "fault", f"{line.rstrip('.')}: install what is missing with pip"
    if of_plugin and CORE not in names:
        floor = f"{CORE}>={registry.core_version()}"
        yield "note", f"it does not say which {CORE} it needs: add {floor} to its dependencies"
    elif not complaints:
        yield "ok", "all installed"


@cache
def _pip_check() -> tuple[str, ...]:
    """What `pip check` says of all that is installed, a complaint a line; nothing where there is no pip."""
    command = [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    complaint = re.compile(r"(requires .*which is not installed|has requirement .*but you have)")
    return tuple(line for line in said.stdout.splitlines() if complaint.search(line))


def _in_place(home: Distribution) -> Iterator[Outcome]:
    """An editable install keeps the version and entry points of the day on which it was made."""
    from urllib.parse import urlparse
    from urllib.request import url2pathname

    source = json.loads(home.read_text("direct_url.json") or "{}")
    if not source.get("dir_info", {}).get("editable"):
        return
    folder = Path(url2pathname(urlparse(source["url"]).path))
    if not folder.is_dir():
        yield (
            "fault",
            f"it was installed in place from {folder}, which is gone: pip uninstall {home.metadata['Name']}",
        )
        return
    file = folder / "pyproject.toml"
    project = tomllib.loads(file.read_text()).get("project", {}) if file.is_file() else {}
    stale = []
    if project.get("version", home.version) != home.version:
        stale.append(f"version {project['version']}, installed is {home.version}")
    installed = {one.name: one.value for one in home.entry_points.select(group=ENTRY_POINT_GROUP)}
    if project.get("entry-points", {}).get(ENTRY_POINT_GROUP, installed) != installed:
        stale.append("other entry points than those installed")
    yield from (("fault", f"{file} says {what}: pip install -e {folder}") for what in stale)
    if not stale:
        yield "ok", f"installed in place from {folder}"


def _copies(home: Distribution) -> Iterator[Outcome]:
    name = home.metadata["Name"]
    copies = distributions(name=name) if name else ()
    first, *others = dict.fromkeys([str(getattr(copy, "_path", "")) for copy in [home, *copies]])
    for path in others:
        yield (
            "note",
            f"{path} is a copy that {first} hides: uninstall {name} until none is left, then install it once",
        )


# Behaviour -------------------------------------------------------------------------------------------------------


def _behaviour(rows: Sequence[Found]) -> dict[Found, list[Finding]]:
    """What plugins do when they are described, all at once, and then what those do that could be, when loaded."""
    findings: dict[Found, list[Finding]] = {row: [] for row in rows}
    described = {row: ("genkit.discovery.doctor", "watched", row.id, row.target) for row in rows}
    good = []
    for row, (seen, fault) in ask(described, registry.PROBE_SECONDS, ending=True).items():
        outcomes = (
            list(_manners(seen, fault)) if seen else [("manifest", "fault", f"its import {fault}")]
        )
        findings[row] += [Finding(row.name, *outcome) for outcome in outcomes]
        if seen and not seen["reason"]:
            good.append(row)
    loaded = {row: ("genkit.discovery.doctor", "unloadable", row.target) for row in good}
    for row, (faults, fault) in ask(loaded, LOAD_SECONDS).items():
        said = [fault and f"loading it {fault}"] if faults is None else faults
        findings[row] += [Finding(row.name, "classes", "fault", one) for one in said]
        if not said:
            findings[row].append(
                Finding(row.name, "classes", "ok", "all that its manifest names can be loaded")
            )
    return findings


def _manners(seen: dict[str, Any], fault: str) -> Iterator[tuple[str, str, str]]:
    if seen["reason"]:
        yield "manifest", "fault", seen["reason"]
    else:
        yield "manifest", "ok", f"imported in {seen['milliseconds']} ms from {seen['file']}"
    if seen["heavy"]:
        status = "fault" if "torch" in seen["heavy"] else "note"
        yield (
            "weight",
            status,
            f"its manifest imports {', '.join(seen['heavy'])}: name what needs them by strings",
        )
    if fault:
        yield (
            "end",
            "fault",
            f"after the import its process {fault}: start threads where they are needed, and leave exit to others",
        )
    elif seen["threads"]:
        yield (
            "end",
            "note",
            f"threads that it starts at import: {seen['threads']}; start them where they are needed",
        )


def watched(id: str, target: str) -> dict[str, Any]:
    """What a plugin does when it is imported, for a process of its own."""
    import threading
    import time

    begin = time.perf_counter()
    judgement = registry.judged(id, target)
    module = sys.modules.get(target.partition(":")[0])
    return {
        **judgement,
        "milliseconds": round(1000 * (time.perf_counter() - begin)),
        "file": getattr(module, "__file__", None),
        "heavy": [name for name in HEAVY if name in sys.modules],
        "threads": threading.active_count() - 1,
    }


def unloadable(target: str) -> list[str]:
    """What of a manifest's names cannot be loaded, and why, for a process of its own."""
    manifest, faults = resolve(target), []
    for part in ("plugin", "options", "controls"):
        try:
            registry.load(manifest) if part == "plugin" else registry.named_class(manifest, part)
        except PluginError as error:
            faults.append(f"{error.call}: {error.reason}")
    return faults
