"""The doctor finds what is wrong with an installation, in a limited time, and everything else goes on working."""

import json
import subprocess
import sys

import pytest

from genkit.cli import main
from genkit.discovery import doctor, registry
from genkit.errors import UnknownModality

PLUGIN = "from genkit.plugin import ModalityPlugin\nclass Plugin(ModalityPlugin):\n    def networks(self): ...\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(registry, "PROBE_SECONDS", 1.5)


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


def test_requirements_are_compared_with_what_is_installed(alpha):
    require(
        alpha,
        "numpy>=1",
        "numpy<0.1",
        "no-such-distribution[fast]>=2; python_version > '3'",
        "no-such-either; extra == 'more'",
        "nor-this; python_version < '3'",
        "genkit-gan>=900",
    )
    said = faults()
    assert len(said) == 3
    assert any(message.endswith("pip install 'numpy<0.1'") for message in said)
    assert "no-such-distribution is not installed: pip install 'no-such-distribution>=2'" in said
    assert any("genkit-gan>=900" in message for message in said)


def test_requirements_of_the_extras_that_are_asked_for_count(alpha, site):
    other = site.install("other", {}, group="none")
    require(
        other, "lost; extra == 'more'", "other[more]; extra == 'more'", "forgotten; extra == 'rest'"
    )
    require(alpha, "other[more]")
    assert faults() == ["lost is not installed: pip install 'lost'"]


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


def test_the_command_ends_with_1_if_there_is_a_fault_and_is_json_if_asked(alpha, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plugins", "doctor", "alpha", "--json"])
    assert ended.value.code == 0
    assert {row["status"] for row in json.loads(capsys.readouterr().out)["findings"]} == {"ok"}
    require(alpha, "no-such-distribution")
    with pytest.raises(SystemExit) as ended:
        main(["plugins", "doctor", "genkit-alpha"])
    assert ended.value.code == 1
    assert "pip install 'no-such-distribution'" in capsys.readouterr().out


def test_beside_all_hostile_plugins_together_a_model_is_trained_told_of_and_drawn_from(
    site, tmp_path
):
    hostile = {
        "hanging": "import time; time.sleep(600)\n",
        "exiting": "import sys; sys.exit()\n",
        "killing": "import os; os._exit(0)\n",
        "printing": "print('hello')\n",
        "threading": "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()\n",
        "clearing": "import sys; sys.modules.clear()\n",
        "newer": "from genkit.plugin import Modality; Modality('newer', 'T', 'm:P', needs=(1, 9), smell='rose')\n",
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
        "from genkit import registry; from genkit.cli import main; registry.PROBE_SECONDS = 1.5\n"
        "for words in ('train ring --items 64 --out run -q', 'info run', 'generate run -n 2 --out some/',\n"
        "              'plugins show image', 'plugins list', 'plugins doctor hanging'):\n"
        "    try: main(words.split())\n"
        "    except SystemExit as end: print('ended', words, end.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    ends = [line for line in done.stdout.splitlines() if line.startswith("ended")]
    assert [line.split()[-1] for line in ends] == ["0", "0", "0", "0", "0", "1"], (
        done.stdout + done.stderr
    )
    assert (tmp_path / "some" / "samples.json").exists()
    assert "its import did not end within 1.5 s" in done.stdout
