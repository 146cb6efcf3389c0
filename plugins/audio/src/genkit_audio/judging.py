"""What a model of sounds is worth, in numbers that mean something only beside others of one report.

Each row compares as many sounds with the same half of the data: the model's; the other half, which is what a perfect
model would get; and noise as loud, which is what knows nothing. No network comes with it, so none of its distances is
the FAD of the literature; a user's own embedder gives a distance that carries its name.

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
from genkit_audio.sounds import CLIPPED, FULL, Checked, SoundWindows
from genkit_audio.spectra import log_mel

BATCH = 64
"""Sounds that a network sees at once."""

BANDS = 16
"""Mel bands of the statistics: two numbers for each, so that some 40 sounds are enough for a distance."""

SILENT = 1e-3
"""A sound whose root mean square is below is silent: -60 dB of full scale."""

NEAR, COPY = 8, 0.95
"""Sounds that are compared with each, value by value; and from what correlation on it is a copy of one."""

MOST = 4096
"""Windows of the data that are looked at, evenly spread, unless more samples are asked for."""

Embedder = Callable[[Tensor, int], Tensor]
"""(x [N, n], rate in Hz) -> [N, D]."""

Tell = Callable[[str], object]
"""Is told what is being done."""


def evaluate(
    model: Model,
    data: Any,
    samples: int = 200,
    embedder: str | None = None,
    controls: Mapping[str, Any] | None = None,
    seed: int = 0,
    tell: Tell = lambda doing: None,
) -> dict[str, Any]:
    """All that can be counted about a model beside its data, as JSON data.

    In each row: the distances to one half of the data; the shares of sounds that are silent, clipped, and copies; and
    the mean correlation with the nearest sound of all the data (for the other half: of the first half).

    Args:
        data: any source that could be trained on; its windows are taken in order, as they are.
        samples: how many of each row at most; no more than half of the data has.
        embedder: `module:function` of one's own (`Embedder`), whose distance is reported beside the other.
        controls: of the samples.
        seed: of the samples and of the noise.

    Raises:
        ConfigError: for a model of another modality, or an embedder that cannot be.
        DataError: if too little of the data can be used.
    """
    if model.modality.id != "audio":
        raise ConfigError(
            f"{model.path or 'the model'} is a model of {model.modality.id}: only audio is judged here"
        )
    rate = model.plugin.facts["rate"]
    own = (
        None
        if embedder is None
        else admit("embedder", embedder, lambda thing: embedder_fault(thing, rate))
    )
    settings = checked_controls(model.modality, dict(controls or {}))
    if samples < 1:
        raise ConfigError(f"samples = {samples}: at least one is needed")
    real = _windows(model, data, max(MOST, 2 * samples), tell)
    count = min(samples, len(real) // 2)
    halves = _spread(len(real), 2 * count)  # so they are of the same kinds
    reference, other = real[halves[::2]], real[halves[1::2]]
    tell(f"drawing {count:,} samples")
    drawn = _in_batches(
        lambda places: model.draw(places.tolist(), seed, controls=settings).x[:, 0].float(),
        torch.arange(count),
    )
    rows = {
        "model": (drawn, real),
        "real against real": (other, reference),
        "noise against real": (_noise(reference, seed), real),
    }
    report: dict[str, Any] = {}
    for name, (sounds, known) in rows.items():
        tell(f"judging: {name}")
        report[name] = _row(sounds, reference, known, rate, embedder, own)
    return {
        "model": None if model.path is None else str(model.path), "rate": rate, "seed": seed, "sounds": count,
        "rows": report,
    }  # fmt: skip


def distance(one: Tensor, other: Tensor) -> float:
    """Frechet distance of two clouds [N, D] and [M, D].

    Raises:
        DataError: for clouds of no more points than numbers each, whose covariances say nothing.
    """
    fewest, width = min(len(one), len(other)), one.shape[1]
    if fewest <= width:
        raise DataError(
            f"a distance of {width} features needs more than {width} sounds on each side, and one has {fewest}: give "
            "more data and draw more samples"
        )
    return frechet(one.cpu(), other.cpu())


def log_mel_statistics(x: Tensor, rate: int) -> Tensor:
    """[N, 2 * BANDS]: mean and standard deviation over time of each band of a log-mel spectrogram [N, n]."""
    spectra = _in_batches(lambda part: log_mel(part, rate, BANDS), x)
    return torch.cat([spectra.mean(2), spectra.std(2, correction=0)], 1)


@dataclass(frozen=True)
class Nearest:
    """Which of some known sounds is most like each of others.

    Args:
        places: [N], of the known ones.
        correlations: [N], 0 to 1: the largest normalised cross-correlation at any shift and either polarity.
    """

    places: NDArray[np.int64]
    correlations: NDArray[np.float64]


def nearest(x: Tensor, known: Tensor, rate: int) -> Nearest:
    """The known sound [M, n] that correlates best with each [N, n], among the NEAR ones of the most similar spectra."""
    features, others = (log_mel_statistics(sounds, rate) for sounds in (x, known))
    chosen = torch.cdist(features, others).topk(min(NEAR, len(known)), largest=False).indices
    size = x.shape[1] + known.shape[1]  # no wrapping round
    best = []
    for sound, places in zip(x, chosen, strict=True):
        candidates = known[places]
        product = torch.fft.rfft(sound, size) * torch.fft.rfft(candidates, size).conj()
        largest = torch.fft.irfft(product, size).abs().amax(1)
        scores = largest / (sound.norm() * candidates.norm(dim=1)).clamp(min=1e-9)
        best.append((int(places[scores.argmax()]), float(scores.max())))
    found, scores_found = zip(*best, strict=True)
    return Nearest(np.array(found), np.array(scores_found))


def embedder_fault(embedder: Any, rate: int) -> str:
    """What keeps something from being an `Embedder`, or nothing; it is tried on two seconds of noise."""
    if not callable(embedder):
        return f"is a {type(embedder).__name__}; a function (x [N, n], rate) -> [N, D] was expected"
    with torch.no_grad():
        found = embedder(torch.linspace(-0.5, 0.5, 2 * rate).view(2, rate).sin(), rate)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2:
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        return f"gives {shape} for two sounds; a tensor [2, D] was expected"
    return (
        ""
        if bool(found.isfinite().all())
        else "gives values that are not finite for ordinary sounds"
    )


def _row(
    x: Tensor,
    reference: Tensor,
    known: Tensor,
    rate: int,
    name: str | None,
    embedder: Embedder | None,
) -> dict[str, Any]:
    found = nearest(x, known, rate)
    row: dict[str, Any] = {
        "log-mel statistics distance": distance(
            *(log_mel_statistics(one, rate) for one in (x, reference))
        ),
    }
    if embedder is not None:
        with torch.no_grad():
            row[f"{name} distance"] = distance(
                *(_in_batches(lambda part: embedder(part, rate), one) for one in (x, reference))
            )
    return {
        **row,
        "silent": float((x.square().mean(1).sqrt() < SILENT).float().mean()),
        "clipped": float(((x.abs() >= FULL).float().mean(1) > CLIPPED).float().mean()),
        "nearest": float(found.correlations.mean()),
        "copies": float((found.correlations > COPY).mean()),
    }


def _in_batches(do: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([do(x[start : start + BATCH]) for start in range(0, len(x), BATCH)])


def _windows(model: Model, data: Any, most: int, tell: Tell) -> Tensor:
    """[N, n]: the windows of a source as the model would be trained on them, one after the other, unchanged."""
    plugin, rate = model.plugin, model.plugin.facts["rate"]
    options = plugin.options.model_copy(update={"rate": rate, "cut": "ordered", "augment": 0.0})
    checked = Checked(data, options)
    windows = SoundWindows(checked, options)
    check_usable(len(windows), windows.skipped, checked.source.title, strict=False)
    if len(windows) < 2:
        raise DataError(
            f"{checked.source.title} has only one window of sound: two halves are compared with each other"
        )
    chosen = _spread(len(windows), min(most, len(windows)))
    tell(f"reading {len(chosen):,} of {len(windows):,} windows")
    keys = words(stream_key("windows", 0), 0, len(windows))
    return _in_batches(
        lambda places: windows.random_batch(places.tolist(), keys[places]).x[:, 0], chosen
    )


def _spread(count: int, chosen: int) -> Tensor:
    """[chosen]: places among so many, evenly spread."""
    return torch.arange(chosen) * count // chosen


def _noise(reference: Tensor, seed: int) -> Tensor:
    """White noise, each as loud as one of the references."""
    raw = words(stream_key("noise row", seed), 0, reference.numel())
    uniform = (raw >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - 1
    levels = (
        reference.square().mean(1, keepdim=True).sqrt() * 3**0.5
    )  # uniform noise has a third of its peak's power
    return (torch.from_numpy(uniform).view(reference.shape) * levels).clamp(-1, 1)
