"""Tracking of the two glyphs in clips like `builtin:moving`, to measure how well they keep its rule of motion.

A frame is modelled as the brighter of two bundled glyphs at two places. The two glyphs are the same in all frames of a
clip, so that they can be told apart where they overlap. The thresholds are calibrated on clips whose true positions are
known: see the tests.

Shape letters: N clips, T frames, H W pixels, C channels, G bundled glyphs, S their side, P Q vertical and horizontal
places.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool2d

from genkit_video.moving import Moving, bounce

PRESENCE = 0.5
"""A glyph counts as visible if this share of its ink, where the other does not cover it, is in the frame."""

UNCOVERED = 0.2
"""A glyph of which the other leaves less than this share of ink uncovered does not count as visible."""

INK = 0.35
"""Brightness from which on a pixel belongs to an object."""

EXCESS = 0.3
"""There is a third object if the ink outside of both glyphs is at least this share of a glyph's mean ink."""

VISIBLE_FRAMES = 6
"""Frames in which a glyph must be visible for its motion to be measured."""

Floats = NDArray[np.float64]
"""Numbers in float64."""

Flags = NDArray[np.bool_]
"""Truth values."""


class Tracks(NamedTuple):
    """The two glyphs of N clips.

    Args:
        places: [N, 2, T, 2], (y, x) of the upper left corner of each glyph, in whole pixels.
        visibility: [N, 2, T], whether the glyph is visible in the frame.
        is_pair: [N, T], whether both glyphs are visible, and nothing else.
        crops: [N, 2, T, S, S], the pixels at these places, in [0, 1].
        masks: [N, 2, T, S, S], which of these pixels the other glyph does not touch.
        extent: (y, x), the range of a corner in pixels.
    """

    places: NDArray[np.int64]
    visibility: Flags
    is_pair: Flags
    crops: NDArray[np.float32]
    masks: Flags
    extent: tuple[int, int]


def track(clips: NDArray[np.uint8]) -> Tracks:
    """The two glyphs of each clip [N, T, H, W, C], by matching with the bundled ones.

    Glyphs that look alike are told apart by their motion: the assignment with the least acceleration is taken.
    """
    tracker = _Tracker((clips.shape[2], clips.shape[3]))
    rows = [tracker.clip(torch.from_numpy(clip.mean(3, dtype=np.float32)) / 255) for clip in clips]
    places, visibility, is_pair, crops, masks = (
        np.stack(parts) for parts in zip(*rows, strict=True)
    )
    return Tracks(places, visibility, is_pair, crops, masks, tracker.extent)


def truth(clips: NDArray[np.uint8]) -> dict[str, float | None]:
    """How well clips [N, T, H, W, C] keep the rule of `builtin:moving`, as JSON data.

    Returns:
        `two_glyphs`: share of frames with two glyphs and nothing else. `tracked`: share of glyphs that are visible in
        at least VISIBLE_FRAMES frames. The rest is about these glyphs, and None if there are none: `residual`, the mean
        of `residual`; `speed`, in pixels per frame, the mean over glyphs of the median over their steps; `content`, how
        much glyphs change, where 1 is the difference between glyphs of different clips.
    """
    tracks = track(clips)
    is_tracked = tracks.visibility.sum(2) >= VISIBLE_FRAMES
    report: dict[str, float | None] = {
        "two_glyphs": float(tracks.is_pair.mean()),
        "tracked": float(is_tracked.mean()),
    }
    if not is_tracked.any():
        return report | dict.fromkeys(("residual", "speed", "content"))
    steps = np.median(np.linalg.norm(np.diff(tracks.places, axis=2), axis=3), axis=2)
    means = {
        "residual": residual(tracks)[is_tracked].mean(),
        "speed": steps[is_tracked].mean(),
        "content": _change(tracks),
    }
    return report | {name: float(value) for name, value in means.items()}


def residual(tracks: Tracks) -> Floats:
    """Distance [N, 2] of each glyph from constant speed with bounces off the edges, in pixels.

    It is the root mean square distance, over the frames where the glyph is visible, from the closest such motion in
    each coordinate. A constant offset of up to a seventh of the glyph's side is allowed. Glyphs are drawn at whole
    pixels, and this rounding alone makes 0.29.
    """
    tolerance = tracks.crops.shape[-1] / 7
    pairs = zip(tracks.places, tracks.visibility, strict=True)
    return np.stack([_residual(*pair, tracks.extent, tolerance) for pair in pairs])


def _change(tracks: Tracks) -> float:
    """Difference of glyphs from themselves in their first visible frame, over that of the previous clip's glyphs."""
    first = tracks.visibility.argmax(2)[..., None, None, None]
    is_later = tracks.visibility & (tracks.visibility.cumsum(2) > 1)
    first_crops = np.take_along_axis(tracks.crops, first, 2)
    first_masks = np.take_along_axis(tracks.masks, first, 2)

    def difference(crops: NDArray[np.float32], masks: Flags) -> float:
        joint_masks = masks & first_masks & is_later[..., None, None]
        return float(np.abs(crops - first_crops)[joint_masks].mean()) if joint_masks.any() else 0.0

    scale = difference(np.roll(tracks.crops, 1, 0), np.roll(tracks.masks, 1, 0))
    return difference(tracks.crops, tracks.masks) / max(scale, 1e-6)


