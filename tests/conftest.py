"""What several test files share: threads, installed plugins, and quick ways to train the toys."""

import importlib
import os
import sys

import pytest
import torch

import genkit


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(
        1
    )  # the toys are too small to gain from more, and two processes may share the cores


@pytest.fixture(autouse=True, scope="session")
def _own_memory(tmp_path_factory):
    """What a user's machine remembers or chose is neither used nor changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("configuration")))
        for name in ("GENKIT_PLUGINS", "GENKIT_STRICT_PLUGINS"):
            patch.delenv(name, raising=False)
        yield


class Site:
    """A folder on sys.path into which distributions are installed."""

    MANIFEST = """
from genkit.plugin import Modality, Preset
modality = Modality(id="{id}", title="A stranger's", plugin="{module}_heavy:Plugin", presets={{"only": Preset()}})
"""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def install(self, name, entries, modules=None, version="1.0", group="genkit.modality.v1"):
        """A distribution: entry points `id -> module:attribute` and the source of its modules."""
        metadata = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        lines = [f"[{group}]", *(f"{id} = {target}" for id, target in entries.items())]
        (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
        for module, source in (modules or {}).items():
            (self.folder / f"{module}.py").write_text(source)
        importlib.invalidate_caches()
        return metadata

    def plugin(self, id, before="", after="", name=None, **named):
        """A plugin `id`, of the distribution `genkit-<id>` and the module `fake_<id>`."""
        module = f"fake_{id}"
        source = before + self.MANIFEST.format(id=id, module=module) + after
        return self.install(
            name or f"genkit-{id}", {id: f"{module}:modality"}, {module: source}, **named
        )


@pytest.fixture
def site(tmp_path, monkeypatch):
    known = set(sys.modules)
    made = Site(tmp_path / "site")
    monkeypatch.syspath_prepend(made.folder)
    inherited = os.environ.get("PYTHONPATH")  # a probe is a process of its own
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(made.folder), inherited])))
    yield made
    for module in set(sys.modules) - known:
        if module.startswith("fake_"):
            del sys.modules[module]


@pytest.fixture
def train(tmp_path):
    """Train a toy: `train(modality, items, name="run", **arguments)` -> (model, run folder)."""

    def run(modality, items, name="run", **arguments):
        out = tmp_path / name
        return genkit.train(modality, out=out, items=items, threads=1, **arguments), out

    return run
