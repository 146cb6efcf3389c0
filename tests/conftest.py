"""What several test files share: threads, installed plugins, processes, and quick ways to train the toys."""

import contextlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import genkit
from genkit.cli import main

SLOW = ("README.md", "test_compat.py", "test_processes.py", "test_quality.py", "test_readme.py")
"""Files with few tests that take long: they come first, so that no worker waits for one of them at the end."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in SLOW)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Each file goes to one worker, so that what its tests share is trained once; in the order of collection."""
    if config.option.dist != "load":
        return None
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(
        1
    )  # the toys are too small to gain from more, and two processes may share the cores


@pytest.fixture(autouse=True, scope="session")
def _signals():
    """Ctrl-C as in a terminal: a shell that runs the tests in its background lets them ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def on_the_path(folder):
    """PYTHONPATH with a folder in front, for processes that a test starts."""
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join(filter(None, [str(folder), inherited]))


@pytest.fixture(autouse=True, scope="session")
def _own_memory(tmp_path_factory):
    """What a user's machine remembers or chose is neither used nor changed; every process finds the toys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("configuration")))
        patch.setenv("PYTHONPATH", on_the_path(Path(__file__).parent))
        patch.setenv("HF_HUB_OFFLINE", "1")  # no test asks a server outside of this machine
        for name in ("GENKIT_PLUGINS", "GENKIT_STRICT_PLUGINS"):
            patch.delenv(name, raising=False)
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # processes share what one compiles
        yield


# Processes and commands ------------------------------------------------------------------------------------------


def run_process(*words, cwd=None, typed="", timeout=120):
    """A Python process, `words` behind the interpreter: how it ended, and what it printed, as text."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        input=typed,
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.fixture(scope="session")
def process():
    """Run a process: `process("-m", "genkit", "--version")` -> its return code and output."""
    return run_process


@pytest.fixture(scope="session")
def ends():
    """Whether a process of this number ends within two seconds: it is gone, or a zombie that nobody has waited for."""

    def is_over(pid):
        words = ["ps", "-o", "stat=", "-p", str(pid)]
        state = subprocess.run(words, capture_output=True, text=True, check=False).stdout
        return not state or state.startswith("Z")

    def wait(pid):
        deadline = time.monotonic() + 2
        while not is_over(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        return is_over(pid)

    return wait


@pytest.fixture(scope="session")
def python():
    """Run code in a fresh process that must end well: `python(code, "-W", "error")` -> what it printed."""

    def run(code, *flags, **arguments):
        process = run_process(*flags, "-c", code, **arguments)
        assert process.returncode == 0, process.stderr
        return process.stdout

    return run


@pytest.fixture(scope="session")
def command():
    """Run `genkit` within this process, which spares seconds of imports: as `process` of `-m genkit`."""

    def run(*words, cwd=None):
        streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
        path, code = list(sys.path), 0
        with (
            contextlib.redirect_stdout(streams[0]),
            contextlib.redirect_stderr(streams[1]),
            contextlib.chdir(cwd or "."),
        ):
            try:
                main([str(word) for word in words])
            except SystemExit as end:
                code = end.code or 0
            finally:
                sys.path[:] = path
        output, errors = (stream.buffer.getvalue().decode() for stream in streams)
        return subprocess.CompletedProcess(words, code, output, errors)

    return run


# Plugins ---------------------------------------------------------------------------------------------------------


class Site:
    """A folder on sys.path into which distributions are installed."""

    MANIFEST = """
from genkit.plugin import Modality, Preset
modality = Modality(id="{id}", title="A third party's", plugin="{module}_heavy:Plugin", presets={{"only": Preset()}})
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
        """A plugin `id`, of the distribution `genkit-<id>` and the module `fake_<id>`; lines around its manifest."""
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
    monkeypatch.setenv("PYTHONPATH", on_the_path(made.folder))  # a probe is a process of its own
    yield made
    for module in set(sys.modules) - known:
        if module.startswith("fake_"):
            del sys.modules[module]


# Runs ------------------------------------------------------------------------------------------------------------


def newest_checkpoint(out):
    """The folder of a run's newest checkpoint."""
    return out / "checkpoints" / (out / "latest").read_text().strip()


@pytest.fixture(scope="session")
def checkpoint():
    """`checkpoint(out)` -> the folder of a run's newest checkpoint."""
    return newest_checkpoint


@pytest.fixture(scope="session")
def state():
    """`state(out)` -> the plain data of a run's newest checkpoint."""
    return lambda out: json.loads((newest_checkpoint(out) / "state.json").read_text())


@pytest.fixture
def train(tmp_path):
    """Train a toy: `train(modality, items, name="run", **arguments)` -> (model, run folder)."""

    def run(modality, items, name="run", **arguments):
        out = tmp_path / name
        return genkit.train(modality, out=out, items=items, threads=1, **arguments), out

    return run
