"""Samples of any length: the same steps whole, in parts, alone and in files; seeds of single parts."""

import contextlib

import numpy as np
import pytest
import torch
from toy_curves import REACH, Curves, curves

import genkit
from genkit.errors import ConfigError
from genkit.sampling.chunks import draw_alone, draw_parts, has_equal_places, identify, units_of
from genkit.sampling.drawing import noise_for
from genkit.sampling.samples import save
from genkit.sampling.unrolled import save_long


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("curves")
    return genkit.train(curves, out=out / "run", items=320, threads=1)


@pytest.mark.parametrize("size", [1, 7, 16, 64, None])
def test_parts_of_any_size_are_the_whole(model, size):
    whole = model.generate(3, seed=5, controls={"steps": 100}).x
    for index in range(3):
        parts = [part.x for part in model.unroll(5, index, steps=size, stop=100)]
        assert all(part.shape[2] == (size or 16) for part in parts[:-1])
        assert torch.equal(torch.cat(parts, 2)[0], whole[index])


def test_requests_of_samples_of_any_length_are_drawn_one_by_one_or_in_parts(model):
    controls = model.generate(1, controls={"steps": 100}).controls
    assert not has_equal_places(model)
    assert units_of(model, [4, 9]) == [range(1), range(1, 2)]
    request = identify(5, [4, 9], model.conditions_for(None))
    whole = model.generate(seed=5, indices=[4, 9], controls={"steps": 100}).x
    assert torch.equal(draw_alone(model, request[1:], controls).x, whole[1:])
    for at_once in (1, 2, 9):
        parts = [part.x for part in draw_parts(model, request[1:], controls, 100, at_once)]
        assert [part.shape[2] for part in parts[:-1]] == [16 * at_once] * (len(parts) - 1)
        assert torch.equal(torch.cat(parts, 2), whole[1:])
    interpolation = model.interpolate([4, 9], seed=5, steps=2, controls={"steps": 100})
    points = identify(5, interpolation.interpolation, model.conditions_for(None))
    assert torch.equal(draw_alone(model, points[1:2], controls).x, interpolation.x[1:2])


def test_a_longer_sample_begins_as_the_shorter_one(model):
    short, long = (model.generate(2, controls={"steps": steps}).x for steps in (5, 50))
    assert torch.equal(long[:, :, :5], short)
    assert model.generate(2).x.shape == (2, 1, 20)


def test_an_endless_sample_goes_on_in_blocks_that_stay_small(model, monkeypatch):
    seen, unroll = [], type(model.generator).unroll
    monkeypatch.setattr(
        type(model.generator),
        "unroll",
        lambda self, *given: (seen.append(given[3]), unroll(self, *given))[1],
    )
    endless = model.unroll(1, steps=10)
    taken = [next(endless).x for _ in range(100)]
    assert torch.cat(taken, 2).shape == (1, 1, 1000)
    assert seen == [range(at, at + 16) for at in range(0, 1008, 16)]


def test_one_forward_of_training_is_the_unrolled_sample(model):
    noise = {
        "content": torch.randn(3, 1),
        "motion": torch.randn(3, 20 + REACH, 1),
    }
    assert torch.equal(
        model.generator(noise).x, model.generator.unroll(noise, None, None, range(20)).x
    )


def test_a_part_with_a_seed_of_its_own_is_that_of_the_other_seed(model):
    noise = genkit.sampling.noise.draw(model.generator.noise["content"], "content", 9, [2])
    plain, mixed, other = (
        model.generate(seed=seed, indices=[2], controls=controls).x
        for seed, controls in ((1, {}), (1, {"content_seed": 9}), (9, {}))
    )
    own = genkit.sampling.noise.draw(model.generator.noise["content"], "content", 1, [2])
    assert torch.allclose(
        mixed - plain, torch.from_numpy(noise - own)[:, :, None].expand_as(plain), atol=1e-5
    )
    assert torch.equal(
        model.generate(seed=1, indices=[2], controls={"content_seed": 9, "motion_seed": 9}).x, other
    )


def test_noise_that_was_found_stays_whatever_seed_a_part_has_of_its_own(model):
    own = model.generate(seed=1, n=2)
    noise = noise_for(model.generator, 1, range(2), model.device)
    again = model.generate(noise=noise, controls={"content_seed": 9})
    assert torch.equal(again.x, own.x)


def test_the_file_of_one_sample_is_written_in_parts_and_equals_the_whole(
    model, tmp_path, monkeypatch
):
    asked = {"controls": {"steps": 75}}
    path = save_long(model, tmp_path / "one.raw", seed=3, index=4, **asked)
    assert np.frombuffer(path.read_bytes(), np.float32).shape == (75,)
    (whole,) = model.generate(seed=3, indices=[4], **asked).encode("raw")
    assert path.read_bytes() == whole
    monkeypatch.setattr(Curves, "writer", broken_writer)
    with pytest.raises(genkit.errors.PluginError, match="the disk of the test"):
        save_long(model, tmp_path / "two.raw", **asked)
    assert [file.name for file in tmp_path.iterdir()] == ["one.raw"]


@contextlib.contextmanager
def broken_writer(self, file, format, controls):
    yield lambda part: 1 / 0 if part is None else fail()


def fail():
    raise RuntimeError("the disk of the test")


def test_one_sample_is_its_own_file_and_many_are_a_preview_or_a_folder(model, tmp_path):
    assert model.generate(1).save(tmp_path / "one.raw")[0].stat().st_size == 80
    assert model.generate(2).save(tmp_path / "two.all")[0].stat().st_size == 160
    with pytest.raises(ConfigError, match=r"\.all for many samples, \.raw, \.csv for one"):
        model.generate(2).save(tmp_path / "two.csv")
    save([model.generate(2)], tmp_path / "folder", format="raw")
    assert sorted(file.name for file in (tmp_path / "folder").iterdir()) == [
        "000000.raw",
        "000001.raw",
        "samples.json",
    ]
    with pytest.raises(ConfigError, match="format 'wav': curves writes raw, csv"):
        save([model.generate(2)], tmp_path / "folder", format="wav")


def test_an_interpolation_of_samples_of_any_length_begins_and_ends_at_them(model):
    interpolation = model.interpolate([0, 1], seed=2, steps=4, controls={"steps": 30}).x
    ends = model.generate(2, seed=2, controls={"steps": 30}).x
    assert interpolation.shape == (5, 1, 30)
    assert torch.allclose(interpolation[[0, -1]], ends, atol=1e-6)


def test_samples_of_one_length_are_not_unrolled(train):
    from toys import ring

    model, _ = train(ring, 128)
    with pytest.raises(ConfigError, match="one length"):
        next(model.unroll())
