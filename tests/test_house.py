"""The house rules that a machine can check, beside the floors (import-linter): names, sizes, the face, the examples."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import genkit

ROOT = Path(__file__).parent.parent
ROOMS = sorted((ROOT / "genkit").rglob("*.py"))


def words_of(path):
    """Identifiers and strings that are not docstrings, lower case: what the code does, not what it explains."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    strings = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    assert any(isinstance(node, documented) for node in ast.walk(tree))
    names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    names += [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return " ".join([*names, *(node.value for node in strings if id(node) not in prose)]).lower()


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.name)
def test_no_room_names_a_modality(path):
    allowed = {"compat.py": {"audio"}}.get(path.name, set())  # torchaudio is a library's name
    found = (
        set(
            re.findall(
                r"image|video|audio|dcgan|seqgan|wavegan|picture|pixel|token", words_of(path)
            )
        )
        - allowed
    )
    assert not found


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.name)
def test_every_room_says_what_it_is_and_stays_readable(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{path.name} has no module docstring"
    assert len(text.splitlines()) <= 520
    assert not re.search(r"^\s*print\(", text, re.M) or path.parent.name == "cli"


def test_there_is_no_utils():
    names = {path.stem for path in ROOMS} | {path.parent.name for path in ROOMS}
    assert not names & {"utils", "util", "misc", "helpers", "helper", "common", "manager"}


def test_the_face_is_what_it_says():
    assert sorted(genkit.__all__) == sorted([*genkit._HOMES, "__version__"])
    for name in genkit.__all__:
        assert getattr(genkit, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = genkit.no_such_name


def test_manifests_cost_no_torch():
    heavy = "any(name in sys.modules for name in ('torch', 'pydantic'))"
    code = f"import sys, genkit_audio, genkit_image, genkit_text, genkit_video; sys.exit({heavy})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_example_of_own_networks_runs_in_one_short_file():
    path = ROOT / "examples" / "own_networks.py"
    assert len(path.read_text().splitlines()) < 60
    short = path.read_text().replace("items=100_000", "items=2_560")
    exec(compile(short, str(path), "exec"), {"__name__": "__main__"})


def test_versions_move_together():
    for plugin in ("audio", "image", "text", "video"):
        text = (ROOT / "plugins" / plugin / "pyproject.toml").read_text()
        assert f'version = "{genkit.__version__}"' in text
        assert f"genkit-gan=={genkit.__version__}" in text
        assert f"genkit-gan-{plugin}=={genkit.__version__}" in (ROOT / "pyproject.toml").read_text()
