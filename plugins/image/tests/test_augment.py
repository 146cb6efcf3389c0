"""What critics see instead of pictures: alike for real and fake, differentiable, each picture by itself."""

import pytest
import torch

import genkit
from genkit.plugin import Facts, Sample
from genkit_image.augment import HOLE, SHIFT, augmented, cut, recolour, shift
from genkit_image.options import Options
from genkit_image.plugin import ImagePlugin


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pictures(channels=3, shape=(16, 24), count=200):
    return torch.rand(count, channels, *shape) * 2 - 1


def test_a_shift_moves_whole_pictures_by_at_most_an_eighth():
    x = torch.zeros(400, 1, 16, 24)
    x[:, :, 8, 12] = 1
    moved = shift(x)
    assert moved.shape == x.shape
    places = moved.flatten(1).argmax(1)
    rows, columns = places // 24 - 8, places % 24 - 12
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(400))
    assert set(rows.tolist()) == set(range(-2, 3))
    assert set(columns.tolist()) == set(range(-3, 4))
    assert SHIFT == 1 / 8


def test_a_cut_takes_out_one_rectangle_of_half_the_sides():
    holes = cut(torch.ones(400, 2, 16, 24)) == 0
    assert torch.equal(holes[:, 0], holes[:, 1])
    for hole in holes[:, 0]:
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns[None])
        assert rows.sum() <= 16 * HOLE
        assert columns.sum() <= 24 * HOLE
    assert holes[:, 0].flatten(1).sum(1).max() == 8 * 12


def test_colours_change_as_a_whole_and_keep_their_middle():
    x = pictures()
    changed = recolour(x)
    shifted = (changed - x).mean((1, 2, 3))
    assert shifted.abs().max() <= 0.5
    assert shifted.std() > 0.2
    grey = recolour(pictures(channels=1))
    assert grey.shape == (200, 1, 16, 24)


def test_the_one_pass_equals_brightness_then_saturation_then_contrast():
    x = pictures(channels=3, count=5)
    torch.manual_seed(1)
    changed = recolour(x)
    torch.manual_seed(1)
    brightness, saturation, contrast = torch.rand(3, 5, 1, 1, 1)
    expected = x + brightness - 0.5
    grey = expected.mean(1, keepdim=True)
    expected = grey + 2 * saturation * (expected - grey)
    mean = expected.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(changed, mean + (contrast + 0.5) * (expected - mean))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_gradients_pass_through_twice(channels):
    x = pictures(channels, count=4).requires_grad_()
    (gradient,) = torch.autograd.grad(augmented(x).pow(3).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad != 0).any()


def test_pictures_are_changed_each_by_itself():
    """A constant batch comes out in many ways."""
    assert augmented(torch.ones(50, 1, 16, 16)).flatten(1).unique(dim=0).shape[0] == 50


@pytest.mark.parametrize(
    ("choice", "count", "expected"), [("auto", 20, True), ("off", 20, False), ("on", 20, True)]
)
def test_few_pictures_are_augmented_unless_told_otherwise(choice, count, expected):
    data = (torch.rand(count, 16, 16) * 255).to(torch.uint8)
    options = Options(size=16, augment=choice)
    facts = ImagePlugin.inspect(data, options)
    assert facts["augment"] is expected
    plugin, sample = ImagePlugin(options, facts), Sample(pictures(1, count=4))
    assert torch.equal(plugin.augment(sample).x, sample.x) is not expected


def test_many_pictures_are_left_alone():
    data = torch.zeros(5000, 16, 16, dtype=torch.uint8)
    assert ImagePlugin.inspect(data, Options(size=16)) == Facts(
        {"channels": 1, "labels": [], "augment": False}
    )


CONSTANT = {player: {"learning_rate": 2e-3} for player in ("generator", "critic")}
"""Rates that do not follow the length of a run."""


def test_a_run_on_few_pictures_resumes_bit_for_bit(tmp_path):
    data = (torch.rand(40, 16, 16) * 255).to(torch.uint8)
    settings = {
        "data": data,
        "preset": "compact",
        "options": {"size": 16, "features": 4},
        "threads": 1,
        "run": {"plan": "fp32"},
        "recipe": CONSTANT,
    }
    whole = genkit.train("image", out=tmp_path / "whole", items=256, **settings)
    genkit.train("image", out=tmp_path / "parts", items=128, **settings)
    parts = genkit.train("image", out=tmp_path / "parts", items=256, resume=True, data=data)
    assert torch.equal(whole.generate(8).x, parts.generate(8).x)
