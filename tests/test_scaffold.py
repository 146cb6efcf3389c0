"""What `genkit plugins new` writes: found, shown, trained and drawn from at once, and clean; taken names are refused.

Discovery is real: what pip would write beside the package is written by hand. That its own tests pass, and that pip
itself installs it, is shown in test_distribution.
"""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import genkit
from genkit import cli
from genkit.discovery import registry
from genkit.discovery.scaffold import new_plugin, package_files
from genkit.errors import ConfigError, StorageError

LONGEST = "a" * 32


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return new_plugin("waves", tmp_path_factory.mktemp("new") / "waves-gan")


RUN_ALL = """
import json, sys
from genkit.cli import main

for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as end:
        assert not end.code, (words, end.code)
    print("end of command")
"""


@pytest.fixture
def installed(package, tmp_path):
    """Run commands of genkit in one process with the package on the path, as after `pip install -e`: their outputs."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    metadata = tmp_path / f"waves_gan-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n"
    )
    entries = project["entry-points"][genkit.plugin.ENTRY_POINT_GROUP]
    lines = [
        f"[{genkit.plugin.ENTRY_POINT_GROUP}]",
        *(f"{id} = {target}" for id, target in entries.items()),
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))

    def run(*commands, source=package / "src"):
        paths = [str(source), str(tmp_path), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        command = [sys.executable, "-c", RUN_ALL, json.dumps([line.split() for line in commands])]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split("end of command\n")[:-1]

    return run


def ruff(*words):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_new_package_is_found_shown_trained_and_drawn_from(installed, tmp_path):
    shown, *_ = installed(
        "plugins show waves",
        "train waves --items 640 --threads 1 --plan fp32 --out run -q",
        "generate run -n 3 --out some/",
    )
    assert "Curves: waves-gan 0.1.0 (waves)" in shown
    # Another process finds the model, and what was generated can be trained on.
    *_, checked = installed(
        "generate run -n 3 --out all.csv", "data check all.csv --modality waves"
    )
    some = [path.read_text() for path in sorted((tmp_path / "some").glob("*.csv"))]
    assert "".join(some) == (tmp_path / "all.csv").read_text()
    assert [line.count(",") for line in some] == [63] * 3
    assert "3 of 3 items" in checked


@pytest.mark.parametrize("id", ["a", "waves_2d", LONGEST])
def test_whatever_its_name_the_package_is_formatted_and_free_of_lint(id, tmp_path):
    folder = new_plugin(id, tmp_path / "package")
    ruff("format", "--check", folder)
    ruff("check", folder)
    for path in folder.rglob("*.py"):
        compile(path.read_text(), str(path), "exec")


@pytest.mark.slow
def test_the_package_is_typed(package):
    paths = os.pathsep.join([str(package / "src"), str(Path(genkit.__file__).parent.parent)])
    command = [sys.executable, "-m", "mypy", "--cache-dir", os.devnull]
    done = subprocess.run(
        command,
        cwd=package,
        env={**os.environ, "MYPYPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_it_needs_the_core_that_wrote_it_or_a_newer_one():
    project = tomllib.loads(package_files("waves_2d")["pyproject.toml"])["project"]
    assert project["name"] == "waves-2d-gan"
    assert f"genkit-gan>={registry.core_version()}" in project["dependencies"]
    assert project["entry-points"]["genkit.modality.v1"] == {"waves_2d": "waves_2d_gan:modality"}


@pytest.mark.parametrize(
    ("id", "why"),
    [
        ("Waves", "lower-case letter"),
        ("2d", "lower-case letter"),
        ("", "lower-case letter"),
        ("../waves", "lower-case letter"),
        (LONGEST + "a", "at most 32"),
        ("image", "that of genkit-gan-image"),
        ("genkit", "the project's own"),
        ("genkit_waves", "the project's own"),
        ("genkitwaves", "the project's own"),
    ],
)
def test_a_name_that_is_impossible_or_taken_is_refused(id, why, tmp_path):
    with pytest.raises(ConfigError, match=why):
        new_plugin(id, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_name_whose_module_exists_is_refused(tmp_path, monkeypatch):
    (tmp_path / "taken_gan.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match="taken_gan is installed already"):
        package_files("taken")


def test_a_folder_with_anything_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine").touch()
    for folder in (tmp_path, tmp_path / "mine"):
        with pytest.raises(ConfigError, match="not empty"):
            new_plugin("waves", folder)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_empty_folder_is_filled(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.app(["plugins", "new", "waves", "--out", "."], standalone_mode=False)
    assert (tmp_path / "src" / "waves_gan" / "plugin.py").is_file()
    assert {path.name for path in tmp_path.iterdir()} >= {
        ".github",
        ".gitignore",
        "README.md",
        "pyproject.toml",
    }
    assert "genkit train waves" in capsys.readouterr().out


def test_it_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write, files = Path.write_text, []

    def fails_at_last(path, *arguments, **named):
        files.append(path)
        if len(files) > 3:
            raise OSError(28, "No space left on device")
        return write(path, *arguments, **named)

    monkeypatch.setattr(Path, "write_text", fails_at_last)
    with pytest.raises(StorageError, match="No space left"):
        new_plugin("waves", tmp_path / "waves-gan")
    assert not list(tmp_path.iterdir())


def test_what_is_published_holds_nothing_that_was_generated(package, tmp_path):
    project = shutil.copytree(package, tmp_path / "project")
    for path in ("runs/run.txt", "samples/0.csv", "all.csv"):
        (project / path).parent.mkdir(exist_ok=True)
        (project / path).touch()
    build = [
        sys.executable,
        "-m",
        "build",
        "--sdist",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(project),
    ]
    subprocess.run(build, check=True, capture_output=True)
    with tarfile.open(tmp_path / "waves_gan-0.1.0.tar.gz") as archive:
        tops = {Path(name).parts[1] for name in archive.getnames()}
    assert tops == {"src", "tests", "README.md", ".gitignore", "pyproject.toml", "PKG-INFO"}


def test_the_package_is_under_150_lines_of_python(package):
    lines = [
        line
        for path in package.rglob("src/**/*.py")
        for line in path.read_text().splitlines()
        if line.strip()
    ]
    assert len(lines) < 150


def test_the_change_of_the_tutorial_fits_and_is_an_option(installed, package, tmp_path):
    page = Path(__file__).parent.parent / "docs" / "tutorials" / "write_a_modality.md"
    (change,) = re.findall(r"^```diff\n(.*?)^```", page.read_text(), re.M | re.S)
    changed = shutil.copytree(package, tmp_path / "changed")
    subprocess.run(["git", "apply", "-"], cwd=changed, input=change, text=True, check=True)
    ruff("check", changed)
    (shown,) = installed("plugins show waves", source=changed / "src")
    assert "  depth             Hidden layers of each network. [default: 2]" in shown
