"""What is shipped works: the wheels in a fresh environment. Slow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_wheels_of_all_distributions_train_and_generate_in_a_fresh_environment(tmp_path):
    wheels, environment = tmp_path / "wheels", tmp_path / "venv"
    for project in (ROOT, ROOT / "plugins" / "image", ROOT / "plugins" / "text"):
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(project)]
        subprocess.run(build, check=True, capture_output=True)
    files = sorted(wheels.glob("*.whl"))
    assert [file.name.split("-")[0] for file in files] == ["genkit_gan", "genkit_gan_image", "genkit_gan_text"]
    assert sum(file.stat().st_size for file in files) < 12 * 2**20
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [
        str(environment / "bin" / "pip"),
        "install",
        "-q",
        "--disable-pip-version-check",
        "-c",
        str(ROOT / "constraints.txt"),
    ]
    subprocess.run([*pip, "torch"], check=True)
    subprocess.run([*pip, *map(str, files)], check=True)

    def genkit(*words):
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        command = [str(environment / "bin" / "genkit"), *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "ok" in genkit("plugins", "list")
    assert json.loads(genkit("data", "check", "builtin:kjv", "--modality", "text", "--json"))["items"] > 0
    genkit("train", "image", "--items", 1000, "--out", "run", "-q")
    genkit("generate", "run", "-n", 4, "--out", "some/")
    genkit("generate", "run", "-n", 16, "--out", "grid.png")
    assert len(list((tmp_path / "some").glob("*.png"))) == 4
    assert (tmp_path / "grid.png").stat().st_size > 1000
    print("\nwheels: built, installed into a fresh environment, 1,000 items trained, generated")
