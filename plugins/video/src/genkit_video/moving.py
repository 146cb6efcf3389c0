"""Two bouncing glyphs, made on the fly by the recipe of Moving MNIST; where they are is known. Knows no files.

Source: Srivastava et al. 2015, arXiv:1502.04681, and the authors' data handler: a picture of 64 pixels, glyphs of 28,
two of them, 20 frames, a step of 0.1. Other sizes scale it all. The glyphs are bundled (`plugins/video/bundle.py` made
them): ten digits in five slants, drawn with Aileron, the font that comes with Pillow (dotcolon, CC0).

Shape letters: T frames, H W pixels.
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GLYPH = 28 / 64
"""Side of a glyph over that of the picture."""

STEP = 0.1
"""How far a glyph moves from frame to frame, where the ways that it has are 1."""

FRAMES = 20
CLIPS = 10_000


class Moving:
    """10,000 clips of two glyphs that move at constant speed and bounce off the edges.

    Args:
        shape: (height, width) of the pictures.
        frames: T; clips are made longer if more are wanted.
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
            scaled = [
                atlas.crop(box).resize((self.side, self.side), Image.Resampling.BILINEAR)
                for box in boxes
            ]
        self.glyphs = np.stack([np.asarray(picture) for picture in scaled])

    def __len__(self) -> int:
        return CLIPS

    def truth(self, index: int) -> NDArray[np.float64]:
        """[2, T, 2]: (y, x) of the upper left corner of each glyph in pixels; it is drawn at the whole ones."""
        y, x, angle = self._uniform(index)[:, 1:].T
        place, way = (
            np.stack([y, x], 1),
            np.stack([np.sin(2 * np.pi * angle), np.cos(2 * np.pi * angle)], 1),
        )
        return bounce(place, STEP * way, self.frames).swapaxes(1, 2) * (
            np.array(self.shape) - self.side
        )

    def clip(self, index: int) -> NDArray[np.uint8]:
        """[T, H, W]: where glyphs overlap, the brighter pixel is seen."""
        chosen = self.glyphs[(self._uniform(index)[:, 0] * len(self.glyphs)).astype(int)]
        clip = np.zeros((self.frames, *self.shape), np.uint8)
        for glyph, path in zip(chosen, self.truth(index).astype(int), strict=True):
            for frame, (y, x) in zip(clip, path, strict=True):
                seen = frame[y : y + self.side, x : x + self.side]
                np.maximum(seen, glyph, out=seen)
        return clip

    def _uniform(self, index: int) -> NDArray[np.float64]:
        """[2, 4] in [0, 1): what is random about a clip, a function of its index alone."""
        words = np.random.Philox(key=index).random_raw(
            8
        )  # raw words: NumPy promises no more across its versions
        return (words >> np.uint64(11)).reshape(2, 4).astype(np.float64) * np.float64(2.0**-53)


def bounce(
    place: NDArray[np.float64], step: NDArray[np.float64], frames: int
) -> NDArray[np.float64]:
    """[*, T] in [0, 1]: where what is at a place [*] and moves by a step [*] per frame is after each, between walls."""
    path = np.empty((*place.shape, frames))
    for frame in range(frames):
        place = place + step
        step = np.where((place <= 0) | (place >= 1), -step, step)
        place = place.clip(0, 1)
        path[..., frame] = place
    return path
