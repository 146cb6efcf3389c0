"""What a model of clips is worth: how they move, how far they are from real ones, and whether they obey a known truth.

Every figure stands beside that of real clips, and of real clips whose frames are shuffled: they are the scale. Knows no
way of training.

Shape letters: N clips, T frames, H W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genkit import Model
from genkit.errors import ConfigError
from genkit.kit.distances import frechet
from genkit.kit.items import check_usable
from genkit.kit.program import controls as checked_controls
from genkit_image.pictures import Pixels
from genkit_video import embedding, modality, tracking
from genkit_video.clips import Clips
from genkit_video.embedding import Embedder
from genkit_video.plugin import to_frames

LEARNED = 512
"""Further real clips that the small network learns from."""

BATCH = 64
"""Real clips that are cut at a time."""

FROZEN = 0.25
"""A clip is frozen that changes less than this from frame to frame, where real ones in the median change by 1."""

PERIOD = 4
"""Frames of the shortest loop."""

LOOPS = 0.5
"""A clip loops if frames a period apart differ by less than this, where neighbours differ by 1."""

FLICKERS = 2.0
"""A clip flickers if its brightness jumps more than this, where one in twenty real clips jumps more than 1."""

Tell = Callable[[str], object]
"""Is told what is being done."""


class Dynamics(NamedTuple):
    """How clips change with time.

    Args:
        motion: [N] mean difference of pixels of neighbouring frames, of 1.
        repeat: [N] the same of frames a period apart, for the best period, over `motion`; infinite for shorter clips.
        flicker: [N] root mean square second difference in time of a frame's brightness, over the clip's brightness.
    """

    motion: NDArray[np.float64]
    repeat: NDArray[np.float64]
    flicker: NDArray[np.float64]


def dynamics(clips: Pixels) -> Dynamics:
    """How clips [N, T, H, W, C] change with time."""
    values, frames = clips.reshape(*clips.shape[:2], -1).astype(np.float32) / 255, clips.shape[1]

    def apart(lag: int) -> NDArray[np.float64]:
        return np.abs(values[:, lag:] - values[:, :-lag]).mean((1, 2), dtype=np.float64)

    motion = apart(1)
    least = np.min(
        [np.full(len(clips), np.inf), *(apart(lag) for lag in range(PERIOD, frames - PERIOD + 1))],
        0,
    )
    bright = values.mean(2, dtype=np.float64)
    jumps = np.sqrt(np.square(np.diff(bright, 2, axis=1)).sum(1) / max(1, frames - 2))
    repeat = np.divide(least, motion, out=np.full(len(clips), np.inf), where=motion > 0)
    return Dynamics(motion, repeat, jumps / bright.mean(1).clip(1 / 255))


def rates(found: Dynamics, real: Dynamics) -> dict[str, float]:
    """Shares of clips that are frozen, loop and flicker, with real ones for comparison; as JSON data."""
    shares = {
        "frozen": found.motion < FROZEN * np.median(real.motion),
        "looping": found.repeat < LOOPS,
        "flickering": found.flicker > FLICKERS * np.quantile(real.flicker, 0.95),
    }
    return {name: float(share.mean()) for name, share in shares.items()}


def evaluate(
    model: Model,
    data: Any,
    samples: int = 200,
    embedder: str = "small",
    i3d: str | Path | None = None,
    controls: Mapping[str, Any] | None = None,
    seed: int = 0,
    tell: Tell = lambda doing: None,
) -> dict[str, Any]:
    """All that can be said of a model's clips beside real ones, as JSON data.

    Args:
        data: real clips, any source that could be trained on; of `builtin:moving` the truth is known, and is asked for.
        samples: how many are drawn, and how many real clips they stand beside.
        embedder: whose Frechet distance to real clips is told: `small`, a network trained here; `none`;
            `module:function` of one's own, as `genkit_video.embedding.own` takes it.
        i3d: a TorchScript file of I3D, in place of an embedder; with 2,048 clips or more, the distance is FVD.
        controls: of the samples; real clips are as long, and have as many frames per second.
        seed: of the samples, and of which real clips are cut.

    Raises:
        ConfigError: for a model of another modality, or a setting that cannot be.
        DataError: if the data hold no clip that is as long.
    """
    if model.modality.id != modality.id:
        raise ConfigError(
            f"a model of {model.modality.id}: only models of {modality.id} are judged here"
        )
    if samples < 2:
        raise ConfigError(f"samples = {samples}: at least 2 are needed")
    if embedder not in ("small", "none") and ":" not in embedder:
        raise ConfigError(f"--embedder {embedder!r}: small, none or module:function")
    if i3d is not None and embedder != "small":
        raise ConfigError(
            f"--i3d {i3d} and --embedder {embedder} exclude each other: a distance is by one network"
        )
    settings: Any = checked_controls(modality, controls or {})
    network = None if i3d is None else embedding.i3d(i3d)
    tell(f"drawing {samples:,} clips")
    drawn = np.concatenate(
        [to_frames(part.x) for part in model.stream(samples, seed, controls=controls or {})]
    )
    if drawn.shape[1] < 3:
        raise ConfigError(
            f"clips of {drawn.shape[1]} frames: at least 3 are needed to see motion; ask for more seconds"
        )
    if ":" in embedder:
        network = embedding.own(embedder, drawn.shape[1:])
    learns = LEARNED if embedder == "small" and network is None else 0
    tell(f"cutting {2 * samples + learns:,} real clips of {drawn.shape[1]} frames")
    cut = _real(model, data, 2 * samples + learns, drawn.shape[1], settings.fps, seed)
    reference, real, others = np.split(cut, [samples, 2 * samples])
    accuracy = None
    if learns:
        tell("training a small network to compare clips by")
        network, accuracy = embedding.small(others, seed)
    sets = {"model": drawn, "real": real, "shuffled": shuffled(real, seed)}
    return {
        "model": None if model.path is None else str(model.path),
        "controls": settings.model_dump(mode="json", exclude_none=True),
        "data": data if isinstance(data, str) else f"<{type(data).__name__}>",
        "seed": seed,
        "clips": samples,
        "shape": list(drawn.shape[1:]),
        "embedder": None if network is None else {"name": network.name, "accuracy": accuracy},
        "rows": _rows(
            sets, reference, network, isinstance(data, str) and data == "builtin:moving", tell
        ),
    }


def _rows(
    sets: Mapping[str, Pixels], reference: Pixels, network: Embedder | None, known: bool, tell: Tell
) -> dict[str, dict[str, float | None]]:
    """What is told of each set of clips beside the reference; `known`: they should be like `builtin:moving`."""
    usual, rows = dynamics(reference), {}
    cloud = None if network is None else network.points(reference)
    for name, clips in sets.items():
        tell(f"judging {name}")
        found = dynamics(clips)
        row: dict[str, float | None] = {**rates(found, usual), "motion": float(found.motion.mean())}
        if network is not None and cloud is not None:
            row[network.called(len(clips))] = frechet(network.points(clips), cloud)
        rows[name] = row | (tracking.truth(clips) if known else {})
    for name in ("residual", "speed") if known else ():
        usually = rows["real"][name]
        for row in rows.values():
            value = row[name]
            row[f"{name}_of_real"] = value / usually if value is not None and usually else None
    return rows


def shuffled(clips: Pixels, seed: int = 0) -> Pixels:
    """Clips [N, T, ...], the frames of each in an order of its own."""
    words = np.random.Philox(key=seed).random_raw(clips.shape[0] * clips.shape[1])
    order = words.reshape(clips.shape[:2]).argsort(1)
    return np.take_along_axis(clips, order.reshape(*order.shape, *(clips.ndim - 2) * [1]), 1)


def _real(model: Model, data: Any, count: int, frames: int, fps: float | None, seed: int) -> Pixels:
    """[N, T, H, W, C]: real clips from anywhere in the data; none twice while there are others."""
    facts = model.plugin.facts
    options = model.plugin.options.model_copy(
        update={"frames": frames, "fps": fps or facts["rate"]}
    )
    clips = Clips(model.plugin.open(data, options), options, facts["channels"])
    check_usable(len(clips), clips.skipped, clips.checked.source.title, strict=False)
    words = np.random.Philox(key=seed).random_raw(len(clips) + count)
    places = np.resize(np.argsort(words[: len(clips)], kind="stable"), count)
    batches = [slice(start, start + BATCH) for start in range(0, count, BATCH)]
    cut = [clips.random_batch(places[part].tolist(), words[len(clips) :][part]) for part in batches]
    return np.concatenate([to_frames(sample.x) for sample in cut])
