"""The built-in set `strokes`: Chinese characters that are written stroke by stroke, each at a constant speed.

Bundled (`plugins/video/bundle.py` selected them): the 1,000 most frequent characters of 3 to 10 strokes in Tang and
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
"""Side of the square that holds the paths, and the y of its upper edge; y points up."""

PEN = 64
"""Width of the pen, in units of the paths."""

SCALE = 4
"""Pictures are drawn this many times larger and averaged down, which smooths edges."""


class Strokes:
    """Clips that begin with an empty picture and end with a whole character, white on black.

    Args:
        shape: (height, width) of the pictures; the character fills the square in their middle.
        frames: T.
    """

    def __init__(self, shape: tuple[int, int], frames: int = 16) -> None:
        self.shape, self.frames = shape, frames
        archive = (files("genkit_video") / "data" / "strokes.json.gz").read_bytes()
        self._paths: dict[str, list[list[list[int]]]] = json.loads(gzip.decompress(archive))
        self.names = tuple(self._paths)

    def __len__(self) -> int:
        return len(self.names)

    def clip(self, index: int) -> NDArray[np.uint8]:
        """The pixels [T, H, W] of a clip; the pen draws equally far in each frame, and jumps from stroke to stroke."""
        height, width = self.shape
        side = min(self.shape)
        scale = SCALE * side / UNITS
        corner = SCALE * np.array([width - side, height - side]) / 2
        strokes = [
            (np.array(stroke) * (1, -1) + (0, TOP)) * scale + corner
            for stroke in self._paths[self.names[index]]
        ]
        # Straight pieces [P, 2 ends, xy], and the length of the path at the end of each.
        pieces = np.concatenate([np.stack([stroke[:-1], stroke[1:]], 1) for stroke in strokes])
        ends = np.linalg.norm(pieces[:, 1] - pieces[:, 0], axis=1).cumsum()
        canvas = Image.new("L", (SCALE * width, SCALE * height))
        draw, radius, position = ImageDraw.Draw(canvas), PEN * scale / 2, 0.0
        clip = np.zeros((self.frames, height, width), np.uint8)
        for frame, target in enumerate(np.linspace(0, ends[-1], self.frames)[1:], start=1):
            for piece in range(
                np.searchsorted(ends, position, "right"),
                min(np.searchsorted(ends, target) + 1, len(ends)),
            ):
                start = ends[piece - 1] if piece else 0.0
                shares = (np.clip([position, target], start, ends[piece]) - start) / (
                    ends[piece] - start
                )
                line = pieces[piece, 0] + shares[:, None] * (pieces[piece, 1] - pieces[piece, 0])
                draw.line(line.ravel().tolist(), fill=255, width=max(1, round(2 * radius)))
                for x, y in line:
                    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
            position = target
            clip[frame] = np.asarray(canvas.reduce(SCALE))
        return clip
