"""Distances equal their formulas, and rows stand in the order that they should."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pydantic
import pytest
import torch

import genkit
from genkit.errors import ConfigError, DataError
from genkit.plugin import Facts, Sample
from genkit_audio.__main__ import main
from genkit_audio.judging import (
    BANDS,
    distance,
    embedder_fault,
    evaluate,
    log_mel_statistics,
    nearest,
)
from genkit_audio.sounds import CheckedSounds, SoundWindows

RATE, N = 16000, 4096


class Options(pydantic.BaseModel):
    """What windows need of the options."""

    rate: int | None = None
    samples: int = N
    pad: str = "end"
    cut: str = "random"
    labels: str = "folders"
    label: str | None = None
    normalize: str = "none"
    augment: float = 1.0


def plays(draw):
    """A model that gives what a function of indices does."""
    return SimpleNamespace(
        modality=SimpleNamespace(id="audio", controls=None),
        plugin=SimpleNamespace(options=Options(), facts=Facts({"rate": RATE, "labels": []})),
        path=None,
        draw=lambda indices, seed, controls: Sample(draw(list(indices))),
    )


def drums():
    options = Options(cut="ordered", augment=0.0)
    data = SoundWindows(CheckedSounds("builtin:drums", options), options)
    return data.random_batch(list(range(len(data))), np.zeros(len(data), np.uint64)).x


def sines(indices):
    return torch.stack([0.3 * torch.sin(0.01 * (20 + i) * torch.arange(N)) for i in indices])[
        :, None
    ]


def test_a_distance_of_too_few_sounds_is_refused():
    with pytest.raises(
        DataError, match="of 32 features needs more than 32 sounds on each side, and one has 32"
    ):
        distance(torch.zeros(32, 32), torch.zeros(50, 32))


def test_statistics_are_those_of_the_spectrogram():
    x = drums()[:5, 0]
    found = log_mel_statistics(x, RATE)
    assert found.shape == (5, 2 * BANDS)
    assert bool(found.isfinite().all())
    assert torch.allclose(log_mel_statistics(x[3:4], RATE)[0], found[3], atol=1e-5)


def test_the_nearest_sound_is_found_shifted_and_turned():
    known = drums()[:, 0]
    asked = -0.5 * torch.nn.functional.pad(known[[5, 40]], (100, 0))[:, :N]
    found = nearest(asked, known, RATE)
    assert found.places.tolist() == [5, 40]
    assert (found.correlations > 0.9).all()
    noise = torch.randn(4, N, generator=torch.Generator().manual_seed(0))
    assert (nearest(noise, known, RATE).correlations < 0.5).all()
    assert (nearest(torch.zeros(1, N), known, RATE).correlations == 0).all()


def test_rows_are_the_scale():
    report = evaluate(plays(sines), "builtin:drums", 200)
    model, real, noise = report["rows"].values()
    key = "log-mel statistics distance"
    assert report["sounds"] > 2 * BANDS
    assert 0 <= real[key] < noise[key]
    assert real[key] < model[key]
    assert model["copies"] == noise["copies"] == model["clipped"] == model["silent"] == 0
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert evaluate(plays(sines), "builtin:drums", 200) == report
    longer = evaluate(plays(lambda indices: sines(indices).repeat(1, 1, 3)), "builtin:drums", 200)
    assert longer["rows"]["real against real"] == real


def test_silence_clipping_and_copies_are_counted():
    data = drums()

    def draw(indices):
        x = data[indices].clone()
        x[::4] = 0
        x[1::4] = 1
        return x

    row = evaluate(plays(draw), "builtin:drums")["rows"]["model"]
    assert row["silent"] == pytest.approx(0.25, abs=0.03)
    assert row["clipped"] == pytest.approx(0.25, abs=0.03)
    assert row["copies"] == pytest.approx(0.5, abs=0.03)


def test_an_embedder_of_ones_own_names_its_distance(monkeypatch):
    own = ModuleType("own_embedder")
    own.loudness = lambda x, rate: torch.stack([x.std(1), x.abs().amax(1)], 1)
    own.flat = lambda x, rate: x.std(1)
    monkeypatch.setitem(sys.modules, "own_embedder", own)
    report = evaluate(plays(sines), "builtin:drums", 60, "own_embedder:loudness")
    assert report["rows"]["model"]["own_embedder:loudness distance"] > 0
    with pytest.raises(ConfigError, match=r"gives \[2\] for two sounds; a tensor \[2, D\]"):
        evaluate(plays(sines), "builtin:drums", 60, "own_embedder:flat")
    with pytest.raises(ConfigError, match="cannot be imported"):
        evaluate(plays(sines), "builtin:drums", 60, "own_embedder:none")
    assert "function" in embedder_fault(5, RATE)


def test_what_cannot_be_judged_says_so(tmp_path):
    other = plays(sines)
    other.modality.id = "text"
    with pytest.raises(ConfigError, match="is a model of text"):
        evaluate(other, "builtin:drums")
    with pytest.raises(DataError, match="needs more than 32 sounds"):
        evaluate(plays(sines), "builtin:drums", 20)
    with pytest.raises(ConfigError, match="samples = 0: at least one"):
        evaluate(plays(sines), "builtin:drums", 0)
    with pytest.raises(DataError, match="only one window"):
        evaluate(plays(sines), np.full((1, N), 0.5))


def test_the_command_prints_a_table_or_json(monkeypatch, capsys):
    monkeypatch.setattr(genkit, "load", lambda path, device: plays(sines), raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "somewhere", "--data", "builtin:drums", "-q"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "model",
        "real against real",
        "noise against real",
    ]
    with pytest.raises(SystemExit):
        main(["evaluate", "somewhere", "--data", "builtin:drums", "--json"])
    assert set(json.loads(capsys.readouterr().out)["rows"]) == {
        "model",
        "real against real",
        "noise against real",
    }
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "somewhere", "--data", "builtin:bass"])
    assert ended.value.code == 2
