"""Measures of clips that need no network: how they move, and for `builtin:moving` how well they keep its rule.

Shape letters: N clips, T frames, H W pixels, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genkit_image.pictures import Pixels
from genkit_video import tracking

FREEZE = 0.25
"""A clip counts as frozen if its motion is less than this share of the median motion of real clips."""

PERIOD = 4
"""Frames of the shortest loop."""

LOOP = 0.5
"""A clip counts as looping if frames a period apart differ less than this share of what neighbours differ by."""

FLICKER = 2.0
"""A clip counts as flickering if its flicker is more than this multiple of the 95 % quantile of real clips."""


BATCH = 64
"""Clips that are held as floats at a time."""


def measures(clips: Pixels, real: Pixels, is_moving: bool) -> dict[str, float | None]:
    """Measures of uint8 clips [N, T, H, W, C] beside real ones [M, T, H, W, C].

    Args:
        is_moving: whether real clips are those of `builtin:moving`.

    Returns:
        What `rates` gives; `motion`, the mean of the clips'; where the rule is known, what `tracking.truth` gives.
        None for what clips of so few frames cannot show.
    """
    if clips.shape[1] < 2:
        return dict.fromkeys(("frozen", "looping", "flickering", "motion"))
    change = dynamics(clips)
    row = {**rates(change, dynamics(real)), "motion": float(change.motion.mean())}
    needs = {"flickering": 3, "looping": 2 * PERIOD}
    row |= {name: None for name, frames in needs.items() if clips.shape[1] < frames}
    return row | tracking.truth(clips) if is_moving else row


class Dynamics(NamedTuple):
    """How clips change with time; pixels are in [0, 1].

    Args:
        motion: [N], mean absolute difference of the pixels of neighbouring frames.
        repeat: [N], that difference of frames a period apart, for the period where it is least, divided by `motion`;
            infinite for clips without motion or shorter than two periods.
        flicker: [N], root mean square of the second difference in time of a frame's brightness, divided by the clip's
            mean brightness.
    """

    motion: NDArray[np.float64]
    repeat: NDArray[np.float64]
    flicker: NDArray[np.float64]


def dynamics(clips: Pixels) -> Dynamics:
    """The dynamics of uint8 clips [N, T, H, W, C]."""
    parts = [_dynamics(clips[start : start + BATCH]) for start in range(0, len(clips), BATCH)]
    return Dynamics(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _dynamics(clips: Pixels) -> Dynamics:
    values, frames = clips.reshape(*clips.shape[:2], -1).astype(np.float32) / 255, clips.shape[1]

    def difference(lag: int) -> NDArray[np.float64]:
        return np.abs(values[:, lag:] - values[:, :-lag]).mean((1, 2), dtype=np.float64)

    motion = difference(1)
    differences = [difference(lag) for lag in range(PERIOD, frames - PERIOD + 1)]
    minima = np.min([np.full(len(clips), np.inf), *differences], 0)
    brightness = values.mean(2, dtype=np.float64)
    jumps = np.sqrt(np.square(np.diff(brightness, 2, axis=1)).sum(1) / max(1, frames - 2))
    repeat = np.divide(minima, motion, out=np.full(len(clips), np.inf), where=motion > 0)
    return Dynamics(motion, repeat, jumps / brightness.mean(1).clip(1 / 255))


def rates(clips: Dynamics, real: Dynamics) -> dict[str, float | None]:
    """Shares of clips that are frozen, looping and flickering, by thresholds from real clips."""
    flags = {
        "frozen": clips.motion < FREEZE * np.median(real.motion),
        "looping": clips.repeat < LOOP,
        "flickering": clips.flicker > FLICKER * np.quantile(real.flicker, 0.95),
    }
    return {name: float(flag.mean()) for name, flag in flags.items()}
