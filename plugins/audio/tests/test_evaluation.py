"""What sounds are judged by: rows stand in the order that they should, faults made by hand are counted."""

import numpy as np
import pytest
import torch
from torch import nn

import genkit
from genkit.errors import ConfigError, DataError
from genkit.kit.distances import frechet
from genkit.plugin import Evidence, Facts, Sample
from genkit_audio.features import BANDS, log_mel_statistics
from genkit_audio.generators import Stream
from genkit_audio.measures import nearest
from genkit_audio.options import Controls, Options
from genkit_audio.plugin import AudioPlugin

RATE, N = 16000, 4096


def plugin(labels=(), rate=RATE, **options):
    facts = Facts({"rate": rate, "labels": list(labels)})
    return AudioPlugin(Options(**{"samples": N, "augment": 1.0, **options}), facts)


@pytest.fixture(scope="module")
def opened():
    """The built-in drums, read once."""
    return AudioPlugin.open("builtin:drums", Options(samples=N))


@pytest.fixture(scope="module")
def drums(opened):
    """Windows [N, 1, n] of all drums, without augmentation."""
    return everything(plugin().references(opened, Controls()))


def everything(windows, word=0):
    return windows.random_batch(list(range(len(windows))), np.full(len(windows), word, np.uint64)).x


def sines(count, n=N):
    return torch.stack([0.3 * torch.sin(0.01 * (20 + i) * torch.arange(n)) for i in range(count)])


# Real sounds ------------------------------------------------------------------------------------------------------


def test_references_are_not_augmented_and_as_long_as_generated_sounds(opened, drums):
    references = plugin().references(opened, Controls())
    assert torch.equal(everything(references, 2**40 + 1), drums)
    assert not torch.equal(everything(plugin(cut="ordered").dataset(opened), 2**40 + 1), drums)
    short = Controls(seconds=0.1)
    assert everything(plugin().references(opened, short)).shape[1:] == (1, 1600)
    assert Stream(plugin().options, 0, RATE).length(short) == 1600
    assert len(plugin(cut="start").references(opened, Controls())) == 91 < len(drums)


def test_real_sounds_that_are_too_short_are_not_followed_by_silence(opened):
    references = plugin().references(opened, Controls(seconds=0.8))
    counts = [sound.count(RATE) for sound in opened.sounds]
    assert len(references) == sum(count >= 0.8 * RATE for count in counts) > 0
    assert [skipped.reason for skipped in references.skipped] == ["shorter than 0.8 s"] * (
        91 - len(references)
    )
    with pytest.raises(DataError, match=r"none of the 91 items of .* \(shorter than 9 s\)"):
        plugin().references(opened, Controls(seconds=9))


