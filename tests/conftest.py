"""What several test files share: threads, and quick ways to train the toys."""

import pytest
import torch

import genkit


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)  # the toys are too small to gain from more, and two processes may share the cores


@pytest.fixture(autouse=True, scope="session")
def _own_memory(tmp_path_factory):
    """What a user's machine remembers is neither used nor changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def train(tmp_path):
    """Train a toy: `train(modality, items, name="run", **arguments)` -> (model, run folder)."""

    def run(modality, items, name="run", **arguments):
        out = tmp_path / name
        return genkit.train(modality, out=out, items=items, threads=1, **arguments), out

    return run
