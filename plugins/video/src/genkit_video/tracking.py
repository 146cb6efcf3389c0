"""Where the two glyphs of clips like `builtin:moving` are, and whether they move as its rule says. Knows no model.

A frame is read as the brighter of two bundled glyphs at two places. Which two is one choice for a whole clip, so that
glyphs that cover one another are told apart too. Calibrated on clips whose truth is known: see the tests.

Shape letters: N clips, T frames, H W pixels, C channels, G bundled glyphs, S their side, P Q places down and across.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool2d

from genkit_video.moving import Moving, bounce

SEEN = 0.5
"""A glyph is there if so much of its ink is, where the other does not cover it."""

COVERED = 0.2
"""One of whose ink less than this is not covered by the other cannot be judged."""

INK = 0.35
"""How bright a pixel is that belongs to something."""

REST = 0.3
"""There is a third thing if the ink beside two glyphs is as much as this of a glyph's."""

LEAST = 6
"""Frames in which a glyph must be seen for its motion to be judged."""

Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]


class Tracks(NamedTuple):
    """What was found in clips.

    Args:
        places: [N, 2, T, 2] (y, x) of the upper left corner of each glyph, in whole pixels.
        seen: [N, 2, T] it is really there.
        two: [N, T] both are, and nothing else.
        crops: [N, 2, T, S, S] what is at these places, in [0, 1].
        bare: [N, 2, T, S, S] pixels that the other glyph does not touch.
        way: (y, x) that a corner can go, in pixels.
    """

    places: NDArray[np.int64]
    seen: Truths
    two: Truths
    crops: NDArray[np.float32]
    bare: Truths
    way: tuple[int, int]


def track(clips: NDArray[np.uint8]) -> Tracks:
    """The two glyphs of each clip [N, T, H, W, C], by matching the bundled ones.

    Two glyphs that look alike are told apart by their motion: as little acceleration as may be.
    """
    tracker = _Tracker((clips.shape[2], clips.shape[3]))
    found = [tracker.clip(torch.from_numpy(clip.mean(3, dtype=np.float32)) / 255) for clip in clips]
    places, seen, two, crops, bare = (np.stack(parts) for parts in zip(*found, strict=True))
    return Tracks(places, seen, two, crops, bare, tracker.way)


def truth(clips: NDArray[np.uint8]) -> dict[str, float | None]:
    """What can be said of clips [N, T, H, W, C] that should be like `builtin:moving`, as JSON data.

    Returns:
        `two_glyphs`: share of frames with two glyphs and nothing else. `tracked`: share of glyphs that are seen in
        enough frames, which all else is about: `residual`, the mean of `residual`; `speed`, pixels per frame, the mean
        over glyphs of the median over their steps; `content`, how much glyphs change, where 1 is the difference between
        glyphs of different clips. None where none is tracked.
    """
    tracks = track(clips)
    enough = tracks.seen.sum(2) >= LEAST
    report: dict[str, float | None] = {
        "two_glyphs": float(tracks.two.mean()),
        "tracked": float(enough.mean()),
    }
    if not enough.any():
        return report | dict.fromkeys(("residual", "speed", "content"))
    steps = np.median(np.linalg.norm(np.diff(tracks.places, axis=2), axis=3), axis=2)
    means = {
        "residual": residual(tracks)[enough].mean(),
        "speed": steps[enough].mean(),
        "content": _change(tracks),
    }
    return report | {name: float(value) for name, value in means.items()}


def residual(tracks: Tracks) -> Floats:
    """[N, 2]: how far each glyph is from moving at constant speed and bouncing off the edges, in pixels.

    That is the root mean square distance, over the frames where it is seen, from the best of all such motions in each
    coordinate; its ink may lie up to a seventh of its side beside its place. Glyphs are drawn at whole pixels, which
    alone makes 0.29.
    """
    loose = tracks.crops.shape[-1] / 7
    return np.stack(
        [_apart(*one, tracks.way, loose) for one in zip(tracks.places, tracks.seen, strict=True)]
    )


def _change(tracks: Tracks) -> float:
    """How a glyph differs from where it is first seen, as a share of how it differs from that of the next clip."""
    first = tracks.seen.argmax(2)[..., None, None, None]
    later = tracks.seen & (tracks.seen.cumsum(2) > 1)
    shown, bare = (
        np.take_along_axis(tracks.crops, first, 2),
        np.take_along_axis(tracks.bare, first, 2),
    )

    def difference(crops: NDArray[np.float32], clear: Truths) -> float:
        both = clear & bare & later[..., None, None]
        return float(np.abs(crops - shown)[both].mean()) if both.any() else 0.0

    other = difference(np.roll(tracks.crops, 1, 0), np.roll(tracks.bare, 1, 0))
    return difference(tracks.crops, tracks.bare) / max(other, 1e-6)


