"""Feature networks of sounds, by which evaluation compares them.

None of the distances is the FAD of the literature, which is over all moments of all sounds and not over sounds.

Shape letters: N sounds, B of a batch, n values of each, F features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkit.kit import compat
from genkit.kit.features import check_weights, file_hash, in_batches, torchscript
from genkit.plugin import FeatureNetwork
from genkit_audio.spectra import FLOOR, hop_of, log_mel

BATCH = 64
"""Sounds per batch."""

BANDS = 16
"""Mel bands of the statistics. Each gives two numbers, so that 33 sounds are enough for a distance."""

MIDDLE = math.log(FLOOR) / 2
"""Half-way between silence and 1, in logarithms. Features lie around 0 from there: a polynomial kernel needs that."""

SPEECH = "pyopen_wakeword"
"""Package with the network of speech, of the extra `speech`."""

SPEECH_RATE, SPEECH_LENGTH, SPEECH_WIDTH = 16_000, 16_000, 96
"""Of that network: rate in Hz, the shortest sound (a shorter one is followed by silence), and F."""


def networks(weights: Mapping[str, Path], rate: int) -> dict[str, FeatureNetwork]:
    """Feature networks of sounds by name: `log-mel`, `speech` and `vggish`.

    `log-mel` is no network but statistics of the spectrogram. `speech` is there if its package is installed: Google's
    embedding of speech (Lin et al. 2020, arXiv:2002.01322), one for every 80 ms, averaged over the sound. `vggish` is
    there if its file is given, a TorchScript file that takes waves [B, n] at 16,000 Hz and gives features [B, F].

    Args:
        weights: files by name.
        rate: of the sounds, in Hz.

    Raises:
        ConfigError: for weights that cannot be read, or of a network that takes none.
    """
    check_weights(weights, ["vggish"])
    built_in = {"log-mel": _log_mel(rate)}
    if find_spec(SPEECH) is not None:
        built_in["speech"] = _speech(rate)
    return built_in | {name: _vggish(path, rate) for name, path in weights.items()}


def log_mel_statistics(x: Tensor, rate: int) -> Tensor:
    """Means, then standard deviations, over time of each log-mel band of sounds [N, n]: [N, 2 * BANDS].

    Magnitudes are logarithms beside `MIDDLE`.
    """

    def statistics(x: Tensor) -> Tensor:
        spectra = log_mel(x, rate, BANDS) - MIDDLE
        return torch.cat([spectra.mean(2), spectra.std(2, correction=0)], 1)

    return in_batches(statistics, x, BATCH)


def _log_mel(rate: int) -> FeatureNetwork:
    protocol = {
        "bands": BANDS,
        "over time": "mean and deviation",
        "middle": MIDDLE,
        "rate": rate,
        "hop": hop_of(rate),
    }
    return FeatureNetwork(
        lambda samples: log_mel_statistics(samples.x[:, 0], rate), "fd-log-mel", protocol
    )


def _speech(rate: int) -> FeatureNetwork:
    spec = find_spec(SPEECH)
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "models"
    names = "melspectrogram.tflite", "embedding_model.tflite"
    protocol = {"weights": [file_hash(folder / name) for name in names], "over time": "mean"}
    return FeatureNetwork(
        lambda samples: in_batches(partial(_embedded, rate=rate), samples.x[:, 0], BATCH),
        "fd-speech",
        protocol,
    )


def _embedded(x: Tensor, rate: int) -> Tensor:
    """Sounds [B, n] -> [B, 96]: the mean over time of the embedding of speech."""
    waves = _resampled(x, rate, SPEECH_RATE)
    silence = max(0, SPEECH_LENGTH - waves.shape[1])
    values = np.pad((waves.clamp(-1, 1) * 32767).round().short().numpy(), ((0, 0), (0, silence)))
    return torch.from_numpy(np.stack([_embed(wave) for wave in values]))


def _embed(wave: NDArray[np.int16]) -> NDArray[np.float32]:
    """A sound [n] -> [96]."""
    network = _speech_network()
    network.reset()
    network.new_audio_samples = 0  # else it begins with eight seconds of silence
    parts = [
        part.reshape(-1, SPEECH_WIDTH)
        for start in range(0, len(wave), SPEECH_LENGTH)
        for part in network.process_streaming(wave[start : start + SPEECH_LENGTH].tobytes())
    ]
    return np.concatenate(parts).mean(0)


@cache
def _speech_network() -> Any:
    from pyopen_wakeword import OpenWakeWordFeatures

    return OpenWakeWordFeatures.from_builtin()


def _vggish(path: Path, rate: int) -> FeatureNetwork:
    network = torchscript("vggish", path, f"waves [B, n] at {SPEECH_RATE:,} Hz")

    def features(x: Tensor) -> Tensor:
        return network(_resampled(x, rate, SPEECH_RATE))

    return FeatureNetwork(
        lambda samples: in_batches(features, samples.x[:, 0], BATCH),
        "fd-vggish",
        {"weights": file_hash(path), "rate": SPEECH_RATE},
    )


def _resampled(x: Tensor, rate: int, target: int) -> Tensor:
    """Sounds [B, n] at another rate in Hz."""
    if rate == target:
        return x
    compat.torchaudio()
    from torchaudio.functional import resample

    return resample(x, rate, target)
