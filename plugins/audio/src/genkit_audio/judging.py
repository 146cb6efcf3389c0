"""Evaluation of a model of sounds; its numbers are comparable only with other rows of the same report.

Each row compares equally many sounds with one half of the data: sounds of the model; the other half of the data, which
is the score of a perfect model; and white noise of equal loudness, which is the score of an uninformed one. No feature
network is bundled, so none of the distances is the FAD of the literature. A distance by the user's own embedder carries
the embedder's name.

Shape letters: N and M sounds, n values of each, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkit import Model
from genkit.errors import ConfigError, DataError
from genkit.kit.distances import frechet
from genkit.kit.items import check_usable
from genkit.kit.program import controls as checked_controls
from genkit.kit.streams import stream_key, words
from genkit.user_objects import admit
from genkit_audio.sounds import CLIPPING, FULL_SCALE, CheckedSounds, SoundWindows
from genkit_audio.spectra import log_mel

BATCH = 64
"""Sounds per batch."""

BANDS = 16
"""Mel bands of the statistics. Each gives two numbers, so that some 40 sounds are enough for a distance."""

SILENCE = 1e-3
"""A sound whose root mean square is below this counts as silent: -60 dB of full scale."""

CANDIDATES, COPY = 8, 0.95
"""Real sounds that each sound is correlated with; and the correlation above which it counts as a copy of one."""

WINDOWS = 4096
"""Windows of the data that are read, evenly spread, unless more samples are asked for."""

Embedder = Callable[[Tensor, int], Tensor]
"""A feature network: (x [N, n], rate in Hz) -> features [N, D]."""

Tell = Callable[[str], object]
"""Reports progress: takes a short message."""


def evaluate(
    model: Model,
    data: Any,
    samples: int = 200,
    embedder: str | None = None,
    controls: Mapping[str, Any] | None = None,
    seed: int = 0,
    tell: Tell = lambda message: None,
) -> dict[str, Any]:
    """Compares a model's sounds with real ones and reports the numbers as JSON data.

    Each row has the distances to one half of the data; the shares of sounds that are silent, clipped, and copies; and
    the mean correlation with the nearest real sound (for the row of the other half, the nearest of the first half).

    Args:
        model: a model of audio.
        data: any source that could be trained on; its windows are taken in order, without augmentation.
        samples: largest number of sounds in each row, which is also limited to half of the windows.
        embedder: `module:function`, a user object of the type `Embedder`, for one more distance.
        controls: of the samples.
        seed: of the samples and of the noise.
        tell: reports progress.

    Raises:
        ConfigError: for a model of another modality, fewer than one sample, an embedder that cannot be imported or
            does not return features, or unknown controls.
        DataError: if too few windows of the data can be used.
    """
    if model.modality.id != "audio":
        raise ConfigError(
            f"{model.path or 'the model'} is a model of {model.modality.id}; only models of audio can be evaluated here"
        )
    rate = model.plugin.facts["rate"]
    network = (
        None
        if embedder is None
        else admit("embedder", embedder, lambda thing: embedder_fault(thing, rate))
    )
    settings = checked_controls(model.modality, dict(controls or {}))
    if samples < 1:
        raise ConfigError(f"samples = {samples}: at least one is needed")
    real = _windows(model, data, max(WINDOWS, 2 * samples), tell)
    count = min(samples, len(real) // 2)
    places = _spread(len(real), 2 * count)  # alternating, so that both halves have the same classes
    reference, other_half = real[places[::2]], real[places[1::2]]
    tell(f"drawing {count:,} samples")
    model_sounds = _in_batches(
        lambda indices: model.draw(indices.tolist(), seed, controls=settings).x[:, 0].float(),
        torch.arange(count),
    )
    pairs = {
        "model": (model_sounds, real),
        "real against real": (other_half, reference),
        "noise against real": (_noise(reference, seed), real),
    }
    rows: dict[str, Any] = {}
    for name, (sounds, originals) in pairs.items():
        tell(f"judging: {name}")
        rows[name] = _row(sounds, reference, originals, rate, embedder, network)
    return {
        "model": None if model.path is None else str(model.path), "rate": rate, "seed": seed, "sounds": count,
        "rows": rows,
    }  # fmt: skip


def distance(features: Tensor, reference: Tensor) -> float:
    """Frechet distance of two sets of features [N, D] and [M, D].

    Raises:
        DataError: if N or M is at most D, since the covariances are then singular.
    """
    count, width = min(len(features), len(reference)), features.shape[1]
    if count <= width:
        raise DataError(
            f"a distance of {width} features needs more than {width} sounds on each side, and one has {count}: give "
            "more data and draw more samples"
        )
    return frechet(features.cpu(), reference.cpu())


def log_mel_statistics(x: Tensor, rate: int) -> Tensor:
    """Means, then standard deviations, over time of each log-mel band of sounds [N, n]: [N, 2 * BANDS]."""
    spectra = _in_batches(lambda part: log_mel(part, rate, BANDS), x)
    return torch.cat([spectra.mean(2), spectra.std(2, correction=0)], 1)


@dataclass(frozen=True)
class Nearest:
    """For each of N sounds, the most similar of some reference sounds.

    Args:
        places: [N], indices of the reference sounds.
        correlations: [N], 0 to 1: the largest normalised cross-correlation at any shift and either polarity.
    """

    places: NDArray[np.int64]
    correlations: NDArray[np.float64]


def nearest(x: Tensor, originals: Tensor, rate: int) -> Nearest:
    """The original sound that correlates best with each sound, out of the CANDIDATES with the most similar spectra.

    Args:
        x: sounds [N, n].
        originals: sounds [M, n].
        rate: of both, in Hz.
    """
    features, original_features = (log_mel_statistics(sounds, rate) for sounds in (x, originals))
    distances = torch.cdist(features, original_features)
    neighbours = distances.topk(min(CANDIDATES, len(originals)), largest=False).indices
    size = x.shape[1] + originals.shape[1]  # long enough that the correlation is not circular
    matches = []
    for sound, places in zip(x, neighbours, strict=True):
        candidates = originals[places]
        product = torch.fft.rfft(sound, size) * torch.fft.rfft(candidates, size).conj()
        peaks = torch.fft.irfft(product, size).abs().amax(1)
        scores = peaks / (sound.norm() * candidates.norm(dim=1)).clamp(min=1e-9)
        matches.append((int(places[scores.argmax()]), float(scores.max())))
    best_places, best_scores = zip(*matches, strict=True)
    return Nearest(np.array(best_places), np.array(best_scores))


def embedder_fault(embedder: Any, rate: int) -> str:
    """Why an object is not an `Embedder`; empty if it is one. It is called on two sounds of one second each."""
    if not callable(embedder):
        return f"is a {type(embedder).__name__}; a function (x [N, n], rate) -> [N, D] was expected"
    with torch.no_grad():
        features = embedder(torch.linspace(-0.5, 0.5, 2 * rate).view(2, rate).sin(), rate)
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2:
        shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        return f"gives {shape} for two sounds; a tensor [2, D] was expected"
    return (
        ""
        if bool(features.isfinite().all())
        else "gives values that are not finite for ordinary sounds"
    )


def _row(
    x: Tensor,
    reference: Tensor,
    originals: Tensor,
    rate: int,
    name: str | None,
    embedder: Embedder | None,
) -> dict[str, Any]:
    """One row of the report: sounds x [N, n] against a reference [N, n]; copies are searched in originals [M, n]."""
    similarity = nearest(x, originals, rate)
    row: dict[str, Any] = {
        "log-mel statistics distance": distance(
            *(log_mel_statistics(sounds, rate) for sounds in (x, reference))
        ),
    }
    if embedder is not None:
        with torch.no_grad():
            row[f"{name} distance"] = distance(
                *(
                    _in_batches(lambda part: embedder(part, rate), sounds)
                    for sounds in (x, reference)
                )
            )
    return {
        **row,
        "silent": float((x.square().mean(1).sqrt() < SILENCE).float().mean()),
        "clipped": float(((x.abs() >= FULL_SCALE).float().mean(1) > CLIPPING).float().mean()),
        "nearest": float(similarity.correlations.mean()),
        "copies": float((similarity.correlations > COPY).mean()),
    }


def _in_batches(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The results of a function on slices of BATCH rows, concatenated."""
    return torch.cat([function(x[start : start + BATCH]) for start in range(0, len(x), BATCH)])