def _apart(places: NDArray[np.int64], seen: Truths, ways: tuple[int, int], loose: float) -> Floats:
    """[2]: `residual` of a clip; what is searched are states [4, K] before the first frame, ever closer."""
    frames = places.shape[1]
    reached, weight = (
        places.swapaxes(1, 2).reshape(4, 1, frames),
        seen.repeat(2, 0).reshape(4, 1, frames),
    )
    weight = weight / weight.sum(2, keepdims=True).clip(1)
    way, rows = np.tile(np.asarray(ways, np.float64), 2)[:, None], np.arange(4)
    begin, step = (
        axis.reshape(1, -1)
        for axis in np.meshgrid(np.linspace(0, 1, 37), np.linspace(-0.3, 0.3, 121))
    )
    down, across = (axis.reshape(1, -1) for axis in np.meshgrid(*2 * [np.linspace(-1, 1, 9)]))
    for finer in (1, 3, 9, 27, 81):
        apart = reached - bounce(begin, step, frames) * way[..., None]
        aside = (apart * weight).sum(2, keepdims=True).clip(-loose, loose)
        square = (np.square(apart - aside) * weight).sum(2)
        best = square.argmin(1)
        begin, step = (
            np.broadcast_to(axis, square.shape)[rows, best, None] for axis in (begin, step)
        )
        if finer < 81:
            begin, step = (begin + down / 24 / finer).clip(0, 1), step + across / 150 / finer
    return np.sqrt(square.min(1).reshape(2, 2).mean(1))


