"""Sounds in the engine: every preset learns, goes on and draws; conditions, facts, and what is handed to the files."""

import json
import sys
import types
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from PIL import Image

import genkit
import genkit_audio
from genkit.config import build
from genkit.errors import ConfigError, DataError
from genkit.plugin import Facts, Sample
from genkit_audio import modality
from genkit_audio.options import Controls, Options
from genkit_audio.plugin import AudioPlugin

TINY = {"samples": 1024, "features": 2, "critic_features": 2, "spectrum_features": 2, "content": 6}
FROM_NOISE = ("wavegan-small", "stream", "wavegan")


class Tones(AudioPlugin):
    """Tones that fade; their pitch is their class. Files have tests of their own."""

    @classmethod
    def open(cls, source, options):
        return source

    @classmethod
    def inspect(cls, source, options):
        return Facts({"rate": 8000, "labels": ["low", "high"] if options.conditional else []})

    def dataset(self, source):
        time = torch.arange(self.options.samples) / 8000
        sounds = []
        for number in range(24):
            pitch = 200 * (1 + number % 2) * (1 + 0.01 * number)
            x = 0.5 * (-10 * time).exp() * (2 * torch.pi * pitch * time).sin()
            sounds.append(
                Sample(x[None], torch.tensor(number % 2) if self.options.conditional else None)
            )
        return sounds

    def preview(self, samples, format, controls, columns=None):
        return bytes(samples.x.shape[:2])


tones = replace(modality, plugin=Tones, data=None)


def plugin_for(labels=(), **options):
    return AudioPlugin(
        Options(**{**TINY, **options}), Facts({"rate": 8000, "labels": list(labels)})
    )


@pytest.fixture
def train(tmp_path):
    def run(name, items, preset="wavegan-small", options=None, **arguments):
        settings = {
            "options": {**TINY, **(options or {})},
            "recipe": {"batch_size": 8},
            "run": {"plan": "fp32", "sample_items": 1000},
        }
        arguments = {**settings, "threads": 1, **arguments}
        return genkit.train(tones, "tones", preset, tmp_path / name, items=items, **arguments)

    return run


def test_the_manifest_is_plain_data_and_its_presets_are_configurations():
    json.dumps(modality.to_json())
    assert set(modality.presets) == {*FROM_NOISE, "vae-gan", "vocoder"}
    for preset in modality.presets:
        assert build(modality, preset).preset == preset


def test_the_published_preset_plays_the_published_game():
    recipe = build(modality, "wavegan").recipe
    assert (recipe.batch_size, recipe.critic.steps, recipe.generator.steps) == (64, 5, 1)
    assert (recipe.generator.learning_rate, recipe.generator.betas) == (1e-4, (0.5, 0.9))
    assert (recipe.critic.learning_rate, recipe.critic.betas) == (1e-4, (0.5, 0.9))
    assert (recipe.loss, recipe.penalties["wgan_gp"].weight) == ("wasserstein", 10)


@pytest.mark.parametrize("conditional", [False, True], ids=["", "conditional"])
@pytest.mark.parametrize("preset", FROM_NOISE)
def test_every_preset_trains_and_draws(train, preset, conditional):
    model = train("run", 80, preset, {"conditional": conditional})
    assert not model.generator.training
    made = model.generate(2).x
    assert made.shape == (2, 1, 1024)
    assert made.isfinite().all()
    assert model.generate(1, controls={"seconds": 0.05}).x.shape == (1, 1, 400)
    if conditional:
        one, two = (model.generate(1, label=label).x for label in ("low", "high"))
        assert not torch.equal(one, two)


@pytest.mark.parametrize("preset", FROM_NOISE)
def test_a_run_that_goes_on_is_the_run_that_never_stopped(train, preset):
    whole = train("whole", 160, preset)
    train("parts", 80, preset)
    parts = train("parts", 160, preset, resume=True)
    assert torch.equal(parts.generate(3).x, whole.generate(3).x)


def test_a_stream_is_drawn_in_parts_and_its_seeds_apart(train):
    model = train("run", 16, "stream", {"hop": 64})
    whole = model.generate(1, controls={"seconds": 2.5}).x
    parts = [part.x for part in model.unroll(steps=900, stop=20_000)]
    assert {part.shape[2] for part in parts} == {900, 20_000 % 900}
    assert torch.equal(torch.cat(parts, 2), whole)
    other = [model.generate(1, controls={name: 1}).x for name in ("content_seed", "texture_seed")]
    for one, two in (
        (other[0], other[1]),
        (other[0], whole[:, :, :1024]),
        (other[1], whole[:, :, :1024]),
    ):
        assert not torch.equal(one, two)


# Conditions and facts --------------------------------------------------------------------------------------------


def test_classes_are_asked_for_by_name():
    assert plugin_for().condition(None, range(3)) is None
    told = plugin_for(labels=["kick", "snare"], conditional=True)
    assert told.condition("snare", range(2)).tolist() == [1, 1]
    assert told.condition(None, range(3)).tolist() == [0, 1, 0]
    with pytest.raises(ConfigError, match="Did you mean 'kick'"):
        told.condition("kik", range(1))
    with pytest.raises(ConfigError, match="knows no labels"):
        plugin_for().condition("kick", range(1))


def test_classes_that_are_asked_for_and_not_there_are_the_users_mistake():
    class Opened(AudioPlugin):
        @classmethod
        def open(cls, source, options):
            return source

    class Checked:
        sounds, skipped, remarks, rate = range(3), (), (), 22050
        classes = types.SimpleNamespace(names=("all",))

    assert Opened.inspect(Checked, Options()).values == {"rate": 22050, "labels": []}
    with pytest.raises(DataError, match="one sub-folder per class"):
        Opened.inspect(Checked, Options(conditional=True))


# Files -----------------------------------------------------------------------------------------------------------


def test_files_get_sounds_at_the_rate_of_the_data(monkeypatch):
    written = []

    @contextmanager
    def write(file, format, rate, length):
        yield lambda part: written.append((file, format, rate, length, tuple(part.shape)))

    def encode(x, format, rate):
        return b"%d of %d at %d" % (*x.shape, rate)

    def preview(sounds, rate, columns):
        return Image.new("L", (len(sounds), columns))

    writing = types.SimpleNamespace(write=write, encode=encode, preview=preview)
    monkeypatch.setitem(sys.modules, "genkit_audio.writing", writing)
    monkeypatch.setattr(genkit_audio, "writing", writing, raising=False)
    plugin, sounds = plugin_for(), torch.zeros(1, 1, 500)
    assert plugin.encode(Sample(sounds[0]), "wav", Controls()) == b"1 of 500 at 8000"
    for seconds, length in ((None, plugin.options.samples), (0.5, 4000)):
        written.clear()
        with plugin.writer("sound.ogg", "ogg", Controls(seconds=seconds)) as take:
            take(Sample(sounds))
            take(Sample(sounds[:, :, :20]))
        start = "sound.ogg", "ogg", 8000, length
        assert written == [(*start, (1, 500)), (*start, (1, 20))]
    assert plugin.preview(Sample(sounds), "png", None, 3).startswith(b"\x89PNG")