def _windows(model: Model, data: Any, limit: int, tell: Tell) -> Tensor:
    """At most `limit` windows [N, n] of a source at the model's rate and length, in order and without augmentation.

    Raises:
        DataError: if no window, or only one, can be used.
    """
    plugin, rate = model.plugin, model.plugin.facts["rate"]
    options = plugin.options.model_copy(update={"rate": rate, "cut": "ordered", "augment": 0.0})
    checked = CheckedSounds(data, options)
    windows = SoundWindows(checked, options)
    check_usable(len(windows), windows.skipped, checked.source.title, strict=False)
    if len(windows) < 2:
        raise DataError(
            f"{checked.source.title} has only one window of sound: two halves are compared with each other"
        )
    selection = _spread(len(windows), min(limit, len(windows)))
    tell(f"reading {len(selection):,} of {len(windows):,} windows")
    keys = words(stream_key("windows", 0), 0, len(windows))
    return _in_batches(
        lambda places: windows.random_batch(places.tolist(), keys[places]).x[:, 0], selection
    )


def _spread(count: int, size: int) -> Tensor:
    """Evenly spread indices [size] of `count` items."""
    return torch.arange(size) * count // size


def _noise(reference: Tensor, seed: int) -> Tensor:
    """White noise of the shape of the reference [N, n], each row with the root mean square of its row."""
    raw = words(stream_key("noise row", seed), 0, reference.numel())
    uniform = (raw >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - 1
    # Uniform noise in [-1, 1] has the power 1/3.
    levels = reference.square().mean(1, keepdim=True).sqrt() * 3**0.5
    return (torch.from_numpy(uniform).view(reference.shape) * levels).clamp(-1, 1)
