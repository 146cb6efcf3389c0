"""Clips in layers: objects keep their look, lie where their pose says, and are of one distribution."""

import pytest
import torch
from torch import nn

from genkit_video.generators import make_generator
from genkit_video.layered import Layered, placement, settle, spread
from genkit_video.options import Options

TINY = {"size": 16, "features": 4, "content": 6, "motion": 5, "renderer": "layered"}


class Fixed(nn.Module):
    """The same picture [C, h, w] before tanh for every content, in place of a network that learns."""

    def __init__(self, picture):
        super().__init__()
        self.picture = picture

    def forward(self, content, condition):
        return self.picture.expand(len(content), -1, -1, -1)


def renderer(**options):
    torch.manual_seed(0)
    return Layered(Options(**{**TINY, **options}), 8, 1, 0).eval()


def test_pixels_are_laid_at_whole_places_as_they_are_and_cut_at_the_edges():
    x = torch.arange(1.0, 5)
    for start, expected in (
        (1, [0, 1, 2, 3, 4, 0]),
        (-2, [3, 4, 0, 0, 0, 0]),
        (4, [0, 0, 0, 0, 1, 2]),
    ):
        for near in (start - 0.4, start, start + 0.4):
            assert (placement(torch.tensor(near), 4, 6) @ x).tolist() == expected
    between = placement(torch.tensor(1.5), 4, 6) @ x
    torch.testing.assert_close(between, torch.tensor([0, 0.5, 1.5, 2.5, 3.5, 2]))


def test_places_settle_without_jumps_and_let_gradients_through():
    place = torch.linspace(-2, 2, 4001, requires_grad=True)
    settled = settle(place)
    assert (settled - place).abs().max() <= 0.5
    assert settled.diff().min() >= 0
    assert settled.diff().max() < 0.01
    assert (settled == settled.round()).float().mean() == pytest.approx(7 / 8, abs=0.01)
    settled.sum().backward()
    assert (place.grad == 1).all()


def test_an_object_is_where_its_pose_says_and_the_same_in_all_frames():
    layered = renderer(objects=1, size=(16, 24))
    layered.background = Fixed(torch.full((1, 16, 24), -100.0))
    layered.object = Fixed(torch.full((2, 8, 12), 100.0))  # white and opaque
    latents = 2 * torch.randn(20, 9, 8)
    with torch.no_grad():
        clips = layered(torch.randn(20, 6), latents)
        shares = layered.pose(latents).sigmoid()
    assert clips.shape == (20, 1, 9, 16, 24)
    for axis, (length, side) in enumerate(((16, 8), (24, 12))):
        start = settle((length - side) * shares[..., axis])[..., None]
        whole = (start == start.round())[..., 0]
        assert whole.float().mean() > 0.7
        pixels = torch.arange(length)
        covered = (pixels >= start) & (pixels < start + side)
        line = (clips[:, 0].amax(3 - axis) + 1) / 2
        torch.testing.assert_close(line[whole], covered[whole].float())


def test_the_last_object_is_in_front():
    layered = renderer()
    pictures = torch.full((2, 2, 8, 8), 100.0)
    pictures[0, 0] = -100  # the first is black, the second white, and both are opaque
    layered.object.forward = lambda content, condition: pictures
    with torch.no_grad():
        nn.init.zeros_(layered.pose.weight)
        clip = layered(torch.randn(2, 6), torch.randn(2, 3, 8))
    assert (clip[0, 0, :, 4:12, 4:12] == 1).all()


def test_objects_are_of_one_distribution_and_a_clip_has_as_many_as_it_is_told():
    x = {"motion": torch.arange(12.0).view(1, 2, 6)}
    rows = spread(x, 3)["motion"]
    assert rows.shape == (3, 2, 6)
    assert rows[:, 0].tolist() == [[0, 1, 2, 3, 4, 5], [4, 5, 0, 1, 2, 3], [2, 3, 4, 5, 0, 1]]
    assert torch.equal(spread(x, 1)["motion"], x["motion"])


def test_a_background_stands_still():
    torch.manual_seed(0)
    generator = make_generator(Options(**TINY), 1, 0, 8.0).eval()
    layered = generator.renderer
    layered.object = Fixed(torch.full((2, 8, 8), -100.0))  # masks of nothing
    noise = {
        name: torch.randn(2, *((part.steps,) if part.steps else ()), *part.shape)
        for name, part in generator.noise.items()
    }
    with torch.no_grad():
        clips = generator(noise).x
    torch.testing.assert_close(clips, clips[:, :, :1].expand_as(clips), rtol=0, atol=0)
    assert not torch.equal(clips[0], clips[1])


def test_sides_of_objects_are_half_of_the_frame_where_networks_allow_it():
    for size, sides in (
        (16, (8, 8)),
        (32, (16, 16)),
        ((20, 36), (12, 20)),
        (64, (32, 32)),
    ):
        assert renderer(size=size).sides == sides
