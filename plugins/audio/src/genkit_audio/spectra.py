"""Log-mel spectrograms of sounds, used for previews, metrics and networks alike.

Shape letters: B batch, n values of a sound, M mel bands.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from genkit.kit import compat

FLOOR = 1e-5
"""The smallest mel magnitude; smaller ones are raised to it, as silence."""


def log_mel(x: Tensor, rate: int, mels: int = 80, hop: int | None = None) -> Tensor:
    """Natural logarithms of mel magnitudes [B, M, ceil(n / hop)], at least log(FLOOR); differentiable, in float32.

    Frames are `4 * hop` long and centred on their hops; beyond both ends of the sound is silence.

    Args:
        x: [B, n] in [-1, 1].
        rate: in Hz.
        mels: M, number of bands, which cover 0 Hz to half of the rate.
        hop: values from frame to frame; None: `hop_of(rate)`.

    Source:
        The features of Kong et al. 2020, arXiv:2010.05646, section 3, over the whole band: magnitudes, Slaney's scale
        and norm.
    """
    hop = hop or hop_of(rate)
    edge = 3 * hop // 2
    extended = pad(x.float(), (edge, 3 * hop - edge + -x.shape[1] % hop))
    with torch.autocast(x.device.type, enabled=False):
        spectra = _mel(rate, mels, hop, x.device)(extended)
    return spectra.clamp(min=FLOOR).log()


def hop_of(rate: int) -> int:
    """The power of two nearest to 12 ms, at least 64: 256 from 16,000 to 24,000 Hz, 512 at 44,100 and 48,000 Hz."""
    return max(64, 2 ** round(math.log2(rate / 86)))


def mel_bands(rate: int, mels: int, hop: int) -> Tensor:
    """The weights [2 hop + 1, M] with which `log_mel` sums the magnitudes of bins to bands."""
    return cast(Tensor, _mel(rate, mels, hop, torch.device("cpu")).mel_scale.fb).clone()


@lru_cache(maxsize=16)
def _mel(rate: int, mels: int, hop: int, device: torch.device) -> Any:
    compat.torchaudio()
    from torchaudio.transforms import MelSpectrogram

    with torch.device("cpu"):  # also where networks are built without memory, to see their shapes
        mel = MelSpectrogram(
            rate,
            n_fft=4 * hop,
            hop_length=hop,
            n_mels=mels,
            power=1.0,
            center=False,
            norm="slaney",
            mel_scale="slaney",
        )
    return mel.to(device)
