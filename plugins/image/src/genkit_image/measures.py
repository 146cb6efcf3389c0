"""Measures of a set of pictures beside real ones that need no network: spectrum, brightness, contrast.

Shape letters: N pictures, C channels, H W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genkit_image.pictures import to_pixels

STRIDES = (2, 4)
"""Of upsamplers whose lattices are looked at: transposed convolutions of these strides leave peaks there."""

BATCH = 250
"""Pictures whose spectra are computed at a time."""


def measures(samples: Tensor, real: Tensor) -> dict[str, float]:
    """Measures of pictures [N, C, H, W] in [-1, 1] beside real ones [M, C, H, W].

    Returns:
        `brightness`, the mean, and `contrast`, the mean standard deviation of a picture, where black is 0 and white is
        1; and what `spectra` gives.
    """
    pixels, real_pixels = (to_pixels(x).double() / 255 for x in (samples, real))
    contrast = pixels.flatten(1).std(1, correction=0).mean()
    levels = {"brightness": pixels.mean().item(), "contrast": contrast.item()}
    return levels | spectra(power(pixels), power(real_pixels))


def power(x: Tensor) -> Tensor:
    """[H, W]: the mean power spectrum of pictures [N, C, H, W]."""
    parts = torch.split(x.double(), BATCH)
    sums = [torch.fft.fft2(part).abs().square().sum(0).mean(0) for part in parts]
    return torch.stack(sums).sum(0) / len(x)


def spectra(samples: Tensor, real: Tensor) -> dict[str, float]:
    """How far the mean power spectrum [H, W] of samples is above that of real pictures, in dB; brightness left out.

    Returns:
        `spectrum_mean_db` and `spectrum_worst_db`: the mean over all frequencies of the difference without its sign,
        and the largest. `spectrum_stride2_db`, `spectrum_stride4_db`: the difference of the power on the lattice of an
        upsampler of that stride, in its rows and columns of frequencies; above 0, pictures have a texture of its width.
    """
    floor = (
        1e-12 * real.mean()
    )  # far below what the rounding of pixels leaves; pictures of one colour have none
    samples, real = samples + floor, real + floor
    gap = 10 * torch.log10(samples / real)
    gap[0, 0] = 0.0
    row = {"spectrum_mean_db": gap.abs().mean().item(), "spectrum_worst_db": gap.abs().max().item()}
    height, width = real.shape
    for stride in STRIDES:
        down, right = height // stride, width // stride
        lattices = (one[down].sum() + one[:, right].sum() for one in (samples, real))
        row[f"spectrum_stride{stride}_db"] = 10 * math.log10(next(lattices) / next(lattices))
    return row
