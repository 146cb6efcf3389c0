"""Samples of any length: the same steps whole, in parts, alone and in files; seeds of single parts."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

import genkit
from genkit.errors import ConfigError
from genkit.plugin import Critique, Modality, ModalityPlugin, Networks, Noise, Preset, Sample
from genkit.recipe import Settings
from genkit.sampling import save_long

REACH = 4


class Controls(Settings):
    """What can be turned."""

    steps: int | None = None
    motion_seed: int | None = None
    content_seed: int | None = None


class Curves(nn.Module):
    """Noise that a window of REACH + 1 steps smooths, about a level of its own: [B, 1, L]."""

    block, step_axis = 16, 2

    def __init__(self):
        super().__init__()
        self.noise = {"content": Noise((1,)), "motion": Noise((1,), steps=20 + REACH)}
        self.smooth = nn.Conv1d(1, 1, REACH + 1)
        self.seen = []

    def forward(self, noise, condition=None, controls=None):
        return Sample(self.smooth(noise["motion"].transpose(1, 2)) + noise["content"][:, :, None])

    def length(self, controls):
        return 20 if controls is None or controls.steps is None else controls.steps

    def needs(self, steps, controls):
        return {"motion": range(steps.start, steps.stop + REACH)}

    def unroll(self, noise, condition, controls, steps):
        self.seen.append((len(noise["content"]), len(steps)))
        return self(noise)


class Critic(nn.Module):
    """One logit each."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(20, 1)

    def forward(self, sample):
        return Critique((self.out(sample.x[:, 0])[:, 0],))


class CurvesPlugin(ModalityPlugin):
    """Curves."""

    def networks(self):
        return Networks(Curves(), {"critic": Critic()})

    def encode(self, sample, format, controls):
        return sample.x.numpy().tobytes()

    def sheet(self, samples, format, controls, columns=None):
        return samples.x.numpy().tobytes()

    @contextlib.contextmanager
    def sink(self, file, format, controls):
        yield lambda part: file.write(part.x.numpy().tobytes())


CURVES = Modality(
    id="curves",
    title="Curves",
    plugin=CurvesPlugin,
    controls=Controls,
    formats=("raw", "bin"),
    sheets=("all",),
    presets={"default": Preset(recipe={"batch_size": 16}, run={"plan": "fp32"})},
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("curves")
    return genkit.train(CURVES, torch.randn(100, 1, 20), out=out / "run", items=160, threads=1)


@pytest.mark.parametrize("size", [1, 7, 16, 64, None])
def test_parts_of_any_size_are_the_whole(model, size):
    whole = model.generate(3, seed=5, controls={"steps": 100}).x
    for index in range(3):
        parts = [part.x for part in model.unroll(5, index, steps=size, stop=100)]
        assert all(part.shape[2] == (size or 16) for part in parts[:-1])
        assert torch.equal(torch.cat(parts, 2)[0], whole[index])


def test_a_longer_sample_begins_as_the_shorter_one(model):
    short, long = (model.generate(2, controls={"steps": steps}).x for steps in (5, 50))
    assert torch.equal(long[:, :, :5], short)
    assert model.generate(2).x.shape == (2, 1, 20)


def test_an_endless_sample_goes_on_in_blocks_that_stay_small(model):
    model.generator.seen.clear()
    endless = model.unroll(1, steps=10)
    taken = [next(endless).x for _ in range(100)]
    assert torch.cat(taken, 2).shape == (1, 1, 1000)
    assert set(model.generator.seen) == {(1, 16)}
    assert len(model.generator.seen) <= 64


def test_one_forward_of_training_is_the_unrolled_sample(model):
    noise = {
        "content": torch.randn(3, 1),
        "motion": torch.randn(3, 20 + REACH, 1),
    }
    assert torch.equal(model.generator(noise).x, model.generator.unroll(noise, None, None, range(20)).x)


def test_a_part_with_a_seed_of_its_own_is_that_of_the_other_seed(model):
    noise = genkit.noise.draw(model.generator.noise["content"], "content", 9, [2])
    plain, mixed, other = (
        model.generate(seed=seed, indices=[2], controls=controls).x
        for seed, controls in ((1, {}), (1, {"content_seed": 9}), (9, {}))
    )
    own = genkit.noise.draw(model.generator.noise["content"], "content", 1, [2])
    assert torch.allclose(mixed - plain, torch.from_numpy(noise - own)[:, :, None].expand_as(plain), atol=1e-5)
    assert torch.equal(model.generate(seed=1, indices=[2], controls={"content_seed": 9, "motion_seed": 9}).x, other)


def test_the_file_of_one_sample_is_written_in_parts_and_equals_the_whole(model, tmp_path, monkeypatch):
    asked = {"controls": {"steps": 75}}
    path = save_long(model, tmp_path / "one.raw", seed=3, index=4, **asked)
    assert np.frombuffer(path.read_bytes(), np.float32).shape == (75,)
    (whole,) = model.generate(seed=3, indices=[4], **asked).encode()
    assert path.read_bytes() == whole
    monkeypatch.setattr(CurvesPlugin, "sink", broken_sink)
    with pytest.raises(genkit.errors.PluginError, match="the disk of the test"):
        save_long(model, tmp_path / "two.raw", **asked)
    assert [file.name for file in tmp_path.iterdir()] == ["one.raw"]


@contextlib.contextmanager
def broken_sink(self, file, format, controls):
    yield lambda part: 1 / 0 if part is None else fail()


def fail():
    raise RuntimeError("the disk of the test")


def test_one_sample_is_its_own_file_and_many_are_a_sheet_or_a_folder(model, tmp_path):
    assert model.generate(1).save(tmp_path / "one.bin")[0].stat().st_size == 80
    assert model.generate(2).save(tmp_path / "two.all")[0].stat().st_size == 160
    with pytest.raises(ConfigError, match=r"\.all for many samples, \.raw, \.bin for one"):
        model.generate(2).save(tmp_path / "two.bin")
    genkit.sampling.save([model.generate(2)], tmp_path / "folder", format="bin")
    assert sorted(file.name for file in (tmp_path / "folder").iterdir()) == ["000000.bin", "000001.bin", "samples.json"]
    with pytest.raises(ConfigError, match="format 'wav': curves writes raw, bin"):
        genkit.sampling.save([model.generate(2)], tmp_path / "folder", format="wav")


def test_a_walk_between_samples_of_any_length_begins_and_ends_at_them(model):
    walk = model.interpolate([0, 1], seed=2, steps=4, controls={"steps": 30}).x
    ends = model.generate(2, seed=2, controls={"steps": 30}).x
    assert walk.shape == (5, 1, 30)
    assert torch.allclose(walk[[0, -1]], ends, atol=1e-6)


def test_samples_of_one_length_are_not_unrolled(train):
    from genkit.testing.toys import ring

    model, _ = train(ring, 128)
    with pytest.raises(ConfigError, match="one length"):
        next(model.unroll())
