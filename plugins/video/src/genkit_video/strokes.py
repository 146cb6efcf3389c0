"""Characters being written, stroke by stroke, at the speed of one pen. Knows no file of videos.

Bundled (`plugins/video/bundle.py` chose them): the 1,000 characters of 3 to 10 strokes that come most often in Tang and
Song quatrains, as pen paths of hanzi-writer-data, made from fonts of Arphic Technology (Arphic Public License).

Shape letters: T frames, H W pixels.
"""

from __future__ import annotations

import gzip
import json
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

UNITS, TOP = 1024, 900
"""Side of the square that paths lie in, and the y of its upper edge; y goes up."""

PEN = 64
"""Width of the pen, in the same units."""

FINE = 4
"""Drawn so many times larger, then averaged: that is what makes edges smooth."""


class Strokes:
    """Clips that begin with nothing and end with a whole character, white on black.

    Args:
        shape: (height, width) of the pictures; the character fills the square in their middle.
        frames: T.
    """

    def __init__(self, shape: tuple[int, int], frames: int = 16) -> None:
        self.shape, self.frames = shape, frames
        packed = (files("genkit_video") / "data" / "strokes.json.gz").read_bytes()
        self._paths: dict[str, list[list[list[int]]]] = json.loads(gzip.decompress(packed))
        self.names = tuple(self._paths)

    def __len__(self) -> int:
        return len(self.names)

    def clip(self, index: int) -> NDArray[np.uint8]:
        """[T, H, W]: the pen moves equally far between any two frames; its way from stroke to stroke takes no time."""
        height, width = self.shape
        side = min(self.shape)
        scale = FINE * side / UNITS
        corner = FINE * np.array([width - side, height - side]) / 2
        strokes = [
            (np.array(stroke) * (1, -1) + (0, TOP)) * scale + corner
            for stroke in self._paths[self.names[index]]
        ]
        pieces = np.concatenate(
            [np.stack([stroke[:-1], stroke[1:]], 1) for stroke in strokes]
        )  # [P, 2 ends, xy]
        ends = np.linalg.norm(pieces[:, 1] - pieces[:, 0], axis=1).cumsum()
        canvas = Image.new("L", (FINE * width, FINE * height))
        draw, radius, drawn = ImageDraw.Draw(canvas), PEN * scale / 2, 0.0
        clip = np.zeros((self.frames, height, width), np.uint8)
        for frame, reached in enumerate(np.linspace(0, ends[-1], self.frames)[1:], start=1):
            for piece in range(
                np.searchsorted(ends, drawn, "right"),
                min(np.searchsorted(ends, reached) + 1, len(ends)),
            ):
                start = ends[piece - 1] if piece else 0.0
                parts = (np.clip([drawn, reached], start, ends[piece]) - start) / (
                    ends[piece] - start
                )
                line = pieces[piece, 0] + parts[:, None] * (pieces[piece, 1] - pieces[piece, 0])
                draw.line(line.ravel().tolist(), fill=255, width=max(1, round(2 * radius)))
                for x, y in line:
                    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
            drawn = reached
            clip[frame] = np.asarray(canvas.reduce(FINE))
        return clip
