"""Examines the installation: packages, requirements, copies, and what each plugin does when it is imported.

Plugins are imported in child processes with a time limit. Nothing is changed: a finding says how to correct the fault.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path
from typing import Any

from genkit.discovery import bundled, registry, selection, soundness
from genkit.discovery.probing import ask
from genkit.discovery.registry import CORE, Found
from genkit.errors import PluginError, first_line
from genkit.plugin import API, ENTRY_POINT_GROUP
from genkit.user_objects import resolve

LOAD_SECONDS = 60
"""Time limit for loading the classes of all plugins, and for `pip check`."""

HEAVY = ("torch", "tensorflow", "jax", "transformers", "scipy", "pandas", "numpy")
"""Modules that a manifest should not import; torch is a fault, the others are a note."""

Outcome = tuple[str, str]
"""(status, message) of a `Finding`."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        subject: a plugin as `distribution:id`, or the core's distribution.
        check: the name of the check.
        status: ok; note: worth knowing; fault: something does not work, or will not.
        message: what was found, and how to correct it.
    """

    subject: str
    check: str
    status: str
    message: str


def examine(name: str | None = None) -> list[Finding]:
    """The findings on the core and all installed plugins, or on the plugins that a name means.

    Args:
        name: an id, a distribution, or `distribution:id`; None: everything.

    Raises:
        UnknownModality: if no installed plugin has this name.
    """
    rows = registry.found(strict=False) if name is None else registry.rows_named(name)
    rows = [row for row in rows if row.distribution != "local"]
    findings = list(_core()) if name is None else []
    if name is None:
        complaints = selection.complaints([row.name for row in rows])
        findings += [Finding(CORE, "selection", "note", message) for message in complaints]
    behaviour = _behaviour([row for row in rows if row.status in ("ok", "conflict")])
    for row in rows:
        findings += [Finding(row.name, "discovery", *_discovery(row))]
        findings += _metadata(row.name, partial(Distribution.at, row.path))
        findings += behaviour.get(row, [])
    return findings


def _core() -> Iterator[Finding]:
    yield Finding(
        CORE, "interpreter", "ok", f"Python {platform.python_version()} at {sys.executable}"
    )
    place = (
        f"{registry.core_version()} in {Path(__file__).parent.parent}, plugin API {API[0]}.{API[1]}"
    )
    yield Finding(CORE, "location", "ok", place)
    yield from _checked(CORE, "import name", _owners)
    yield from _metadata(CORE, lambda: distribution(CORE))


def _owners() -> Iterator[Outcome]:
    """Other distributions that bring a package `genkit`; installers do not notice such a clash (pypa/pip#4625)."""
    owners = set()
    for other in distributions():
        try:
            record = "\n" + (other.read_text("RECORD") or "").replace("\\", "/")
            if "\ngenkit/__init__.py," in record:
                owners.add(selection.canonical(other.metadata["Name"]))
        except Exception:  # another distribution's metadata may be damaged in any way
            continue
    for rival in sorted(owners - {CORE}):
        yield (
            "fault",
            f"{rival} brings a package `genkit` too: pip uninstall {rival}, then reinstall {CORE}",
        )
    if not owners - {CORE}:
        yield "ok", f"no other distribution than {CORE} brings a package `genkit`"


def _discovery(row: Found) -> Outcome:
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


def _checked(subject: str, check: str, outcomes: Callable[[], Iterable[Outcome]]) -> list[Finding]:
    """The findings of a check of metadata; if it raises anything, the metadata are damaged, which is a finding too."""
    try:
        return [Finding(subject, check, *outcome) for outcome in outcomes()]
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
    """Complaints of `pip check` about a distribution, and whether a plugin declares the genkit that it needs."""
    from packaging.requirements import Requirement

    names = {selection.canonical(Requirement(line).name) for line in home.requires or ()}
    complaints = _pip_check()
    own_complaints = _complaints_about(home.name or "", complaints or ())
    for line in own_complaints:
        option = "--force-reinstall " if "not supported on this platform" in line else ""
        yield "fault", f"{line.rstrip('.')}: pip install {option}{home.name}"
    missing = soundness.missing_requirements(home)
    if not own_complaints:
        for line in missing:
            yield "fault", f"it needs {line}: pip install {home.name}"
    if of_plugin and CORE not in names:
        floor = f"{CORE}>={registry.core_version()}"
        yield "note", f"it does not say which {CORE} it needs: add {floor} to its dependencies"
    if complaints is None:
        yield (
            "note",
            "not compared with what is installed, as pip does not run here: try uv pip check",
        )
    elif not own_complaints and not missing and (CORE in names or not of_plugin):
        yield "ok", "all installed"


def _complaints_about(name: str, complaints: Iterable[str]) -> list[str]:
    """The complaints of `pip check` that are about a distribution, each once.

    A complaint begins with the distribution that it is about, spelt as in its metadata or normalised, by the version
    of pip; both spellings are taken. That another distribution requires it is no complaint about it.
    """
    return [
        line
        for line in dict.fromkeys(complaints)
        if selection.canonical(line.partition(" ")[0]) == selection.canonical(name)
    ]


@cache
def _pip_check() -> tuple[str, ...] | None:
    """The complaints of `pip check` about all installed distributions, one a line; None if it gives no answer.

    A complaint is a missing requirement, another version than the required one, or a wheel for another platform.
    `pip check` does not follow the extras of requirements: what is missing because of them is found when the plugin's
    classes are loaded. It gives no answer where pip is missing, cannot start, or needs more than `LOAD_SECONDS`.
    """
    # -P: a file of the working folder may be named like a module that pip imports. --isolated: the user's pip
    # settings (PIP_QUIET, PIP_REQUIRE_VIRTUALENV) would change or suppress the answer.
    options = ["--isolated", "--disable-pip-version-check", "--no-color"]
    command = [sys.executable, "-P", "-m", "pip", "check", *options]
    try:
        process = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=LOAD_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if process.returncode == 0:
        return ()
    lines = tuple(line.strip() for line in process.stdout.splitlines() if line.strip())
    # Metadata that pip cannot parse are a warning on standard error; then there may be no other complaint.
    return lines if lines or "parsing requirements" in process.stderr else None


def _in_place(home: Distribution) -> Iterator[Outcome]:
    """Whether an editable install is up to date: it keeps the version and entry points of when it was installed."""
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
    differences = []
    if project.get("version", home.version) != home.version:
        differences.append(f"version {project['version']}, installed is {home.version}")
    entry_points = {
        entry_point.name: entry_point.value
        for entry_point in home.entry_points.select(group=ENTRY_POINT_GROUP)
    }
    if project.get("entry-points", {}).get(ENTRY_POINT_GROUP, entry_points) != entry_points:
        differences.append("other entry points than those installed")
    for difference in differences:
        yield "fault", f"{file} says {difference}: pip install -e {folder}"
    if not differences:
        yield "ok", f"installed in place from {folder}"


def _copies(home: Distribution) -> Iterator[Outcome]:
    """Further copies of a distribution on `sys.path`, which the first one hides."""
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
    """What plugins do when their manifests are imported, and whether the classes of the valid ones can be loaded.

    All manifests are imported at the same time, then all classes, each plugin in a process of its own.
    """
    findings: dict[Found, list[Finding]] = {row: [] for row in rows}
    questions = {row: (__name__, "import_report", row.id, row.target) for row in rows}
    valid_rows = []
    for row, (report, fault) in ask(questions, registry.PROBE_SECONDS, ending=True).items():
        outcomes = (
            list(_import_findings(report, fault))
            if report
            else [("manifest", "fault", f"its import {fault}")]
        )
        findings[row] += [Finding(row.name, *outcome) for outcome in outcomes]
        if report and not report["reason"]:
            valid_rows.append(row)
    load_questions = {row: (__name__, "load_faults", row.target) for row in valid_rows}
    for row, (faults, fault) in ask(load_questions, LOAD_SECONDS).items():
        messages = [fault and f"loading it {fault}"] if faults is None else faults
        findings[row] += [Finding(row.name, "classes", "fault", message) for message in messages]
        if not messages:
            findings[row].append(
                Finding(row.name, "classes", "ok", "all that its manifest names can be loaded")
            )
    return findings


def _import_findings(report: dict[str, Any], fault: str) -> Iterator[tuple[str, str, str]]:
    """(check, status, message) of what the import of a manifest did.

    Args:
        report: of `import_report`.
        fault: why the process had to be ended after it; empty if it ended by itself.
    """
    if report["reason"]:
        yield "manifest", "fault", report["reason"]
    else:
        yield "manifest", "ok", f"imported in {report['milliseconds']} ms from {report['file']}"
    if report["heavy"]:
        status = "fault" if "torch" in report["heavy"] else "note"
        yield (
            "weight",
            status,
            f"its manifest imports {', '.join(report['heavy'])}: name what needs them by strings",
        )
    if fault:
        yield (
            "end",
            "fault",
            f"after the import its process {fault}: start threads where they are needed, and leave exit to others",
        )
    elif report["threads"]:
        yield (
            "end",
            "note",
            f"threads that it starts at import: {report['threads']}; start them where they are needed",
        )


def import_report(id: str, target: str) -> dict[str, Any]:
    """Import a manifest and report what that does; called in a child process.

    Returns:
        status and reason as `registry.manifest_status`; milliseconds of the import; file, or None if unknown; heavy,
        the modules of `HEAVY` that are imported afterwards; threads, how many run besides the main one.
    """
    import threading
    import time

    start_time = time.perf_counter()
    status = registry.manifest_status(id, target)
    module = sys.modules.get(target.partition(":")[0])
    return {
        **status,
        "milliseconds": round(1000 * (time.perf_counter() - start_time)),
        "file": getattr(module, "__file__", None),
        "heavy": [name for name in HEAVY if name in sys.modules],
        "threads": threading.active_count() - 1,
    }


def load_faults(target: str) -> list[str]:
    """What a manifest names and does not work, each with the reason: classes, a preset, models that ship with it.

    Called in a child process.
    """
    manifest, faults = resolve(target), []
    for part in ("plugin", "options", "controls"):
        try:
            registry.load(manifest) if part == "plugin" else registry.named_class(manifest, part)
        except PluginError as error:
            faults.append(f"{error.call}: {error.reason}")
    preset_fault = "" if faults else soundness.preset_fault(manifest)
    return [*faults, *filter(None, [preset_fault]), *bundled.faults(manifest)]
