"""The built-in set `moving`: two bouncing glyphs, as in Moving MNIST, whose true positions are known.

Source: Srivastava et al. 2015, arXiv:1502.04681, and the authors' data handler: pictures of 64 pixels, two glyphs of 28
pixels, 20 frames, a step of 0.1. At other sizes everything is scaled. The glyphs are bundled (`plugins/video/bundle.py`
made them): ten digits in five slants, drawn with Aileron, the font that comes with Pillow (dotcolon, CC0).

Shape letters: T frames, H W pixels.
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GLYPH = 28 / 64
"""Side of a glyph, as a share of the smaller side of the picture."""

STEP = 0.1
"""Distance that a glyph moves per frame, in units of the range of its position."""

FRAMES = 20
"""Smallest number of frames of a clip."""

CLIPS = 10_000
"""Number of clips."""


class Moving:
    """10,000 clips of two glyphs that move at constant speed and bounce off the edges.

    Args:
        shape: (height, width) of the pictures.
        frames: T, raised to at least FRAMES.
    """

    def __init__(self, shape: tuple[int, int], frames: int = FRAMES) -> None:
        self.shape, self.frames = shape, max(frames, FRAMES)
        self.side = max(1, round(GLYPH * min(shape)))
        with (
            (files("genkit_video") / "data" / "glyphs.png").open("rb") as file,
            Image.open(file) as atlas,
        ):
            side = 28
            boxes = [
                (x, y, x + side, y + side)
                for y in range(0, atlas.height, side)
                for x in range(0, atlas.width, side)
            ]
            pictures = [
                atlas.crop(box).resize((self.side, self.side), Image.Resampling.BILINEAR)
                for box in boxes
            ]
        self.glyphs = np.stack([np.asarray(picture) for picture in pictures])

    def __len__(self) -> int:
        return CLIPS

    def truth(self, index: int) -> NDArray[np.float64]:
        """(y, x) of the upper left corner of each glyph [2, T, 2], in pixels; glyphs are drawn at the integer parts."""
        y, x, angle = self._uniform(index)[:, 1:].T
        place = np.stack([y, x], 1)
        direction = np.stack([np.sin(2 * np.pi * angle), np.cos(2 * np.pi * angle)], 1)
        extent = np.array(self.shape) - self.side
        return bounce(place, STEP * direction, self.frames).swapaxes(1, 2) * extent

    def clip(self, index: int) -> NDArray[np.uint8]:
        """The pixels [T, H, W] of a clip; where glyphs overlap, the brighter one is shown."""
        glyphs = self.glyphs[(self._uniform(index)[:, 0] * len(self.glyphs)).astype(int)]
        clip = np.zeros((self.frames, *self.shape), np.uint8)
        for glyph, path in zip(glyphs, self.truth(index).astype(int), strict=True):
            for frame, (y, x) in zip(clip, path, strict=True):
                window = frame[y : y + self.side, x : x + self.side]
                np.maximum(window, glyph, out=window)
        return clip

    def _uniform(self, index: int) -> NDArray[np.float64]:
        """Uniform random numbers [2, 4] in [0, 1) for the glyphs of a clip, a function of its index alone."""
        # Raw words, since only these are the same in all versions of NumPy.
        words = np.random.Philox(key=index).random_raw(8)
        return (words >> np.uint64(11)).reshape(2, 4).astype(np.float64) * np.float64(2.0**-53)


def bounce(
    place: NDArray[np.float64], step: NDArray[np.float64], frames: int
) -> NDArray[np.float64]:
    """Positions [*, T] in [0, 1] after each frame of points that move at constant speed and bounce off 0 and 1.

    Args:
        place: [*], the positions before the first frame.
        step: [*], the motion per frame.
        frames: T.
    """
    path = np.empty((*place.shape, frames))
    for frame in range(frames):
        place = place + step
        step = np.where((place <= 0) | (place >= 1), -step, step)
        place = place.clip(0, 1)
        path[..., frame] = place
    return path