class _Tracker:
    """Matching of clips of one shape [H, W] with the bundled glyphs."""

    def __init__(self, shape: tuple[int, int]) -> None:
        glyphs = torch.from_numpy(Moving(shape).glyphs).float() / 255
        self.glyphs, self.side, self.energy = glyphs, glyphs.shape[1], glyphs.square().sum((1, 2))
        self.way = shape[0] - self.side, shape[1] - self.side
        self.count = self.way[0] + 1, self.way[1] + 1
        self.matched = torch.fft.rfft2(glyphs, s=shape).conj()
        # What two glyphs share, by how far the second lies below and beside the first: [G, G, 2 P - 1, 2 Q - 1].
        padded = self.side + self.count[0], self.side + self.count[1]
        waves = torch.fft.rfft2(glyphs, s=padded)
        joint = torch.fft.irfft2(waves[:, None] * waves.conj(), s=padded)
        down, across = (
            torch.arange(-way, way + 1) % size for way, size in zip(self.way, padded, strict=True)
        )
        self.shared = joint[:, :, down[:, None], across]

    def clip(self, frames: Tensor) -> tuple[NDArray[Any], ...]:
        """Places, seen, two, crops, bare of one clip [T, H, W] in [0, 1]; as `Tracks` without its first axis."""
        pair, places = self._search(frames)
        drawn = torch.stack([self._draw(frames, *one) for one in zip(pair, places, strict=True)])
        turned = torch.maximum(
            *(self._draw(frames, *one) for one in zip(pair, places.flip(0), strict=True))
        )
        both = torch.maximum(*drawn)
        worse = ((frames - turned).square() - (frames - both).square()).sum(
            (1, 2)
        ) / self.energy.mean()
        swapped = _swaps(places.double() / self.side, worse.double())
        wide = 2 * round(self.side / 14) + 1  # a pixel or two around what is drawn may be blur
        widened = max_pool2d(torch.cat([drawn, both[None]]), wide, 1, wide // 2)
        own, there = ((one - drawn.flip(0)).clip(0) for one in (drawn, frames))
        bare = own.square().sum((2, 3))
        seen = (bare >= COVERED * self.energy[list(pair), None]) & (
            (own * there).sum((2, 3)) >= SEEN * bare
        )
        beside = ((frames > INK) & (widened[2] < INK)).sum((1, 2)) / (self.glyphs > INK).sum(
            (1, 2)
        ).float().mean()
        crops = torch.stack([self._crop(frames, one) for one in places])
        clear = torch.stack(
            [self._crop(*one) for one in zip(widened[:2].flip(0) < 0.1, places, strict=True)]
        )
        places, seen, crops, clear = (
            torch.where(swapped.reshape(-1, *(each.ndim - 2) * [1]), each.flip(0), each)
            for each in (places, seen, crops, clear)
        )
        return tuple(
            each.numpy() for each in (places, seen, seen.all(0) & (beside < REST), crops, clear)
        )

    def _search(self, frames: Tensor) -> tuple[tuple[int, int], Tensor]:
        """The two glyphs that explain a clip best, and the best places [2, T, 2] for them.

        |x - max(g, h)|^2 = |x|^2 - 2 x.g + |g|^2 - 2 x.h + |h|^2 + g.h, if glyphs are black or white and x is white
        where they overlap.
        """
        down, across = self.count
        waves = torch.fft.rfft2(frames)[:, None] * self.matched
        match = (
            2 * torch.fft.irfft2(waves, s=frames.shape[1:])[..., :down, :across]
            - self.energy[:, None, None]
        )
        flat = match.flatten(2)  # [T, G, P Q]
        kind = int(flat.amax(2).sum(0).argmax())
        place = flat[:, kind].argmax(1)
        for _ in range(4):  # the one, given the other
            best, places = (flat - self._overlaps(self.shared[kind], place)).max(2)
            other = int(best.sum(0).argmax())
            kind, place, others = other, places[:, other], kind
        near = flat[:, kind].topk(min(64, down * across), 1).indices
        joint = self.shared[kind, others][None]
        scores = torch.stack(
            [
                one[kind, among][:, None] + one[others] - self._overlaps(joint, among)[:, 0]
                for one, among in zip(flat, near, strict=True)
            ]
        )
        chosen = scores.flatten(1).argmax(1)
        place = near.gather(1, (chosen // (down * across))[:, None])[:, 0]
        both = torch.stack([place, chosen % (down * across)])
        return (kind, others), torch.stack([both // across, both % across], 2)

    def _overlaps(self, shared: Tensor, places: Tensor) -> Tensor:
        """[B, G, P Q]: what glyphs [G, 2 P - 1, 2 Q - 1] at each place share with one at a place [B]."""
        (down, across), (most, widest) = self.count, self.way
        corners = [(most - place // across, widest - place % across) for place in places.tolist()]
        return torch.stack([shared[:, y : y + down, x : x + across] for y, x in corners]).flatten(2)

    def _draw(self, frames: Tensor, kind: int, places: Tensor) -> Tensor:
        """[T, H, W]: a glyph alone at places [T, 2]."""
        drawn = torch.zeros_like(frames)
        for frame, (y, x) in zip(drawn, places.tolist(), strict=True):
            frame[y : y + self.side, x : x + self.side] = self.glyphs[kind]
        return drawn

    def _crop(self, frames: Tensor, places: Tensor) -> Tensor:
        """[T, S, S]: what is at places [T, 2]."""
        side = self.side
        return torch.stack(
            [
                frame[y : y + side, x : x + side]
                for frame, (y, x) in zip(frames, places.tolist(), strict=True)
            ]
        )


def _swaps(places: Tensor, worse: Tensor) -> Tensor:
    """[T]: where the two must change names to move with the least acceleration.

    Args:
        places: [2, T, 2], in sides of a glyph.
        worse: [T], what a change costs at each frame.
    """
    frames = places.shape[1]
    named = torch.stack([places, places.flip(0)])  # [names, 2, T, 2]
    total, back = torch.zeros(2, 2), []  # of the names in the last two frames
    total = (
        total + worse[0] * torch.tensor([0.0, 1.0])[:, None] + worse[1] * torch.tensor([0.0, 1.0])
    )
    for frame in range(2, frames):
        before, last, now = (named[:, :, place] for place in (frame - 2, frame - 1, frame))
        bent = (
            now[None, None] - 2 * last[None, :, None] + before[:, None, None]
        )  # [2, 2, 2, glyph, yx]
        cost = (
            total[..., None]
            + bent.square().sum((3, 4)).clip(max=2)
            + worse[frame] * torch.tensor([0.0, 1.0])
        )
        total, chosen = cost.min(0)
        back.append(chosen)
    first, second = divmod(int(total.argmin()), 2)
    names = [second, first]
    for chosen in reversed(back):
        first, second = int(chosen[first, second]), first
        names.append(first)
    return torch.tensor(names[::-1], dtype=torch.bool)
