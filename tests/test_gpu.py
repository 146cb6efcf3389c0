"""On a GPU: every modality trains, resumes bit for bit, and draws the same samples as on a CPU. Run by `make gpu`."""

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

import genkit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
ITEMS, BATCH = 256, 16
TOLERANCE = 0.05
"""Largest difference between samples of a CPU and of a GPU, in units of the samples (numbers in [-1, 1])."""


@pytest.fixture
def determinism(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@pytest.mark.parametrize("modality", ["audio", "image", "text", "video"])
def test_every_modality_trains_resumes_bit_for_bit_and_draws(modality, tmp_path, determinism):
    settings = {"items": ITEMS, "device": "cuda", "batch_size": BATCH, "overwrite": True}
    genkit.train(modality, out=tmp_path / "whole", **settings)
    with pytest.raises(genkit.Interrupted):
        genkit.train(modality, out=tmp_path / "halves", progress=Interruption(), **settings)
    model = genkit.train(modality, out=tmp_path / "halves", items=ITEMS, device="cuda", resume=True)
    whole, halves = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "halves")
    )
    assert [name for name in whole if not torch.equal(whole[name], halves[name])] == []
    on_gpu = model.draw(range(8), seed=1).x.cpu()
    on_cpu = genkit.load(tmp_path / "halves", device="cpu").draw(range(8), seed=1).x
    if on_cpu.is_floating_point():
        assert (on_gpu - on_cpu).abs().max() < TOLERANCE
    else:
        assert (on_gpu == on_cpu).float().mean() > 0.9


class Interruption:
    """Presses Ctrl-C once, after a third of the run."""

    def __init__(self):
        self.is_over = False

    def __call__(self, progress):
        if not self.is_over and progress.items >= ITEMS / 3:
            self.is_over = True
            os.kill(os.getpid(), signal.SIGINT)
