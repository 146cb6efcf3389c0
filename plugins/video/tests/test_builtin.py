"""The built-in sets: what they show is what their truth says, and an item is a function of its number."""

import numpy as np
import pytest

from genkit.errors import ConfigError
from genkit_video.footage import open_footage
from genkit_video.moving import STEP, Moving
from genkit_video.strokes import Strokes


def test_glyphs_are_drawn_where_the_truth_says_and_nowhere_else():
    moving = Moving((64, 64))
    for index in range(20):
        clip, truth = moving.clip(index), moving.truth(index).astype(int)
        for frame, places in zip(clip, truth.swapaxes(0, 1), strict=True):
            rest = frame.copy()
            for y, x in places:
                assert frame[y : y + 28, x : x + 28].max() > 200
                rest[y : y + 28, x : x + 28] = 0
            assert not rest.any()


def test_glyphs_keep_their_speed_bounce_and_stay_inside():
    moving, bounces = Moving((64, 64), 40), 0
    for index in range(50):
        path = moving.truth(index) / 36
        assert path.shape == (2, 40, 2)
        assert path.min() >= 0
        assert path.max() <= 1
        moves = np.diff(path, axis=1)
        free = (
            (path[:, 1:] > 0) & (path[:, 1:] < 1) & (path[:, :-1] > 0) & (path[:, :-1] < 1)
        ).all(2)
        np.testing.assert_allclose(np.linalg.norm(moves, axis=2)[free], STEP)
        turned = moves[:, 1:] * moves[:, :-1] < 0
        assert (
            ((path == 0) | (path == 1))[:, 1:-1] >= turned
        ).all()  # nothing bounces but at an edge
        bounces += turned.sum()
    assert bounces > 100


@pytest.mark.parametrize("shape", [(32, 32), (48, 32), (128, 128), (20, 64)])
def test_other_sizes_scale_the_same_motion(shape):
    moving, usual = Moving(shape), Moving((64, 64))
    assert moving.clip(3).shape == (20, *shape)
    ways = np.array(shape) - moving.side
    np.testing.assert_allclose(moving.truth(3) / ways, usual.truth(3) / 36)
    assert moving.side == round(min(shape) * 28 / 64)


def test_clips_differ_and_are_made_again_alike():
    one, other = Moving((32, 32)), Moving((32, 32))
    assert len({one.clip(index).tobytes() for index in range(100)}) == 100
    assert all((one.clip(index) == other.clip(index)).all() for index in (9999, 0, 5))


def test_characters_grow_from_nothing_to_the_whole():
    strokes, shorter = Strokes((64, 64), 16), Strokes((64, 64), 5)
    assert len(strokes) == 1000
    for index in range(0, 1000, 50):
        clip = strokes.clip(index).astype(int)
        assert clip.shape == (16, 64, 64)
        assert not clip[0].any()
        assert (np.diff(clip, axis=0) >= 0).all()
        assert (np.diff(clip.sum((1, 2))) > 0).sum() >= 13  # a pen may go over what it has drawn
        assert np.abs(clip[-1] - shorter.clip(index)[-1]).mean() < 2  # joints fall elsewhere
        assert ((clip[-1] > 0) & (clip[-1] < 255)).any()


def test_they_are_opened_by_name():
    moving = open_footage("builtin:moving", 30, (32, 48))
    assert len(moving.items) == 10_000
    assert moving.items[7].read(5, 25, 8.0, (32, 48), 1).shape == (25, 32, 48, 1)
    assert open_footage("builtin:strokes", 8, (32, 32)).items[0].count(25.0) == 8
    with pytest.raises(ConfigError, match=r"Did you mean 'moving'\?"):
        open_footage("builtin:movin")