def test_references_have_the_rate_and_the_classes_of_the_model(opened):
    half = plugin(opened.classes.names, rate=RATE // 2).references(opened, Controls())
    assert half.checked.rate == RATE // 2
    assert half[0].condition == opened.classes.numbers[0]
    assert plugin(["piano", "violin"]).references(opened, Controls())[7].condition is None
    vocoder = plugin(architecture="vocoder", critics="periods", mels=8)
    assert vocoder.references(opened, Controls())[7].condition.shape == (8, N // 256)


# Networks ---------------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_the_spectrogram_and_order_sounds(drums):
    network = plugin().feature_networks({}, None)["log-mel"]
    found = network.features(Sample(drums))
    assert (found.shape, network.distance) == ((len(drums), 2 * BANDS), "fd-log-mel")
    assert torch.allclose(log_mel_statistics(drums[3:4, 0], RATE)[0], found[3], atol=1e-5)
    noise = torch.randn(len(drums) // 2, N, generator=torch.Generator().manual_seed(0)) / 10
    rows = [found[1::2], *(log_mel_statistics(x, RATE) for x in (sines(len(noise)), noise))]
    real, tones, foreign = (frechet(row, found[::2]) for row in rows)
    assert real < 0.2 * min(tones, foreign)


def test_speech_is_embedded_at_its_rate(drums):
    pytest.importorskip("pyopen_wakeword", exc_type=ImportError)
    network = plugin().feature_networks({}, None)["speech"]
    assert network.distance == "fd-speech"
    whole = network.features(Sample(drums[:6]))
    assert whole.shape == (6, 96)
    assert torch.equal(network.features(Sample(drums[2:3])), whole[2:3])
    louder = network.features(Sample(torch.cat([drums[:3], 0.5 * drums[:3]])))
    assert torch.cdist(louder[:3], louder[3:]).argmin(1).tolist() == [0, 1, 2]
    slow = plugin(rate=RATE // 2).feature_networks({}, None)["speech"]
    doubled = nn.functional.interpolate(drums[:3], scale_factor=0.5, mode="linear")
    near = torch.cdist(slow.features(Sample(doubled)), whole).argmin(1)
    assert near.tolist() == [0, 1, 2]


class Loudness(nn.Module):
    """Stands for VGGish in a TorchScript file."""

    def forward(self, x):
        return torch.stack([x.abs().amax(1), torch.ones(len(x)) * x.shape[1]], 1)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_users_file_of_vggish_gets_waves_at_its_rate(drums, tmp_path):
    torch.jit.script(Loudness()).save(tmp_path / "vggish.pt")
    weights = {"vggish": tmp_path / "vggish.pt"}
    features = plugin(rate=RATE // 2).feature_networks(weights, None)["vggish"].features
    assert features(Sample(drums[:2]))[:, 1].tolist() == [2 * N] * 2
    with pytest.raises(ConfigError, match="'log-mel': no network of that name takes a file"):
        plugin().feature_networks({"log-mel": tmp_path / "vggish.pt"}, None)


# Measures ---------------------------------------------------------------------------------------------------------


def test_the_nearest_sound_is_found_shifted_and_turned(drums):
    known = drums[:, 0]
    asked = -0.5 * nn.functional.pad(known[[5, 40]], (100, 0))[:, :N]
    found = nearest(asked, known, RATE)
    assert found.places.tolist() == [5, 40]
    assert (found.correlations > 0.9).all()
    noise = torch.randn(4, N, generator=torch.Generator().manual_seed(0))
    assert (nearest(noise, known, RATE).correlations < 0.5).all()
    assert (nearest(torch.zeros(1, N), known, RATE).correlations == 0).all()


def test_silence_clipping_and_copies_are_counted(drums):
    x = drums.clone()
    x[::4] = 0
    x[1::4] = 1
    generator = nn.Identity()
    row = plugin().measures(Evidence(Sample(x), Sample(drums), Controls(), generator=generator))
    assert row["silent"] == pytest.approx(0.25, abs=0.03)
    assert row["clipped"] == pytest.approx(0.25, abs=0.03)
    assert row["copies"] == pytest.approx(0.5, abs=0.03)
    clean = plugin().measures(Evidence(Sample(sines(9)[:, None]), Sample(drums), Controls()))
    assert clean["silent"] == clean["clipped"] == clean["copies"] == 0


def test_copies_are_those_of_training_sounds_and_no_real_sound_is_its_own(opened, drums):
    model = plugin()
    some, others = Sample(drums[:30]), Sample(drums[30:60])
    generated = {"controls": Controls(), "generator": nn.Identity()}
    assert model.measures(Evidence(some, others, **generated))["copies"] < 0.1
    row = model.measures(Evidence(some, others, training=opened, **generated))
    assert (row["copies"], row["nearest"]) == (1, pytest.approx(1))
    real = model.measures(Evidence(some, others, Controls(), training=opened))
    assert real["copies"] < 0.3


def test_a_model_is_compared_with_the_drums(opened, tmp_path):
    model = genkit.train(
        "audio", "builtin:drums", out=tmp_path / "run", items=8, threads=1, recipe={"batch_size": 4},
        options={"samples": 1024, "features": 2, "critic_features": 2, "spectrum_features": 2},
        run={"plan": "fp32", "samples": 1, "sample_items": 8},
    )  # fmt: skip
    evaluation = genkit.evaluate(
        model, "builtin:drums", 40, features="log-mel", training="builtin:drums"
    )
    rows = {
        row.name: {name: figure.value for name, figure in row.figures.items()}
        for row in evaluation.rows
    }
    assert rows["real"]["fd-log-mel"] < 0.1 * rows["noise"]["fd-log-mel"]
    assert rows["run"]["fd-log-mel"] > rows["real"]["fd-log-mel"]
    assert rows["real"]["nearest"] > rows["noise"]["nearest"]
    assert rows["run"]["copies"] == rows["real"]["silent"] == 0
