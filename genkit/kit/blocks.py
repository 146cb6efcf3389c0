"""Network blocks for 1, 2 or 3 spatial axes: residual blocks, stages that change the resolution, initial weights.

Use them in the generators and critics (discriminators) of a plugin. No block mixes the rows of a batch, so a gradient
penalty of a critic made of them is per sample.

Shape letters: B batch, C channels; `*space` is the shape behind [B, C], of 1, 2 or 3 axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, avg_pool2d, avg_pool3d, interpolate

from genkit.plugin import Noise
from genkit.sampling.noise import draw

__all__ = [
    "LEAKY_SLOPE", "DownStage", "Factors", "Residual", "UpStage", "downsample", "towards_mean", "upsample",
    "variance_scaling_",
]  # fmt: skip

LEAKY_SLOPE = 0.2
"""Negative slope of the leaky ReLUs in these blocks."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLINGS = (avg_pool1d, avg_pool2d, avg_pool3d)
_INTERPOLATIONS = ("linear", "bilinear", "trilinear")

Factors = int | tuple[int, ...]
"""By how much a resolution changes: one factor for all spatial axes, or one for each (1: unchanged)."""

Weighted = TypeVar("Weighted", bound=nn.Module)


class Residual(nn.Module):
    """A residual block, x + body(x): [B, C, *space] -> the same shape. It is the identity at initialisation.

    The body is convolutions with leaky ReLUs between them and no normalisation. The weights of its last convolution are
    initially 0, those of the others N(0, g^2 / fan in) with g = sqrt(2 / (1 + slope^2)) depth^(-1 / (2m - 2)) for m
    convolutions. With these a step of gradient descent changes the network's output by as much at any depth.
    Convolutions have a bias only if an activation follows.

    Args:
        channels: C, of input and output.
        hidden: channels between the body's convolutions.
        rank: number of spatial axes, 1 to 3.
        kernels: kernel sizes of the body's convolutions, odd. (1, 3, 1) is a bottleneck; (3, 3) is a plain block, which
            costs more at equal `hidden`.
        groups: groups of the convolutions from hidden to hidden channels.
        depth: number of residual blocks in the whole network.

    Raises:
        ValueError: if a kernel size is even, there are fewer than two, or the rank is not 1, 2 or 3.

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
    """A stage of a generator: upsampling, then blocks: [B, C, *space] -> [B, C', *space times factors].

    If C and C' differ, a 1x1 convolution without bias changes the channels.

    Args:
        channels: C, channels of the input.
        outputs: C', channels of the blocks and the output.
        rank: number of spatial axes, 1 to 3.
        blocks: modules that keep the shape of their input.
        factors: by which the resolution is multiplied.

    Raises:
        ValueError: if the channels change and the rank is not 1, 2 or 3.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        rank: int,
        blocks: Iterable[nn.Module],
        factors: Factors = 2,
    ) -> None:
        super().__init__()
        self.change = _change(channels, outputs, rank)
        self.blocks = nn.Sequential(*blocks)
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        # A 1x1 convolution and interpolation commute: it is cheaper at the lower resolution.
        return self.blocks(upsample(self.change(x), self.factors))


class DownStage(nn.Module):
    """A stage of a critic: blocks, then downsampling: [B, C, *space] -> [B, C', *space over factors].

    If C and C' differ, a 1x1 convolution without bias changes the channels.

    Args:
        channels: C, channels of the input and the blocks.
        outputs: C', channels of the output.
        rank: number of spatial axes, 1 to 3.
        blocks: modules that keep the shape of their input.
        factors: by which the resolution is divided.

    Raises:
        ValueError: if the channels change and the rank is not 1, 2 or 3; in `forward`, if a side is not a multiple of
            its factor.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        rank: int,
        blocks: Iterable[nn.Module],
        factors: Factors = 2,
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.change = _change(channels, outputs, rank)
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        return self.change(downsample(self.blocks(x), self.factors))


def upsample(x: Tensor, factors: Factors = 2) -> Tensor:
    """Upsample by linear interpolation: [B, C, *space] -> [B, C, *space times factors], 1 to 3 spatial axes."""
    scale = tuple(map(float, _per_axis(x, factors)))
    return interpolate(x, scale_factor=scale, mode=_INTERPOLATIONS[len(scale) - 1])


def downsample(x: Tensor, factors: Factors = 2) -> Tensor:
    """Downsample by average pooling: [B, C, *space] -> [B, C, *space over factors], 1 to 3 spatial axes.

    For factors of 2 this equals linear interpolation.

    Raises:
        ValueError: if a side is not a multiple of its factor.
    """
    window = _per_axis(x, factors)
    if any(side % factor for side, factor in zip(x.shape[2:], window, strict=True)):
        raise ValueError(f"sides {tuple(x.shape[2:])} must be multiples of the factors {window}")
    return _POOLINGS[len(window) - 1](x, window)


def variance_scaling_(layer: Weighted, gain: float = 1.0) -> Weighted:
    """Initialise a layer in place: weights N(0, gain^2 / fan in), biases 0. Returns the layer.

    The second moment of its outputs is then gain^2 times that of its inputs.

    Args:
        layer: a linear layer, an embedding, or a convolution of any rank. The fan in of a transposed convolution is
            that of one output: (in channels / groups) * kernel size / stride.
        gain: g; sqrt(2 / (1 + LEAKY_SLOPE^2)) before a leaky ReLU.

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


MEAN_ROWS = 256
"""Noise vectors that the mean of `towards_mean` is computed from, always the same."""


def towards_mean(
    start: Callable[[Tensor], Tensor], code: Tensor, latent: int, share: float | Tensor | None
) -> Tensor:
    """Activations of a generator, moved towards their mean over the noise: mean + share (start(code) - mean).

    The truncation trick: the smaller the share, the more typical and the less varied are the samples. It acts on
    activations behind the first layers, where means of activations still make samples. Noise itself that is pressed
    into a range leaves the shell on which a generator learned, and its samples become empty.

    Args:
        start: code [B, Z + K] -> activations [B, ...], row by row.
        code: noise [B, Z], behind it K numbers that are no noise (a class): the mean is over the noise alone. In an
            exported graph these must be one-hot.
        latent: Z.
        share: in (0, 1], a tensor [] in an exported graph; None: 1.

    Returns:
        [B, ...]; a row does not depend on the others.

    Source: Karras et al. 2019, arXiv:1812.04948, appendix B, where the activations are those of a mapping network.
    """
    activations = start(code)
    if share is None or (not isinstance(share, Tensor) and share == 1):
        return activations
    z = torch.from_numpy(draw(Noise((latent,)), "mean", 0, range(MEAN_ROWS))).to(code)
    rest = code[:, latent:]
    tails, places = rest[:1], torch.zeros(code.shape[0], dtype=torch.long, device=code.device)
    if rest.shape[1] and torch.compiler.is_exporting():  # a graph cannot ask how many there are
        tails, places = torch.eye(rest.shape[1]).to(rest), rest.argmax(1)
    elif rest.shape[1]:
        tails, places = torch.unique(rest, dim=0, return_inverse=True)
    means = torch.stack(
        [start(torch.cat([z, tail.expand(len(z), -1)], 1)).mean(0) for tail in tails]
    )
    return torch.lerp(means[places], activations, share)
