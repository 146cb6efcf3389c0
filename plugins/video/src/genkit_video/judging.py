"""Evaluation of a model of clips: how they move, how far they are from real ones, and how well they keep a known rule.

Every number is also given for real clips and for real clips with shuffled frames, as a scale.

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

TRAINING_CLIPS = 512
"""Real clips, besides those that are compared, on which the small network is trained."""

BATCH = 64
"""Real clips that are cut at a time."""

FREEZE = 0.25
"""A clip counts as frozen if its motion is less than this share of the median motion of real clips."""

PERIOD = 4
"""Frames of the shortest loop."""

LOOP = 0.5
"""A clip counts as looping if frames a period apart differ less than this share of what neighbours differ by."""

FLICKER = 2.0
"""A clip counts as flickering if its flicker is more than this multiple of the 95 % quantile of real clips."""

Tell = Callable[[str], object]
"""Reports progress: takes a short message."""


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


def rates(clips: Dynamics, real: Dynamics) -> dict[str, float]:
    """Shares of clips that are frozen, looping and flickering, by thresholds from real clips; as JSON data."""
    flags = {
        "frozen": clips.motion < FREEZE * np.median(real.motion),
        "looping": clips.repeat < LOOP,
        "flickering": clips.flicker > FLICKER * np.quantile(real.flicker, 0.95),
    }
    return {name: float(flag.mean()) for name, flag in flags.items()}


def evaluate(
    model: Model,
    data: Any,
    samples: int = 200,
    embedder: str = "small",
    i3d: str | Path | None = None,
    controls: Mapping[str, Any] | None = None,
    seed: int = 0,
    tell: Tell = lambda message: None,
) -> dict[str, Any]:
    """Compares a model's clips with real ones and reports the numbers as JSON data.

    Args:
        model: a model of video.
        data: real clips, any source that could be trained on. For `builtin:moving` the report also says how well clips
            keep its rule of motion.
        samples: number of generated clips, and of the real clips that they are compared with.
        embedder: network of the Frechet distance to real clips: `small`, a network that is trained here; `none`; or
            `module:function`, a user object as `genkit_video.embedding.user_embedder` takes it.
        i3d: a TorchScript file of I3D, in place of an embedder; with 2,048 clips or more, the distance is FVD.
        controls: of the samples; real clips are cut with the same length and frame rate.
        seed: of the samples, and of which real clips are cut.
        tell: reports progress.

    Raises:
        ConfigError: for a model of another modality, an argument that is not possible, or clips of fewer than 3 frames.
        DataError: if the data hold no clip of that length.
    """
    if model.modality.id != modality.id:
        raise ConfigError(
            f"a model of {model.modality.id}: only models of {modality.id} can be evaluated here"
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
    model_clips = np.concatenate(
        [to_frames(part.x) for part in model.stream(samples, seed, controls=controls or {})]
    )
    frames = model_clips.shape[1]
    if frames < 3:
        raise ConfigError(
            f"clips of {frames} frames: at least 3 are needed to see motion; ask for more seconds"
        )
    if ":" in embedder:
        network = embedding.user_embedder(embedder, model_clips.shape[1:])
    training_clips = TRAINING_CLIPS if embedder == "small" and network is None else 0
    tell(f"cutting {2 * samples + training_clips:,} real clips of {frames} frames")
    real_clips = _real(model, data, 2 * samples + training_clips, frames, settings.fps, seed)
    reference, real, training = np.split(real_clips, [samples, 2 * samples])
    accuracy = None
    if training_clips:
        tell("training a small network to compare clips by")
        network, accuracy = embedding.small(training, seed)
    sets = {"model": model_clips, "real": real, "shuffled": shuffled(real, seed)}
    return {
        "model": None if model.path is None else str(model.path),
        "controls": settings.model_dump(mode="json", exclude_none=True),
        "data": data if isinstance(data, str) else f"<{type(data).__name__}>",
        "seed": seed,
        "clips": samples,
        "shape": list(model_clips.shape[1:]),
        "embedder": None if network is None else {"name": network.name, "accuracy": accuracy},
        "rows": _rows(
            sets, reference, network, isinstance(data, str) and data == "builtin:moving", tell
        ),
    }


def _rows(
    sets: Mapping[str, Pixels],
    reference: Pixels,
    network: Embedder | None,
    is_moving: bool,
    tell: Tell,
) -> dict[str, dict[str, float | None]]:
    """The numbers of each set of clips against a reference set.

    Args:
        sets: clips by the name of their row; "real" is one of them.
        reference: real clips.
        network: for the Frechet distance, or None.
        is_moving: whether real clips are those of `builtin:moving`.
        tell: reports progress.
    """
    reference_dynamics, rows = dynamics(reference), {}
    reference_points = None if network is None else network.points(reference)
    for name, clips in sets.items():
        tell(f"judging {name}")
        clip_dynamics = dynamics(clips)
        row: dict[str, float | None] = {
            **rates(clip_dynamics, reference_dynamics),
            "motion": float(clip_dynamics.motion.mean()),
        }
        if network is not None and reference_points is not None:
            distance = frechet(network.points(clips), reference_points)
            row[network.distance_name(len(clips))] = distance
        rows[name] = row | (tracking.truth(clips) if is_moving else {})
    for name in ("residual", "speed") if is_moving else ():
        real_value = rows["real"][name]
        for row in rows.values():
            value = row[name]
            row[f"{name}_of_real"] = (
                value / real_value if value is not None and real_value else None
            )
    return rows


def shuffled(clips: Pixels, seed: int = 0) -> Pixels:
    """Clips [N, T, ...] with the frames of each in a random order, a function of the seed."""
    words = np.random.Philox(key=seed).random_raw(clips.shape[0] * clips.shape[1])
    order = words.reshape(clips.shape[:2]).argsort(1)
    return np.take_along_axis(clips, order.reshape(*order.shape, *(clips.ndim - 2) * [1]), 1)


def _real(model: Model, data: Any, count: int, frames: int, fps: float | None, seed: int) -> Pixels:
    """Real clips [count, frames, H, W, C] in random order; the data set is repeated only if it has fewer.

    Args:
        model: gives options and facts.
        data: the source.
        count: number of clips.
        frames: of each clip.
        fps: frames per second; None: the model's rate.
        seed: of which clips are cut.

    Raises:
        DataError: if no clip can be cut.
    """
    facts = model.plugin.facts
    options = model.plugin.options.model_copy(
        update={"frames": frames, "fps": fps or facts["rate"]}
    )
    clips = Clips(model.plugin.open(data, options), options, facts["channels"])
    check_usable(len(clips), clips.skipped, clips.checked.source.title, strict=False)
    words = np.random.Philox(key=seed).random_raw(len(clips) + count)
    places = np.resize(np.argsort(words[: len(clips)], kind="stable"), count)
    batches = [slice(start, start + BATCH) for start in range(0, count, BATCH)]
    window_words = words[len(clips) :]
    samples = [clips.random_batch(places[part].tolist(), window_words[part]) for part in batches]
    return np.concatenate([to_frames(sample.x) for sample in samples])