def _residual(
    places: NDArray[np.int64], visibility: Flags, extent: tuple[int, int], tolerance: float
) -> Floats:
    """The `residual` [2] of the glyphs of one clip, by a grid search that is refined around the best motion.

    For each glyph and coordinate, [4], the grid holds K positions and speeds before the first frame.

    Args:
        places: [2, T, 2].
        visibility: [2, T].
        extent: (y, x), the range of a corner in pixels.
        tolerance: largest constant offset in pixels.
    """
    frames = places.shape[1]
    targets = places.swapaxes(1, 2).reshape(4, 1, frames)
    weight = visibility.repeat(2, 0).reshape(4, 1, frames)
    weight = weight / weight.sum(2, keepdims=True).clip(1)
    scale, rows = np.tile(np.asarray(extent, np.float64), 2)[:, None], np.arange(4)
    start, step = (
        axis.reshape(1, -1)
        for axis in np.meshgrid(np.linspace(0, 1, 37), np.linspace(-0.3, 0.3, 121))
    )
    start_grid, step_grid = (
        axis.reshape(1, -1) for axis in np.meshgrid(*2 * [np.linspace(-1, 1, 9)])
    )
    for divisor in (1, 3, 9, 27, 81):
        error = targets - bounce(start, step, frames) * scale[..., None]
        offset = (error * weight).sum(2, keepdims=True).clip(-tolerance, tolerance)
        square = (np.square(error - offset) * weight).sum(2)
        best = square.argmin(1)
        start, step = (
            np.broadcast_to(axis, square.shape)[rows, best, None] for axis in (start, step)
        )
        if divisor < 81:
            start = (start + start_grid / 24 / divisor).clip(0, 1)
            step = step + step_grid / 150 / divisor
    return np.sqrt(square.min(1).reshape(2, 2).mean(1))


