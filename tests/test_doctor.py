"""The doctor finds what is wrong with an installation, in a limited time, and everything else goes on working."""

import json
import subprocess
import sys
from unittest.mock import Mock

import pytest

from genkit.cli import main
from genkit.discovery import doctor, registry
from genkit.errors import UnknownModality

PLUGIN = "from genkit.plugin import ModalityPlugin\nclass Plugin(ModalityPlugin):\n    def networks(self): ...\n"


pip_check = doctor._pip_check.__wrapped__


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(registry, "PROBE_SECONDS", 1.5)
    monkeypatch.setattr(doctor, "_pip_check", lambda: ())  # a second of work


@pytest.fixture
def pip(monkeypatch):
    """Ask pip what is missing, each time anew."""
    monkeypatch.setattr(doctor, "_pip_check", pip_check)


@pytest.fixture
def alpha(site):
    """A plugin that is well; gives its metadata's folder."""
    metadata = site.plugin("alpha")
    (site.folder / "fake_alpha_heavy.py").write_text(PLUGIN)
    require(metadata, "genkit-gan")
    return metadata


def require(metadata, *lines):
    with (metadata / "METADATA").open("a") as file:
        file.writelines(f"Requires-Dist: {line}\n" for line in lines)


def examined(name="alpha"):
    return {finding.check: (finding.status, finding.message) for finding in doctor.examine(name)}


def faults(name="alpha"):
    return [finding.message for finding in doctor.examine(name) if finding.status == "fault"]


def test_a_plugin_that_is_well_has_no_fault(alpha):
    found = examined()
    assert {check: status for check, (status, _) in found.items()} == dict.fromkeys(
        ("discovery", "requirements", "manifest", "classes"), "ok"
    )
    assert f"from {alpha.parent}" in found["manifest"][1]
    assert "fake_alpha" not in sys.modules
    with pytest.raises(UnknownModality, match="Did you mean 'alpha'"):
        doctor.examine("alpa")


def test_requirements_are_compared_with_what_is_installed(alpha, pip):
    require(
        alpha,
        "numpy>=1",
        "numpy<0.1",
        "no-such-distribution[fast]>=2; python_version > '3'",
        "no-such-either; extra == 'more'",
        "nor-this; python_version < '3'",
        "genkit-gan>=900",
    )
    messages = faults()
    assert len(messages) == 3
    assert all(message.endswith(": pip install genkit-alpha") for message in messages)
    for words in (
        "has requirement numpy<0.1, but you have numpy ",
        "requires no-such-distribution, which is not installed",
        "has requirement genkit-gan>=900, but you have genkit-gan ",
    ):
        assert any(f"genkit-alpha 1.0 {words}" in message for message in messages)


def test_what_others_lack_is_not_said_of_a_plugin(alpha, site, pip):
    other = site.install("other", {}, group="none")
    require(other, "lost")
    require(alpha, "other", "numpy")
    assert examined()["requirements"] == ("ok", "all installed")


def test_pips_complaints_are_matched_by_name_however_it_is_spelt(alpha, monkeypatch):
    lines = (
        "Genkit_Alpha 1.0 requires lost, which is not installed.",
        "genkit-alpha 1.0 is not supported on this platform",
        "other 1.0 requires genkit-alpha, which is not installed.",
    )
    monkeypatch.setattr(doctor, "_pip_check", lambda: lines)
    assert faults() == [
        "Genkit_Alpha 1.0 requires lost, which is not installed: pip install genkit-alpha",
        "genkit-alpha 1.0 is not supported on this platform: pip install --force-reinstall genkit-alpha",
    ]


def test_where_pip_gives_no_answer_requirements_are_a_note(alpha, monkeypatch):
    monkeypatch.setattr(doctor, "_pip_check", lambda: None)
    status, message = examined()["requirements"]
    assert (status, "uv pip check" in message) == ("note", True)


