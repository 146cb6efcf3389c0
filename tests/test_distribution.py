"""What is shipped works: the wheels in fresh environments, and a plugin written from nothing but them. Slow."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


def wheels_of(folder, *projects):
    """Wheels of these projects of the repository, sorted by name."""
    for project in projects:
        build = [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(folder),
            str(project),
        ]
        subprocess.run(build, check=True, capture_output=True)
    return sorted(folder.glob("*.whl"))


def fresh_environment(folder, wheels, *others):
    """An environment with torch, these wheels and these packages and nothing else; the folder of its programs."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check"]
    pip += ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "torch"], check=True)
    subprocess.run([*pip, *map(str, wheels), *others], check=True)
    return folder / "bin"


def follow(page, folder, programs):
    """Run the ```sh blocks of a page in order, as one session, with its ```diff blocks applied in between."""
    blocks = re.findall(r"^```(sh|diff)\n(.*?)^```", page.read_text(), re.M | re.S)
    script = "".join(
        text if kind == "sh" else f"git apply - <<'END'\n{text}END\n" for kind, text in blocks
    )
    environment = {**CLEAN, "PATH": os.pathsep.join([str(programs), CLEAN["PATH"]])}
    command = ["bash", "-e", "-o", "pipefail", "-c", script]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_wheels_of_all_distributions_train_and_generate_in_a_fresh_environment(tmp_path):
    plugins = "audio", "image", "text", "video"
    files = wheels_of(tmp_path / "wheels", ROOT, *(ROOT / "plugins" / name for name in plugins))
    assert [file.name.split("-")[0] for file in files] == [
        "genkit_gan",
        *(f"genkit_gan_{name}" for name in plugins),
    ]
    assert sum(file.stat().st_size for file in files) < 12 * 2**20
    programs = fresh_environment(tmp_path / "venv", files)

    def genkit(*words):
        command = [str(programs / "genkit"), *map(str, words)]
        done = subprocess.run(
            command, cwd=tmp_path, env=CLEAN, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "ok" in genkit("plugins", "list")
    assert (
        json.loads(genkit("data", "check", "builtin:kjv", "--modality", "text", "--json"))["items"]
        > 0
    )
    genkit("train", "image", "--items", 1000, "--out", "run", "-q")
    genkit("generate", "run", "-n", 4, "--out", "some/")
    genkit("generate", "run", "-n", 16, "--out", "grid.png")
    assert len(list((tmp_path / "some").glob("*.png"))) == 4
    for model in json.loads(genkit("models", "--json"))["models"]:
        if model["place"] == "bundled":
            genkit("generate", model["name"], "-n", 1, "--out", f"of-{model['name']}/")
    assert (tmp_path / "grid.png").stat().st_size > 1000
    print("\nwheels: built, installed into a fresh environment, 1,000 items trained, generated")


@pytest.mark.slow
def test_the_tutorial_works_step_by_step_beside_wheels_of_the_core_and_one_plugin(tmp_path):
    files = wheels_of(tmp_path / "wheels", ROOT, ROOT / "plugins" / "image")
    programs = fresh_environment(tmp_path / "venv", files, "mypy")
    said = follow(ROOT / "docs" / "tutorials" / "write_a_modality.md", tmp_path, programs)
    assert re.search(r"^waves +waves-gan +0\.1\.0 +ok", said, re.M)
    assert re.search(r"^image +genkit-gan-image .* ok", said, re.M)
    assert "usable:                 100 of 100 items" in said
    assert "options.depth:          4" in said
    assert len(re.findall(r"\d+ passed", said)) == 2
    assert len((tmp_path / "waves-gan" / "curves.csv").read_text().splitlines()) == 100
    assert len(list((tmp_path / "waves-gan" / "samples").glob("*.csv"))) == 3
    strict = [str(programs / "mypy"), "--strict", "src"]
    types = subprocess.run(
        strict, cwd=tmp_path / "waves-gan", capture_output=True, text=True, check=False
    )
    assert types.returncode == 0, types.stdout
    print("\ntutorial: followed in a fresh environment, tests of the package included")