class _Tracker:
    """Matches clips of one shape (H, W) with the bundled glyphs."""

    def __init__(self, shape: tuple[int, int]) -> None:
        glyphs = torch.from_numpy(Moving(shape).glyphs).float() / 255
        self.glyphs, self.side, self.energy = glyphs, glyphs.shape[1], glyphs.square().sum((1, 2))
        self.extent = shape[0] - self.side, shape[1] - self.side
        self.count = self.extent[0] + 1, self.extent[1] + 1
        self.filters = torch.fft.rfft2(glyphs, s=shape).conj()
        # Inner products of two glyphs by the vertical and horizontal offset of the second: [G, G, 2 P - 1, 2 Q - 1].
        sides = self.side + self.count[0], self.side + self.count[1]
        waves = torch.fft.rfft2(glyphs, s=sides)
        products = torch.fft.irfft2(waves[:, None] * waves.conj(), s=sides)
        rows, columns = (
            torch.arange(-limit, limit + 1) % size
            for limit, size in zip(self.extent, sides, strict=True)
        )
        self.products = products[:, :, rows[:, None], columns]

    def clip(self, frames: Tensor) -> tuple[NDArray[Any], ...]:
        """Places, visibility, is_pair, crops and masks, as in `Tracks`, of one clip [T, H, W] in [0, 1]."""
        pair, places = self._search(frames)
        layers = torch.stack([self._draw(frames, *part) for part in zip(pair, places, strict=True)])
        swapped_picture = torch.maximum(
            *(self._draw(frames, *part) for part in zip(pair, places.flip(0), strict=True))
        )
        picture = torch.maximum(*layers)
        errors = (frames - swapped_picture).square() - (frames - picture).square()
        swap_cost = errors.sum((1, 2)) / self.energy.mean()
        is_swapped = _swaps(places.double() / self.side, swap_cost.double())
        margin = 2 * round(self.side / 14) + 1  # blur may reach a pixel or two around a glyph
        wide_layers = max_pool2d(torch.cat([layers, picture[None]]), margin, 1, margin // 2)
        uncovered, remainder = ((part - layers.flip(0)).clip(0) for part in (layers, frames))
        ink = uncovered.square().sum((2, 3))
        visibility = (ink >= UNCOVERED * self.energy[list(pair), None]) & (
            (uncovered * remainder).sum((2, 3)) >= PRESENCE * ink
        )
        mean_ink = (self.glyphs > INK).sum((1, 2)).float().mean()
        excess = ((frames > INK) & (wide_layers[2] < INK)).sum((1, 2)) / mean_ink
        crops = torch.stack([self._crop(frames, path) for path in places])
        masks = torch.stack(
            [self._crop(*part) for part in zip(wide_layers[:2].flip(0) < 0.1, places, strict=True)]
        )
        places, visibility, crops, masks = (
            torch.where(is_swapped.reshape(-1, *(part.ndim - 2) * [1]), part.flip(0), part)
            for part in (places, visibility, crops, masks)
        )
        is_pair = visibility.all(0) & (excess < EXCESS)
        return tuple(part.numpy() for part in (places, visibility, is_pair, crops, masks))

    def _search(self, frames: Tensor) -> tuple[tuple[int, int], Tensor]:
        """The numbers of the two glyphs that explain a clip best, and their best places [2, T, 2].

        |x - max(g, h)|^2 = |x|^2 - 2 x.g + |g|^2 - 2 x.h + |h|^2 + g.h, if glyphs are black or white and x is white
        where they overlap.
        """
        height, width = self.count
        waves = torch.fft.rfft2(frames)[:, None] * self.filters
        match = (
            2 * torch.fft.irfft2(waves, s=frames.shape[1:])[..., :height, :width]
            - self.energy[:, None, None]
        )
        scores = match.flatten(2)  # [T, G, P Q]
        glyph = int(scores.amax(2).sum(0).argmax())
        place = scores[:, glyph].argmax(1)
        for _ in range(4):  # each glyph in turn, given the other
            best, places = (scores - self._overlaps(self.products[glyph], place)).max(2)
            successor = int(best.sum(0).argmax())
            glyph, place, partner = successor, places[:, successor], glyph
        candidates = scores[:, glyph].topk(min(64, height * width), 1).indices
        products = self.products[glyph, partner][None]
        pair_scores = torch.stack(
            [
                row[glyph, options][:, None]
                + row[partner]
                - self._overlaps(products, options)[:, 0]
                for row, options in zip(scores, candidates, strict=True)
            ]
        )
        best_pair = pair_scores.flatten(1).argmax(1)
        place = candidates.gather(1, (best_pair // (height * width))[:, None])[:, 0]
        pair_places = torch.stack([place, best_pair % (height * width)])
        return (glyph, partner), torch.stack([pair_places // width, pair_places % width], 2)

    def _overlaps(self, products: Tensor, places: Tensor) -> Tensor:
        """Inner products [B, G, P Q] of glyphs at every place with one glyph at places [B].

        Args:
            products: of the one glyph with the G glyphs, by offset, [G, 2 P - 1, 2 Q - 1].
            places: of the one glyph, as numbers below P Q.
        """
        (height, width), (y_limit, x_limit) = self.count, self.extent
        corners = [(y_limit - place // width, x_limit - place % width) for place in places.tolist()]
        return torch.stack(
            [products[:, y : y + height, x : x + width] for y, x in corners]
        ).flatten(2)

    def _draw(self, frames: Tensor, glyph: int, places: Tensor) -> Tensor:
        """Pictures [T, H, W] of one glyph alone at places [T, 2]; `frames` gives their shape."""
        pictures = torch.zeros_like(frames)
        for picture, (y, x) in zip(pictures, places.tolist(), strict=True):
            picture[y : y + self.side, x : x + self.side] = self.glyphs[glyph]
        return pictures

    def _crop(self, frames: Tensor, places: Tensor) -> Tensor:
        """Squares [T, S, S] of frames [T, H, W], whose upper left corners are at places [T, 2]."""
        side = self.side
        return torch.stack(
            [
                frame[y : y + side, x : x + side]
                for frame, (y, x) in zip(frames, places.tolist(), strict=True)
            ]
        )


def _swaps(places: Tensor, swap_cost: Tensor) -> Tensor:
    """The frames [T] in which the two glyphs must be swapped to move with the least acceleration (Viterbi's algorithm).

    Args:
        places: [2, T, 2], in sides of a glyph.
        swap_cost: [T], of a swap in each frame.
    """
    frames = places.shape[1]
    orders = torch.stack([places, places.flip(0)])  # [as given or swapped, 2, T, 2]
    swap = torch.tensor([0.0, 1.0])
    # Cost by the orders in the last two frames, and for each frame the best order two frames earlier.
    cost, pointers = torch.zeros(2, 2), []
    cost = cost + swap_cost[0] * swap[:, None] + swap_cost[1] * swap
    for frame in range(2, frames):
        first, second, third = (orders[:, :, place] for place in (frame - 2, frame - 1, frame))
        # [2, 2, 2, glyph, yx]
        acceleration = third[None, None] - 2 * second[None, :, None] + first[:, None, None]
        candidates = (
            cost[..., None]
            + acceleration.square().sum((3, 4)).clip(max=2)
            + swap_cost[frame] * swap
        )
        cost, pointer = candidates.min(0)
        pointers.append(pointer)
    order, successor = divmod(int(cost.argmin()), 2)
    path = [successor, order]
    for pointer in reversed(pointers):
        order, successor = int(pointer[order, successor]), order
        path.append(order)
    return torch.tensor(path[::-1], dtype=torch.bool)
