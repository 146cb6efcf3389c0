"""The judge on clips whose truth is known: real ones pass, and every fault made by hand is told."""

import numpy as np
import pytest

from genkit_video.judging import dynamics, rates, shuffled
from genkit_video.moving import Moving
from genkit_video.tracking import residual, track, truth


def moving(count, size=32, frames=16):
    """Clips [N, T, H, W, 1] and the whole pixels [N, 2, T, 2] where their glyphs are."""
    source = Moving((size, size))
    starts = [index % (20 - frames + 1) for index in range(count)]
    clips = [source.clip(index)[start : start + frames] for index, start in enumerate(starts)]
    places = [source.truth(index)[:, start : start + frames].astype(int) for index, start in enumerate(starts)]
    return np.stack(clips)[..., None], np.stack(places)


def alone(count):
    """Clips of one glyph each."""
    source, clips = Moving((32, 32)), np.zeros((count, 16, 32, 32, 1), np.uint8)
    for index, clip in enumerate(clips):
        for frame, (y, x) in zip(clip, source.truth(index)[0].astype(int), strict=False):
            frame[y : y + source.side, x : x + source.side, 0] = source.glyphs[index]
    return clips


@pytest.mark.parametrize(("size", "count"), [(32, 60), (64, 4)])
def test_glyphs_of_real_clips_are_found_to_the_pixel_and_keep_the_rule(size, count):
    clips, places = moving(count, size)
    tracks = track(clips)
    either = [(tracks.places == order).all((1, 2, 3)) for order in (places, places[:, ::-1])]
    assert np.any(either, 0).all()
    assert tracks.two.mean() > 0.98
    assert residual(tracks).max() < 0.32  # rounding to whole pixels makes 0.29
    report = truth(clips)
    assert report["tracked"] == 1
    assert report["speed"] == pytest.approx(0.1 * (size - Moving((size, size)).side), rel=0.05)
    assert report["content"] < 0.02


def test_what_breaks_the_rule_is_told():
    clips, _ = moving(20)
    real, mixed = truth(clips), truth(shuffled(clips))
    assert mixed["residual"] > 8 * real["residual"]
    assert mixed["speed"] > 2 * real["speed"]
    slow = truth(clips[:, :8].repeat(2, 1))
    assert slow["speed"] < 0.7 * real["speed"]
    assert truth(clips[:, :1].repeat(16, 1))["speed"] == 0
    changed = np.concatenate([clips[:, :8], np.roll(clips, 1, 0)[:, 8:]], 1)
    assert truth(changed)["residual"] > 4 * real["residual"]
    assert truth(changed)["content"] > 0.2


def test_one_glyph_three_and_none_are_not_two():
    clips, _ = moving(20)
    assert truth(alone(20))["two_glyphs"] < 0.05
    assert truth(np.maximum(clips, np.roll(alone(20), 1, 0)))["two_glyphs"] < 0.5
    nothing = truth(np.zeros_like(clips))
    assert (nothing["two_glyphs"], nothing["tracked"], nothing["residual"]) == (0, 0, None)


def test_frozen_looping_and_flickering_clips_are_told():
    clips, _ = moving(40)
    real, other = dynamics(clips[::2]), clips[1::2]
    assert max(rates(dynamics(other), real).values()) <= 0.05
    frozen = other[:, :1].repeat(16, 1)
    assert rates(dynamics(frozen), real) == {"frozen": 1, "looping": 0, "flickering": 0}
    assert rates(dynamics(other[:, np.arange(16) % 5]), real)["looping"] == 1
    dimmed = (other * np.where(np.arange(16) % 2, 1, 0.5)[:, None, None, None]).astype(np.uint8)
    assert rates(dynamics(dimmed), real)["flickering"] == 1