def test_what_a_plugin_lacks_is_a_fault_whatever_pip_says(alpha, monkeypatch):
    """As `plugins list` says it: pip may be missing, or look elsewhere."""
    require(alpha, "lost>=3", "numpy>=99")
    for answer in ((), None):
        monkeypatch.setattr(doctor, "_pip_check", lambda answer=answer: answer)
        lost, numpy = faults()
        assert lost == "it needs lost>=3, which is not installed: pip install genkit-alpha"
        assert numpy.startswith("it needs numpy>=99, but ")


@pytest.mark.parametrize(
    ("code", "output", "errors", "complaints"),
    [
        (0, "No broken requirements found.\n", "", ()),
        (1, "a 1 requires b, which is not installed.\n", "", ("a 1 requires b, which is not installed.",)),
        (1, "", "WARNING: Error parsing requirements for c: [Errno 2]\n", ()),
        (1, "", "/usr/bin/python: No module named pip\n", None),
        (3, "", "ERROR: Could not find an activated virtualenv (required).\n", None),
    ],
)  # fmt: skip
def test_an_answer_of_pip_is_told_from_none(monkeypatch, code, output, errors, complaints):
    process = subprocess.CompletedProcess([], code, output, errors)
    monkeypatch.setattr(doctor.subprocess, "run", lambda *arguments, **keywords: process)
    assert pip_check() == complaints


def test_a_pip_that_hangs_or_cannot_start_gives_no_answer(monkeypatch):
    for error in (subprocess.TimeoutExpired("pip", 60), OSError()):
        monkeypatch.setattr(doctor.subprocess, "run", Mock(side_effect=error))
        assert pip_check() is None


@pytest.mark.parametrize("line", ["][", "genkit-gan; nonsense == '1'"])
def test_requirements_that_cannot_be_read_are_a_fault_and_no_traceback(alpha, line):
    require(alpha, line)
    assert "its metadata cannot be read" in faults()[0]


def test_a_floor_that_is_not_declared_is_a_note(site):
    site.plugin("alpha")
    status, message = examined()["requirements"]
    assert status == "note"
    assert f"add genkit-gan>={registry.core_version()}" in message


def in_place(metadata, folder):
    (metadata / "direct_url.json").write_text(
        json.dumps({"url": folder.as_uri(), "dir_info": {"editable": True}})
    )


def test_stale_installs_in_place_are_found(alpha, tmp_path):
    project = tmp_path / "with space"
    in_place(alpha, project)
    assert "which is gone" in examined()["in place"][1]
    project.mkdir()
    assert examined()["in place"] == ("ok", f"installed in place from {project}")
    for stale, said in (
        ('version = "2.0"', "says version 2.0, installed is 1.0"),
        ("", "says other entry points"),
    ):
        text = f'[project]\nname = "alpha"\n{stale}\n[project.entry-points."genkit.modality.v1"]\nbeta = "m:x"\n'
        (project / "pyproject.toml").write_text(text)
        assert any(
            said in message and f"pip install -e {project}" in message for message in faults()
        )


def test_copies_that_are_hidden_are_named(alpha, site, tmp_path, monkeypatch):
    second = type(site)(tmp_path / "second")
    copy = second.plugin("alpha", version="0.9")
    monkeypatch.syspath_prepend(second.folder)
    monkeypatch.syspath_prepend(site.folder)
    assert examined()["copies"][0] == "note"
    assert examined()["copies"][1].startswith(f"{copy} is a copy that {alpha} hides")


def test_a_rival_of_the_import_name_is_a_fault(site, monkeypatch):
    monkeypatch.setattr(registry, "found", lambda strict=None: [])
    ours = {finding.check: finding.status for finding in doctor.examine()}
    assert (ours["import name"], ours["interpreter"]) == ("ok", "ok")
    metadata = site.install("genkit", {}, group="none")
    (metadata / "RECORD").write_text("genkit/ai.py,,\ngenkit/__init__.py,sha256=x,1\n")
    said = [finding.message for finding in doctor.examine() if finding.check == "import name"]
    assert said == [
        "genkit brings a package `genkit` too: pip uninstall genkit, then reinstall genkit-gan"
    ]


