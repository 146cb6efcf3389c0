"""The README is true: its commands run, its links lead somewhere, its table is that of the manifests.

Its Python block is run by the conftest.py of the repository's root. Trainings are shortened, never left out.
"""

import importlib
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

import genkit
from genkit.cli import main
from genkit.discovery import registry
from genkit.plugin import ENTRY_POINT_GROUP

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PLUGINS = sorted(ROOT.glob("plugins/*/README.md"))
INSTALL = "pip install . plugins/audio plugins/image plugins/text plugins/video"

RUN_LENGTH = "--items 64 --batch-size 32 --plan fp32 --threads 1 run.sample_items=64 run.samples=4"
"""Behind every `genkit train`: two rounds, no measuring of plans, one small preview."""
SMALL_NETWORKS = {
    "image": "options.size=16 options.features=2 options.latent=4 options.pretrained_critic=none",
    "video": "options.size=16 options.frames=2 options.features=2 options.critic_features=2",
    "audio": "options.samples=1024 options.features=2 options.critic_features=2",
    "text": "options.vocabulary=64 options.embedding=4 options.hidden=4 options.critic_hidden=4",
    "waves": "options.width=8",
}
"""Networks of each modality that cost nothing; a modality without an entry is one that this file cannot run."""
STAGES = {
    "seqgan-fast": "recipe.stages=[{kind: critics, items: 32}, {kind: game}]",
}
"""Stages that fit into RUN_LENGTH items, by preset; the first preset of text is seqgan-fast."""
QUICK_COMMANDS = [
    ("data", "check"),
    ("evaluate",),
    ("generate",),
    ("info",),
    ("plugins", "list"),
    ("plugins", "new"),
    ("plugins", "show"),
]
"""Commands that are run as they stand."""


def commands(text):
    """The commands of a page's console blocks, each as its words, without comments."""
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ ")]


def shortened(words):
    """The arguments of `genkit train` with everything that makes it quick behind them."""
    modality = words[1]
    preset = words[words.index("--preset") + 1] if "--preset" in words else None
    if modality not in SMALL_NETWORKS:
        pytest.fail(f"{shlex.join(words)}: no small networks are known for {modality}")
    if "--resume" in words:  # the run keeps its networks
        return [*words, "--items", "96"]
    stages = STAGES.get(preset or next(iter(registry.describe(modality).presets)))
    return [
        *words,
        *SMALL_NETWORKS[modality].split(),
        *([stages] if stages else []),
        *RUN_LENGTH.split(),
    ]


def run(words, folder):
    """Run one command of the README in this process, or check what it names; fails on one that is not known."""
    program, arguments = words[0], words[1:]
    if program == "genkit":
        if arguments[0] == "train":
            arguments = shortened(arguments)
        elif not any(tuple(arguments[: len(start)]) == start for start in QUICK_COMMANDS):
            pytest.fail(f"{shlex.join(words)}: this file does not know how to run it")
        with pytest.raises(SystemExit) as exit_info:
            main(arguments)
        assert not exit_info.value.code, shlex.join(words)
        if "--out" in arguments and (out := arguments[arguments.index("--out") + 1]) != "-":
            assert (folder / out).exists(), f"{shlex.join(words)} wrote no {out}"
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.M) for target in arguments), words
    elif program == "pip":
        assert arguments[0] == "install"
        for name in arguments[1:]:
            if name not in ("-e", "torch"):
                install(name, folder)
    elif program == "pytest":
        assert all(list((folder / name).glob("tests/test_*.py")) for name in arguments), words
    else:
        pytest.fail(f"{shlex.join(words)}: this file does not know how to run it")


def install(name, folder):
    """Check a project folder that pip is given; one that a command has just written becomes a modality."""
    path, extra = re.fullmatch(r"([^\[]+)(?:\[(\w+)\])?", name).groups()
    is_new = (folder / path / "pyproject.toml").exists()
    project = tomllib.loads(((folder if is_new else ROOT) / path / "pyproject.toml").read_text())
    assert extra is None or extra in project["project"]["optional-dependencies"]
    if is_new:
        sys.path.insert(0, str(folder / path / "src"))
        for target in project["project"]["entry-points"][ENTRY_POINT_GROUP].values():
            module, _, attribute = target.partition(":")
            genkit.register(getattr(importlib.import_module(module), attribute))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to run in, with the pictures and poems of the README; what is registered there is taken back."""
    for number in range(32):
        path = tmp_path / "photos" / f"class-{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), 8 * number).save(path)
    (tmp_path / "poems.txt").write_text("the moon is bright\nthe river is wide\na bird\n" * 12)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "waves_gan"]:
        del sys.modules[name]
    genkit.unregister("waves")


def test_every_command_runs(folder, capsys):
    for words in commands(README):
        run(words, folder)


@pytest.mark.parametrize(
    "line", ["genkit fly", "genkit train smells", "rm -r runs", "genkit plugins frobnicate"]
)
def test_a_command_that_is_not_known_fails(line, tmp_path):
    with pytest.raises(pytest.fail.Exception):
        run(line.split(), tmp_path)


@pytest.mark.parametrize("path", [ROOT / "README.md", *PLUGINS], ids=lambda path: path.parent.name)
def test_links_and_pictures_lead_to_files(path):
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("part", ["tutorials", "guides"])
def test_all_tutorials_and_guides_are_linked(part):
    pages = [page.relative_to(ROOT).as_posix() for page in (ROOT / "docs" / part).glob("*.md")]
    assert {page for page in pages if f"]({page})" not in README} == {f"docs/{part}/index.md"}


def test_the_table_has_the_modalities_and_presets_of_the_manifests():
    rows = re.findall(r"^\| `(\w+)` \| (`[^|]+) \|", README, re.M)
    table = {id: re.findall(r"`([\w-]+)`", presets) for id, presets in rows}
    assert table == {
        id: list(registry.describe(id).presets) for id in registry.project_distributions()
    }


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.parent.name)
def test_plugins_are_installed_as_the_readme_says_and_from_no_index(path):
    text = path.read_text(encoding="utf-8")
    assert INSTALL in README
    assert INSTALL in text
    assert "pypi.org/project/genkit" not in text + README
    assert 'pip install "genkit' not in text + README


def test_the_front_page_is_short():
    assert len(README.splitlines()) <= 150
