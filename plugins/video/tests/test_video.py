"""Clips in the engine: every preset learns, goes on and draws; conditions, terms, and what is handed to the files."""

import json
import sys
import types
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import genkit
import genkit_video
from genkit.config import build
from genkit.errors import ConfigError, DataError, GenkitError
from genkit.plugin import Critique, Facts, Sample
from genkit_video import modality
from genkit_video.options import Controls, Options
from genkit_video.plugin import VideoPlugin, to_frames

TINY = {"size": 16, "frames": 8, "features": 2, "critic_features": 2, "content": 6, "motion": 5}
PRESETS = ("stream", "layered", "tgan-small", "tgan", "mocogan")


class Squares(VideoPlugin):
    """A bright square goes to and fro; its size is its class. Files have tests of their own."""

    @classmethod
    def open(cls, source, options):
        return source

    @classmethod
    def inspect(cls, source, options):
        return Facts(
            {
                "channels": 1,
                "rate": 8.0,
                "labels": ["small", "large"] if options.conditional else [],
            }
        )

    def dataset(self, source):
        clips = []
        for number in range(24):
            x, side = torch.full((1, self.options.frames, 16, 16), -1.0), 3 + 3 * (number % 2)
            for step in range(self.options.frames):
                left = abs((number + step) % 20 - 10)
                x[:, step, 4 : 4 + side, left : left + side] = 1.0
            clips.append(Sample(x, torch.tensor(number % 2) if self.options.conditional else None))
        return clips

    def preview(self, samples, format, controls, columns=None):
        return bytes(samples.x.shape)


squares = replace(modality, plugin=Squares, data=None)


def plugin_for(labels=(), **options):
    chosen = Options(**{**TINY, **options})
    return VideoPlugin(chosen, Facts({"channels": 1, "rate": 8.0, "labels": list(labels)}))


@pytest.fixture
def train(tmp_path):
    def run(name, items, preset="stream", options=None, **arguments):
        settings = {
            "options": {**TINY, **(options or {})},
            "recipe": {"batch_size": 8},
            "run": {"plan": "fp32", "sample_items": 1000},
        }
        arguments = {**settings, "threads": 1, **arguments}
        return genkit.train(squares, "squares", preset, tmp_path / name, items=items, **arguments)

    return run


def test_the_manifest_is_plain_data_and_its_presets_are_configurations():
    json.dumps(modality.to_json())
    assert tuple(modality.presets) == PRESETS
    for preset in PRESETS:
        assert build(modality, preset).preset == preset