MANNERS = {
    "weight": ("import numpy\n", "note", "imports numpy"),
    "end": (
        "import threading, time; threading.Thread(target=time.sleep, args=(9,)).start()\n",
        "fault",
        "did not end",
    ),
    "manifest": ("raise RuntimeError('no')\n", "fault", "RuntimeError: no"),
    "classes": ("", "fault", "No module named 'fake_alpha_heavy'"),
}


@pytest.mark.parametrize("check", MANNERS)
def test_manners_at_import_are_judged(site, check):
    before, status, said = MANNERS[check]
    site.plugin("alpha", before=before)
    found = examined()
    assert found[check][0] == status
    assert said in found[check][1]


def test_a_daemon_thread_is_a_note_and_a_manifest_of_another_name_a_fault(site):
    site.plugin(
        "alpha",
        before="import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n",
    )
    assert examined()["end"] == (
        "note",
        "threads that it starts at import: 1; start them where they are needed",
    )
    site.install("genkit-beta", {"beta": "fake_alpha:modality"})
    assert "calls itself 'alpha', its entry point 'beta'" in examined("beta")["manifest"][1]


def test_a_disabled_plugin_is_not_run(alpha, tmp_path, monkeypatch):
    monkeypatch.setenv("GENKIT_PLUGINS", "image")
    assert examined()["discovery"][0] == "note"
    assert "manifest" not in examined()


def test_the_command_ends_with_1_if_there_is_a_fault_and_is_json_if_asked(alpha, pip, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plugins", "doctor", "alpha", "--json"])
    assert ended.value.code == 0
    assert {row["status"] for row in json.loads(capsys.readouterr().out)["findings"]} == {"ok"}
    require(alpha, "no-such-distribution")
    with pytest.raises(SystemExit) as ended:
        main(["plugins", "doctor", "genkit-alpha"])
    assert ended.value.code == 1
    assert "requires no-such-distribution, which is not installed" in capsys.readouterr().out


def test_beside_all_hostile_plugins_together_a_model_is_trained_told_of_and_drawn_from(
    site, process, tmp_path
):
    hostile = {
        "hanging": "import time; time.sleep(600)\n",
        "exiting": "import sys; sys.exit()\n",
        "killing": "import os; os._exit(0)\n",
        "printing": "print('hello')\n",
        "threading": "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()\n",
        "clearing": "import sys; sys.modules.clear()\n",
        "newer": "from genkit.plugin import Modality; Modality('newer', 'T', 'm:P', smell='rose')\n",
    }
    for id, before in hostile.items():
        site.plugin(id, before=before)
    site.install("acme-pictures", {"image": "json:x"})
    site.install("genkit-next", {"next": "json:x"}, group="genkit.modality.v2")
    (site.install("broken", {}) / "entry_points.txt").write_bytes(b"[[[ \n = = \n[unclosed\n")
    (site.folder / "stray-1.0.dist-info").mkdir()
    (site.folder / "file-1.0.dist-info").touch()
    site.install("toys", {"ring": "toys:ring"})
    script = (
        "from genkit.discovery import registry; from genkit.cli import main; registry.PROBE_SECONDS = 1.5\n"
        "for words in ('train ring --items 64 --out run -q', 'info run', 'generate run -n 2 --out some/',\n"
        "              'plugins show image', 'plugins list', 'plugins doctor hanging'):\n"
        "    try: main(words.split())\n"
        "    except SystemExit as end: print('ended', words, end.code)\n"
    )
    end = process("-c", script, cwd=tmp_path, timeout=60)
    lines = [line for line in end.stdout.splitlines() if line.startswith("ended")]
    assert [line.split()[-1] for line in lines] == ["0", "0", "0", "0", "0", "1"], (
        end.stdout + end.stderr
    )
    assert (tmp_path / "some" / "samples.json").exists()
    assert "its import did not end within 1.5 s" in end.stdout
