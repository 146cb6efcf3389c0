"""The rules of the code base that a machine can check, beside the layers (import-linter): names, sizes, imports.

Each guard of `tests/guards.py` finds nothing in this repository, and finds a fault that is planted in a copy of it.
"""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import guards
import pytest

import genkit

ROOT = Path(__file__).parent.parent
CORE = ROOT / "genkit"
MODULES = sorted(CORE.rglob("*.py"))
SOURCES = [CORE, *sorted((ROOT / "plugins").glob("*/src")), ROOT / "examples"]
PAGES = [
    path
    for path in ROOT.rglob("*.md")
    if not {".venv", "_build", ".pytest_cache"} & set(path.parts)
]


# What holds ------------------------------------------------------------------------------------------------------


def test_the_core_names_no_medium():
    assert list(guards.named_modalities(CORE)) == []


def test_the_core_imports_no_plugin_and_not_its_own_public_api():
    assert list(guards.imports_of_plugins(CORE)) == []
    assert list(guards.imports_of_the_public_api(CORE)) == []


@pytest.mark.parametrize("folder", SOURCES[1:], ids=lambda path: path.parent.name)
def test_plugins_and_examples_import_what_is_public(folder):
    assert list(guards.imports_of_private_modules(folder, testing="examples" in folder.parts)) == []


def test_what_authors_begin_with_imports_what_is_public(tmp_path):
    from genkit.discovery.scaffold import package_files

    for path, content in package_files("waves").items():
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
    assert list(guards.imports_of_private_modules(tmp_path / "src")) == []
    assert list(guards.imports_of_private_modules(tmp_path / "tests", testing=True)) == []


@pytest.mark.parametrize("folder", SOURCES, ids=lambda path: path.parent.name)
def test_names_that_were_given_up_are_gone(folder):
    assert list(guards.dropped_names(folder)) == []


@pytest.mark.parametrize("folder", SOURCES, ids=lambda path: path.parent.name)
def test_variables_are_nouns(folder):
    assert list(guards.bare_names(folder)) == []


def test_words_that_were_given_up_are_gone_from_docs_and_docstrings():
    told_of = {
        "words.md",
        "CHANGELOG.md",
        "changelog.md",
    }  # where the old names stand beside the new ones
    pages = {
        path.name: guards.dropped_prose(path.read_text())
        for path in PAGES
        if path.name not in told_of
    }
    code = {
        path.name: guards.dropped_prose(path.read_text())
        for folder in SOURCES
        for path in folder.rglob("*.py")
    }
    assert {name: words for name, words in {**pages, **code}.items() if words} == {}


# What is caught --------------------------------------------------------------------------------------------------

CORE_PLANTS = {
    "a class": ("class ImageAudioThing:\n    pass\n", guards.named_modalities),
    "a function": ("def image_grid():\n    pass\n", guards.named_modalities),
    "an argument": ("def grid(pixel=3):\n    pass\n", guards.named_modalities),
    "a keyword": ("dict(pixel=3)\n", guards.named_modalities),
    "an import's name": ("from genkit_image import dcgan\n", guards.named_modalities),
    "a string": ("KIND = 'video/mp4'\n", guards.named_modalities),
    "a plugin": ("from genkit_image import dcgan\n", guards.imports_of_plugins),
    "a plugin in a function": (
        "def late():\n    import genkit_text.plugin\n",
        guards.imports_of_plugins,
    ),
    "the public API": ("import genkit\n", guards.imports_of_the_public_api),
    "a name of the public API": ("from genkit import train\n", guards.imports_of_the_public_api),
    "a dropped name": ("def choose(jury):\n    return jury\n", guards.dropped_names),
    "a participle": ("found = 3\n", guards.bare_names),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of a part of the core, in which faults are planted, among the names of the others."""
    folder = tmp_path_factory.mktemp("copy") / "genkit"
    for path in CORE.iterdir():
        (folder / path.stem).mkdir(parents=True, exist_ok=True)
    shutil.copytree(CORE / "sampling", folder / "sampling", dirs_exist_ok=True)
    return folder


@pytest.mark.parametrize("what", CORE_PLANTS)
def test_a_fault_that_is_planted_in_the_core_is_found(what, copy):
    source, guard = CORE_PLANTS[what]
    module = copy / "sampling" / "noise.py"
    original = module.read_text()
    try:
        module.write_text(f"{original}\n{source}")
        findings = list(guard(copy))
    finally:
        module.write_text(original)
    line = len(original.splitlines()) + 2
    assert findings
    assert all(re.match(rf"noise\.py:({line}|{line + 1}):", finding) for finding in findings)


@pytest.mark.parametrize(
    "source",
    [
        "from genkit.system.files import write_whole\n",
        "from genkit import config\n",
        "import genkit.engine.game\n",
        "def late():\n    from genkit.discovery import registry\n",
        "from genkit.testing import check_modality\n",
    ],
)
def test_a_private_import_in_a_plugin_is_found(source, tmp_path):
    (tmp_path / "plugin.py").write_text(f"from genkit.kit.files import write_whole\n{source}")
    (finding,) = guards.imports_of_private_modules(tmp_path)
    assert finding.startswith("plugin.py:")


def test_prose_with_a_dropped_word_is_found():
    assert guards.dropped_prose("The jury's verdict; see recipe.accumulate.") == [
        "jury",
        "recipe.accumulate",
        "verdict",
    ]
    assert guards.dropped_prose("The reranker's score; a standing injury.") == []


# The rest --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_module_says_what_it_is_and_stays_readable(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{path.name} has no module docstring"
    assert len(text.splitlines()) <= 550
    prints = re.search(r"^\s*print\(", text, re.M)
    assert not prints or path.parent.name == "cli" or path.name == "program.py"


def test_one_ls_maps_the_package():
    names = {path.name for path in CORE.iterdir()} - {
        "__pycache__",
        "__init__.py",
        "__main__.py",
        "py.typed",
    }
    assert len(names) <= 15


def test_there_is_no_utils():
    names = {path.stem for path in MODULES} | {path.parent.name for path in MODULES}
    assert not names & {"utils", "util", "misc", "helpers", "helper", "common", "manager"}


def test_the_public_api_is_what_it_says():
    assert sorted(genkit.__all__) == sorted([*genkit._SOURCES, "__version__"])
    for name in genkit.__all__:
        assert getattr(genkit, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = genkit.no_such_name


def test_manifests_cost_no_torch():
    heavy = "any(name in sys.modules for name in ('torch', 'pydantic'))"
    code = f"import sys, genkit_audio, genkit_image, genkit_text, genkit_video; sys.exit({heavy})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_distribution_is_typed():
    packages = [
        CORE,
        *(ROOT / "plugins").glob("*/src/genkit_*"),
        *(ROOT / "examples").glob("*/src/*"),
    ]
    assert len(packages) >= 6
    assert [path.name for path in packages if not (path / "py.typed").is_file()] == []


def test_the_example_of_own_networks_runs_in_one_short_file():
    path = ROOT / "examples" / "own_networks.py"
    assert len(path.read_text().splitlines()) < 70
    short = path.read_text().replace("items=100_000", "items=2_560")
    exec(compile(short, str(path), "exec"), {"__name__": "__main__"})


def test_versions_move_together():
    for plugin in ("audio", "image", "text", "video"):
        text = (ROOT / "plugins" / plugin / "pyproject.toml").read_text()
        assert f'version = "{genkit.__version__}"' in text
        assert f"genkit-gan=={genkit.__version__}" in text
        assert f"genkit-gan-{plugin}=={genkit.__version__}" in (ROOT / "pyproject.toml").read_text()