@pytest.mark.parametrize("conditional", [False, True], ids=["", "conditional"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_and_draws(train, preset, conditional):
    model = train("run", 48, preset, {"conditional": conditional})
    assert not model.generator.training
    made = model.generate(2).x
    assert made.shape == (2, 1, 8, 16, 16)
    assert made.isfinite().all()
    if conditional:
        one, two = (model.generate(1, label=label).x for label in ("small", "large"))
        assert not torch.equal(one, two)


@pytest.mark.parametrize(
    "options", [{}, {"renderer": "residual", "conditional": True}], ids=["dcgan", "residual"]
)
def test_a_run_that_goes_on_is_the_run_that_never_stopped(train, options):
    # Rates that fall in shares of the run would be those of two runs of different lengths.
    rates = {player: {"learning_rate": 1e-3} for player in ("generator", "critic")}
    settings = {"options": options, "recipe": {"batch_size": 8, **rates}}
    whole = train("whole", 40, **settings)
    train("parts", 24, **settings)
    parts = train("parts", 40, resume=True, **settings)
    assert torch.equal(parts.generate(3).x, whole.generate(3).x)


def test_mocogan_learns_categories_with_and_without_labels(train, tmp_path):
    for name, options in (("found", {"categories": 3}), ("told", {"conditional": True})):
        train(name, 48, "mocogan", options)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        names = {key for line in lines for key in json.loads(line)}
        assert {"generator.category", "video.category"} <= names
        assert "image.category" not in names


# Conditions and terms --------------------------------------------------------------------------------------------


def test_classes_are_asked_for_by_name_and_found_categories_by_number():
    assert plugin_for().condition(None, range(3)) is None
    told = plugin_for(labels=["cat", "dog"], conditional=True)
    assert told.condition("dog", range(2)).tolist() == [1, 1]
    assert told.condition(None, range(3)).tolist() == [0, 1, 0]
    found = plugin_for(architecture="mocogan", critic_norm="batch", categories=3)
    assert found.condition("2", range(2)).tolist() == [2, 2]
    with pytest.raises(ConfigError, match="Did you mean 'cat'"):
        told.condition("cart", range(1))
    with pytest.raises(ConfigError, match="knows no labels"):
        plugin_for().condition("cat", range(1))


def test_the_category_term_is_the_cross_entropy_of_whose_class_is_known():
    torch.manual_seed(0)
    plugin, x = plugin_for(), torch.zeros(4, 1)
    of_real, of_fake = torch.randn(4, 3), torch.randn(4, 3)
    labels, drawn = torch.tensor([0, 1, 2, 0]), torch.tensor([2, 2, 1, 0])
    seen = {
        "real": Critique((x,), outputs={"category": of_real}),
        "fake": Critique((x,), outputs={"category": of_fake}),
    }
    fakes = {"video": seen["fake"], "image": Critique((x,))}

    def term(player, real, critiques):
        return plugin.terms(player, None, Sample(x, real), Sample(x, drawn), critiques)

    assert term("video", labels, seen) == {"category": cross_entropy(of_real, labels)}
    assert term("video", None, seen) == {"category": cross_entropy(of_fake, drawn)}
    assert term("generator", labels, fakes) == {"category": cross_entropy(of_fake, drawn)}
    assert term("image", None, {"real": Critique((x,)), "fake": Critique((x,))}) == {}
    assert plugin.terms("generator", None, Sample(x), Sample(x), {"clip": Critique((x,))}) == {}


def test_classes_that_are_asked_for_and_not_there_are_the_users_mistake():
    class Opened(VideoPlugin):
        @classmethod
        def open(cls, source, options):
            return source

    class Checked:
        videos, skipped, remarks, channels, rate = range(3), (), (), 3, 29.97
        classes = types.SimpleNamespace(names=("all",))

    assert Opened.inspect(Checked, Options()).values == {"channels": 3, "rate": 29.97, "labels": []}
    with pytest.raises(DataError, match="one sub-folder per class"):
        Opened.inspect(Checked, Options(conditional=True))


# Files -----------------------------------------------------------------------------------------------------------


def test_frames_are_rounded_and_laid_out_for_files():
    x = torch.linspace(-1, 1, 2 * 3 * 4 * 5 * 6).view(2, 3, 4, 5, 6)
    frames = to_frames(x)
    assert (frames.shape, frames.dtype) == ((2, 4, 5, 6, 3), np.uint8)
    assert frames[1, 2, 3, 4, 0] == round((x[1, 0, 2, 3, 4].item() + 1) * 127.5)
    assert np.array_equal(to_frames(x[0]), frames[0])
    with pytest.raises(GenkitError, match="not finite"):
        to_frames(x * torch.nan)


def test_files_get_the_rate_asked_for_or_that_of_the_data(monkeypatch):
    written = []

    @contextmanager
    def write(file, format, fps):
        yield lambda frames: written.append((file, format, fps, frames.shape))

    def encode(frames, format, fps):
        return b"%d frames at %g" % (len(frames), fps)

    writing = types.SimpleNamespace(write=write, encode=encode)
    monkeypatch.setitem(sys.modules, "genkit_video.writing", writing)
    monkeypatch.setattr(genkit_video, "writing", writing, raising=False)
    plugin, clip = plugin_for(), torch.zeros(1, 1, 5, 16, 16)
    assert plugin.encode(Sample(clip[0]), "mp4", None) == b"5 frames at 8"
    assert plugin.encode(Sample(clip[0]), "mp4", Controls(fps=24)) == b"5 frames at 24"
    with plugin.writer("clip.mp4", "mp4", Controls()) as take:
        take(Sample(clip))
        take(Sample(clip[:, :, :2]))
    assert written == [
        ("clip.mp4", "mp4", 8.0, (5, 16, 16, 1)),
        ("clip.mp4", "mp4", 8.0, (2, 16, 16, 1)),
    ]
