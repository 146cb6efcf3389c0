"""Renderers: networks that draw each frame of a clip by what they are told of it. They know no time.

All take the content of clips [B, Z], what is told of each frame [B, T, M] and classes [B] or None, and give frames
[B, C, T, H, W] in [-1, 1]. Shape letters: B batch, Z content, M told, C channels, T frames, H W pixels, K classes.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from genkit.kit.blocks import LEAKY_SLOPE, variance_scaling_
from genkit_image import dcgan, modern
from genkit_video.options import Options

GAIN = math.sqrt(2 / (1 + LEAKY_SLOPE**2))
"""Of weights behind a leaky ReLU (He et al. 2015, arXiv:1502.01852, section 2.2)."""
STYLE = 128
"""Numbers that content is spelled out in before it steers the layers of a picture network."""


class Pictures(nn.Module):
    """A picture network, told nothing but what each frame is told.

    Args:
        options: size, features and the others of the picture network.
        told: M.
        channels: C.
        classes: K; 0: unconditional.
    """

    def __init__(self, options: Options, told: int, channels: int, classes: int) -> None:
        super().__init__()
        kind = modern if options.renderer == "residual" else dcgan
        self.pictures = kind.Generator(
            options.of_pictures(options.features, told), channels, classes
        )

    def forward(self, content: Tensor, told: Tensor, condition: Tensor | None = None) -> Tensor:
        count = told.shape[1]
        repeated = None if condition is None else condition.repeat_interleave(count)
        frames = self.pictures({"z": told.flatten(0, 1)}, repeated).x
        return frames.view(-1, count, *frames.shape[1:]).transpose(1, 2)


class Modulated(nn.Module):
    """DCGAN's generator, whose features content scales and shifts behind every normalisation (Chen et al. 2019,
    arXiv:1810.01365, section 2).

    Content is the same in all frames, so what moves stays what it is.

    Args:
        options: size, content, features, features_max, output_gain.
        told, channels, classes: as for `Pictures`.
    """

    def __init__(self, options: Options, told: int, channels: int, classes: int) -> None:
        super().__init__()
        self.classes, self.gain = classes, options.output_gain
        self.body = dcgan.Generator(options.of_pictures(options.features, told), channels, 0).body
        self.style = nn.Sequential(
            variance_scaling_(nn.Linear(options.content + classes, STYLE)),
            nn.LeakyReLU(LEAKY_SLOPE),
            variance_scaling_(nn.Linear(STYLE, STYLE), GAIN),
            nn.LeakyReLU(LEAKY_SLOPE),
        )
        norms = [layer for layer in self.body if isinstance(layer, nn.BatchNorm2d)]
        self.styles = nn.ModuleList(
            variance_scaling_(nn.Linear(STYLE, 2 * norm.num_features), 0.5) for norm in norms
        )

    def forward(self, content: Tensor, told: Tensor, condition: Tensor | None = None) -> Tensor:
        count = told.shape[1]
        if condition is not None:
            content = torch.cat([content, one_hot(condition, self.classes).to(content.dtype)], 1)
        style, styles = self.style(content), iter(self.styles)
        x = told.flatten(0, 1)[:, :, None, None]
        for layer in self.body:
            x = layer(x)
            if isinstance(layer, nn.BatchNorm2d):
                scale, shift = (
                    next(styles)(style).repeat_interleave(count, 0)[:, :, None, None].chunk(2, 1)
                )
                x = x * (1 + scale) + shift
        if self.gain != 1 and not self.training:
            x = (self.gain * x).clamp(-1, 1)
        return x.view(-1, count, *x.shape[1:]).transpose(1, 2)


class TganRenderer(nn.Module):
    """TGAN's image generator: it knows no classes, and makes much of content and little of codes."""

    def __init__(self, options: Options, content: int, motion: int, channels: int) -> None:
        super().__init__()
        maps, self.base = dcgan.layout(options.of_pictures(options.features))
        maps = [*maps, 2 * maps[-1]]
        half = maps[-1] // 2 * math.prod(self.base)
        self.slow, self.fast = (
            nn.Sequential(
                nn.Linear(width, half, bias=False), nn.BatchNorm1d(half), nn.ReLU(inplace=True)
            )
            for width in (content, motion)
        )
        layers: list[nn.Module] = []
        for below, above in itertools.pairwise(reversed(maps)):
            layers += [nn.ConvTranspose2d(below, above, 4, 2, 1, bias=False), nn.BatchNorm2d(above)]
            layers += [nn.ReLU(inplace=True)]
        self.body = nn.Sequential(
            *layers, nn.ConvTranspose2d(maps[0], channels, 3, 1, 1), nn.Tanh()
        )

    def forward(self, content: Tensor, codes: Tensor) -> Tensor:
        count = codes.shape[1]
        slow = self.slow(content).unflatten(1, (-1, *self.base)).repeat_interleave(count, 0)
        fast = self.fast(codes.flatten(0, 1)).unflatten(1, (-1, *self.base))
        x = self.body(torch.cat([slow, fast], 1))
        return x.view(-1, count, *x.shape[1:]).transpose(1, 2)


def scaled(norm: nn.BatchNorm1d | nn.BatchNorm3d) -> nn.Module:
    """A BatchNorm that scales and does not shift, as TGAN's do."""
    norm.register_parameter("bias", None)
    return norm


def initialise(layer: nn.Module) -> None:
    """Weights U(-0.01, 0.01), biases 0. Source: the authors' settings for moving digits."""
    if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
        nn.init.uniform_(layer.weight, -0.01, 0.01)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
