"""Measures of sounds that need no network: silence, clipping, and copies of real sounds.

Shape letters: N and M sounds, n values of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkit_audio.features import log_mel_statistics
from genkit_audio.sounds import CLIPPING, FULL_SCALE

SILENCE = 1e-3
"""A sound whose root mean square is below this counts as silent: -60 dB of full scale."""

CANDIDATES, COPY = 8, 0.95
"""Real sounds that each sound is correlated with; and the correlation above which it counts as a copy of one."""


def measures(x: Tensor, originals: Tensor, rate: int, is_real: bool) -> dict[str, float]:
    """Measures of sounds [N, n] beside sounds [M, n] that they may be copies of.

    Args:
        rate: of both, in Hz.
        is_real: whether the sounds are real ones, which may themselves be among the originals.

    Returns:
        `silent`: share of sounds below -60 dB (root mean square). `clipped`: share of sounds of which more than 1 % is
        at full scale. `nearest`: the mean correlation of each with the nearest original, at any shift and either
        polarity; real ones are not compared with themselves. `copies`: the share for which it is above 0.95.
    """
    correlations = nearest(x, originals, rate, is_real).correlations
    return {
        "silent": float((x.square().mean(1).sqrt() < SILENCE).float().mean()),
        "clipped": float(((x.abs() >= FULL_SCALE).float().mean(1) > CLIPPING).float().mean()),
        "nearest": float(correlations.mean()),
        "copies": float((correlations > COPY).mean()),
    }


@dataclass(frozen=True)
class Nearest:
    """For each of N sounds, the most similar of some originals.

    Args:
        places: [N], indices of the originals.
        correlations: [N], 0 to 1: the largest normalised cross-correlation at any shift and either polarity.
    """

    places: NDArray[np.int64]
    correlations: NDArray[np.float64]


def nearest(x: Tensor, originals: Tensor, rate: int, is_real: bool = False) -> Nearest:
    """The original sound that correlates best with each sound, out of the CANDIDATES with the most similar spectra.

    Args:
        x: sounds [N, n].
        originals: sounds [M, n].
        rate: of both, in Hz.
        is_real: whether a sound that is itself among the originals is not compared with that one.
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
        if is_real:
            scores[(candidates == sound).all(1)] = 0.0
        matches.append((int(places[scores.argmax()]), float(scores.max())))
    best_places, best_scores = zip(*matches, strict=True)
    return Nearest(np.array(best_places), np.array(best_scores))
