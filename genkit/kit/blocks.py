"""Network blocks that more than one modality uses, for 1, 2 or 3 spatial axes: residual blocks, stages, truncation.

Knows only tensors and modules: no modality, no noise, no loss. Nothing here looks across the rows of a batch, so a
gradient penalty of a critic made of it is per sample. `*space` is the shape behind [B, C].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, avg_pool2d, avg_pool3d, interpolate

LEAKY_SLOPE = 0.2
"""Of every leaky ReLU here."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLINGS = (avg_pool1d, avg_pool2d, avg_pool3d)
_INTERPOLATIONS = ("linear", "bilinear", "trilinear")

Factors = int | tuple[int, ...]
"""How much a resolution changes: one number for every spatial axis, or one for each (1: it stays)."""

Weighted = TypeVar("Weighted", bound=nn.Module)


class Residual(nn.Module):
    """x + body(x), exactly the identity at the start: [B, C, *space] -> the same shape.

    The body is convolutions with leaky ReLUs between them and no normalisation. Its last weights start at zero, the
    others at N(0, g^2 / fan in) with g = sqrt(2 / (1 + slope^2)) depth^(-1 / (2m - 2)) for m convolutions: then a step
    of gradient descent changes what the whole network gives by as much, however deep it is. A bias stands only where
    an activation follows.

    Args:
        channels: C, of both ends.
        hidden: channels between the body's convolutions.
        rank: number of spatial axes.
        kernels: sides of the body's convolutions, odd. (1, 3, 1) is the bottleneck; (3, 3) is plain, and costs more at
            equal `hidden`.
        groups: of the convolutions from hidden to hidden channels.
        depth: residual blocks in the whole network.

    Raises:
        ValueError: for kernels that are even, or fewer than two; for another rank.

    Source: the body is that of Huang et al. 2024, arXiv:2501.05441, section 3; the initial weights are those of Zhang
    et al. 2019, arXiv:1901.09321, section 3, over those of He et al. 2015, arXiv:1502.01852, section 2.2.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        rank: int,
        kernels: Sequence[int] = (1, 3, 1),
        groups: int = 1,
        depth: int = 1,
    ) -> None:
        super().__init__()
        count = len(kernels)
        if count < 2 or any(kernel % 2 == 0 for kernel in kernels):
            raise ValueError(
                f"kernels = {tuple(kernels)}: a body needs two or more, all odd; take (1, 3, 1) or (3, 3)"
            )
        gain = math.sqrt(2 / (1 + LEAKY_SLOPE**2)) * depth ** (-1 / (2 * count - 2))
        layers: list[nn.Module] = []
        for kernel in kernels[:-1]:
            inner = groups if layers else 1
            convolution = _convolution(rank, hidden if layers else channels, hidden, kernel, inner)
            layers += [
                variance_scaling_(convolution, gain),
                nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
            ]
        last = _convolution(rank, hidden, channels, kernels[-1], bias=False)
        self.body = nn.Sequential(*layers, variance_scaling_(last, 0.0))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class UpStage(nn.Module):
    """Higher resolution, then blocks: [B, C, *space] -> [B, C', *space times factors].

    Args:
        channels: C, those of the input.
        above: C', those of the blocks.
        rank: number of spatial axes.
        blocks: each keeps its input's shape.
        factors: of the resolution.
    """

    def __init__(
        self,
        channels: int,
        above: int,
        rank: int,
        blocks: Iterable[nn.Module],
        factors: Factors = 2,
    ) -> None:
        super().__init__()
        self.change = _change(channels, above, rank)
        self.blocks = nn.Sequential(*blocks)
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(
            upsample(self.change(x), self.factors)
        )  # the two commute: the cheaper order


class DownStage(nn.Module):
    """The mirror of `UpStage`: blocks, then lower resolution: [B, C, *space] -> [B, C', *space over factors].

    Args:
        channels: C, those of the blocks.
        below: C', those of the output.
        rank, blocks, factors: as for `UpStage`.
    """

    def __init__(
        self,
        channels: int,
        below: int,
        rank: int,
        blocks: Iterable[nn.Module],
        factors: Factors = 2,
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.change = _change(channels, below, rank)
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        return self.change(downsample(self.blocks(x), self.factors))


def upsample(x: Tensor, factors: Factors = 2) -> Tensor:
    """Linear interpolation: [B, C, *space] -> [B, C, *space times factors], any rank from 1 to 3."""
    scale = tuple(map(float, _per_axis(x, factors)))
    return interpolate(x, scale_factor=scale, mode=_INTERPOLATIONS[len(scale) - 1])


def downsample(x: Tensor, factors: Factors = 2) -> Tensor:
    """Means of windows: [B, C, *space] -> [B, C, *space over factors], any rank from 1 to 3.

    For factors of 2 this is linear interpolation too.

    Raises:
        ValueError: if a side is no multiple of its factor.
    """
    window = _per_axis(x, factors)
    if any(side % factor for side, factor in zip(x.shape[2:], window, strict=True)):
        raise ValueError(f"sides {tuple(x.shape[2:])} must be multiples of the factors {window}")
    return _POOLINGS[len(window) - 1](x, window)


def variance_scaling_(layer: Weighted, gain: float = 1.0) -> Weighted:
    """The layer with weights N(0, gain^2 / fan in) and biases 0: its outputs' second moment is gain^2 its inputs'.

    Args:
        layer: linear, an embedding, or a convolution of any rank; a transposed one has the fan in of one output, which
            its stride decides.

    Source: He et al. 2015, arXiv:1502.01852, section 2.2.
    """
    weight, bias = layer.get_parameter("weight"), getattr(layer, "bias", None)
    fan_in: float = weight[0].numel()
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        fan_in = weight[:, 0].numel() / (layer.groups * math.prod(layer.stride))
    nn.init.normal_(weight, 0.0, gain / math.sqrt(fan_in))
    if bias is not None:
        nn.init.zeros_(bias)
    return layer


def _convolution(
    rank: int, channels: int, outputs: int, kernel: int, groups: int = 1, bias: bool = True
) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    if rank not in (1, 2, 3):
        raise ValueError(f"rank = {rank}: blocks have 1, 2 or 3 spatial axes")
    return _CONVOLUTIONS[rank - 1](
        channels, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias
    )


def _change(channels: int, outputs: int, rank: int) -> nn.Module:
    if channels == outputs:
        return nn.Identity()
    return variance_scaling_(_convolution(rank, channels, outputs, 1, bias=False))


def _per_axis(x: Tensor, factors: Factors) -> tuple[int, ...]:
    return (factors,) * (x.ndim - 2) if isinstance(factors, int) else factors


def truncated(z: Tensor, bound: float | None) -> Tensor:
    """Normal noise pressed into [-bound, bound]: each number keeps its rank, and the distribution becomes the truncated normal.

    The truncation trick trades variety for typical samples. Where BigGAN draws again what lies outside, here a number
    moves towards the middle, the further the tighter the bound, so that an identity stays recognisable.

    Args:    z: any shape, N(0, 1).   bound: > 0; None: `z` itself.
    Returns: the shape, dtype and device of `z`; Phi^-1(Phi(-bound) + Phi(z) (Phi(bound) - Phi(-bound))).
    Source:  Brock et al. 2019, arXiv:1809.11096, section 3.1.
    """
    if bound is None:
        return z
    exact = z.to(
        "cpu", torch.float64
    )  # not every device has float64, and an identity is the same on all
    # Phi by erfc (torch's ndtr has no digits beyond -8), and of the lower half alone (close to 1 nothing has).
    least, below = (
        0.5 * math.erfc(bound / math.sqrt(2)),
        0.5 * torch.erfc(exact.abs() / math.sqrt(2)),
    )
    moved = torch.special.ndtri(least + below * (1 - 2 * least)).abs().copysign(exact)
    return moved.to(z).clamp(-bound, bound)
