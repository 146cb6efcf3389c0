"""A loss term that gives pictures the power spectrum of real ones, in brightness and in colour.

Critics overlook frequencies of little power, where upsampling leaves checkerboards and noise (Durall et al. 2020,
arXiv:2003.01826, who add a spectral term too), and they let colours vary too much: a critic on features of a pretrained
network hardly minds a tint. Theirs compares pictures one by one, averaged over directions; this one compares the mean
power of each frequency, so that single pictures may differ.

Shape letters: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

MEMORY = 50
"""Batches that a running mean reaches back."""
WEIGHT = 5.0
"""Of the term. 1 to 10 changed no other judge in short runs on garments and photographs."""
LARGEST = 2.0
"""Bound of the log ratio of powers, in nats, that a frequency counts with."""


class Spectrum(nn.Module):
    """The running mean power of real and generated pictures, as buffers [D, H, W // 2 + 1]; nothing is trained.

    D counts the directions of colour that are compared: the C channels, and their C (C - 1) / 2 differences.

    Args:
        channels: C.
        shape: (H, W).
    """

    real: Tensor
    fake: Tensor
    batches: Tensor

    def __init__(self, channels: int, shape: tuple[int, int]) -> None:
        super().__init__()
        height, width = shape
        self.pairs = list(combinations(range(channels), 2))
        for name in ("real", "fake"):
            size = channels + len(self.pairs), height, width // 2 + 1
            self.register_buffer(name, torch.zeros(size))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """A scalar whose gradient moves the mean power of generated pictures towards that of real ones.

        It is WEIGHT times the mean over frequencies of log(F / R) P / N, averaged over channels, plus that of their
        differences: P is the power of the fakes in this batch, R and F are the running means, which get no gradient.
        Where F = R it has no slope. N is F for channels, whose constant frequency is left out. For a difference it is
        the mean of F over frequencies: fine differences have little power, and to pull at them as hard would cost
        critics more than it gives. Their constant frequency counts: how much the tints of pictures vary.

        Args:
            real, fake: [B, C, H, W]; a gradient reaches the fakes.
        """
        power = self._power(fake)
        channels = fake.shape[1]
        with torch.no_grad():
            self.batches += 1
            share = (1 / self.batches).clamp(min=1 / MEMORY)
            self.real.lerp_(self._power(real), share)
            self.fake.lerp_(power, share)
            floor = torch.finfo(power.dtype).tiny + 1e-12 * self.real.mean()
            fakes, reals = self.fake + floor, self.real + floor
            slope = (fakes / reals).log().clamp(-LARGEST, LARGEST)
            slope[:channels] /= fakes[:channels]
            slope[channels:] /= fakes[channels:].mean((1, 2), keepdim=True)
            slope[:channels, 0, 0] = 0
        terms = WEIGHT * (slope * power).mean((1, 2))
        return terms[:channels].mean() + (terms[channels:].mean() if self.pairs else 0)

    def _power(self, x: Tensor) -> Tensor:
        """[D, H, W // 2 + 1]: the mean power of pictures [B, C, H, W]; the constant frequency is a variance."""
        x = x.float()
        x = torch.cat([x, *(x[:, i : i + 1] - x[:, j : j + 1] for i, j in self.pairs)], 1)
        return torch.fft.rfft2(x - x.mean((0, 2, 3), keepdim=True)).abs().square().mean(0)
